/** The embedding and the output projection, the two matrices with a row per token. If one is larger than the engine's
 * largest tensor, it is split into parts of consecutive tokens.
 *
 * Shape legend: N rows, D width, V vocabulary; V_i tokens in the i-th part.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../core/engine/engine.ts";
import { type Matrix, matrixRows, PackedMatrix, packMatrix } from "../core/engine/matrix.ts";
import { linear, linearTransposed, matrixProduct } from "../core/engine/ops.ts";
import type { HostTensor } from "./config.ts";

/** The embedding, and the output projection unless it is tied. */
export interface Vocabulary {
  /** [V_i, D] each. */
  embedding: Matrix[];
  /** [D, V_i] each; null when tied to the embedding. */
  head: Matrix[] | null;
}

/** Rows of a block of logits in training: about 32 MB. */
export function vocabularyRows(vocabSize: number): number {
  return Math.max(16, Math.min(512, Math.floor((1 << 23) / vocabSize)));
}

/** Puts a [V, D] matrix on the device in the fewest equal parts that the engine's limit allows: [V_i, D], or [D, V_i]
 * if `transposed`; in 16 bits if `isStored` and they hold it exactly. */
export function uploadVocabulary({ shape, data }: HostTensor, transposed: boolean, isStored = false): Matrix[] {
  const [v, width] = [at(shape, 0), at(shape, 1)];
  const most = Math.max(1, Math.floor(currentEngine().maxTensorBytes / (width * data.BYTES_PER_ELEMENT)));
  const rows = Math.ceil(v / Math.ceil(v / Math.min(v, most)));
  return Array.from({ length: Math.ceil(v / rows) }, (_, i) => {
    const part = data.subarray(i * rows * width, (i + 1) * rows * width);
    const given = tf.tensor2d(part, [part.length / width, width]);
    const packed = isStored ? packMatrix(given, transposed) : null;
    if (!packed && !transposed) return given;
    const held = packed ?? tf.transpose(given);
    given.dispose();
    return held;
  });
}

/** Token ids [N], i32: in host memory, or on the device after the last step. */
export type TokenIds = Int32Array | tf.Tensor1D;

/** Rows of the embedding: token ids [N] -> [N, D]. */
export function embeddingRows(parts: readonly Matrix[], tokens: TokenIds): tf.Tensor2D {
  return tf.tidy(() => {
    const ids = tokens instanceof Int32Array ? tf.tensor1d(tokens, "int32") : tokens;
    if (parts.length === 1) return matrixRows(at(parts, 0), ids);
    let start = 0;
    return tf.addN(parts.map((part) => {
      const own = tf.sub(ids, tf.scalar(start, "int32"));
      const [size] = part.shape;
      start += size;
      const inside = tf.logicalAnd(tf.greaterEqual(own, 0), tf.less(own, size));
      // A token of another part reads some row here, which counts 0 times.
      const rows = matrixRows(part, tf.mul(own, tf.cast(inside, "int32")) as tf.Tensor1D);
      return tf.mul(rows, tf.reshape(tf.cast(inside, "float32"), [-1, 1]));
    })) as tf.Tensor2D;
  });
}

/** Logits: hidden [N, D] -> [N, V]. */
export function logits({ embedding, head }: Vocabulary, hidden: tf.Tensor2D): tf.Tensor2D {
  const scores = () =>
    head ? head.map((part) => linear(hidden, part)) : embedding.map((part) => linearTransposed(hidden, part));
  return (head ?? embedding).length === 1 ? at(scores(), 0) : tf.tidy(() => tf.concat2d(scores(), 1));
}

/** The output projection for the gradient of the loss, with a token's weights in a row; free it when done. */
export interface HeadTable {
  /** Gradient of the logits to that of the hidden states: [R, V] -> [R, D]. */
  product(gradient: tf.Tensor2D): tf.Tensor2D;
  /** [V, D]; null when held in parts. */
  rows: tf.Tensor2D | null;
  free(): void;
}

/** See {@linkcode HeadTable}. */
export function headTable({ embedding, head }: Vocabulary): HeadTable {
  const isHead = head !== null;
  // In f32 the head is transposed once; 16-bit matrices are read either way.
  const parts = (head ?? embedding).map((part) =>
    isHead && !(part instanceof PackedMatrix) ? tf.transpose(part) : part
  );
  const turns = (part: Matrix) => isHead && part instanceof PackedMatrix;
  const product = (gradient: tf.Tensor2D, part: Matrix) => matrixProduct(gradient, part, turns(part));
  const free = () => {
    if (isHead) parts.forEach((part) => turns(part) || part.dispose());
  };
  const [whole, ...others] = parts;
  if (whole && others.length === 0) {
    const rows = whole instanceof PackedMatrix ? null : whole;
    return { product: (gradient) => product(gradient, whole), rows, free };
  }
  return {
    product: (gradient) =>
      tf.tidy(() => {
        let start = 0;
        return tf.addN(parts.map((part) => {
          const size = part.shape[turns(part) ? 1 : 0];
          const slope = tf.slice(gradient, [0, start], [-1, size]);
          start += size;
          return product(slope, part);
        }));
      }),
    rows: null,
    free,
  };
}
