/** Who is best at each level, and whether the lead is more than chance: paired tests of the best row against every
 * other on the same windows or examples, Holm-corrected over all tests of a column.
 *
 * @module
 */
import { holm, mcnemarExact, pairedDifference, pairedPermutation, standardError } from "../core/stats.ts";
import type { Column } from "./measurements.ts";
import type { Row, Section } from "./rows.ts";

/** Corrected p values below this count as significant. */
export const ALPHA = 0.05;

/** The best row of a level against another. */
export interface Comparison {
  /** The row that the best is compared with. */
  other: Row;
  /** How much better the best row is: nats per token for perplexity, a fraction for accuracies; 95 % interval
   * (normal for `mcnemar`, bootstrap for `permutation`). */
  lead: { value: number; low: number; high: number };
  /** `mcnemar`: exact, one seed each; `permutation`: random sign flips of the differences, which stays honest for few
   * windows where a bootstrap p value does not. */
  test: "mcnemar" | "permutation";
  /** Corrected p value. */
  p: number;
}

/** Rows of one level by one column, best first. */
export interface Ranking {
  /** Column ranked by. */
  column: Column;
  /** Level: asked fraction of the prunable parameters. */
  asked: number;
  /** Rows with a value, best first. */
  rows: Row[];
  /** Tests of the first row against the others, where both have the same windows or examples. */
  comparisons: Map<Row, Comparison>;
}

const isBinary = (row: Row, column: Column) =>
  column.kind === "task" && row.values.get(column.key)?.spreadOf === "stderr";

/** Resampled units at most: longer lists are summed in this many blocks first, which keeps the mean and its spread. */
const MOST_UNITS = 250;

const INTERVAL_RESAMPLES = 2000;
/** Sign flips of a test: enough for p values that survive the correction for a column of many methods and levels. */
const TEST_RESAMPLES = { perplexity: 5000, "mean-accuracy": 5000, task: 2000, throughput: 0 };

function inBlocks(values: number[]): number[] {
  if (values.length <= MOST_UNITS) return values;
  const blocks = new Array<number>(MOST_UNITS).fill(0);
  values.forEach((value, i) => blocks[i % MOST_UNITS] += value * MOST_UNITS / values.length);
  return blocks;
}

function mcnemar(own: number[], theirs: number[], other: Row): Comparison {
  const differences = own.map((right, i) => right - theirs[i]);
  const value = differences.reduce((a, b) => a + b, 0) / differences.length;
  const half = 1.96 * (standardError(differences) ?? 0);
  const wins = differences.filter((difference) => difference > 0).length;
  const losses = differences.filter((difference) => difference < 0).length;
  return {
    other,
    lead: { value, low: value - half, high: value + half },
    test: "mcnemar",
    p: mcnemarExact(wins, losses),
  };
}

/** Tests one row against another on the same windows or examples; the p value is not corrected yet.
 * @returns null where the two do not share them. */
export function compare(column: Column, best: Row, other: Row): Comparison | null {
  const own = best.paired.get(column.key);
  const theirs = other.paired.get(column.key);
  if (own === undefined || theirs === undefined || own.length !== theirs.length || own.length < 2) return null;
  const [better, worse] = column.higherIsBetter ? [own, theirs] : [theirs, own];
  if (isBinary(best, column) && isBinary(other, column)) return mcnemar(better, worse, other);
  const [first, second] = [inBlocks(better), inBlocks(worse)];
  const { mean, low, high } = pairedDifference(first, second, { seed: 0, resamples: INTERVAL_RESAMPLES });
  const p = pairedPermutation(first, second, { seed: 0, resamples: TEST_RESAMPLES[column.kind] });
  return { other, lead: { value: mean, low, high }, test: "permutation", p };
}

/** Rankings of every level and quality column of a section; throughput is not ranked, since methods of one level
 * remove the same and differences are those of the machine. */
export function rankings(section: Section): Ranking[] {
  const columns = section.columns.filter(({ kind, primary }) => kind !== "throughput" && primary);
  const levels = [...new Set(section.rows.filter((row) => row.methodId !== null).map(({ asked }) => asked))];
  const result: Ranking[] = [];
  for (const column of columns) {
    const sign = column.higherIsBetter ? -1 : 1;
    const valueOf = (row: Row) => sign * row.values.get(column.key)!.value;
    for (const asked of levels) {
      const rows = section.rows
        .filter((row) => row.methodId !== null && row.asked === asked && row.values.has(column.key))
        .sort((a, b) => valueOf(a) - valueOf(b));
      if (rows.length === 0) continue;
      const tests = rows.slice(1).flatMap((row) => compare(column, rows[0], row) ?? []);
      result.push({ column, asked, rows, comparisons: new Map(tests.map((test) => [test.other, test])) });
    }
    const tests = result.filter((ranking) => ranking.column === column)
      .flatMap(({ comparisons }) => [...comparisons.values()]);
    holm(tests.map(({ p }) => p)).forEach((p, i) => tests[i].p = p);
  }
  return result;
}

/** Whether a test shows that the best row really is better than the other. */
export function isClear({ p, lead }: Comparison): boolean {
  return p < ALPHA && lead.value > 0;
}

/** How a value stands among those of its level. */
export interface Standing {
  /** 1 best, 2 second best, 0 any other; equal values have equal places. */
  place: 0 | 1 | 2;
  /** `*`: the best, and clearly better than every other; `≈`: not clearly worse than the best. */
  sign: "*" | "≈" | "";
}

/** The standing of each row by one ranking. A level with one method has no standings. */
export function standings({ column, rows, comparisons }: Ranking): Map<Row, Standing> {
  const result = new Map<Row, Standing>();
  if (rows.length < 2) return result;
  const values = [...new Set(rows.map((row) => row.values.get(column.key)!.value))];
  const others = rows.slice(1).map((row) => comparisons.get(row));
  const clear = others.every((test) => test !== undefined && isClear(test));
  for (const row of rows) {
    const index = values.indexOf(row.values.get(column.key)!.value);
    const test = comparisons.get(row);
    const sign = row === rows[0] ? (clear ? "*" : "") : test !== undefined && !isClear(test) ? "≈" : "";
    result.set(row, { place: index === 0 ? 1 : index === 1 ? 2 : 0, sign });
  }
  return result;
}
