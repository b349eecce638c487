/** Decoding with a key/value cache, greedy or sampled.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../core/engine/engine.ts";
import { NumericError } from "../core/util/errors.ts";
import { createRng } from "../core/util/rng.ts";
import { disposeCache, extend, type KvCache } from "./decode.ts";
import type { DecoderModel } from "./device.ts";
import { logits, type TokenIds } from "./vocabulary.ts";

/** Runs new tokens, i32 [B T], after those in `cache` and gives the logits after each row, [B, V]. Only each row's last
 * position goes through the vocabulary projection. */
function lastLogits(
  model: DecoderModel,
  tokens: TokenIds,
  batch: number,
  cache: KvCache | null,
): { scores: tf.Tensor2D; cache: KvCache } {
  const grown = extend(model, tokens, batch, cache);
  const scores = tf.tidy(() => {
    const { states } = grown;
    const length = states.shape[0] / batch;
    if (length === 1) return logits(model, states);
    const rows = tf.reshape(states, [batch, length, model.config.width]);
    const last = tf.reshape(tf.slice(rows, [0, length - 1, 0], [-1, 1, -1]), [batch, -1]);
    return logits(model, last as tf.Tensor2D);
  });
  grown.states.dispose();
  return { scores, cache: grown.cache };
}

/** Continues each of B rows by its `steps` most probable tokens after `prompt`, i32 [B T], which follows the tokens in
 * `cache` (none by default; it is freed). Returns i32 [steps B], step by step, and the cache with all but the last of
 * them; free it with `disposeCache`. The ids stay on the device until the end. */
export async function greedyTokens(
  model: DecoderModel,
  prompt: Int32Array,
  { batch, steps, cache = null, signal }: {
    batch: number;
    steps: number;
    cache?: KvCache | null;
    signal?: AbortSignal;
  },
): Promise<{ tokens: Int32Array; cache: KvCache | null }> {
  const ids: tf.Tensor1D[] = [];
  let [tokens, held]: [TokenIds, KvCache | null] = [prompt, cache];
  try {
    for (let step = 0; step < steps; step++) {
      signal?.throwIfAborted();
      const { scores, cache } = lastLogits(model, tokens, batch, held);
      held = cache;
      const best = tf.argMax(scores, 1) as tf.Tensor1D;
      scores.dispose();
      ids.push(best);
      tokens = best;
    }
    const all = tf.tidy(() => ids.length === 0 ? tf.tensor1d([], "int32") : tf.concat1d(ids));
    const read = Int32Array.from(await all.data());
    all.dispose();
    currentEngine().check();
    return { tokens: read, cache: held };
  } catch (error) {
    if (held) disposeCache(held);
    throw error;
  } finally {
    tf.dispose(ids);
  }
}

/** Draws an index with probability proportional to exp(logit / temperature), from the fewest that together have at
 * least the probability `topP` (Holtzman et al. 2020, arXiv:1904.09751). `uniform` gives numbers in [0, 1).
 * @throws {NumericError} when a logit is not a number or all are infinite. */
export function sampleToken(
  logits: Float32Array,
  { temperature, topP }: { temperature: number; topP: number },
  uniform: () => number,
): number {
  // Plain loops: with a large vocabulary, methods of arrays take several times as long.
  let max = -Infinity;
  for (const value of logits) max = Math.max(max, value);
  if (!Number.isFinite(max)) throw new NumericError(`The model gives ${max} as its largest next-token score`);
  const weights = new Float64Array(logits.length);
  let total = 0;
  for (let id = 0; id < weights.length; id++) total += weights[id] = Math.exp((at(logits, id) - max) / temperature);
  // Tokens below this bound have less than 1 - topP together, so the nucleus lies in the others.
  const least = (1 - topP) * total / weights.length;
  const ids: number[] = [];
  for (let id = 0; id < weights.length; id++) if (at(weights, id) >= least) ids.push(id);
  ids.sort((a, b) => at(weights, b) - at(weights, a));
  let mass = 0;
  const last = ids.findIndex((id) => (mass += at(weights, id)) >= topP * total);
  if (last >= 0) ids.length = last + 1;
  let rest = uniform() * mass;
  return ids.find((id) => (rest -= at(weights, id)) < 0) ?? at(ids, ids.length - 1);
}

/** Draws `steps` tokens after `prefix` for each stream, all in one batch. A row's draws depend on `seed` and the name
 * of its stream alone. */
export async function sampleTexts(
  model: DecoderModel,
  { prefix, streams, seed, steps, signal, ...sampling }: {
    prefix: number;
    streams: readonly string[];
    seed: number;
    steps: number;
    temperature: number;
    topP: number;
    signal?: AbortSignal;
  },
): Promise<number[][]> {
  const { vocabSize } = model.config;
  const rows = streams.map((stream) => ({ ids: [] as number[], uniform: createRng(seed, stream).uniform }));
  let tokens = new Int32Array(rows.length).fill(prefix);
  let cache: KvCache | null = null;
  try {
    for (let step = 0; step < steps; step++) {
      signal?.throwIfAborted();
      const grown = lastLogits(model, tokens, rows.length, cache);
      cache = grown.cache;
      const scores = await grown.scores.data<"float32">();
      grown.scores.dispose();
      currentEngine().check();
      tokens = Int32Array.from(
        rows,
        ({ uniform }, row) => sampleToken(scores.subarray(row * vocabSize, (row + 1) * vocabSize), sampling, uniform),
      );
      rows.forEach(({ ids }, row) => ids.push(at(tokens, row)));
    }
    return rows.map(({ ids }) => ids);
  } finally {
    if (cache) disposeCache(cache);
  }
}
