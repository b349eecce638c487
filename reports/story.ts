/** A run in a few sentences: what was pruned under which protocol, and what to do next.
 *
 * @module
 */
import { count, level } from "./format.ts";
import { levelsOf } from "./findings.ts";
import { protocolTitle, unitsOf } from "./protocol.ts";
import { isDense, type Section } from "./rows.ts";

const listed = (texts: readonly string[]): string =>
  texts.length < 2 ? texts.join("") : `${texts.slice(0, -1).join(", ")} and ${texts.at(-1)}`;

/** `mask-prune and 5 other methods removed 25 % and 50 % of the prunable parameters of tiny ...`; empty where nothing was
 * pruned. */
export function prunedWords(section: Section): string {
  const variants = new Set(section.rows.filter((row) => !isDense(row)).map(({ variant }) => variant));
  const labels = [...new Set(section.rows.filter((row) => !isDense(row)).map(({ label }) => label))];
  if (variants.size === 0) return "";
  const size = section.rows.flatMap(({ runs }) => runs).map(({ denseSize }) => count(denseSize.parameters)).at(0);
  const how = protocolTitle(section);
  return `${listed(labels)} removed ${listed(levelsOf(section).map(level))} of the prunable parameters of ` +
    `${section.model}${size === undefined ? "" : ` (${size} parameters)`}: ${unitsOf(section)}${
      how === "" ? "" : `, ${how}`
    }.`;
}

/** Where a run and its report lie, as paths that work where the user stands. */
export interface Places {
  run: string;
  report: string;
}

/** Commands that go on from a run, and what they give. */
export function nextSteps(sections: readonly Section[], { run, report }: Places): [command: string, gives: string][] {
  const pruned = sections.flatMap(({ rows }) => rows.filter((row) => !isDense(row) && row.runs.length > 0));
  const isOneShot = pruned.some(({ cell }) => cell.training === undefined);
  const isDemonstration = sections.some(({ demonstration }) => demonstration);
  const steps: [when: boolean, command: string, gives: string][] = [
    [true, `open ${report}/report.html`, "the whole report, with charts; comparison.tex for a paper"],
    [isDemonstration, "deno task bench run --model PATH", "a model of yours: a Hugging Face folder or a .gguf file"],
    [isOneShot, "deno task bench run … --recover lora", "one-shot methods trained as long as learned ones"],
    [true, `deno task bench compare ${run} OTHER`, "this run against another, with paired tests"],
    [pruned.length > 0, `deno task bench export CELL --run ${run} --format hf`, "a pruned model for transformers"],
  ];
  return steps.filter(([when]) => when).map(([, command, gives]) => [command, gives]);
}
