/** What scoring text needs of a model, and no more: log-probabilities of chosen tokens at chosen places.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { forward, type ForwardOptions, type LlamaModel, targetLogProbs, type TokenBatch } from "./llama.ts";

/** Where a batch is scored: entry i asks how probable token `ids[i]` is right after the token at row `rows[i]`. */
export interface ScoredTargets {
  /** i32 [S]: indices into the batch's flattened tokens. */
  rows: Int32Array;
  /** i32 [S]: token ids. */
  ids: Int32Array;
}

/** A model as the scorer sees it. Tests put a fake in its place. */
export interface ScoringModel {
  /** V. */
  vocabSize: number;
  /** Longest sequence, in tokens. */
  maxPositions: number;
  /** Natural-log probability of each target, and whether it is the most probable token there; both [S].
   * @throws {NumericError} on NaN or infinity. */
  score(batch: TokenBatch, targets: ScoredTargets): Promise<{ logProbs: Float32Array; isGreedy: boolean[] }>;
}

/** `model` for scoring, with masks if given. Only scored rows go through the vocabulary projection. */
export function scoringModel(model: LlamaModel, options: Pick<ForwardOptions, "masks"> = {}): ScoringModel {
  const { vocabSize, maxPositions } = model.config;
  return {
    vocabSize,
    maxPositions,
    score: async (batch, { rows, ids }) => {
      const hidden = forward(model, batch, options);
      const scored = tf.tidy(() => tf.gather(hidden, tf.tensor1d(rows, "int32")));
      hidden.dispose();
      try {
        return await targetLogProbs(model, scored, ids);
      } finally {
        scored.dispose();
      }
    },
  };
}
