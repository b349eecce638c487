/** Two runs side by side: what changed between them, and whether it is more than chance.
 *
 * @module
 */
import type { CellRecord } from "../core/schema.ts";
import { holm } from "../core/stats.ts";
import { level, pValue } from "./format.ts";
import { escapeMarkdown, tableLines } from "./markdown.ts";
import type { Column } from "./measurements.ts";
import { buildSections, type Row, type Section } from "./rows.ts";
import { ALPHA, compare, type Comparison } from "./significance.ts";
import { qualityText } from "./summary.ts";

/** Options of {@linkcode compareRuns}. */
export interface CompareOptions {
  /** What the two runs are called. */
  names?: [string, string];
}

/** One result that both runs have. */
export interface Pair {
  section: Section;
  column: Column;
  a: Row;
  b: Row;
  /** How much better B is than A; null where windows or examples were not stored. */
  test: Comparison | null;
}

/** The name of a row in comparisons. */
export const rowName = ({ model, engine }: Section, { label, asked }: Row): string =>
  `${model} on ${engine}: ${label}${asked > 0 ? ` at ${level(asked)}` : ""}`;

/** Rows of `other` by name. */
function rowsByName(sections: Section[]): Map<string, Row> {
  return new Map(
    sections.flatMap((section) =>
      section.rows.filter(({ runs }) => runs.length > 0).map((row) => [rowName(section, row), row] as const)
    ),
  );
}

/** Every result on the same data that both runs have. */
export function findPairs(sectionsA: Section[], sectionsB: Section[]): Pair[] {
  const inB = rowsByName(sectionsB);
  return sectionsA.flatMap((section) =>
    section.rows.flatMap((a) => {
      const b = inB.get(rowName(section, a));
      if (b === undefined) return [];
      return section.columns
        .filter(({ key, primary }) => primary && a.values.has(key) && b.values.has(key))
        .map((column) => ({ section, column, a, b, test: compare(column, b, a) }));
    })
  );
}

function valueText(column: Column, row: Row): string {
  const { value } = row.values.get(column.key)!;
  return column.kind === "throughput" ? value.toPrecision(4) : qualityText(column, value);
}

/** B against A: percent of perplexity or throughput, points of accuracy; with the interval of a paired test. */
function changeText({ column, a, b, test }: Pair): string {
  if (column.kind === "throughput") {
    const ratio = b.values.get(column.key)!.value / a.values.get(column.key)!.value;
    return `${ratio.toFixed(3)} ×`;
  }
  if (test === null) return "–";
  const sign = column.higherIsBetter ? 1 : -1;
  const change = (lead: number) => {
    const value = column.kind === "perplexity" ? 100 * Math.expm1(sign * lead) : 100 * sign * lead;
    return `${value > 0 ? "+" : ""}${value.toFixed(2)}`;
  };
  const { value, low, high } = test.lead;
  const interval = [change(low), change(high)];
  if (sign < 0) interval.reverse();
  return `${change(value)}${column.kind === "perplexity" ? " %" : " points"} [${interval.join(", ")}]`;
}

function verdict(test: Comparison | null): string {
  if (test === null) return "";
  if (test.p >= ALPHA || test.lead.value === 0) return "no clear difference";
  return test.lead.value > 0 ? "better" : "worse";
}

/** Rows with results that `other` does not have. */
export function missing(own: Section[], other: Section[]): string[] {
  const names = rowsByName(other);
  return [...rowsByName(own).keys()].filter((name) => !names.has(name));
}

/** What run B changes against run A: every result on the same data that both have, with the interval of the paired
 * difference and a p value corrected by Holm over the whole table. Seeds are averaged first; throughput is given as a
 * ratio and not tested.
 * @returns Markdown. */
export function compareRuns(
  recordsA: CellRecord[],
  recordsB: CellRecord[],
  { names: [nameA, nameB] = ["A", "B"] }: CompareOptions = {},
): string {
  const [sectionsA, sectionsB] = [buildSections(recordsA), buildSections(recordsB)];
  const pairs = findPairs(sectionsA, sectionsB);
  const tests = pairs.flatMap(({ test }) => test ?? []);
  holm(tests.map(({ p }) => p)).forEach((p, i) => tests[i].p = p);
  const body = pairs.map((pair) =>
    [
      rowName(pair.section, pair.a),
      `${pair.column.name} ${pair.column.metric}, ${pair.column.count}`,
      valueText(pair.column, pair.a),
      valueText(pair.column, pair.b),
      changeText(pair),
      pair.test === null ? "" : pValue(pair.test.p),
      verdict(pair.test),
    ].map(escapeMarkdown)
  );
  const only = (name: string, rows: string[]) =>
    rows.length === 0 ? [] : ["", `Only in ${escapeMarkdown(name)}: ${rows.map(escapeMarkdown).join("; ")}.`];
  const header = ["cell", "result", nameA, nameB, `${nameB} against ${nameA}`, "p (Holm)", `${nameB} is`];
  const numeric = [false, false, true, true, true, true, false];
  return [
    `# ${escapeMarkdown(nameB)} against ${escapeMarkdown(nameA)}`,
    "",
    ...(pairs.length === 0
      ? ["The two runs have no result on the same data in common."]
      : tableLines(header.map(escapeMarkdown), numeric, body)),
    ...only(nameA, missing(sectionsA, sectionsB)),
    ...only(nameB, missing(sectionsB, sectionsA)),
    "",
  ].join("\n");
}
