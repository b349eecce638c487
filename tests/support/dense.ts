/** Dense matrices in f64, row by row: the slow reference of what methods do on the engine.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";

/** a b with a [n, k] and b [k, m]. */
export function product(a: ArrayLike<number>, b: ArrayLike<number>, [n, k, m]: [number, number, number]): Float64Array {
  const result = new Float64Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += at(a, i * k + l) * at(b, l * m + j);
      result[i * m + j] = sum;
    }
  }
  return result;
}

/** The transpose of a [n, m]. */
export const transposed = (a: ArrayLike<number>, [n, m]: [number, number]): Float64Array =>
  Float64Array.from({ length: n * m }, (_, i) => at(a, (i % n) * m + Math.floor(i / n)));

/** The identity [n, n]. */
export const identity = (n: number): Float64Array =>
  Float64Array.from({ length: n * n }, (_, i) => i % (n + 1) === 0 ? 1 : 0);

/** Inverse of [n, n] by elimination with the largest pivot of each column. */
export function inverseOf(matrix: ArrayLike<number>, n: number): Float64Array {
  const rows = Array.from({ length: n }, (_, i) => [
    ...Array.from({ length: n }, (_, j) => at(matrix, i * n + j)),
    ...Array.from({ length: n }, (_, j) => i === j ? 1 : 0),
  ]);
  for (let k = 0; k < n; k++) {
    let best = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(rows[i]![k]!) > Math.abs(rows[best]![k]!)) best = i;
    [rows[k], rows[best]] = [rows[best]!, rows[k]!];
    const pivot = rows[k]!;
    const scale = pivot[k]!;
    for (let j = k; j < 2 * n; j++) pivot[j] = pivot[j]! / scale;
    for (const [i, row] of rows.entries()) {
      const factor = row[k]!;
      if (i === k || factor === 0) continue;
      for (let j = k; j < 2 * n; j++) row[j] = row[j]! - factor * pivot[j]!;
    }
  }
  return Float64Array.from(rows.flatMap((row) => row.slice(n)));
}
