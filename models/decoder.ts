/** A LLaMA-family decoder on the device: RMSNorm, RoPE, grouped-query attention, SwiGLU, with optional masks.
 *
 * Shape legend: B batch, T tokens, N = B T rows, D width, H query heads, G key/value groups, K head size,
 * F FFN channels, V vocabulary, L layers. All tensors are f32; weights on the device are `[in, out]`.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../core/engine/engine.ts";
import { NumericError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import { softmaxCrossEntropy } from "../core/engine/ops.ts";
import type { DecoderConfig } from "./config.ts";
import type { DecoderModel } from "./device.ts";
import { createPass, embed, finalStates, type ForwardOptions, runLayers, type TokenBatch } from "./layers.ts";
import { logits, vocabularyRows } from "./vocabulary.ts";

/** Hidden states for the output projection: [B T, D]. Rows of padding have arbitrary values.
 * @throws {RangeError} when the batch does not fit the model. */
export function forward(model: DecoderModel, input: TokenBatch, options: ForwardOptions = {}): tf.Tensor2D {
  checkBatch(model.config, input);
  return tf.tidy(() => {
    // Made inside of tidy, so that the pass is freed if anything throws.
    const pass = createPass(model.config, input);
    const x = runLayers(model, embed(model, input.tokens, options.hidden), pass, options);
    return finalStates(model, x, options.hidden);
  });
}

/** Checks lengths and token ids.
 * @throws {RangeError} when the batch does not fit the model. */
export function checkBatch(config: DecoderConfig, { tokens, batch, length, positions, segments }: TokenBatch): void {
  for (const [name, array] of Object.entries({ tokens, positions, segments })) {
    if (array && array.length !== batch * length) {
      throw new RangeError(`A batch of ${batch} x ${length} needs ${batch * length} ${name}: current ${array.length}`);
    }
  }
  for (const id of tokens) {
    if (id < 0 || id >= config.vocabSize) {
      throw new RangeError(`Token ids must be in [0, ${config.vocabSize}): current ${id}`);
    }
  }
}

/** Natural-log probability of one target per row, and whether it is the most probable token.
 *
 * states [N, D], targets [N]. The vocabulary projection runs over at most `rowsAtOnce` rows at a time, so
 * that memory stays flat.
 * @throws {NumericError} on NaN or infinite logits. */
export async function targetLogProbs(
  model: DecoderModel,
  states: tf.Tensor2D,
  targets: Int32Array,
  rowsAtOnce: number = Math.min(256, 2 * vocabularyRows(model.config.vocabSize)),
): Promise<{ logProbs: Float32Array; isGreedy: boolean[] }> {
  const n = targets.length;
  if (n === 0) return { logProbs: new Float32Array(), isGreedy: [] };
  const chunks: tf.Tensor1D[][] = [];
  for (let start = 0; start < n; start += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, n - start);
    chunks.push(tf.tidy(() => {
      const scores = logits(model, tf.slice(states, [start, 0], [rows, -1]));
      const target = tf.tensor1d(targets.subarray(start, start + rows), "int32");
      const { losses } = softmaxCrossEntropy(scores, target);
      return [losses as tf.Tensor1D, tf.cast(tf.equal(tf.argMax(scores, 1), target), "float32") as tf.Tensor1D];
    }));
  }
  // One read for all chunks: the device does not wait for the host between them.
  const joined = tf.tidy(() => tf.concat1d([0, 1].flatMap((i) => chunks.flatMap((chunk) => chunk[i] ?? []))));
  // On some engines reading blocks the host until the device is done; the caller may work until then.
  await Promise.resolve();
  const values = await joined.data();
  tf.dispose([joined, ...chunks.flat()]);
  currentEngine().check();
  const logProbs = Float32Array.from({ length: n }, (_, i) => -at<number>(values, i));
  const isGreedy = Array.from({ length: n }, (_, i) => at<number>(values, n + i) === 1);
  const bad = logProbs.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    throw new NumericError(`The model gives ${logProbs[bad]} as the log-probability of token ${targets[bad]}`);
  }
  return { logProbs, isGreedy };
}
