/** Which entries are the smallest.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";

/** Indices of the `k` smallest values, ascending; among equal values the lower index comes first. */
export function smallest(values: ArrayLike<number>, k: number): number[] {
  if (k <= 0) return [];
  const limit = Float64Array.from(values).sort()[Math.min(k, values.length) - 1];
  if (limit === undefined) return [];
  const below: number[] = [];
  const equal: number[] = [];
  for (const [i, value] of Array.from(values).entries()) {
    if (value < limit) below.push(i);
    else if (value === limit) equal.push(i);
  }
  return [...below, ...equal.slice(0, k - below.length)].sort((a, b) => a - b);
}

/** The `k` entries with the smallest score in each of `segments` equal runs, ascending indices into the whole. */
export function smallestInSegments(scores: ArrayLike<number>, k: number, segments: number): number[] {
  const length = scores.length / segments;
  return Array.from(
    { length: segments },
    (_, s) => smallest(Array.from({ length }, (_, i) => at(scores, s * length + i)), k).map((i) => s * length + i),
  ).flat();
}
