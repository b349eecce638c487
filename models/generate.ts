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

/** How to choose tokens. */
interface GenerationOptions {
  maxTokens: number;
  /** 0, the default: the most probable token. Above: logits are divided by it and a token is drawn. */
  temperature?: number;
  /** Draws from the fewest tokens that together have at least this probability; 1 by default. */
  topP?: number;
  /** Seed of the draws. Every prompt has its own stream, so that its tokens do not depend on the batch. */
  seed?: number;
  /** Names of the prompts' streams, to continue equal prompts in different ways. */
  streams?: readonly string[];
  signal?: AbortSignal;
}

/** The next token of a row: the most probable one at temperature 0, else an index drawn with probability proportional to
 * exp(logit / temperature), from the nucleus of mass `topP` (Holtzman et al. 2020, arXiv:1904.09751). `uniform` gives
 * numbers in [0, 1).
 * @throws {NumericError} when a logit is not a number or all are infinite. */
export function sampleToken(
  logits: Float32Array,
  { temperature = 0, topP = 1 }: { temperature?: number; topP?: number },
  uniform: () => number,
): number {
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!Number.isFinite(max)) throw new NumericError(`The model gives ${max} as its largest next-token score`);
  if (temperature === 0) return logits.indexOf(max);
  const weights = Float64Array.from(logits, (value) => Math.exp((value - max) / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  let ids = Array.from(weights.keys());
  let mass = total;
  if (topP < 1) {
    // Tokens below this bound have less than 1 - topP together, so the nucleus lies in the others.
    const least = (1 - topP) * total / weights.length;
    ids = ids.filter((id) => at(weights, id) >= least).sort((a, b) => at(weights, b) - at(weights, a));
    mass = 0;
    const last = ids.findIndex((id) => (mass += at(weights, id)) >= topP * total);
    if (last >= 0) ids.length = last + 1;
  }
  let rest = uniform() * mass;
  return ids.find((id) => (rest -= at(weights, id)) < 0) ?? at(ids, ids.length - 1);
}

/** Cached positions of a batch, all rows together: bounds its memory. */
const CACHED_TOKENS = 2048;

/** Prompts of equal length in batches that fit {@linkcode CACHED_TOKENS}, as indices. */
function batchesOf(prompts: readonly (readonly number[])[], maxTokens: number): number[][] {
  const batches: number[][] = [];
  for (const [length, group] of Map.groupBy(prompts.keys(), (index) => at(prompts, index).length)) {
    const rows = Math.max(1, Math.floor(CACHED_TOKENS / (length + maxTokens)));
    for (let i = 0; i < group.length; i += rows) batches.push(group.slice(i, i + rows));
  }
  return batches;
}

async function generateBatch(
  model: DecoderModel,
  prompts: readonly (readonly number[])[],
  indices: readonly number[],
  options: GenerationOptions,
): Promise<number[][]> {
  const { maxTokens, seed = 0, signal } = options;
  const { vocabSize } = model.config;
  const rows = indices.map((): number[] => []);
  const streams = indices.map((index) => createRng(seed, options.streams?.[index] ?? "generate"));
  let tokens = Int32Array.from(indices.flatMap((index) => at(prompts, index)));
  let cache: KvCache | null = null;
  try {
    for (let step = 0; step < maxTokens; step++) {
      signal?.throwIfAborted();
      const grown = lastLogits(model, tokens, rows.length, cache);
      cache = grown.cache;
      const scores = await grown.scores.data<"float32">();
      grown.scores.dispose();
      currentEngine().check();
      for (const [row, ids] of rows.entries()) {
        const own = scores.subarray(row * vocabSize, (row + 1) * vocabSize);
        ids.push(sampleToken(own, options, at(streams, row).uniform));
      }
      tokens = Int32Array.from(rows, (ids) => at(ids, ids.length - 1));
    }
    return rows;
  } finally {
    if (cache) disposeCache(cache);
  }
}

/** Generates `maxTokens` token ids after each prompt. Prompts of equal length share a batch.
 * @throws {RangeError} when a prompt is empty, or it and its continuation exceed the model's positions.
 * @throws {NumericError} when the model's output is not finite. */
export async function generateTokens(
  model: DecoderModel,
  prompts: readonly (readonly number[])[],
  options: GenerationOptions,
): Promise<number[][]> {
  const { maxPositions } = model.config;
  for (const { length } of prompts) {
    // The last token is never an input.
    if (length === 0 || length + options.maxTokens - 1 > maxPositions) {
      throw new RangeError(
        `A prompt of ${length} tokens cannot be continued by ${options.maxTokens}: the prompt must have a token, ` +
          `and both together at most ${maxPositions + 1}`,
      );
    }
  }
  const results: number[][] = prompts.map(() => []);
  for (const indices of batchesOf(prompts, options.maxTokens)) {
    const generated = await generateBatch(model, prompts, indices, options);
    indices.forEach((index, i) => results[index] = at(generated, i));
  }
  return results;
}
