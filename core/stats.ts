/** Statistics of results: plain functions on numbers. Paired functions compare two cells on the same examples or
 * windows, given in the same order.
 *
 * @module
 */
import {
  gammaln,
  mean as arithmeticMean,
  median as middle,
  quantileSorted,
  sampleStandardDeviation,
} from "simple-statistics";
import { at } from "./indexing.ts";
import { createRng } from "./rng.ts";

/** Arithmetic mean.
 * @throws {Error} when there are no values. */
export function mean(values: readonly number[]): number {
  return arithmeticMean(values as number[]);
}

/** Median; the mean of the middle two for an even count.
 * @throws {Error} when there are no values. */
export function median(values: readonly number[]): number {
  return middle(values as number[]);
}

/** Sample standard deviation (n - 1); NaN for fewer than two values. */
export function sampleSd(values: readonly number[]): number {
  return values.length < 2 ? NaN : sampleStandardDeviation(values as number[]);
}

/** Standard error of the mean, sample sd / sqrt(n); null for fewer than two values. For 0/1 scores this is
 * sqrt(p (1 - p) / (n - 1)), as lm-evaluation-harness reports it. */
export function standardError(values: readonly number[]): number | null {
  return values.length < 2 ? null : sampleSd(values) / Math.sqrt(values.length);
}

/** Options of the resampling functions. */
export interface ResampleOptions {
  /** Seed of the random stream; the same seed gives the same interval. */
  seed: number;
  /** Number of resamples. */
  resamples?: number;
  /** Coverage of the interval. */
  confidence?: number;
}

/** A mean with its bootstrap interval. */
export interface Interval {
  /** Mean of the values. */
  mean: number;
  /** Lower end. */
  low: number;
  /** Upper end. */
  high: number;
}

const RESAMPLES = 5000;

/** Means of resamples of `values` with replacement, ascending. */
function bootstrapMeans(values: readonly number[], { seed, resamples = RESAMPLES }: ResampleOptions): Float64Array {
  if (values.length === 0) throw new RangeError("A bootstrap needs at least one value: current 0");
  const data = Float64Array.from(values);
  const rng = createRng(seed, "bootstrap");
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let sum = 0;
    for (let i = 0; i < data.length; i++) sum += at(data, rng.integer(data.length));
    means[r] = sum / data.length;
  }
  return means.sort();
}

function percentileInterval(values: readonly number[], means: Float64Array, confidence: number): Interval {
  const sorted = means as unknown as number[];
  const tail = (1 - confidence) / 2;
  return { mean: mean(values), low: quantileSorted(sorted, tail), high: quantileSorted(sorted, 1 - tail) };
}

/** Percentile bootstrap interval of the mean (Efron 1979), 95 % and 5000 resamples by default.
 * @throws {RangeError} when there are no values. */
export function bootstrapInterval(values: readonly number[], options: ResampleOptions): Interval {
  return percentileInterval(values, bootstrapMeans(values, options), options.confidence ?? 0.95);
}

function differences(a: readonly number[], b: readonly number[]): number[] {
  if (a.length !== b.length) {
    throw new RangeError(`Paired values must be equally many: current ${a.length} and ${b.length}`);
  }
  return a.map((value, i) => value - at(b, i));
}

/** Mean of `a - b` with its bootstrap interval over pairs, and a two-sided bootstrap p value: the share of resamples,
 * shifted to a mean difference of zero, whose mean is at least as far from zero as the observed one.
 * @throws {RangeError} when the two differ in length or are empty. */
export function pairedDifference(
  a: readonly number[],
  b: readonly number[],
  options: ResampleOptions,
): Interval & { p: number } {
  const values = differences(a, b);
  const means = bootstrapMeans(values, options);
  const interval = percentileInterval(values, means, options.confidence ?? 0.95);
  const distance = Math.abs(interval.mean) * (1 - 1e-12);
  const extreme = means.filter((value) => Math.abs(value - interval.mean) >= distance).length;
  return { ...interval, p: (extreme + 1) / (means.length + 1) };
}

/** Two-sided p value of a paired permutation test (random sign flips) of a zero mean difference `a - b`.
 * @throws {RangeError} when the two differ in length or are empty. */
export function pairedPermutation(
  a: readonly number[],
  b: readonly number[],
  { seed, resamples = RESAMPLES }: ResampleOptions,
): number {
  const values = Float64Array.from(differences(a, b)).filter((value) => value !== 0);
  if (a.length === 0) throw new RangeError("A permutation test needs at least one pair: current 0");
  const observed = Math.abs(values.reduce((sum, value) => sum + value, 0)) * (1 - 1e-12);
  const rng = createRng(seed, "permutation");
  let extreme = 0;
  for (let r = 0; r < resamples; r++) {
    let sum = 0;
    for (const value of values) sum += rng.uniform() < 0.5 ? value : -value;
    if (Math.abs(sum) >= observed) extreme++;
  }
  return (extreme + 1) / (resamples + 1);
}

/** At most `most` of `items`: the first, the last, and evenly spaced ones between. `most` is at least 2. */
export function evenlySpaced<T>(items: readonly T[], most: number): T[] {
  if (items.length <= most) return [...items];
  return Array.from({ length: most }, (_, i) => at(items, Math.round(i * (items.length - 1) / (most - 1))));
}

/** Two-sided exact p value of McNemar's test from the discordant pairs: examples that only one of two cells got right.
 * The smaller count's binomial tail at one half, doubled. */
export function mcnemarExact(onlyFirst: number, onlySecond: number): number {
  const n = onlyFirst + onlySecond;
  let tail = 0;
  for (let k = 0; k <= Math.min(onlyFirst, onlySecond); k++) {
    tail += Math.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) - n * Math.LN2);
  }
  return Math.min(1, 2 * tail);
}

/** Holm's step-down correction (Holm 1979): adjusted p values in the order given. */
export function holm(pValues: readonly number[]): number[] {
  const order = [...pValues.entries()].sort(([, a], [, b]) => a - b);
  const adjusted = new Array<number>(pValues.length);
  let running = 0;
  order.forEach(([index, p], rank) => {
    running = Math.max(running, Math.min(1, (pValues.length - rank) * p));
    adjusted[index] = running;
  });
  return adjusted;
}
