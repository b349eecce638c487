/** How far a pruned model is from the dense one, and how much of a text the dense one does not know, in nats per token of
 * calibration windows: what MaskPrune's choices are measured by.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/indexing.ts";
import { type DecoderModel, disposeModel, forward, logits } from "../../models/decoder.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { nextTokens, scoredRows, windowBatch } from "../../models/training/batches.ts";
import { checkpoint } from "../_shared/device.ts";
import type { MethodContext } from "../define.ts";

/** Tokens of the calibration windows that pruned models are compared on, at least, where there are so many. */
const TOKENS = 2048;

/** Rows that go through the vocabulary at once. */
const ROWS = 64;

/** What choices are measured with. */
export interface ChoiceContext extends Pick<MethodContext<unknown>, "model" | "calibration" | "report" | "signal"> {
  /** What pruned models are compared with, where `model` itself lost layers. */
  dense?: DecoderModel;
}

/** Mean over the tokens of `windows` of what `nats` sums over rows: it gets the log-probabilities [rows, V] of each model and
 * the tokens that come next, int32 [rows], and returns a scalar. */
async function meanOverTokens(
  models: readonly DecoderModel[],
  windows: readonly Int32Array[],
  nats: (logProbs: tf.Tensor2D[], next: tf.Tensor1D) => tf.Tensor,
): Promise<number> {
  let sum = 0;
  let count = 0;
  for (const window of windows) {
    const batch = windowBatch([window]);
    const total = tf.tidy(() => {
      const hidden = models.map((model) => scoredRows(forward(model, batch), batch) as tf.Tensor2D);
      const next = tf.tensor1d(nextTokens(batch), "int32");
      const rows = window.length - 1;
      const parts: tf.Tensor[] = [];
      for (let start = 0; start < rows; start += ROWS) {
        const size = Math.min(ROWS, rows - start);
        parts.push(tf.tidy(() => {
          const logProbs = models.map((model, m) =>
            tf.logSoftmax(logits(model, tf.slice(at(hidden, m), [start, 0], [size, -1]))) as tf.Tensor2D
          );
          return nats(logProbs, tf.slice(next, start, size));
        }));
      }
      return tf.addN(parts);
    });
    const [value = 0] = await total.data();
    total.dispose();
    sum += value;
    count += window.length - 1;
  }
  return sum / count;
}

/** As many of the first windows as have {@linkcode TOKENS}. */
function firstWindows(calibration: readonly Int32Array[]): readonly Int32Array[] {
  let tokens = 0;
  const end = calibration.findIndex((window) => (tokens += window.length) >= TOKENS);
  return calibration.slice(0, end < 0 ? undefined : end + 1);
}

/** How far the model of a plan is from the dense one before compensation and training: mean KL(dense || pruned) of the
 * next-token distributions, in nats per token; 0 exactly when nothing that counts was removed, where the loss itself may fall
 * by chance. */
export async function damageOf(context: ChoiceContext, plan: PrunePlan): Promise<number> {
  const { model, dense = model, calibration, signal } = context;
  await checkpoint(signal);
  const small = pruneModel(model, plan);
  try {
    return await meanOverTokens(
      [dense, small],
      firstWindows(calibration),
      (logProbs) => {
        const [p, q] = [at(logProbs, 0), at(logProbs, 1)];
        return tf.sum(tf.mul(tf.exp(p), tf.sub(p, q)));
      },
    );
  } finally {
    disposeModel(small);
  }
}

/** How much more a text surprises a model than it expects to be surprised: cross entropy less the entropy of its own
 * predictions, in nats per token. About 0 on text of the kind that it was trained on. */
export async function surpriseOf({ model, calibration, signal }: ChoiceContext): Promise<number> {
  await checkpoint(signal);
  return await meanOverTokens([model], calibration, (all, next) => {
    const logProbs = at(all, 0);
    const target = tf.oneHot(next, logProbs.shape[1]);
    return tf.sum(tf.mul(tf.sub(tf.exp(logProbs), target), logProbs));
  });
}
