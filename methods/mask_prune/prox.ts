/** The sparsity term of MaskPrune: bottom-k, its slope in the width, and its proximal operator.
 *
 * bottom_k(m) is the sum of the k smallest h m^2 (squared bottom-(k,2) norm; h = 1 in the paper's form): exactly 0 when
 * at least k entries are 0. Plain arrays; nothing here knows of models.
 *
 * Papers: Qin et al. 2025, arXiv:2502.14008; Yuan et al. 2021, "UMEC" (ICLR 2021), for the bottom-(s,2) norm.
 *
 * @module
 */

/** Indices of the `k` smallest values, ascending; among equal values the lower index comes first. */
export function smallest(values: ArrayLike<number>, k: number): number[] {
  if (k <= 0) return [];
  const limit = Float64Array.from(values).sort()[Math.min(k, values.length) - 1];
  const below: number[] = [];
  const equal: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] < limit) below.push(i);
    else if (values[i] === limit) equal.push(i);
  }
  return [...below, ...equal.slice(0, k - below.length)].sort((a, b) => a - b);
}

/** h m^2 of each entry; `metric` is h, 1 when absent. */
export function weighted(values: ArrayLike<number>, metric?: ArrayLike<number>): Float64Array {
  return Float64Array.from(values, (m, i) => (metric ? metric[i] : 1) * m * m);
}

/** bottom_k: sum of the `k` smallest h m^2. Between whole numbers it is interpolated linearly. */
export function bottomK(values: ArrayLike<number>, k: number, metric?: ArrayLike<number>): number {
  const sorted = weighted(values, metric).sort();
  const whole = Math.floor(k);
  let sum = 0;
  for (let i = 0; i < Math.min(whole, sorted.length); i++) sum += sorted[i];
  return whole < sorted.length ? sum + (k - whole) * sorted[whole] : sum;
}

/** Slope of bottom_k at a whole `k`, to the right: the (k + 1)-th smallest h m^2, the largest when there is none. */
export function bottomKSlope(values: ArrayLike<number>, k: number, metric?: ArrayLike<number>): number {
  const sorted = weighted(values, metric).sort();
  return sorted[Math.min(k, sorted.length - 1)];
}

/** Divides the `chosen` entries by `1 + 2 strength`: the proximal step once the k entries are known. A new array. */
export function shrink(values: Float32Array, chosen: Iterable<number>, strength: number): Float32Array {
  const result = values.slice();
  const factor = 1 / (1 + 2 * strength);
  for (const i of chosen) result[i] *= factor;
  return result;
}

/** The proximal operator of `strength * bottom_k` in the metric h: the minimiser over x of
 * `1/2 sum h (x - v)^2 + strength * bottom_k(x)`. It divides the k entries with the smallest h v^2 by
 * `1 + 2 strength` and leaves the others; exact for a fixed whole k. With `metric` absent it is the paper's form. */
export function proximalStep(
  values: Float32Array,
  k: number,
  strength: number,
  metric?: ArrayLike<number>,
): Float32Array {
  return shrink(values, smallest(weighted(values, metric), k), strength);
}

/** The `k` entries with the smallest score in each of `segments` equal runs, ascending indices into the whole. */
export function smallestInSegments(scores: ArrayLike<number>, k: number, segments: number): number[] {
  const length = scores.length / segments;
  return Array.from(
    { length: segments },
    (_, s) => smallest(Array.from({ length }, (_, i) => scores[s * length + i]), k).map((i) => s * length + i),
  ).flat();
}

/** Median; the mean of the middle two for an even count. */
export function median(values: ArrayLike<number>): number {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Mean. */
export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}
