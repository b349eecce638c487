/** The summary of a report: the best of each level, and whether its lead is clear.
 *
 * @module
 */
import { listed, pValue, unique } from "./format.ts";
import { type Column, qualityText } from "./columns.ts";
import type { Finding, GlanceBlock } from "./document.ts";
import { levelWords, type Row, type Section } from "./sections.ts";
import { isDoubtful } from "./estimates.ts";
import type { Comparison } from "./paired_tests.ts";
import { isClear, type Ranking, removedLess } from "./significance.ts";

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
function leadWords(column: Column, { value, low, high }: Comparison["lead"]): string {
  const isPerplexity = column.kind === "perplexity";
  const show = (lead: number) =>
    Number.isFinite(lead) ? (100 * (isPerplexity ? Math.expm1(lead) : lead)).toFixed(1) : "unknown";
  return `${show(value)} ${isPerplexity ? "%" : "points"} worse [${show(low)}, ${show(high)}]`;
}

/** Words for a winner that removed less than others of its level. */
function lessWords({ best, rows }: Ranking): string {
  const others = rows.filter((row) => removedLess(best, row)).map(({ label }) => label);
  return others.length === 0 ? "" : `; but removed less than ${listed(others)}`;
}

function verdict({ column, rows: [, next, ...others], comparisons }: Ranking): string {
  if (next === undefined) return "the only result";
  const test = comparisons.get(next);
  if (comparisons.size <= others.length || test === undefined) return `runner-up ${next.label}; no paired test`;
  const level = [...comparisons.values()].filter((test) => !isClear(test)).map(({ other }) => other.label);
  if (level.length > 0) {
    const more = level.length > 3 ? ` and ${level.length - 3} more` : "";
    return `no clear lead over ${listed(level.slice(0, 3))}${more}`;
  }
  return `clearly best; runner-up ${next.label}: ${leadWords(column, test.lead)}, ${pValue(test)}`;
}

/** Range of the speed-ups of a level's methods that can be relied upon, for each throughput test. */
function speedFinding(section: Section, asked: number, speeds: Column[]): Finding | null {
  const parts = speeds.flatMap((column) => {
    const rows = section.pruned.filter((row) => row.asked === asked);
    const measured = rows.flatMap(({ speedUps }) => speedUps.get(column.key) ?? []);
    if (measured.length === 0) return [];
    const sure = measured.filter((up) => !isDoubtful(up)).map(({ value }) => value).sort((a, b) => a - b);
    const ends = unique([sure.at(0), sure.at(-1)].flatMap((up) => up?.toFixed(2) ?? []));
    const rest = measured.length - sure.length;
    if (ends.length === 0) return [`${column.name}: not measured well enough`];
    return [`${column.name} ${ends.join(" to ")} ×${rest === 0 ? "" : ` (${rest} of ${measured.length} in doubt)`}`];
  });
  return parts.length === 0 ? null : { best: "", value: parts.join(", "), verdict: "" };
}

/** The answer in one look. */
export function glance(section: Section, ranks: Ranking[]): GlanceBlock {
  const { dense } = section;
  const columns = headlineColumns(section);
  const several = columns.length > new Set(columns.map(({ name }) => name)).size;
  const speeds = section.speeds.filter(({ key }) => section.pruned.some(({ speedUps }) => speedUps.has(key)));
  const levels = Map.groupBy(section.pruned, ({ asked }) => asked);
  const topic = (column: Column) => {
    const what = column.kind === "perplexity"
      ? `Lowest ${column.metric}, ${column.name}`
      : `Highest ${column.name}${column.kind === "task" ? ` ${column.metric}` : ""}`;
    return what + (several ? `, ${column.count}` : "") +
      (dense?.values.has(column.key) ? ` (dense ${valueText(column, dense)})` : "");
  };
  const lines = [...levels].map(([asked, rows]) => ({
    level: levelWords(asked, rows),
    findings: [
      ...columns.map((column) => {
        const ranking = ranks.find((rank) => rank.column === column && rank.asked === asked);
        if (ranking === undefined) return null;
        return {
          best: ranking.best.label,
          value: valueText(column, ranking.best),
          verdict: verdict(ranking) + lessWords(ranking),
        };
      }),
      ...(speeds.length > 0 ? [speedFinding(section, asked, speeds)] : []),
    ],
  }));
  return {
    kind: "glance",
    topics: [...columns.map(topic), ...(speeds.length > 0 ? ["Speed-up over dense"] : [])],
    lines,
  };
}
