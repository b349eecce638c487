/** Rows and columns of matrices in host memory, row by row.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";

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

/** The inverse of taking rows and columns: puts the rows and columns of a smaller matrix at their places in
 * `[rows, columns]`, with zeros elsewhere. By default all rows or columns were kept. A matrix of that size is returned
 * unchanged. */
export function spread(
  values: Float32Array,
  [rows, columns]: [number, number],
  keptRows?: readonly number[],
  keptColumns?: readonly number[],
): Float32Array {
  if (values.length === rows * columns) return values;
  const result = new Float32Array(rows * columns);
  const width = keptColumns?.length ?? columns;
  for (let i = 0; i < values.length / width; i++) {
    const row = (keptRows?.[i] ?? i) * columns;
    values.subarray(i * width, (i + 1) * width).forEach((value, j) => result[row + (keptColumns?.[j] ?? j)] = value);
  }
  return result;
}
