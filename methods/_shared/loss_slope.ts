/** The language-model loss behind the last decoder layer, and its gradient: where going back through the layers begins.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { type DecoderModel, finalHidden, type TokenBatch } from "../../models/decoder.ts";
import { nextTokens, scoredRows } from "../../models/training/batches.ts";
import { type LossWeights, vocabularyLoss } from "../../models/training/loss.ts";

/** Next-token cross entropy alone. */
export const CROSS_ENTROPY: LossWeights = { crossEntropy: 1, distillation: 0, temperature: 1, hidden: 0 };

/** Gradient of `scale` times the summed cross entropy of every next token to the last layer's output x: f32 [B T, D] ->
 * [B T, D]. */
export function lossSlope(model: DecoderModel, x: tf.Tensor2D, batch: TokenBatch, scale = 1): tf.Tensor2D {
  let terms: tf.Tensor | undefined;
  const loss = (x: tf.Tensor) => {
    const hidden = finalHidden(model, scoredRows(x as tf.Tensor2D, batch));
    const onTerms = (sums: tf.Tensor) => terms = sums;
    return vocabularyLoss(model, hidden, { ids: nextTokens(batch) }, { weights: CROSS_ENTROPY, scale, onTerms });
  };
  try {
    return tf.grad(loss)(x) as tf.Tensor2D;
  } finally {
    terms?.dispose();
  }
}
