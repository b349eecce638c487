/** Details of a report: what was run and read, on which machine, what failed.
 *
 * @module
 */
import { filesWords } from "../core/schema/cell_names.ts";
import { phaseWords } from "../core/schema/failure.ts";
import { counted } from "../core/util/words.ts";
import { count, level, unique } from "./format.ts";
import { type Section } from "./sections.ts";
import { environmentOf, type Fact } from "./settings.ts";

/** Size of the model, number of cells and seeds in one line. */
export function contextWords(section: Section): string {
  const { runs } = section;
  const failed = section.rows.reduce((sum, { failures }) => sum + failures.length, 0);
  return [
    ...runs.slice(0, 1).map(({ denseSize }) => `${count(denseSize.parameters)} parameters`),
    `${counted(runs.length, "finished cell")}${failed > 0 ? `, ${failed} failed` : ""}`,
    ...section.weightsSha256 === null ? [] : [`weights sha256 ${section.weightsSha256.slice(0, 12)}`],
  ].join(" · ");
}

/** Protocols of the measurements by name. */
export function measureFacts({ columns }: Section): Fact[] {
  const facts = columns.map(({ name, protocol }) => ({ name, text: protocol }));
  return [...new Map(facts.map((fact) => [`${fact.name} ${fact.text}`, fact])).values()];
}

/** Machine, versions and inputs behind a section. */
export function environmentFacts({ runs }: Pick<Section, "runs">): Fact[] {
  const facts = runs.flatMap(environmentOf);
  return [...Map.groupBy(facts, ({ name }) => name)].map(([name, own]) => ({
    name,
    text: unique(own.map(({ text }) => text)).join("; "),
  }));
}

/** Why each failed cell failed, when, and where its log is in the folder of the run. */
export function failureFacts({ rows }: Section): Fact[] {
  return rows.flatMap(({ label, failures }) =>
    failures.map((record) => {
      const { cell, failure: { kind, exitCode, message, phase } } = record;
      const code = exitCode === null ? "" : ` (exit code ${exitCode})`;
      const when = phase === undefined ? "" : `${phaseWords(phase)}; `;
      return {
        name: `${label}, ${level(cell.sparsity)}, seed ${cell.seed}`,
        text: `${kind}${code}: ${message}; ${when}see logs/${filesWords(record)}.log`,
      };
    })
  );
}
