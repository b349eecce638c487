/** Weight matrices on the device: f32 tensors, or 16-bit numbers on engines with `decoderOps`.
 *
 * - In exact arithmetic 16 bits hold the checkpoint's own numbers, and products are in f32.
 * - In fast arithmetic on a CPU all weights are rounded to bfloat16. Products with more than {@linkcode FEW_ROWS} rows
 *   round the rows, too; sums are in f32. So do the products within attention, see `native/factors.h`.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "./engine.ts";
import { decoderOp, type OpAttributes } from "./native_ops.ts";

/** Rows up to which a product takes about the time of reading the matrix. */
export const FEW_ROWS = 8;

/** Values of a matrix that fits a core's cache. There TensorFlow's product spends most of its time on reordering both
 * factors. */
const SMALL_MATRIX = 2 ** 16;

/** Whether {@linkcode storedProduct} is the fast way to a product with `w` in f32. */
export const isOwnProductFaster = (rows: number, w: tf.Tensor2D): boolean => rows <= FEW_ROWS || w.size <= SMALL_MATRIX;

/** 16-bit formats, with their numbers in `core/engine/native/weights.h`. */
const FORMATS = { BF16: 1, F16: 2 } as const;

type PackedFormat = keyof typeof FORMATS;

/** A matrix of 16-bit numbers on the device. */
export class PackedMatrix {
  /** `bits`: i32 [rows, columns / 2, rounded up], two numbers in each. `shape`: [rows, columns]. */
  constructor(readonly bits: tf.Tensor2D, readonly format: PackedFormat, readonly shape: [number, number]) {}

  get sizeBytes(): number {
    return 4 * this.bits.size;
  }

  dispose(): void {
    this.bits.dispose();
  }
}

/** A weight matrix on the device. */
export type Matrix = tf.Tensor2D | PackedMatrix;

/** Bytes of a tensor or matrix on the device. */
export const heldBytes = (w: tf.Tensor | PackedMatrix): number => w instanceof PackedMatrix ? w.sizeBytes : 4 * w.size;

/** A matrix as input of the native operations. */
export function storedForm(w: Matrix): { tensor: tf.Tensor2D; format: number; columns: number } {
  const [, columns] = w.shape;
  if (w instanceof PackedMatrix) return { tensor: w.bits, format: FORMATS[w.format], columns };
  return { tensor: w, format: 0, columns };
}

/** A matrix as right factor of the native products: its input, and the attributes that go with it. */
export function productOf(w: Matrix): { tensor: tf.Tensor2D; attributes: OpAttributes } {
  const { tensor, format, columns } = storedForm(w);
  const attributes = {
    W: { typeOf: tensor },
    format: { integer: format },
    columns: { integer: columns },
    rounded: { integer: Number(currentEngine().arithmetic === "fast") },
  };
  return { tensor, attributes };
}

/** The matrix in 16 bits, [rows, columns], or [columns, rows] if `transposed`. In fast arithmetic numbers are rounded
 * to bfloat16, otherwise they are exact. Null if neither format holds all of them exactly. */
export function packMatrix(w: tf.Tensor2D, transposed = false): PackedMatrix | null {
  const [rows, columns] = w.shape;
  const isRounded = currentEngine().arithmetic === "fast";
  for (const format of ["BF16", "F16"] as const) {
    const [bits, exact] = decoderOp("Pack", [w], 2, {
      format: { integer: FORMATS[format] },
      transposed: { integer: Number(transposed) },
    });
    const [fits] = exact.dataSync();
    exact.dispose();
    if (fits || isRounded) {
      return new PackedMatrix(bits as tf.Tensor2D, format, transposed ? [columns, rows] : [rows, columns]);
    }
    bits.dispose();
  }
  return null;
}

/** The matrix in f32: always a new tensor. */
export function denseMatrix(w: Matrix): tf.Tensor2D {
  if (!(w instanceof PackedMatrix)) return tf.clone(w);
  const { tensor, format, columns } = storedForm(w);
  return decoderOp("Unpack", [tensor], 1, { format: { integer: format }, columns: { integer: columns } })[
    0
  ] as tf.Tensor2D;
}

/** `x w`, x [N, in] and w [in, out] -> [N, out], or `x wᵀ`, w [out, in], if `transposed`. For 16-bit matrices, small
 * ones, and few rows, where it reads the matrix at the speed of memory. Without a gradient. */
export function storedProduct(x: tf.Tensor2D, w: Matrix, transposed = false): tf.Tensor2D {
  const { tensor, attributes } = productOf(w);
  return decoderOp("Product", [x, tensor], 1, {
    ...attributes,
    transposed: { integer: Number(transposed) },
  })[0] as tf.Tensor2D;
}

/** A copy of `w` with memory in common; each is disposed separately. */
export function sharedMatrix(w: Matrix): Matrix {
  return w instanceof PackedMatrix ? new PackedMatrix(tf.clone(w.bits), w.format, w.shape) : tf.clone(w);
}

/** `w` in 16 bits if `origin` is and they hold it exactly; `w` is freed then. */
export function inFormOf(w: tf.Tensor2D, origin: Matrix): Matrix {
  const packed = origin instanceof PackedMatrix ? packMatrix(w) : null;
  if (packed) w.dispose();
  return packed ?? w;
}

/** Rows of a matrix in f32: indices [N] -> [N, columns]. */
export function matrixRows(w: Matrix, indices: tf.Tensor1D): tf.Tensor2D {
  if (!(w instanceof PackedMatrix)) return tf.gather(w, indices);
  return tf.tidy(() => {
    const bits = tf.gather(w.bits, indices);
    return denseMatrix(new PackedMatrix(bits, w.format, [indices.size, w.shape[1]]));
  });
}
