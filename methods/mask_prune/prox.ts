/** The sparsity term of MaskPrune: bottom-k, its slope in the width, and its proximal operator.
 *
 * bottom_k(m) is the sum of the k smallest h m^2 (squared bottom-(k,2) norm; h = 1 in the paper's form): exactly 0 when
 * at least k entries are 0. Plain arrays; nothing here knows of models.
 *
 * Papers: Qin et al. 2025, arXiv:2502.14008; Yuan et al. 2021, "UMEC" (ICLR 2021), for the bottom-(s,2) norm.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";

/** h m^2 of each entry; `metric` is h, 1 when absent. */
export function weighted(values: ArrayLike<number>, metric?: ArrayLike<number>): Float64Array {
  return Float64Array.from(values, (m, i) => (metric ? at(metric, i) : 1) * m * m);
}

/** Slope of bottom_k at a whole `k`, to the right: the (k + 1)-th smallest h m^2, the largest when there is none. */
export function bottomKSlope(values: ArrayLike<number>, k: number, metric?: ArrayLike<number>): number {
  const sorted = weighted(values, metric).sort();
  return at(sorted, Math.min(k, sorted.length - 1));
}

/** Divides the `chosen` entries by `1 + 2 strength`: the proximal step once the k entries are known. A new array. */
export function shrink(values: Float32Array, chosen: Iterable<number>, strength: number): Float32Array {
  const result = values.slice();
  const factor = 1 / (1 + 2 * strength);
  for (const i of chosen) result[i] = at(values, i) * factor;
  return result;
}
