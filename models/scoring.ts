/** The interface of a model for scoring text. Tests use a fake one.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { QUERY_BLOCK } from "../core/engine/attention.ts";
import { currentEngine } from "../core/engine/engine.ts";
import type { DecoderConfig } from "./config.ts";
import { queryHeads } from "./units.ts";
import type { EngineName } from "../core/schema/schema.ts";
import { forward, targetLogProbs } from "./decoder.ts";
import type { DecoderModel } from "./device.ts";
import type { TokenBatch } from "./layers.ts";
import type { LayerMasks } from "./masks.ts";

/** Where a batch is scored: entry i asks how probable token `ids[i]` is right after the token at row `rows[i]`. */
export interface ScoredTargets {
  /** i32 [S]: indices into the batch's flattened tokens. */
  rows: Int32Array;
  /** i32 [S]: token ids. */
  ids: Int32Array;
}

/** A model as the scorer sees it. */
export interface ScoringModel {
  /** V. */
  vocabSize: number;
  /** Longest sequence, in tokens. */
  maxPositions: number;
  /** Tokens of a batch that are fast on its engine. */
  fastTokens: number;
  /** Approximate bytes of a token on the device while the widest layer is computed. */
  bytesPerToken: number;
  freeBytes(): number;
  /** Natural-log probability of each target, and whether it is the most probable token there.
   * @throws {NumericError} on NaN or infinity. */
  score(batch: TokenBatch, targets: ScoredTargets): ReturnType<typeof targetLogProbs>;
}

/** Tokens of a batch, padding included, within 5 % of the fastest on each engine: docs/speed.md. */
export const FAST_TOKENS: Record<EngineName, number> = { wasm: 512, cpu: 512, tensorflow: 2048, webgpu: 2048 };

/** Bytes of a token that live at once: the residual stream, its norm and the addend; query, key, value and the output
 * of attention; three copies of the scores of a block of queries; gate, up and two of their products. */
export function bytesPerToken({ width, headSize, layers }: DecoderConfig): number {
  const floats = layers.map((layer) => {
    const heads = queryHeads(layer);
    return 4 * width + 4 * (heads + layer.kvGroups) * headSize + 3 * heads * QUERY_BLOCK + 4 * layer.ffnChannels;
  });
  return 4 * Math.max(...floats);
}

/** `model` for scoring, with masks if given. Only scored rows go through the vocabulary projection. */
export function scoringModel(model: DecoderModel, { masks }: { masks?: LayerMasks[] } = {}): ScoringModel {
  const { vocabSize, maxPositions } = model.config;
  return {
    vocabSize,
    maxPositions,
    fastTokens: FAST_TOKENS[currentEngine().name],
    bytesPerToken: bytesPerToken(model.config),
    freeBytes: () => currentEngine().memory.freeBytes(),
    score: async (batch, { rows, ids }) => {
      const scored = tf.tidy(() => tf.gather(forward(model, batch, { masks }), tf.tensor1d(rows, "int32")));
      try {
        return await targetLogProbs(model, scored, ids);
      } finally {
        scored.dispose();
      }
    },
  };
}
