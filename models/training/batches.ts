/** Windows of tokens as batches, and the rows of a batch that a loss looks at.
 *
 * Shape legend: B batch, T tokens, S = B (T - 1) scored rows, D width.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import type { TokenBatch } from "../layers.ts";

/** Windows of one length as a batch. */
export function windowBatch(windows: readonly Int32Array[]): TokenBatch {
  const { length } = at(windows, 0);
  const tokens = new Int32Array(windows.length * length);
  windows.forEach((window, i) => {
    if (window.length !== length) {
      throw new RangeError(`Windows of a batch must be equally long: current ${length} and ${window.length}`);
    }
    tokens.set(window, i * length);
  });
  return { tokens, batch: windows.length, length };
}

/** Rows that predict a token, that is all but the last of each sequence: [B T, D] -> [B (T - 1), D]. */
export function scoredRows(hidden: tf.Tensor2D, { batch, length }: TokenBatch): tf.Tensor2D {
  const width = hidden.shape[1];
  const rows = tf.reshape(hidden, [batch, length, width]);
  return tf.reshape(tf.slice(rows, [0, 0, 0], [batch, length - 1, width]), [-1, width]) as tf.Tensor2D;
}

/** Ids of the tokens that the scored rows predict: i32 [S]. */
export function nextTokens({ tokens, length }: TokenBatch): Int32Array {
  return tokens.filter((_, i) => i % length !== 0);
}
