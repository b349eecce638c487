/** LLM-Pruner: units go by a Taylor estimate of what the loss would gain without them.
 *
 * Paper: Ma et al. 2023, arXiv:2305.11627, section 3.2, eqs. 3 to 5; dependency groups of section 3.1.
 *
 * Shapes, weights W and gradients G `[out, in]`; slot s is a row of query, key, value, gate and up and a column of
 * output and down, k runs over the other axis:
 * - `vector`    a_s = |sum_k W_sk G_sk|
 * - `element-1` a_s = sum_k |W_sk G_sk|
 * - `element-2` a_s = sum_k W_sk^2 F_sk, F the mean over calibration windows of the squared gradient of a window's loss
 *   (eq. 5 without its first-order part)
 *
 * G is the gradient of the mean next-token cross entropy over all calibration tokens. A unit's score is the sum of its
 * slots over all matrices that lose them: ffn [L][F], query heads [L][H], key/value groups [L][G].
 *
 * Structures: `block` leaves the first and last layers whole and prunes the others alike (the paper's setting for
 * LLaMA-7B at 50 %: layers 3 to 30 of 32; its code used 4 to 29 for 20 %, `keepFirst=4,keepLast=2`); `uniform` prunes
 * all layers alike; `global` ranks heads and channels of the layers of `block` together.
 *
 * Cost: about four forward passes over calibration; memory for the input of every layer and the gradients of one.
 * Deviations from the authors' code: calibration data is what the harness gives to every method (theirs: 10 windows of
 * 64 tokens of BookCorpus); the widths meet a parameter budget, where the code takes a fraction of the groups, and
 * `global` therefore cuts to the last channel; with grouped queries the code credits a key/value head with query heads
 * of other groups, here each group is scored by the heads that go with it; one unit of each type stays in every layer;
 * no recovery training. Channel mode (pruning the hidden size) is not offered.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { z } from "zod";
import { UsageError } from "../../core/errors.ts";
import { LINEAR_NAMES, type LinearName } from "../../models/config.ts";
import { defineMethod, type Method, type MethodContext, type Statistics } from "../define.ts";
import { calibrationBatches } from "../_shared/calibration.ts";
import { readFlat } from "../_shared/device.ts";
import { forEachLayerGradient, type LayerGradients } from "./layer_gradients.ts";
import { globalWidths, keepWidths, type LayerRange, twoTierWidths } from "../_shared/selection.ts";
import { packScores, scoresOfGroups, slotSums, unpackScores } from "../_shared/scoring.ts";

const layerCount = z.number().min(0)
  .refine((value) => value < 1 || Number.isInteger(value), "must be a whole number or a part below 1")
  .nullable().default(null);
const options = z.strictObject({
  estimator: z.enum(["vector", "element-1", "element-2"]).default("element-1").describe(
    "vector: |sum W G|; element-1: sum |W G|; element-2: sum W^2 F",
  ),
  structure: z.enum(["block", "uniform", "global"]).default("block").describe(
    "block: first and last layers stay whole; uniform: every layer alike; global: one ranking over layers",
  ),
  keepFirst: layerCount.describe("first layers left whole (not in uniform); below 1: that part of all; null: 3 of 32"),
  keepLast: layerCount.describe("last layers left whole (not in uniform); below 1: that part of all; null: 1 of 32"),
});
type LlmPrunerOptions = z.infer<typeof options>;
type Estimator = LlmPrunerOptions["estimator"];

const FFN_NAMES: readonly LinearName[] = ["gate", "up", "down"];

/** What an estimator makes of a weight and its gradient (element-2: its mean squared gradient): [slots]. */
const slotScore: Record<Estimator, (name: LinearName, weight: tf.Tensor, gradient: tf.Tensor) => tf.Tensor> = {
  "vector": (name, w, g) => tf.abs(slotSums(name, tf.mul(w, g))),
  "element-1": (name, w, g) => slotSums(name, tf.abs(tf.mul(w, g))),
  "element-2": (name, w, f) => slotSums(name, tf.mul(tf.square(w), f)),
};

/** Unit scores of every layer for `estimators`, which share a gradient: f32, see `packScores`. Units that no asked type
 * needs are scored 0. */
async function taylorStatistics(
  { model, calibration, target, report, signal }: MethodContext<unknown>,
  estimators: readonly Estimator[],
): Promise<Statistics> {
  const { layers, headSize } = model.config;
  const names = LINEAR_NAMES.filter((name) =>
    FFN_NAMES.includes(name) ? target.units.includes("ffn") : target.units.some((unit) => unit !== "ffn")
  );
  const perWindow = estimators.includes("element-2");
  const statistics: Statistics = {};
  const visit = async (layer: number, gradients: LayerGradients) => {
    const scored = estimators.flatMap((estimator) => names.map((name) => ({ estimator, name })));
    const tensors = scored.map(({ estimator, name }) =>
      tf.tidy(() => slotScore[estimator](name, model.layers[layer][name].weight, gradients[name]!))
    );
    const values = await readFlat(tensors, `Taylor scores of layer ${layer}`);
    for (const estimator of estimators) {
      const slots = Object.fromEntries(LINEAR_NAMES.map((name): [string, Float32Array] => {
        const at = scored.findIndex((entry) => entry.estimator === estimator && entry.name === name);
        const [inputs, outputs] = model.layers[layer][name].weight.shape;
        return [name, at >= 0 ? values[at] : new Float32Array(name === "output" || name === "down" ? inputs : outputs)];
      })) as Record<LinearName, Float32Array>;
      Object.assign(statistics, packScores(estimator, layer, scoresOfGroups(slots, layers[layer], headSize)));
    }
  };
  const batches = calibrationBatches(calibration, perWindow ? { tokensAtOnce: 1 } : {});
  const average = perWindow ? "mean-square" : "mean";
  await forEachLayerGradient({ model, batches, names, average, visit, report, signal });
  return statistics;
}

/** Layers that may lose units: the paper's [3, 31) of 32, scaled, unless given. */
function layerRange(count: number, { keepFirst, keepLast }: LlmPrunerOptions): LayerRange {
  const layers = (value: number) => value < 1 ? Math.round(value * count) : value;
  const [start, last] = [layers(keepFirst ?? 3 / 32), layers(keepLast ?? 1 / 32)];
  if (start + last >= count) {
    throw new UsageError(`keepFirst and keepLast must leave a layer to prune: current ${start} + ${last} of ${count}`);
  }
  return { start, end: count - last };
}

/** Removes the units with the smallest first- or second-order Taylor score. */
export const llmPruner: Method = defineMethod({
  id: "llm-pruner",
  summary: "Removes the units with the smallest Taylor estimate of the loss; first and last layers stay whole (block)",
  source: "Ma et al. 2023, arXiv:2305.11627, section 3.2, eqs. 3 to 5",
  kind: "one-shot",
  needs: { calibration: true },
  options,
  uniformLayers: ({ structure }) => structure === "uniform",
  check: (config, target, options) => {
    const range = layerRange(config.layers.length, options);
    if (options.structure === "block") twoTierWidths(config, target, range);
  },
  async prune(context) {
    const { model: { config }, target, options } = context;
    const range = layerRange(config.layers.length, options);
    // Both first-order estimators come from one gradient, so they are computed and kept together.
    const estimators: Estimator[] = options.estimator === "element-2" ? ["element-2"] : ["vector", "element-1"];
    const parts = [
      ...target.units.includes("ffn") ? ["ffn"] : [],
      ...target.units.some((unit) => unit !== "ffn") ? ["attention"] : [],
    ];
    const key = `taylor ${estimators.join(" ")} of ${parts.join(" ")}`;
    const statistics = await context.remember(key, () => taylorStatistics(context, estimators));
    const scores = unpackScores(options.estimator, config, statistics);
    switch (options.structure) {
      case "uniform":
        return { plan: keepWidths(scores, target.uniform) };
      case "block":
        return { plan: keepWidths(scores, twoTierWidths(config, target, range)) };
      case "global":
        return { plan: keepWidths(scores, globalWidths(config, scores, target, { pool: "all", range })) };
    }
  },
});
