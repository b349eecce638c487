/** Statistics of results: plain functions on numbers. Paired functions compare two cells on the same examples or
 * windows, given in the same order.
 *
 * @module
 */
import { mean as arithmeticMean, median as middle, sampleStandardDeviation } from "simple-statistics";
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

/** 97.5 % quantile of Student's t distribution with `df` degrees of freedom, within 0.003. In 95 % of samples the
 * mean of df + 1 values lies within this number of standard errors. From a table up to 5, above by the expansion of
 * Fisher and Cornish 1960. */
export function studentT95(df: number): number {
  const exact = [12.706, 4.303, 3.182, 2.776, 2.571][df - 1];
  if (exact !== undefined) return exact;
  const z = 1.959964;
  const [z3, z5, z7] = [z ** 3, z ** 5, z ** 7];
  return z + (z3 + z) / (4 * df) + (5 * z5 + 16 * z3 + 3 * z) / (96 * df ** 2) +
    (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * df ** 3);
}

interface SignFlipOptions {
  seed: number;
  /** Number of random sign patterns, if there are more than {@linkcode MOST_PATTERNS} in all. */
  resamples?: number;
  /** How much each difference counts for in the mean, where they are sums over unequal groups; their mean is 1. */
  weights?: readonly number[];
}

/** A paired test of a zero mean difference, and the interval that belongs to it. */
export interface PairedTest {
  mean: number;
  /** Two-sided p value. */
  p: number;
  /** Whether `p` is the least that the random patterns can give: the true one may be smaller. */
  isFloor: boolean;
  /** All mean differences that the same test does not reject at level `alpha`: 0 is outside exactly if `p < alpha`.
   * Unbounded where the test cannot reject anything at this level. */
  interval(alpha: number): { low: number; high: number };
}

/** Sign patterns that are enumerated at most; of more, this many are drawn. */
const MOST_PATTERNS = 100_000;

function differences(a: readonly number[], b: readonly number[]): number[] {
  if (a.length !== b.length) {
    throw new RangeError(`Paired values must be equally many: current ${a.length} and ${b.length}`);
  }
  return a.map((value, i) => value - at(b, i));
}

/** The edge between `inside`, where `holds` is true, and `outside`, where it is false, by bisection. */
function edge(inside: number, outside: number, holds: (x: number) => boolean): number {
  let [yes, no] = [inside, outside];
  for (let i = 0; i < 40; i++) {
    const middle = (yes + no) / 2;
    if (holds(middle)) yes = middle;
    else no = middle;
  }
  return yes;
}

/** Sums of each group of eight values under the 256 patterns of their signs: bit i set is a plus for value i. */
function groupSums(values: readonly number[]): Float64Array[] {
  return Array.from({ length: Math.ceil(values.length / 8) }, (_, g) => {
    const group = values.slice(8 * g, 8 * g + 8);
    return Float64Array.from(
      { length: 256 },
      (_, bits) => group.reduce((sum, value, i) => sum + ((bits >> i) & 1 ? value : -value), 0),
    );
  });
}

/** Sums of `values` under patterns of signs, and the sums of `weights` under the same: all patterns where these are at most
 * {@linkcode MOST_PATTERNS}, else random ones. */
function flippedSums(
  values: readonly number[],
  weights: readonly number[],
  { seed, resamples = MOST_PATTERNS }: SignFlipOptions,
) {
  const all = 2 ** values.length;
  const isExact = all <= MOST_PATTERNS;
  const rng = createRng(seed, "permutation");
  const sums = new Float64Array(isExact ? all : resamples);
  const signs = new Float64Array(sums.length);
  const [ofValues, ofSigns] = [groupSums(values), groupSums(weights)];
  for (let r = 0; r < sums.length; r++) {
    // 32 signs a draw.
    let bits = r;
    for (let g = 0; g < ofValues.length; g++) {
      if (!isExact && g % 4 === 0) bits = rng.integer(2 ** 32);
      const eight = (bits >>> (8 * (g % 4))) & 255;
      sums[r]! += ofValues[g]![eight]!;
      signs[r]! += ofSigns[g]![eight]!;
    }
  }
  return { sums, signs, isExact };
}

/** Paired permutation test (sign flips) of a zero mean difference `a - b`: exact for few patterns, otherwise with
 * random ones. Its interval contains every shift of the differences that the test with the same patterns does not
 * reject.
 * @throws {RangeError} when the two differ in length or are empty. */
export function signFlipTest(a: readonly number[], b: readonly number[], options: SignFlipOptions): PairedTest {
  const values = differences(a, b);
  if (values.length === 0) throw new RangeError("A permutation test needs at least one pair: current 0");
  const { weights = values.map(() => 1) } = options;
  const { sums, signs, isExact } = flippedSums(values, weights, options);
  // The observed pattern counts as one of the random ones.
  const own = isExact ? 0 : 1;
  const total = values.reduce((sum, value) => sum + value, 0);
  const centre = total / values.length;
  /** Patterns at least as extreme as the observed one, for the mean difference `shift`. */
  const extremeAt = (shift: number): number => {
    const observed = Math.abs(total - shift * values.length) * (1 - 1e-12);
    let extreme = own;
    for (let r = 0; r < sums.length; r++) if (Math.abs(sums[r]! - shift * signs[r]!) >= observed) extreme++;
    return extreme;
  };
  const pOf = (shift: number) => extremeAt(shift) / (sums.length + own);
  const shifts = values.map((value, i) => value / at(weights, i));
  const range = Math.max(...shifts) - Math.min(...shifts);
  return {
    mean: centre,
    p: pOf(0),
    isFloor: !isExact && extremeAt(0) === own,
    interval: (alpha) => {
      const kept = (shift: number) => pOf(shift) >= alpha;
      // p falls on both sides of the mean; beyond all differences only the patterns that flip nothing or all count.
      const ends = [-1, 1].map((side) => {
        const far = centre + side * (2 * range + 1e-9 + 1e-9 * Math.abs(centre));
        return kept(far) ? side * Infinity : edge(centre, far, kept);
      });
      const [low = -Infinity, high = Infinity] = ends;
      // 0 itself is decided by the test, not by the rounding of a bisection.
      return kept(0) ? { low: Math.min(low, 0), high: Math.max(high, 0) } : { low, high };
    },
  };
}

/** At most `most` of `items`: the first, the last, and evenly spaced ones between. `most` is at least 2. */
export function evenlySpaced<T>(items: readonly T[], most: number): T[] {
  if (items.length <= most) return [...items];
  return Array.from({ length: most }, (_, i) => at(items, Math.round(i * (items.length - 1) / (most - 1))));
}

/** Probability of at most `k` of `n` with probability `p` each. */
function binomialTail(k: number, n: number, p: number): number {
  if (p <= 0) return 1;
  if (p >= 1) return k >= n ? 1 : 0;
  const odds = Math.log(p) - Math.log1p(-p);
  let logTerm = n * Math.log1p(-p);
  let tail = Math.exp(logTerm);
  for (let i = 1; i <= k; i++) {
    logTerm += Math.log((n - i + 1) / i) + odds;
    tail += Math.exp(logTerm);
  }
  return Math.min(1, tail);
}

/** McNemar's exact test of 0/1 scores on the same `examples`, from the discordant pairs: examples that only one of two
 * cells got right. p is the smaller count's binomial tail at one half, doubled. The interval of the difference
 * of the two means is Clopper and Pearson's of the first one's share of the discordant pairs (1934), which inverts the
 * same test. */
export function mcnemarTest(onlyFirst: number, onlySecond: number, examples: number): PairedTest {
  const n = onlyFirst + onlySecond;
  const difference = (share: number) => (2 * share - 1) * n / examples;
  return {
    mean: n === 0 ? 0 : difference(onlyFirst / n),
    p: Math.min(1, 2 * binomialTail(Math.min(onlyFirst, onlySecond), n, 0.5)),
    isFloor: false,
    interval: (alpha) => {
      if (n === 0) {
        // With this share of discordant pairs, a sample without any has probability alpha.
        const most = 1 - alpha ** (1 / examples);
        return { low: -most, high: most };
      }
      const share = onlyFirst / n;
      const atMost = (k: number, p: number) => binomialTail(k, n, p) >= alpha / 2;
      return {
        low: difference(edge(share, 0, (p) => atMost(onlySecond, 1 - p))),
        high: difference(edge(share, 1, (p) => atMost(onlyFirst, p))),
      };
    },
  };
}

/** Holm's step-down correction (Holm 1979), in the order given, with the level of each test: `p` is adjusted, and the
 * interval of a test at level `alpha` excludes 0 exactly if its adjusted p value is below `familyAlpha`. Tests
 * after the first one that is not rejected get that one's level. */
export function holmLevels(pValues: readonly number[], familyAlpha: number): { p: number; alpha: number }[] {
  const order = pValues.map((p, i) => ({ p, i })).sort((a, b) => a.p - b.p);
  const result = pValues.map(() => ({ p: 1, alpha: familyAlpha }));
  let running = 0;
  let last: number | undefined;
  for (const [rank, { p, i }] of order.entries()) {
    const tests = pValues.length - rank;
    running = Math.max(running, Math.min(1, tests * p));
    if (running >= familyAlpha) last ??= familyAlpha / tests;
    result[i] = { p: running, alpha: last ?? familyAlpha / tests };
  }
  return result;
}
