/** Decoding step by step: the forward pass over new tokens with the keys and values of those before them. Shape legend as
 * in `decoder.ts`; S positions held after the step.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { KeyValues } from "../core/attention.ts";
import { checkBatch, disposePass, embed, finalHidden, runLayers } from "./decoder.ts";
import type { DecoderModel } from "./device.ts";
import { createCachedPass } from "./layers.ts";

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
  const pass = createCachedPass(config, { tokens, batch, length }, past);
  const grown: KeyValues[] = [];
  const hidden = tf.tidy(() => {
    const layerCache = {
      past: (l: number) => cache?.layers[l] ?? null,
      keep: (_l: number, { keys, values }: KeyValues) => {
        grown.push({ keys: tf.keep(keys), values: tf.keep(values) });
      },
    };
    return finalHidden(model, runLayers(model, embed(model, tokens), pass, { cache: layerCache }));
  });
  disposePass(pass);
  if (cache) disposeCache(cache);
  return { hidden, cache: { layers: grown, batch, length: past + length } };
}

/** Frees a cache. */
export function disposeCache(cache: KvCache): void {
  for (const { keys, values } of cache.layers) tf.dispose([keys, values]);
}
