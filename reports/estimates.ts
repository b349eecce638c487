/** Measurements of several seeds as values with spreads.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { mean, sampleSd, studentT95 } from "../core/util/stats.ts";
import type { Measurement } from "./columns.ts";

/** A value with its spread. */
export interface Estimate {
  value: number;
  /** Sample standard deviation over seeds or repeats, or standard error of one run; null if unknown. */
  spread: number | null;
  /** In the place of a spread: a 95 % interval, whose ends need not be equally far from the value. */
  interval?: readonly [low: number, high: number];
  spreadOf: "seeds" | "stderr" | "repeats" | "interval";
  /** Number of seeds or repeats. */
  n: number;
}

/** The ends of an estimate's interval, or so many spreads below and above it; null where neither is known. */
export const boundsOf = (
  { value, spread, interval }: Estimate,
  spreads = 1,
): readonly [low: number, high: number] | null =>
  interval ?? (spread === null ? null : [value - spreads * spread, value + spreads * spread]);

/** Quotient of the ends of an interval from which it says little. */
const MOST_WIDTH = 4;

/** Whether a speed-up is not to be relied upon: its error (twice the spread, or the interval) holds 1, or spans a factor
 * of {@linkcode MOST_WIDTH}. */
export function isDoubtful(speedUp: Estimate): boolean {
  const [low, high] = boundsOf(speedUp, 2) ?? [-Infinity, Infinity];
  return low <= 1 && 1 <= high || high >= MOST_WIDTH * low;
}

/** Mean and sample standard deviation of all repeats of several runs, from each run's own. */
function poolRepeats(runs: { value: number; repeats: { sd: number; n: number } }[]): Estimate {
  const n = runs.reduce((sum, { repeats }) => sum + repeats.n, 0);
  const value = runs.reduce((sum, run) => sum + run.value * run.repeats.n, 0) / n;
  const squares = runs.reduce(
    (sum, { value: own, repeats }) => sum + (repeats.n - 1) * repeats.sd ** 2 + repeats.n * (own - value) ** 2,
    0,
  );
  return { value, spread: n > 1 ? Math.sqrt(squares / (n - 1)) : null, spreadOf: "repeats", n };
}

/** Measurements of repeats, each once, whoever shares it. */
function timings(perSeed: Measurement[]): { value: number; repeats: NonNullable<Measurement["repeats"]> }[] {
  const timed = perSeed.flatMap(({ value, repeats }) => repeats && repeats.n > 0 ? [{ value, repeats }] : []);
  return [...new Map(timed.map((one) => [one.repeats.timed, one])).values()];
}

/** Mean and spread over seeds, over the repeats of all, or the standard error of one run. */
export function estimate(perSeed: Measurement[]): Estimate {
  const timed = timings(perSeed);
  if (timed.length > 0) return poolRepeats(timed);
  const values = perSeed.map(({ value }) => value);
  const [first] = perSeed;
  if (first !== undefined && values.length === 1) {
    return { value: first.value, spread: first.stderr, spreadOf: "stderr", n: 1 };
  }
  return { value: mean(values), spread: sampleSd(values), spreadOf: "seeds", n: values.length };
}

/** Mean over seeds of each window's or example's number; undefined where a seed lacks them. */
export function pairedMean(perSeed: Measurement[]): number[] | undefined {
  const [first = [], ...others] = perSeed.map(({ paired }) => paired ?? []);
  if (first.length === 0 || others.some(({ length }) => length !== first.length)) return undefined;
  return first.map((value, i) => mean([value, ...others.map((own) => at(own, i))]));
}

/** Speed-up from repeats that alternated with the dense model's: the geometric mean of the ratios of neighbours, with
 * the 95 % interval that Student's t gives their logarithms; undefined where some did not alternate. */
export function alternatedSpeedUp(perSeed: Measurement[]): Estimate | undefined {
  const logs = timings(perSeed).map(({ repeats }) => repeats.logSpeedUps);
  if (logs.length === 0 || logs.some((own) => own === undefined)) return undefined;
  const all = logs.flatMap((own) => own ?? []);
  const center = mean(all);
  const half = studentT95(all.length - 1) * sampleSd(all) / Math.sqrt(all.length);
  return {
    value: Math.exp(center),
    spread: null,
    interval: [Math.exp(center - half), Math.exp(center + half)],
    spreadOf: "interval",
    n: all.length,
  };
}

/** Ratio of two independent throughputs; relative standard deviations add in quadrature (delta method). */
export function ratio(own: Estimate, dense: Estimate): Estimate {
  const value = own.value / dense.value;
  const spread = own.spread === null || dense.spread === null
    ? null
    : value * Math.hypot(own.spread / own.value, dense.spread / dense.value);
  return { value, spread, spreadOf: "repeats", n: Math.min(own.n, dense.n) };
}
