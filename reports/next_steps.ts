/** Suggested commands after a run.
 *
 * @module
 */
import { type Section } from "./sections.ts";
import { quoted } from "./format.ts";
import { wrapLine } from "./terminal.ts";

/** Folders of a run and its report, relative to the user's folder. */
export interface Places {
  run: string;
  report: string;
}

/** A run on a model and text of one's own. */
const OWN_RUN =
  "deno task bench run --model PATH --methods wanda-sp,flap --sparsity 0.2 --perplexity file:TEXT --calibration self";

/** What to do after a run: each command with what it gives below. The last method is not the random one. */
export function renderNextSteps(sections: readonly Section[], { run, report }: Places, width: number): string {
  const own = sections.flatMap(({ pruned }) => pruned).findLast(({ cell }) => cell.checkpoint === undefined)?.runs[0];
  const steps: [command: string | false | undefined, gives: string][] = [
    [quoted(`${report}/report.html`), "the whole report, with charts, for a browser"],
    [own && `deno task bench export ${own.id} --run ${quoted(run)} --format hf`, "a pruned model for transformers"],
    [sections.some(({ demonstration }) => demonstration) && OWN_RUN, "the same with your own model"],
  ];
  const lines = steps.flatMap(([command, gives]) =>
    command ? [`  ${command}\n      ${wrapLine(gives, width - 6, "      ")}`] : []
  );
  return ["Next", ...lines].join("\n") + "\n";
}
