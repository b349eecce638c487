/** Taylor estimates of the loss without a unit; the formulas are in `llm_pruner/mod.ts`.
 *
 * A forward pass keeps the input of every layer. The backward pass computes each layer again from its input and scores
 * it by its weight gradients before it goes on to the one below. Held are the layer inputs (L N D numbers for N
 * calibration tokens) and the weight gradients of one layer.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { readFlat } from "../../core/engine/ops.ts";
import { at } from "../../core/util/indexing.ts";
import { LINEAR_NAMES, type LinearName } from "../../models/config.ts";
import type { DeviceLayer } from "../../models/device.ts";
import { createPass, disposePass, type PassContext, type TokenBatch } from "../../models/layers.ts";
import type { MethodContext } from "../define.ts";
import { calibrationBatches } from "./calibration.ts";
import { addTo, disposeTrail, layerBack, layTrail, type Trail } from "./loss_slope.ts";
import { type LayerScores, scoresOfGroups, slotSums } from "./scoring.ts";

/** `vector` |sum W G|, `element-1` sum |W G|, `element-2` sum W^2 F, `mix` sum |W G - W^2 F / 2|. */
export const ESTIMATORS = ["vector", "element-1", "element-2", "mix"] as const;
/** One of {@linkcode ESTIMATORS}. */
export type Estimator = (typeof ESTIMATORS)[number];

/** A weight W with its gradients, all `[in, out]`: G of the mean loss over all scored tokens, F the mean over windows of
 * the squared gradient of each window's own mean loss, the diagonal empirical Fisher. */
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

/** The layer with other weights, in the order of {@linkcode LINEAR_NAMES}. */
const withWeights = (layer: DeviceLayer, weights: readonly tf.Tensor[]): DeviceLayer => ({
  ...layer,
  ...Object.fromEntries(LINEAR_NAMES.map((name, i) => [name, { ...layer[name], weight: at(weights, i) }])),
});

const scored = ({ batch, length }: TokenBatch) => batch * (length - 1);

/** Scores of every layer's units by an estimator.
 *
 * Cost: about four forward passes (the layers twice, their input and weight gradients), and the vocabulary projection
 * with its gradient. */
export async function taylorScores(
  { model, calibration, report, signal }: MethodContext<unknown>,
  estimator: Estimator,
): Promise<LayerScores[]> {
  const { layers, headSize } = model.config;
  const scores: LayerScores[] = [];
  const squares = estimator === "element-2" || estimator === "mix";
  // Squares are means over windows, so a batch has one.
  const batches = calibrationBatches(calibration, squares ? { tokensAtOnce: 1 } : {});
  const allScored = batches.reduce((sum, batch) => sum + scored(batch), 0);
  const passes = new Map<string, PassContext>();
  const trails: Trail[] = [];
  try {
    for (const [i, batch] of batches.entries()) {
      await giveWay(signal);
      report(`gradients: forward, batch ${i + 1} of ${batches.length}`);
      const key = `${batch.batch} x ${batch.length}`;
      const pass = passes.get(key) ?? createPass(model.config, batch);
      passes.set(key, pass);
      // Squares need the gradient of each batch's own mean loss.
      trails.push(layTrail(model, batch, pass, 1 / (squares ? scored(batch) : allScored)));
    }
    for (let l = model.layers.length - 1; l >= 0; l--) {
      report(`gradients: layer ${l + 1} of ${model.layers.length}`);
      const weights = LINEAR_NAMES.map((name) => denseMatrix(at(model.layers, l)[name].weight));
      const [means, sums]: [tf.Tensor[], tf.Tensor[]] = [[], []];
      try {
        for (const [i, batch] of batches.entries()) {
          await giveWay(signal);
          const gradients = layerBack(model, l, at(trails, i), weights, withWeights);
          const share = squares ? scored(batch) / allScored : 1;
          addTo(means, gradients, (own) => share === 1 ? own : tf.mul(own, share));
          if (squares) addTo(sums, gradients, (own) => tf.square(own));
          tf.dispose(gradients);
        }
        const slots = LINEAR_NAMES.map((name, i) => {
          const terms = { w: at(weights, i), g: at(means, i), f: () => tf.div(at(sums, i), batches.length) };
          return tf.tidy(() => slotScores[estimator](name, terms));
        });
        const values = await readFlat(slots, `Taylor scores of layer ${l}`);
        const named = Object.fromEntries(LINEAR_NAMES.map((name, i) => [name, at(values, i)]));
        scores[l] = scoresOfGroups(named as Record<LinearName, Float32Array>, at(layers, l), headSize);
      } finally {
        tf.dispose([...weights, ...means, ...sums]);
      }
    }
    return scores;
  } finally {
    trails.forEach(disposeTrail);
    for (const pass of passes.values()) disposePass(pass);
  }
}
