/** Commands that go on from a run.
 *
 * @module
 */
import { hasRuns, isDense, type Section } from "./sections.ts";
import { wrapLine } from "./terminal.ts";

/** Where a run and its report lie, as paths that work where the user stands. */
export interface Places {
  run: string;
  report: string;
}

/** A path as a shell reads it. */
const quoted = (path: string): string => /^[\w./:@%+=,-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`;

/** Each command with what it gives. */
function nextSteps(sections: readonly Section[], { run, report }: Places): [command: string, gives: string][] {
  const pruned = sections.flatMap(({ rows }) => rows.filter((row) => !isDense(row) && hasRuns(row)));
  const own = pruned.find(({ cell }) => cell.checkpoint === undefined)?.runs[0];
  return [
    [`open ${quoted(`${report}/report.html`)}`, "the whole report, with charts"],
    ...own === undefined ? [] : [[
      `deno task bench export ${own.id} --run ${quoted(run)} --format hf`,
      "a pruned model for transformers",
    ] as [string, string]],
    ...sections.some(({ demonstration }) => demonstration)
      ? [
        [
          "deno task bench run --model PATH --methods wanda-sp,flap --sparsity 0.2 --perplexity file:TEXT --calibration self",
          "the same with your model: a Hugging Face folder or a .gguf file",
        ] as [
          string,
          string,
        ],
      ]
      : [],
  ];
}

/** What to do after a run, one command a line with what it gives below where both do not fit. */
export function renderNextSteps(sections: readonly Section[], places: Places, width: number): string {
  const steps = nextSteps(sections, places);
  const longest = Math.max(...steps.map(([command]) => command.length));
  const lines = steps.map(([command, gives]) =>
    longest + gives.length + 4 <= width
      ? `  ${command.padEnd(longest)}  ${gives}`
      : `  ${command}\n      ${wrapLine(gives, width - 6, "      ")}`
  );
  return ["Next", ...lines].join("\n") + "\n";
}
