/** What scoring and generating text needs of a model, and no more. Tests put a fake in its place.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { QUERY_BLOCK } from "../core/engine/attention.ts";
import { currentEngine } from "../core/engine/engine.ts";
import type { DecoderConfig } from "./config.ts";
import { queryHeads } from "./units.ts";
import { type GeneratedToken, generateTokens, type GenerationOptions, type TokenLogProb } from "./generate.ts";
import { forward, targetLogProbs } from "./decoder.ts";
import type { DecoderModel } from "./device.ts";
import type { ForwardOptions, TokenBatch } from "./layers.ts";
import { logits } from "./vocabulary.ts";

/** Where a batch is scored: entry i asks how probable token `ids[i]` is right after the token at row `rows[i]`. */
export interface ScoredTargets {
  /** i32 [S]: indices into the batch's flattened tokens. */
  rows: Int32Array;
  /** i32 [S]: token ids. */
  ids: Int32Array;
}

/** Scores of a batch's targets. */
export interface TargetScores {
  /** f32 [S]: natural-log probabilities. */
  logProbs: Float32Array;
  /** Whether each is the most probable token in its place; [S]. */
  isGreedy: boolean[];
}

/** A model as the scorer sees it. */
export interface ScoringModel {
  /** V. */
  vocabSize: number;
  /** Longest sequence, in tokens. */
  maxPositions: number;
  /** About what a token of a batch takes on the device while the widest layer is computed. */
  bytesPerToken: number;
  /** What its device has free now, in bytes. */
  freeBytes(): number;
  /** Natural-log probability of each target, and whether it is the most probable token there.
   * @throws {NumericError} on NaN or infinity. */
  score(batch: TokenBatch, targets: ScoredTargets): Promise<TargetScores>;
  /** As `score`, with the `count` most probable tokens of each target's place, the best first. Where the target is one
   * of them, both log-probabilities are the same number. */
  scoreTop(batch: TokenBatch, targets: ScoredTargets, count: number): Promise<TargetScores & { top: TokenLogProb[][] }>;
  /** See {@linkcode generateTokens}. */
  generate(prompts: readonly (readonly number[])[], options: GenerationOptions): Promise<GeneratedToken[][]>;
}

/** Rows that go through the vocabulary projection at once, so that memory stays flat. */
const TOP_ROWS = 64;

/** Most probable tokens after each row of `hidden` [N, D], given the targets' ids and log-probabilities, both [N]. */
async function topLogProbs(
  model: DecoderModel,
  hidden: tf.Tensor2D,
  { ids, logProbs }: { ids: Int32Array; logProbs: Float32Array },
  count: number,
): Promise<TokenLogProb[][]> {
  const results: TokenLogProb[][] = [];
  const { vocabSize } = model.config;
  for (let start = 0; start < ids.length; start += TOP_ROWS) {
    const rows = Math.min(TOP_ROWS, ids.length - start);
    const [best, values, own] = tf.tidy(() => {
      const scores = logits(model, tf.slice(hidden, [start, 0], [rows, -1]));
      const places = Int32Array.from({ length: rows }, (_, i) => i * vocabSize + at(ids, start + i));
      const target = tf.gather(tf.reshape(scores, [-1]), tf.tensor1d(places, "int32"));
      if (count === 1) return [tf.argMax(scores, 1), tf.max(scores, 1), target];
      const { indices, values } = tf.topk(scores, count);
      return [indices, values, target];
    });
    const [tokens, tops, targets] = await Promise.all([best.data(), values.data(), own.data()]);
    tf.dispose([best, values, own]);
    for (let i = 0; i < rows; i++) {
      // A difference of logits is one of log-probabilities, and exactly zero for the target itself.
      results.push(Array.from({ length: count }, (_, k) => ({
        id: at(tokens, i * count + k),
        logProb: at(logProbs, start + i) + (at<number>(tops, i * count + k) - at<number>(targets, i)),
      })));
    }
  }
  currentEngine().check();
  return results;
}

/** Floats of a token that live at once: the residual stream, its norm and what is added to it; query, key, value and
 * what attention makes of them; three copies of the scores of a block of queries; gate, up and two of their products. */
export function bytesPerToken({ width, headSize, layers }: DecoderConfig): number {
  const floats = layers.map((layer) => {
    const heads = queryHeads(layer);
    return 4 * width + 4 * (heads + layer.kvGroups) * headSize + 3 * heads * QUERY_BLOCK + 4 * layer.ffnChannels;
  });
  return 4 * Math.max(...floats);
}

/** `model` for scoring and generating, with masks if given. Only scored rows go through the vocabulary projection. */
export function scoringModel(model: DecoderModel, options: Pick<ForwardOptions, "masks"> = {}): ScoringModel {
  const { vocabSize, maxPositions } = model.config;
  const onScored = async <Result>(
    batch: TokenBatch,
    { rows }: ScoredTargets,
    use: (scored: tf.Tensor2D) => Promise<Result>,
  ): Promise<Result> => {
    const scored = tf.tidy(() => tf.gather(forward(model, batch, options), tf.tensor1d(rows, "int32")));
    try {
      return await use(scored);
    } finally {
      scored.dispose();
    }
  };
  return {
    vocabSize,
    maxPositions,
    bytesPerToken: bytesPerToken(model.config),
    freeBytes: () => currentEngine().memory.freeBytes(),
    score: (batch, targets) => onScored(batch, targets, (scored) => targetLogProbs(model, scored, targets.ids)),
    scoreTop: (batch, targets, count) =>
      onScored(batch, targets, async (scored) => {
        const scores = await targetLogProbs(model, scored, targets.ids);
        return { ...scores, top: await topLogProbs(model, scored, { ...scores, ids: targets.ids }, count) };
      }),
    generate: async (prompts, generation) => {
      if (options.masks) throw new RangeError("Generation takes no masks: prune the model first");
      return await generateTokens(model, prompts, generation);
    },
  };
}
