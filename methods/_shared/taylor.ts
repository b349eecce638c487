/** Taylor estimates of the loss without a unit; the formulas are in `llm_pruner/mod.ts`.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { readFlat } from "../../core/engine/ops.ts";
import { at, entry } from "../../core/util/indexing.ts";
import { LINEAR_NAMES, type LinearName } from "../../models/config.ts";
import type { MethodContext } from "../define.ts";
import { calibrationBatches } from "./calibration.ts";
import { forEachLayerGradient, type LayerGradients } from "./layer_gradients.ts";
import { type LayerScores, scoresOfGroups, slotSums } from "./scoring.ts";

/** `vector` |sum W G|, `element-1` sum |W G|, `element-2` sum W^2 F, `mix` sum |W G - W^2 F / 2|. */
export const ESTIMATORS = ["vector", "element-1", "element-2", "mix"] as const;
/** One of {@linkcode ESTIMATORS}. */
export type Estimator = (typeof ESTIMATORS)[number];

/** A weight W with its gradients, all `[in, out]`: G of the mean loss, F the mean square of the windows'. */
interface Terms {
  w: tf.Tensor;
  g: tf.Tensor;
  f: () => tf.Tensor;
}

/** Slot scores by each estimator: [slots]. */
const slotScores: Record<Estimator, (name: LinearName, terms: Terms) => tf.Tensor> = {
  "vector": (name, { w, g }) => tf.abs(slotSums(name, tf.mul(w, g))),
  "element-1": (name, { w, g }) => slotSums(name, tf.abs(tf.mul(w, g))),
  "element-2": (name, { w, f }) => slotSums(name, tf.mul(tf.square(w), f())),
  "mix": (name, { w, g, f }) => slotSums(name, tf.abs(tf.sub(tf.mul(w, g), tf.mul(tf.mul(tf.square(w), f()), 0.5)))),
};

/** Scores of every layer's units by an estimator. */
export async function taylorScores(
  { model, calibration, report, signal }: MethodContext<unknown>,
  estimator: Estimator,
): Promise<LayerScores[]> {
  const { layers, headSize } = model.config;
  const scores: LayerScores[] = [];
  const squares = estimator === "element-2" || estimator === "mix";
  // Squares are means over windows, so a batch has one.
  const batches = calibrationBatches(calibration, squares ? { tokensAtOnce: 1 } : {});
  const visit = async (l: number, { weight, mean, meanSquare }: LayerGradients) => {
    const slots = LINEAR_NAMES.map((name) =>
      tf.tidy(() => {
        const terms = { w: weight[name], g: mean[name], f: () => entry(meanSquare, name) };
        return slotScores[estimator](name, terms);
      })
    );
    const values = await readFlat(slots, `Taylor scores of layer ${l}`);
    const named = Object.fromEntries(LINEAR_NAMES.map((name, i) => [name, at(values, i)]));
    scores[l] = scoresOfGroups(named as Record<LinearName, Float32Array>, at(layers, l), headSize);
  };
  await forEachLayerGradient({ model, batches, squares, visit, report, signal });
  return scores;
}
