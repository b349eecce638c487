/** A run in a few sentences: what was pruned under which protocol, and what to do next.
 *
 * @module
 */
import { count, level, listed } from "./format.ts";
import { protocolTitle, unitsOf } from "./protocol.ts";
import { hasRuns, isDense, type Section } from "./rows.ts";
import { meanOf } from "./table.ts";

/** `flap and mask-prune pruned tiny (1.08M parameters), asked to remove 25 % and 50 % ...`, and how much models have lost
 * that were pruned elsewhere, of which no more is known; empty where no pruned model has results. */
export function prunedWords({ rows, ...section }: Section): string {
  const done = rows.filter((row) => !isDense(row) && hasRuns(row));
  const own = done.filter(({ cell }) => cell.checkpoint === undefined);
  const labels = [...new Set(own.map(({ label }) => label))];
  const levels = [...new Set(own.map(({ asked }) => level(asked)))];
  const sizes = new Set(own.flatMap(({ runs }) => runs.map(({ denseSize }) => count(denseSize.parameters))));
  const how = [unitsOf({ ...section, rows: own }), protocolTitle({ ...section, rows: own })].join(", ");
  return [
    ...own.length === 0 ? [] : [
      `${listed(labels, "and")} pruned ${section.model} (${[...sizes].join(" or ")} parameters), asked to remove ` +
      `${listed(levels, "and")} of its prunable parameters: ${how}.`,
    ],
    ...done.filter((row) => !own.includes(row)).map((row) =>
      `${row.label}, pruned elsewhere, lacks ${level(meanOf(row, ({ size }) => size.sparsityOfPrunable))} of the ` +
      `prunable parameters of ${section.model}.`
    ),
  ].join(" ");
}

/** Where a run and its report lie, as paths that work where the user stands. */
export interface Places {
  run: string;
  report: string;
}

/** A path as a shell reads it. */
const quoted = (path: string): string => /^[\w./:@%+=,-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`;

/** Commands that go on from a run, and what they give. */
export function nextSteps(sections: readonly Section[], { run, report }: Places): [command: string, gives: string][] {
  const pruned = sections.flatMap(({ rows }) => rows.filter((row) => !isDense(row) && hasRuns(row)));
  const isOneShot = pruned.some(({ cell }) => cell.training === undefined && cell.checkpoint === undefined);
  const isDemonstration = sections.some(({ demonstration }) => demonstration);
  const steps: [when: boolean, command: string, gives: string][] = [
    [true, `open ${quoted(`${report}/report.html`)}`, "the whole report, with charts; comparison.tex for a paper"],
    [isDemonstration, "deno task bench run --model PATH", "a model of yours: a Hugging Face folder or a .gguf file"],
    [isOneShot, "deno task bench run … --recover lora", "one-shot methods trained as long as learned ones"],
    [true, `deno task bench compare ${quoted(run)} OTHER`, "this run against another, with paired tests"],
    [
      pruned.length > 0,
      `deno task bench export CELL --run ${quoted(run)} --format hf`,
      "a pruned model for transformers",
    ],
  ];
  return steps.filter(([when]) => when).map(([, command, gives]) => [command, gives]);
}
