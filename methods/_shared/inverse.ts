/** Inverses of symmetric positive definite matrices: small ones in f64 on the host, large ones on the engine.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { matMul2d } from "../../core/engine/ops.ts";

/** Inverse of a symmetric positive definite [n, n] matrix by Gauss and Jordan, in f64; a new array. */
export function invertSmall(matrix: ArrayLike<number>, n: number): Float64Array {
  const m = Float64Array.from(matrix);
  for (let k = 0; k < n; k++) {
    const pivotRow = m.subarray(k * n, (k + 1) * n);
    const scale = 1 / (pivotRow[k] ?? 0);
    pivotRow[k] = 1;
    for (const [j, value] of pivotRow.entries()) pivotRow[j] = value * scale;
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const row = m.subarray(i * n, (i + 1) * n);
      const factor = row[k] ?? 0;
      row[k] = 0;
      for (let j = 0; j < n; j++) row[j] = (row[j] ?? 0) - factor * (pivotRow[j] ?? 0);
    }
  }
  return m;
}

/** Diagonal blocks of a matrix [n, n]: [n / size, size, size], in host memory. */
export async function diagonalBlocks(matrix: tf.Tensor2D, size: number): Promise<Float32Array> {
  const n = matrix.shape[0];
  const blocks = tf.tidy(() => {
    if (size === 1) {
      const places = tf.range(0, n, 1, "int32");
      return tf.gatherND(matrix, tf.stack([places, places], 1));
    }
    return tf.stack(
      Array.from({ length: n / size }, (_, i) => tf.slice(matrix, [i * size, i * size], [size, size])),
    );
  });
  try {
    return await blocks.data() as Float32Array;
  } finally {
    blocks.dispose();
  }
}

/** Columns that go through one block step of {@linkcode invert}. */
const BLOCK = 128;

/** Inverse of `a + ridge I`, a [n, n] symmetric positive semi-definite, by Gauss and Jordan in blocks of columns after
 * scaling to a unit diagonal; f32, 2 n^3 operations in products that every engine is fast at. The caller frees it. */
export async function invert(a: tf.Tensor2D, ridge: number): Promise<tf.Tensor2D> {
  const n = a.shape[0];
  const diagonal = await diagonalBlocks(a, 1);
  const scales = Float32Array.from(diagonal, (value) => 1 / Math.sqrt(value + ridge));
  const scaled = (m: tf.Tensor2D) => {
    const s = tf.tensor1d(scales);
    return tf.mul(tf.mul(m, tf.reshape(s, [n, 1])), s) as tf.Tensor2D;
  };
  let m = tf.tidy(() => scaled(tf.add(a, tf.mul(tf.eye(n), ridge)) as tf.Tensor2D));
  for (let k = 0; k < n; k += BLOCK) {
    const size = Math.min(BLOCK, n - k);
    const pivot = tf.tidy(() => tf.slice(m, [k, k], [size, size]));
    const inverse = Float32Array.from(invertSmall(await pivot.data(), size));
    pivot.dispose();
    const before = m;
    // M - (M[:, k] - E) P (M[k, :] + E^T), with E the columns k of the identity and P the pivot's inverse.
    m = tf.tidy(() => {
      const unit = tf.pad(tf.eye(size), [[k, n - k - size], [0, 0]]) as tf.Tensor2D;
      const columns = tf.sub(tf.slice(before, [0, k], [n, size]), unit) as tf.Tensor2D;
      const rows = tf.add(tf.slice(before, [k, 0], [size, n]), tf.transpose(unit)) as tf.Tensor2D;
      return tf.sub(before, matMul2d(columns, matMul2d(tf.tensor2d(inverse, [size, size]), rows))) as tf.Tensor2D;
    });
    before.dispose();
  }
  const result = tf.tidy(() => scaled(m));
  m.dispose();
  return result;
}

/** The inverse of what is left of a matrix when the rows and columns `removed` go, from the inverse of the whole:
 * `I_KK - I_KR I_RR^-1 I_RK`. `inverse` is freed; the caller frees the result. */
export async function removeFromInverse(
  inverse: tf.Tensor2D,
  removed: readonly number[],
  kept: readonly number[],
): Promise<tf.Tensor2D> {
  const size = removed.length;
  const [rows, core] = tf.tidy(() => {
    const gone = tf.tensor1d([...removed], "int32");
    const rows = tf.gather(inverse, gone);
    return [tf.gather(rows, tf.tensor1d([...kept], "int32"), 1), tf.gather(rows, gone, 1)];
  });
  const solved = Float32Array.from(invertSmall(await core.data(), size));
  const result = tf.tidy(() => {
    const stay = tf.tensor1d([...kept], "int32");
    const left = tf.gather(tf.gather(inverse, stay), stay, 1);
    const cross = rows as tf.Tensor2D;
    const lost = matMul2d(cross, matMul2d(tf.tensor2d(solved, [size, size]), cross), true, false);
    return tf.sub(left, lost) as tf.Tensor2D;
  });
  tf.dispose([inverse, rows, core]);
  return result;
}
