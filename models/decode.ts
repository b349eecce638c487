/** Decoding step by step: the forward pass over new tokens with the keys and values of those before them. Shape legend as
 * in `decoder.ts`; S positions held after the step.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { KeyValues } from "../core/engine/attention.ts";
import { checkBatch, disposePass, embed, finalHidden, runLayers } from "./decoder.ts";
import type { DecoderModel } from "./device.ts";
import { createCachedPass } from "./layers.ts";
import { canStep, dropRoom, type KvCache, stepLayers } from "./step.ts";
import type { TokenIds } from "./vocabulary.ts";

export type { KvCache } from "./step.ts";

/** Runs B rows of T new tokens after those in `cache` (null: none) and gives the hidden states [B T, D] after the final
 * norm and the grown cache. The old cache is freed. All rows have the same length. No gradient. */
export function extend(
  model: DecoderModel,
  tokens: TokenIds,
  batch: number,
  cache: KvCache | null,
): { hidden: tf.Tensor2D; cache: KvCache } {
  const { config } = model;
  const length = (tokens instanceof Int32Array ? tokens.length : tokens.size) / batch;
  const past = cache?.length ?? 0;
  if (tokens instanceof Int32Array) checkBatch(config, { tokens, batch, length });
  if (length === 1 && canStep(model, batch)) return stepped(model, tokens, cache);
  if (cache) dropRoom(cache);
  const pass = createCachedPass(config, { batch, length }, past);
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

/** {@linkcode extend} by one position of each row. */
function stepped(
  model: DecoderModel,
  tokens: TokenIds,
  cache: KvCache | null,
): { hidden: tf.Tensor2D; cache: KvCache } {
  const x = embed(model, tokens);
  const grown = stepLayers(model, x, cache);
  const hidden = tf.tidy(() => finalHidden(model, grown.hidden));
  tf.dispose([x, grown.hidden]);
  return { hidden, cache: grown.cache };
}

/** Frees a cache. */
export function disposeCache(cache: KvCache): void {
  for (const { keys, values } of cache.layers) tf.dispose([keys, values]);
}
