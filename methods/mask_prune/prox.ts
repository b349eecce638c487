/** The sparsity term of MaskPrune: bottom-s and its proximal operator. Plain arrays; nothing here knows of models.
 *
 * bottom_s(m) is the sum of the s smallest m^2 (squared bottom-(s,2) norm): exactly 0 when at least s entries are 0.
 *
 * Papers: Qin et al. 2025, arXiv:2502.14008; Yuan et al. 2021, "UMEC" (ICLR 2021), for the bottom-(s,2) norm.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";

/** Sum of m^2 over the units `closed`, as a fraction of the sum over all; 0 where all are 0. */
export function bottomShare(values: ArrayLike<number>, closed: Iterable<number>): number {
  let [bottom, all] = [0, 0];
  for (const unit of closed) bottom += at(values, unit) ** 2;
  for (let i = 0; i < values.length; i++) all += at(values, i) ** 2;
  return all === 0 ? 0 : bottom / all;
}

/** Slope of bottom_s at a whole s, to the right: the (s + 1)-th smallest m^2, the largest when there is none. */
export function bottomSlope(values: ArrayLike<number>, s: number): number {
  const squares = Float64Array.from(values, (m) => m * m).sort();
  return at(squares, Math.min(s, squares.length - 1));
}

/** The proximal step of `y bottom_s` for the `closed` s entries: they are divided by `1 + 2 y`. A new array. */
export function shrink(values: Float32Array, closed: Iterable<number>, y: number): Float32Array {
  const result = values.slice();
  for (const unit of closed) result[unit] = at(values, unit) / (1 + 2 * y);
  return result;
}
