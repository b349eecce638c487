import { NumericError } from "../../core/util/errors.ts";

/** Indices of the `k` smallest values, ascending; among equal values the lower index comes first. */
function smallest(values: Float64Array, k: number): number[] {
  if (k <= 0) return [];
  const limit = values.toSorted()[Math.min(k, values.length) - 1];
  if (limit === undefined) return [];
  const below: number[] = [];
  const equal: number[] = [];
  for (const [i, value] of values.entries()) {
    if (value < limit) below.push(i);
    else if (value === limit) equal.push(i);
  }
  return [...below, ...equal.slice(0, k - below.length)].sort((a, b) => a - b);
}

/** The `k` units of lowest rank in each of `segments` equal runs, ascending indices into the whole.
 * @throws {NumericError} when a rank is not a number; `what` names the units, such as `FFN channels of layer 3`. */
export function smallestInSegments(ranks: ArrayLike<number>, k: number, segments: number, what = "units"): number[] {
  const all = Float64Array.from(ranks);
  const bad = all.findIndex(Number.isNaN);
  if (bad >= 0) throw new NumericError(`Ranks of ${what} must be numbers: current NaN for unit ${bad}`);
  const length = all.length / segments;
  return Array.from({ length: segments }, (_, s) => s * length)
    .flatMap((start) => smallest(all.subarray(start, start + length), k).map((i) => start + i));
}
