/** How far a pruned model is from the dense one, and how much of a text the dense one does not know, in nats per token of
 * calibration windows: what MaskPrune's choices are measured by.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { logits } from "../../models/vocabulary.ts";
import type { TokenBatch } from "../../models/layers.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { nextTokens, scoredRowCount, scoredRows, windowBatch } from "../../models/training/batches.ts";
import type { MethodContext } from "../define.ts";

/** Tokens of the calibration windows that pruned models are compared on, at least, where there are so many. */
const TOKENS = 2048;

/** Rows that go through the vocabulary at once. */
const ROWS = 64;

/** The dense model as what pruned ones are compared with. */
export interface Reference {
  /** With all layers and units. */
  model: DecoderModel;
  /** The first calibration windows. */
  windows: readonly Int32Array[];
  /** Its final hidden states at the scored rows of each window, f32 [rows, D]: computed when first asked for, since all
   * candidates of a choice are compared with the same. */
  states(): Promise<Float32Array[]>;
}

/** What choices are measured with. */
export interface ChoiceContext extends Pick<MethodContext<unknown>, "model" | "report" | "signal"> {
  /** What the models of the choices are compared with. */
  reference: Reference;
}

/** Sum over the rows of a window of what `nats` gives for the log-probabilities [rows, V] of each model, from the hidden
 * states [rows, D] of each, and the tokens that come next, int32 [rows]. */
function sumOverRows(
  parts: readonly { model: DecoderModel; hidden: tf.Tensor2D }[],
  next: Int32Array,
  nats: (logProbs: tf.Tensor2D[], next: tf.Tensor1D) => tf.Tensor,
): tf.Tensor {
  const sums: tf.Tensor[] = [];
  for (let start = 0; start < next.length; start += ROWS) {
    const end = Math.min(start + ROWS, next.length);
    sums.push(tf.tidy(() => {
      const logProbs = parts.map(({ model, hidden }) =>
        tf.logSoftmax(logits(model, tf.slice(hidden, [start, 0], [end - start, -1]))) as tf.Tensor2D
      );
      return nats(logProbs, tf.tensor1d(next.subarray(start, end), "int32"));
    }));
  }
  return tf.addN(sums);
}

/** Final hidden states at the scored rows of a window: [rows, D]. */
const statesOf = (model: DecoderModel, batch: TokenBatch): tf.Tensor2D =>
  tf.tidy(() => scoredRows(forward(model, batch), batch) as tf.Tensor2D);

async function valueOf(tensor: tf.Tensor): Promise<number> {
  const [value = 0] = await tensor.data();
  tensor.dispose();
  return value;
}

/** The dense model on as many of the first windows as have {@linkcode TOKENS}. */
export function referenceOf(
  { model, calibration, signal }: Pick<MethodContext<unknown>, "model" | "calibration" | "signal">,
): Reference {
  let tokens = 0;
  const end = calibration.findIndex((window) => (tokens += window.length) >= TOKENS);
  const windows = calibration.slice(0, end < 0 ? undefined : end + 1);
  const compute = async () => {
    const states: Float32Array[] = [];
    for (const window of windows) {
      await giveWay(signal);
      const hidden = statesOf(model, windowBatch([window]));
      states.push(await hidden.data() as Float32Array);
      hidden.dispose();
    }
    return states;
  };
  let states: Promise<Float32Array[]> | undefined;
  return { model, windows, states: () => states ??= compute() };
}

/** How far the model of a plan is from the dense one before compensation and training: mean KL(dense || pruned) of the
 * next-token distributions, in nats per token; 0 exactly when nothing that counts was removed, where the loss itself may fall
 * by chance. */
export async function damageOf({ model, reference, signal }: ChoiceContext, plan: PrunePlan): Promise<number> {
  const { model: dense, windows } = reference;
  const states = await reference.states();
  const small = pruneModel(model, plan);
  try {
    let sum = 0;
    for (const [w, window] of windows.entries()) {
      await giveWay(signal);
      const batch = windowBatch([window]);
      sum += await valueOf(tf.tidy(() => {
        const own = statesOf(small, batch);
        const hidden = tf.tensor2d(at(states, w), own.shape);
        return sumOverRows([{ model: dense, hidden }, { model: small, hidden: own }], nextTokens(batch), (logProbs) => {
          const [p, q] = [at(logProbs, 0), at(logProbs, 1)];
          return tf.sum(tf.mul(tf.exp(p), tf.sub(p, q)));
        });
      }));
    }
    return sum / scoredRowCount(windows);
  } finally {
    disposeModel(small);
  }
}

/** How much more a text surprises a model than it expects to be surprised: cross entropy less the entropy of its own
 * predictions, in nats per token. About 0 on text of the kind that it was trained on. */
export async function surpriseOf(
  { model, calibration, signal }: Pick<MethodContext<unknown>, "model" | "calibration" | "signal">,
): Promise<number> {
  let sum = 0;
  for (const window of calibration) {
    await giveWay(signal);
    const batch = windowBatch([window]);
    sum += await valueOf(
      tf.tidy(() =>
        sumOverRows([{ model, hidden: statesOf(model, batch) }], nextTokens(batch), (all, next) => {
          const logProbs = at(all, 0);
          return tf.sum(tf.mul(tf.sub(tf.exp(logProbs), tf.oneHot(next, logProbs.shape[1])), logProbs));
        })
      ),
    );
  }
  return sum / scoredRowCount(calibration);
}
