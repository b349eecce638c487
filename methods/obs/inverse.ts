/** Inverses of symmetric positive definite matrices: small ones in f64 on the host, large ones on the engine.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { matMul2d } from "../../core/engine/ops.ts";
import { NumericError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";

/** A pivot below this part of its diagonal entry has no digit left in f32. */
const SMALLEST_PIVOT = 2 ** -23;

/** Inverse of a symmetric positive definite [n, n] matrix by Gauss and Jordan, in f64; a new array. Null when a pivot
 * shows that rounding has made the matrix indefinite, or that an entry is not a number. */
export function invertSmall(matrix: ArrayLike<number>, n: number): Float64Array | null {
  const m = Float64Array.from(matrix);
  for (let k = 0; k < n; k++) {
    const pivotRow = m.subarray(k * n, (k + 1) * n);
    const pivot = at(pivotRow, k);
    // Written so that NaN fails.
    if (!(pivot > SMALLEST_PIVOT * at(matrix, k * n + k) && pivot < Infinity)) return null;
    const scale = 1 / pivot;
    pivotRow[k] = 1;
    for (const [j, value] of pivotRow.entries()) pivotRow[j] = value * scale;
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const row = m.subarray(i * n, (i + 1) * n);
      const factor = at(row, k);
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
    return tf.stack(Array.from({ length: n / size }, (_, i) => tf.slice(matrix, [i * size, i * size], [size, size])));
  });
  try {
    return await blocks.data() as Float32Array;
  } finally {
    blocks.dispose();
  }
}

/** Columns that go through one block step of {@linkcode invert}. */
const BLOCK = 128;

/** Times that the ridge is raised, by a factor of {@linkcode RAISE}, before a matrix is given up. */
const MOST_RAISES = 12;
const RAISE = 10;

/** An inverse, and the damping that it needed. */
export interface DampedInverse {
  /** [n, n]: the caller's to free. */
  inverse: tf.Tensor2D;
  /** What was added to the diagonal. */
  ridge: number;
  /** Times that the ridge was raised above the given one. */
  raises: number;
}

/** Inverse of `a + ridge I`, a [n, n] symmetric positive semi-definite. When rounding makes a pivot negative, the ridge
 * is raised and the inverse is taken again.
 * @throws {NumericError} when `a` has an entry that is not a number; `what` names the matrix. */
export async function invert(a: tf.Tensor2D, ridge: number, what = "matrix"): Promise<DampedInverse> {
  for (let raises = 0; raises <= MOST_RAISES; raises++) {
    const raised = ridge * RAISE ** raises;
    const inverse = await invertOnce(a, raised);
    if (inverse) return { inverse, ridge: raised, raises };
  }
  throw new NumericError(`Cannot invert the ${what}: it has an entry that is not a finite number`);
}

/** Gauss and Jordan in blocks of columns after scaling to a unit diagonal; f32, 2 n^3 operations in products that every
 * engine is fast at. Null when a pivot is not positive. */
async function invertOnce(a: tf.Tensor2D, ridge: number): Promise<tf.Tensor2D | null> {
  const n = a.shape[0];
  const diagonal = await diagonalBlocks(a, 1);
  const scales = Float32Array.from(diagonal, (value) => 1 / Math.sqrt(value + ridge));
  const scaled = (m: tf.Tensor2D) => {
    const s = tf.tensor1d(scales);
    return tf.mul(tf.mul(m, tf.reshape(s, [n, 1])), s) as tf.Tensor2D;
  };
  let m = tf.tidy(() => scaled(tf.add(a, tf.mul(tf.eye(n), ridge)) as tf.Tensor2D));
  try {
    for (let k = 0; k < n; k += BLOCK) {
      const size = Math.min(BLOCK, n - k);
      const pivot = tf.tidy(() => tf.slice(m, [k, k], [size, size]));
      const inverse = invertSmall(await pivot.data(), size);
      pivot.dispose();
      if (!inverse) return null;
      const before = m;
      // M - (M[:, k] - E) P (M[k, :] + E^T), with E the columns k of the identity and P the pivot's inverse.
      m = tf.tidy(() => {
        const unit = tf.pad(tf.eye(size), [[k, n - k - size], [0, 0]]) as tf.Tensor2D;
        const columns = tf.sub(tf.slice(before, [0, k], [n, size]), unit) as tf.Tensor2D;
        const rows = tf.add(tf.slice(before, [k, 0], [size, n]), tf.transpose(unit)) as tf.Tensor2D;
        const p = tf.tensor2d(Float32Array.from(inverse), [size, size]);
        return tf.sub(before, matMul2d(columns, matMul2d(p, rows))) as tf.Tensor2D;
      });
      before.dispose();
    }
    return tf.tidy(() => scaled(m));
  } finally {
    m.dispose();
  }
}

/** The inverse I of a matrix without the rows and columns R, from the inverse of the whole: `I_KK - I_KR I_RR^-1 I_RK`.
 * The `weights`, [n, out], change as least squares change them when the inputs R go: `W_K - I_KR I_RR^-1 W_R`. All are
 * the caller's to free. Null when rounding has made I_RR indefinite. */
export async function removeFromInverse(
  inverse: tf.Tensor2D,
  weights: readonly tf.Tensor2D[],
  { removed, kept }: { removed: readonly number[]; kept: readonly number[] },
): Promise<{ inverse: tf.Tensor2D; weights: tf.Tensor2D[] } | null> {
  const size = removed.length;
  const core = submatrix(inverse, removed);
  const solved = invertSmall(await core.data(), size);
  core.dispose();
  if (!solved) return null;
  return tf.tidy(() => {
    const [gone, stay] = [removed, kept].map((places) => tf.tensor1d([...places], "int32")) as [
      tf.Tensor1D,
      tf.Tensor1D,
    ];
    const cross = tf.gather(tf.gather(inverse, gone), stay, 1);
    const factors = matMul2d(cross, tf.tensor2d(Float32Array.from(solved), [size, size]), true, false);
    const without = (all: tf.Tensor2D, lost: tf.Tensor2D) => tf.sub(all, matMul2d(factors, lost)) as tf.Tensor2D;
    return {
      inverse: without(submatrix(inverse, kept), cross),
      weights: weights.map((weight) => without(tf.gather(weight, stay), tf.gather(weight, gone))),
    };
  });
}

/** The rows and columns `kept` of a square matrix. */
export function submatrix(matrix: tf.Tensor2D, kept: readonly number[]): tf.Tensor2D {
  return tf.tidy(() => {
    const stay = tf.tensor1d([...kept], "int32");
    return tf.gather(tf.gather(matrix, stay), stay, 1);
  });
}
