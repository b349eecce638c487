/** Greedy decoding with a key/value cache.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../core/engine.ts";
import { extend, type KvCache, type LlamaModel, logits } from "./llama.ts";

/** The most probable next tokens and the cache that they continue. */
export interface GreedyStep {
  /** i32 [B]: one token per row. */
  next: Int32Array;
  /** Keys and values of all tokens so far; free it with `disposeCache` unless another step takes it. */
  cache: KvCache;
}

/** Runs new tokens, i32 [B T], after those in `cache` (null: none; it is freed) and reads the most probable token after
 * each row. T > 1 is prefill, T = 1 is decode. Only each row's last position goes through the vocabulary projection.
 * When the returned promise settles, the device has done the work. */
export async function greedyStep(
  model: LlamaModel,
  tokens: Int32Array,
  batch: number,
  cache: KvCache | null,
): Promise<GreedyStep> {
  const grown = extend(model, tokens, batch, cache);
  const best = tf.tidy(() => {
    const rows = tf.reshape(grown.hidden, [batch, -1, model.config.width]);
    const last = tf.reshape(tf.slice(rows, [0, rows.shape[1]! - 1, 0], [-1, 1, -1]), [batch, -1]);
    return tf.argMax(logits(model, last as tf.Tensor2D), 1);
  });
  grown.hidden.dispose();
  try {
    const next = Int32Array.from(await best.data());
    currentEngine().check();
    return { next, cache: grown.cache };
  } finally {
    best.dispose();
  }
}
