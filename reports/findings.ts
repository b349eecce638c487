/** What the records say in a few words, each true by construction: winners, and whether their lead is more than chance.
 *
 * @module
 */
import { listed, percent, pValue, withSpread } from "./format.ts";
import type { Column } from "./measurements.ts";
import { hasRuns, isDense, levelWords, type Row, type Section } from "./rows.ts";
import { type Comparison, isClear, type Ranking } from "./significance.ts";
import { doubts } from "./speed.ts";

/** The winner of one level by one column. */
export interface Finding {
  /** Label of the winner; empty where a range stands for all methods. */
  best: string;
  /** Its value. */
  value: string;
  /** How sure the lead is. */
  verdict: string;
}

/** The winners in a grid: one line per level, one column per topic. */
export interface Glance {
  topics: string[];
  /** `level` in words: `20 % asked`. */
  lines: { level: string; findings: (Finding | null)[] }[];
}

/** A value of a quality column as the tables show it. */
export function qualityText(column: Column, value: number): string {
  return column.isFraction ? `${percent(value)} %` : withSpread(value, null, 4, 2).text;
}

/** The value of a row by a column, as text. */
export const valueText = (column: Column, row: Row): string => {
  const estimate = row.values.get(column.key);
  return estimate === undefined ? "–" : qualityText(column, estimate.value);
};

/** Columns that answer "which method is best": perplexities, and the mean accuracy where there is one. */
export function headlineColumns(section: Section): Column[] {
  const means = section.columns.filter(({ kind }) => kind === "mean-accuracy");
  const tasks = section.columns.filter(({ kind, primary, isFraction }) => kind === "task" && primary && isFraction);
  return [...section.columns.filter(({ kind }) => kind === "perplexity"), ...(means.length > 0 ? means : tasks)];
}

/** How far the other is behind, with its interval: percent of perplexity, points of accuracy. */
export function leadWords(column: Column, lead: Comparison["lead"]): string {
  const show = (value: number, text: (value: number) => string) => Number.isFinite(value) ? text(value) : "unknown";
  if (column.kind === "perplexity") {
    const more = (nats: number) => show(nats, (own) => (100 * Math.expm1(own)).toFixed(1));
    return `${more(lead.value)} % higher [${more(lead.low)}, ${more(lead.high)}]`;
  }
  const points = (fraction: number) => show(fraction, (own) => (100 * own).toFixed(1));
  return `${points(lead.value)} points lower [${points(lead.low)}, ${points(lead.high)}]`;
}

function finding({ column, best: first, rows, comparisons }: Ranking): Finding {
  const value = valueText(column, first);
  const named = (row: Row) => `${row.label} ${valueText(column, row)}`;
  const best = first.label;
  const [, next] = rows;
  if (next === undefined) return { best, value, verdict: "the only one with a result" };
  const test = comparisons.get(next);
  if (comparisons.size < rows.length - 1 || test === undefined) {
    return { best, value, verdict: `next ${named(next)}; no paired test` };
  }
  const level = [...comparisons.values()].filter((test) => !isClear(test)).map(({ other }) => other);
  if (level.length > 0) {
    const more = level.length > 3 ? ` and ${level.length - 3} more` : "";
    return { best, value, verdict: `not clearly better than ${listed(level.slice(0, 3).map(named))}${more}` };
  }
  const withSeeds = test.seeds === null ? "" : `, with each of ${test.seeds.of} seeds`;
  return {
    best,
    value,
    verdict: `clearly best; next ${named(next)}, ${leadWords(column, test.lead)}, ${pValue(test.p)}${withSeeds}`,
  };
}

/** Range of the speed-ups of a level's methods that can be relied upon, for each throughput test. */
function speedFinding(section: Section, asked: number, speeds: Column[]): Finding | null {
  const parts = speeds.flatMap((column) => {
    const doubtful = doubts(section, column);
    const measured = section.rows.filter((row) => !isDense(row) && row.asked === asked && row.speedUps.has(column.key));
    if (measured.length === 0) return [];
    const sure = measured.filter((row) => !doubtful.has(row));
    const ups = sure.flatMap((row) => row.speedUps.get(column.key)?.value ?? []).sort((a, b) => a - b);
    const ends = [...new Set([ups.at(0), ups.at(-1)].flatMap((up) => up?.toFixed(2) ?? []))];
    const rest = measured.length - sure.length;
    if (ends.length === 0) return [`${column.name}: not measured well enough`];
    return [`${column.name} ${ends.join(" to ")} ×${rest === 0 ? "" : ` (${rest} of ${measured.length} in doubt)`}`];
  });
  return parts.length === 0 ? null : { best: "", value: parts.join(", "), verdict: "" };
}

/** Throughput columns by which some pruned row can be compared with the dense one. */
const speedColumns = (section: Section): Column[] =>
  section.columns.filter(({ key, kind }) =>
    kind === "throughput" && section.rows.some((row) => !isDense(row) && row.speedUps.has(key))
  );

/** The answer in one look. */
export function glance(section: Section, ranks: Ranking[]): Glance {
  const dense = section.rows.find((row) => isDense(row) && hasRuns(row));
  const columns = headlineColumns(section);
  const several = columns.length > new Set(columns.map(({ name }) => name)).size;
  const speeds = speedColumns(section);
  const levels = Map.groupBy(section.rows.filter((row) => !isDense(row) && hasRuns(row)), ({ asked }) => asked);
  const topic = (column: Column) => {
    const what = column.kind === "perplexity"
      ? `Lowest ${column.metric}, ${column.name}`
      : `Highest ${column.name}${column.kind === "task" ? ` ${column.metric}` : ""}`;
    return what + (several ? `, ${column.count}` : "") +
      (dense?.values.has(column.key) ? ` (dense ${valueText(column, dense)})` : "");
  };
  return {
    topics: [...columns.map(topic), ...(speeds.length > 0 ? ["Speed-up over dense"] : [])],
    lines: [...levels].map(([asked, rows]) => ({
      level: levelWords(asked, rows),
      findings: [
        ...columns.map((column) => {
          const ranking = ranks.find((rank) => rank.column === column && rank.asked === asked);
          return ranking === undefined ? null : finding(ranking);
        }),
        ...(speeds.length > 0 ? [speedFinding(section, asked, speeds)] : []),
      ],
    })),
  };
}
