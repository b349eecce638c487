/** Rows and columns of matrices in host memory, row by row.
 *
 * @module
 */
import { at } from "../core/indexing.ts";

/** Rows of `[n, columns]`, in the order of `kept`. */
export function takeRows(values: Float32Array, columns: number, kept: readonly number[]): Float32Array {
  const taken = new Float32Array(kept.length * columns);
  kept.forEach((row, i) => taken.set(values.subarray(row * columns, (row + 1) * columns), i * columns));
  return taken;
}

/** Columns of `[n, columns]`, in the order of `kept`. */
export function takeColumns(values: Float32Array, columns: number, kept: readonly number[]): Float32Array {
  const rows = values.length / columns;
  const taken = new Float32Array(rows * kept.length);
  for (let row = 0; row < rows; row++) {
    const own = values.subarray(row * columns, (row + 1) * columns);
    kept.forEach((column, i) => taken[row * kept.length + i] = at(own, column));
  }
  return taken;
}
