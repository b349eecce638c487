/** Decoding step by step: the forward pass over new tokens with the keys and values of those before them. Shape legend as
 * in `decoder.ts`; S positions held after the step.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { KeyValues } from "../core/attention.ts";
import { rmsNorm } from "../core/ops.ts";
import {
  checkBatch,
  createPass,
  decoderLayer,
  type DecoderModel,
  disposePass,
  embed,
  HIDDEN,
  type PassContext,
} from "./decoder.ts";
import { rotaryTables, turnMatrices } from "./rope.ts";

/** Keys and values of a decoding session, one entry per layer. */
export interface KvCache {
  layers: KeyValues[];
  batch: number;
  /** Positions held. */
  length: number;
}

/** Runs B rows of T new tokens after those in `cache` (null: none) and gives the hidden states [B T, D] after the final
 * norm and the grown cache. The old cache is freed. All rows have the same length. No gradient. */
export function extend(
  model: DecoderModel,
  tokens: Int32Array,
  batch: number,
  cache: KvCache | null,
): { hidden: tf.Tensor2D; cache: KvCache } {
  const { config } = model;
  const length = tokens.length / batch;
  const past = cache?.length ?? 0;
  checkBatch(config, { tokens, batch, length });
  // One new token sees everything before it.
  const pass: PassContext = past === 0 && length > 1 ? createPass(config, { tokens, batch, length }) : {
    config,
    batch,
    tables: rotaryTables(config, Int32Array.from(tokens, (_, i) => past + (i % length))),
    mask: length === 1 ? null : causalMask(length, past + length),
    ...length === 1 && { turn: turnMatrices(config, past) },
  };
  const grown: KeyValues[] = [];
  const hidden = tf.tidy(() => {
    let x = embed(model, tokens);
    model.layers.forEach((layer, l) => {
      x = tf.tidy(() =>
        decoderLayer(x, layer, l, pass, {}, {
          past: cache?.layers[l] ?? null,
          keep: (kv) => grown.push({ keys: tf.keep(kv.keys), values: tf.keep(kv.values) }),
        })
      );
    });
    return rmsNorm(x, model.finalNorm, config.normEpsilon);
  });
  disposePass(pass);
  if (cache) disposeCache(cache);
  return { hidden, cache: { layers: grown, batch, length: past + length } };
}

/** Frees a cache. */
export function disposeCache(cache: KvCache): void {
  for (const { keys, values } of cache.layers) tf.dispose([keys, values]);
}

/** Mask of the last T of S positions: [1, 1, T, S]. */
function causalMask(t: number, s: number): tf.Tensor4D {
  const mask = new Float32Array(t * s);
  for (let j = 0; j < t; j++) mask.fill(HIDDEN, j * s + s - t + j + 1, (j + 1) * s);
  return tf.tensor4d(mask, [1, 1, t, s]);
}
