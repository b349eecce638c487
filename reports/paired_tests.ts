/** Paired tests of two rows on the same windows or examples. The page over many runs runs this file in the browser: it
 * imports nothing that needs Deno.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { holmLevels, mcnemarTest, type PairedTest, signFlipTest } from "../core/util/stats.ts";
import type { Column } from "./columns.ts";
import type { Row } from "./sections.ts";

/** Corrected p values below this count as significant; intervals of a table hold together with one minus this. */
export const ALPHA = 0.05;

/** What makes a lead clear. */
export const CLEAR = "We call a lead clear if the corrected paired test is significant and every seed agrees.";
/** What is tested and how, in words. */
export const PAIRED_TESTS =
  "Tests are paired on the same windows or examples, averaged over seeds. A task with one seed uses McNemar's exact " +
  "test, everything else sign flips. Neighbouring windows flip together.";

/** The best row of a level against another. */
export interface Comparison {
  /** The row that the best is compared with. */
  other: Row;
  /** How much better the best row is: nats for perplexity, a fraction for accuracies. The interval belongs to the same
   * test: it excludes 0 exactly if `p` is below {@linkcode ALPHA}. */
  lead: { value: number; low: number; high: number };
  /** `mcnemar`: exact, one seed each. `permutation`: sign flips of the differences, valid for few windows, unlike a
   * bootstrap. `identical`: all numbers are equal, so nothing is tested. */
  test: "mcnemar" | "permutation" | "identical";
  /** Corrected p value. */
  p: number;
  /** Whether `p` is the least that the test can give. */
  isFloor: boolean;
  /** Of the seeds that both have; null where they share fewer than two. */
  seeds: SeedCount | null;
}

/** With how many seeds a row is better than another. */
export interface SeedCount {
  ahead: number;
  behind: number;
  of: number;
}

const isBinary = (row: Row, column: Column) =>
  column.kind === "task" && row.values.get(column.key)?.spreadOf === "stderr";

/** Resampled units at most: longer lists are summed in this many blocks first, which keeps the mean and its spread. */
const MOST_UNITS = 250;

/** Sums of `blocks` groups of values, on the scale of one value; `blockOf` gives the group of a place. */
function summed(values: readonly number[], blocks: number, blockOf: (place: number) => number): number[] {
  const sums = Array<number>(blocks).fill(0);
  for (const [i, value] of values.entries()) sums[blockOf(i)]! += value * blocks / values.length;
  return sums;
}

/** What is resampled of a column's numbers. Neighbouring windows of a text depend on each other, so they form blocks;
 * the block length is the cube root of their number (Kunsch 1989). Examples, and documents of protocol c, are
 * independent. */
export function resampled({ kind, metric }: Column, values: readonly number[]): number[] {
  const n = values.length;
  if (kind === "perplexity" && metric === "perplexity") {
    const blocks = Math.min(MOST_UNITS, Math.ceil(n / Math.floor(Math.cbrt(n))));
    return summed(values, blocks, (place) => Math.floor(place * blocks / n));
  }
  const blocks = Math.min(MOST_UNITS, n);
  return summed(values, blocks, (place) => place % blocks);
}

/** A test whose p value and interval are not corrected yet. */
export interface RawTest {
  other: Row;
  kind: Comparison["test"];
  test: PairedTest;
  seeds: SeedCount | null;
}

function mcnemar(own: number[], theirs: number[]): PairedTest {
  const wins = own.filter((right, i) => right > at(theirs, i)).length;
  const losses = own.filter((right, i) => right < at(theirs, i)).length;
  return mcnemarTest(wins, losses, own.length);
}

const IDENTICAL: PairedTest = { mean: 0, p: 1, isFloor: false, interval: () => ({ low: 0, high: 0 }) };

/** Tests one row against another on the same windows or examples.
 * @returns null where the two do not share them. */
export function pairedTest(column: Column, best: Row, other: Row): RawTest | null {
  const own = best.paired.get(column.key);
  const theirs = other.paired.get(column.key);
  if (own === undefined || theirs === undefined || own.length !== theirs.length || own.length < 2) return null;
  const seeds = seedCount(column, best, other);
  if (own.every((value, i) => value === theirs[i])) return { other, seeds, kind: "identical", test: IDENTICAL };
  const [better, worse] = column.higherIsBetter ? [own, theirs] : [theirs, own];
  if (isBinary(best, column) && isBinary(other, column)) {
    return { other, seeds, kind: "mcnemar", test: mcnemar(better, worse) };
  }
  const units = (values: number[]) => resampled(column, values);
  const weights = units(own.map(() => 1));
  return { other, seeds, kind: "permutation", test: signFlipTest(units(better), units(worse), { seed: 0, weights }) };
}

/** Corrects the tests of one table by Holm, p values and intervals alike; in the order given. */
export function corrected(tests: readonly RawTest[]): Comparison[] {
  const real = tests.filter(({ kind }) => kind !== "identical");
  const levels = new Map(holmLevels(real.map(({ test }) => test.p), ALPHA).map((level, i) => [real[i], level]));
  return tests.map((raw) => {
    const { other, kind, test, seeds } = raw;
    const { p, alpha } = levels.get(raw) ?? { p: 1, alpha: ALPHA };
    return { other, test: kind, p, isFloor: test.isFloor, seeds, lead: { value: test.mean, ...test.interval(alpha) } };
  });
}

/** With how many of the seeds that two rows share the first is better; null where they share fewer than two. */
export function seedCount(column: Column, first: Row, second: Row): SeedCount | null {
  const theirs = second.bySeed.get(column.key);
  const shared = [...first.bySeed.get(column.key) ?? []].flatMap(([seed, own]) => {
    const other = theirs?.get(seed);
    return other === undefined ? [] : [column.higherIsBetter ? own - other : other - own];
  });
  const count = (sign: number) => shared.filter((lead) => sign * lead > 0).length;
  return shared.length < 2 ? null : { ahead: count(1), behind: count(-1), of: shared.length };
}

/** 1 where a test and every seed show that the first row is better than the other, -1 that it is worse, else 0. */
export function clearSign({ p, lead, seeds }: Comparison): -1 | 0 | 1 {
  if (p >= ALPHA) return 0;
  if (lead.value > 0 && (seeds === null || seeds.ahead === seeds.of)) return 1;
  return lead.value < 0 && (seeds === null || seeds.behind === seeds.of) ? -1 : 0;
}

/** How much a row differs from the one that it was tested against: percent of perplexity, or points of accuracy, with
 * the interval of the test. */
export function changeWords({ kind, higherIsBetter }: Column, { lead: { value, low, high } }: Comparison): string {
  const sign = higherIsBetter ? 1 : -1;
  const change = (lead: number) => {
    const value = kind === "perplexity" ? 100 * Math.expm1(sign * lead) : 100 * sign * lead;
    const text = `${value > 0 ? "+" : ""}${value.toFixed(Math.abs(value) < 100 ? 2 : 0)}`;
    return text.replace(/^-(?=0\.00$)/, "").replace("Infinity", "∞");
  };
  const interval = [change(low), change(high)];
  if (sign < 0) interval.reverse();
  return `${change(value)}${kind === "perplexity" ? " %" : " points"} [${interval.join(", ")}]`;
}

/** Whether a row is better than the one that it was tested against, in words. */
export function verdictWords(test: Comparison): string {
  if (test.test === "identical") return "identical";
  return { [-1]: "worse", [0]: "no clear difference", [1]: "better" }[clearSign(test)];
}
