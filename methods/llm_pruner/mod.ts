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
 * - `mix`       a_s = sum_k |W_sk G_sk - W_sk^2 F_sk / 2| (eq. 5, "param_mix"): W G is small, so it ranks like `element-1`
 *
 * G is the gradient of the mean next-token cross entropy over all calibration tokens. A unit's score is the sum of its
 * slots over all matrices that lose them: ffn [L][F], query heads [L][H], key/value groups [L][G].
 *
 * Structures: `block` leaves the first and last layers whole and prunes the others alike (the paper's setting for
 * LLaMA-7B at 50 %: layers 3 to 30 of 32; its code used 4 to 29 for 20 %, `keepFirst=4,keepLast=2`); `uniform` prunes
 * all layers alike; `global` ranks heads and channels of the layers of `block` together.
 *
 * `iterativeSteps` K: step i of K prunes to i / K of the sparsity, with scores of the model as the step before left it;
 * to less where the widths of i / K are narrower than those of a later step, so that no unit comes back.
 *
 * Cost: about four forward passes over calibration for each step; memory for the input of every layer and the gradients of one.
 * Deviations from the authors' code: calibration data is what the harness gives to every method (theirs: 10 windows of
 * 64 tokens of BookCorpus, drawn anew for each of several steps; `--calibration bookcorpus:10:64:distinct-rows` draws as
 * they do, once); members of a group are summed, their default; the widths meet a parameter budget, where the code takes a fraction of the groups, and
 * `global` therefore cuts to the last channel; with grouped queries the code credits a key/value head with query heads
 * of other groups, here each group is scored by the heads that go with it; one unit of each type stays in every layer;
 * no recovery training. Channel mode (pruning the hidden size) is not offered.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { z } from "zod";
import { at } from "../../core/util/indexing.ts";
import { type DecoderConfig, LINEAR_NAMES, type LinearName, writesResidual } from "../../models/config.ts";
import { type LayerShape, queryHeads } from "../../models/units.ts";
import { disposeModel } from "../../models/device.ts";
import { densePlan, type PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { type BudgetTarget, resolveTarget } from "../../models/target.ts";
import { defineMethod, type Method, type MethodContext, type Statistics } from "../define.ts";
import { calibrationBatches } from "../_shared/calibration.ts";
import { readFlat } from "../../core/engine/ops.ts";
import { layerCount, layerRange } from "../_shared/layer_range.ts";
import {
  forEachLayerGradient,
  type GradientAverage,
  type LayerGradientOptions,
  type LayerGradients,
} from "./layer_gradients.ts";
import { globalWidths, keepWidths, type LayerRange, twoTierWidths } from "../_shared/selection.ts";
import { type LayerScores, packScores, scoresOfGroups, slotSums, unpackScores } from "../_shared/scoring.ts";

const keptCount = layerCount.nullable().default(null);
const options = z.strictObject({
  estimator: z.enum(["vector", "element-1", "element-2", "mix"]).default("element-1").describe(
    "vector: |sum W G|; element-1: sum |W G|; element-2: sum W^2 F; mix: sum |W G - W^2 F / 2|",
  ),
  structure: z.enum(["block", "uniform", "global"]).default("block").describe(
    "block: first and last layers stay whole; uniform: every layer alike; global: one ranking over layers",
  ),
  keepFirst: keptCount.describe("first layers left whole (not in uniform); below 1: that part of all; null: 3 of 32"),
  keepLast: keptCount.describe("last layers left whole (not in uniform); below 1: that part of all; null: 1 of 32"),
  iterativeSteps: z.number().int().min(1).default(1).describe(
    "steps to the sparsity, with scores of the model as the step before left it",
  ),
});
type LlmPrunerOptions = z.infer<typeof options>;
type Estimator = LlmPrunerOptions["estimator"];

const FFN_NAMES: readonly LinearName[] = ["gate", "up", "down"];

/** A weight W with the gradients that an estimator reads, all `[in, out]`: G of the mean loss, F the mean square of the
 * windows'. */
interface Terms {
  w: tf.Tensor;
  g: () => tf.Tensor;
  f: () => tf.Tensor;
}

/** What an estimator makes of a weight and its gradients: [slots]. */
const slotScore: Record<Estimator, (name: LinearName, terms: Terms) => tf.Tensor> = {
  "vector": (name, { w, g }) => tf.abs(slotSums(name, tf.mul(w, g()))),
  "element-1": (name, { w, g }) => slotSums(name, tf.abs(tf.mul(w, g()))),
  "element-2": (name, { w, f }) => slotSums(name, tf.mul(tf.square(w), f())),
  "mix": (name, { w, g, f }) => slotSums(name, tf.abs(tf.sub(tf.mul(w, g()), tf.mul(tf.mul(tf.square(w), f()), 0.5)))),
};

/** Estimators that come from one backward pass are computed and kept together. */
const FAMILY: Record<Estimator, { estimators: Estimator[]; average: GradientAverage }> = {
  "vector": { estimators: ["vector", "element-1"], average: "mean" },
  "element-1": { estimators: ["vector", "element-1"], average: "mean" },
  "element-2": { estimators: ["element-2"], average: "mean-square" },
  "mix": { estimators: ["mix"], average: "both" },
};

const given = (name: LinearName, gradients: LayerGradients) => () => {
  const tensor = gradients[name];
  if (!tensor) throw new RangeError(`There is no gradient of ${name}`);
  return tensor;
};

/** Unit scores of every layer for the family of `estimator`: f32, see `packScores`. Units that no asked type needs are
 * scored 0. */
async function taylorStatistics(
  { model, calibration, target, report, signal }: MethodContext<unknown>,
  estimator: Estimator,
): Promise<Statistics> {
  const { layers, headSize } = model.config;
  const { estimators, average } = FAMILY[estimator];
  const isAsked = (name: LinearName) =>
    FFN_NAMES.includes(name) ? target.units.includes("ffn") : target.units.some((unit) => unit !== "ffn");
  const names = LINEAR_NAMES.filter(isAsked);
  const statistics: Statistics = {};
  const visit: LayerGradientOptions["visit"] = async (l, { mean, meanSquare }) => {
    const layer = at(model.layers, l);
    const scored = estimators.flatMap((own) => names.map((name) => ({ own, name })));
    const tensors = scored.map(({ own, name }) =>
      tf.tidy(() =>
        slotScore[own](name, { w: denseMatrix(layer[name].weight), g: given(name, mean), f: given(name, meanSquare) })
      )
    );
    const values = await readFlat(tensors, `Taylor scores of layer ${l}`);
    for (const own of estimators) {
      const slots = Object.fromEntries(LINEAR_NAMES.map((name): [LinearName, Float32Array] => {
        const [inputs, outputs] = layer[name].weight.shape;
        const found = values[scored.findIndex((entry) => entry.own === own && entry.name === name)];
        return [name, found ?? new Float32Array(writesResidual(name) ? inputs : outputs)];
      })) as Record<LinearName, Float32Array>;
      Object.assign(statistics, packScores(own, l, scoresOfGroups(slots, at(layers, l), headSize)));
    }
  };
  const batches = calibrationBatches(calibration, average === "mean" ? {} : { tokensAtOnce: 1 });
  await forEachLayerGradient({ model, batches, names, average, visit, report, signal });
  return statistics;
}

/** Scores of the dense model's units; those of one budget serve every other. */
async function denseScores(context: MethodContext<unknown>, estimator: Estimator): Promise<LayerScores[]> {
  const { units } = context.target;
  const parts = [
    ...units.includes("ffn") ? ["ffn"] : [],
    ...units.some((unit) => unit !== "ffn") ? ["attention"] : [],
  ];
  const key = `taylor ${FAMILY[estimator].estimators.join(" ")} of ${parts.join(" ")}`;
  const statistics = await context.remember(key, () => taylorStatistics(context, estimator));
  return unpackScores(estimator, context.model.config, statistics);
}

/** Scores of the units of `plan`, from the model cut to them; minus infinity for the others. */
async function scoresBehind(
  plan: PrunePlan,
  context: MethodContext<unknown>,
  estimator: Estimator,
): Promise<LayerScores[]> {
  const { model } = context;
  const cut = pruneModel(model, plan);
  try {
    const statistics = await taylorStatistics({ ...context, model: cut }, estimator);
    const spread = (count: number, kept: readonly number[], own: Float64Array) => {
      const scores = new Float64Array(count).fill(-Infinity);
      for (const [i, unit] of kept.entries()) scores[unit] = at(own, i);
      return scores;
    };
    return unpackScores(estimator, cut.config, statistics).map((own, l) => {
      const [shape, kept] = [at(model.config.layers, l), at(plan.layers, l)];
      return {
        ffn: spread(shape.ffnChannels, kept.ffnChannels, own.ffn),
        queryHeads: spread(queryHeads(shape), kept.queryHeads, own.queryHeads),
        kvGroups: spread(shape.kvGroups, kept.kvGroups, own.kvGroups),
      };
    });
  } finally {
    disposeModel(cut);
  }
}

/** Widths of the layers after each step, as the scores ask for them. The sparsity alone fixes those of `uniform` and
 * `block`: none is narrower than those after it, though a head that goes in a later step makes room for channels.
 * @throws {UsageError} when the layers that may lose units cannot lose enough. */
export function widthsOfSteps(
  config: DecoderConfig,
  target: BudgetTarget,
  { structure, iterativeSteps: steps, ...kept }: Omit<LlmPrunerOptions, "estimator">,
): ((scores: LayerScores[]) => LayerShape[])[] {
  const targets = Array.from({ length: steps }, (_, i) => part(config, target, (i + 1) / steps));
  if (structure === "global") {
    const range = layersOf(config, kept);
    return targets.map((own) => (scores) => globalWidths(config, scores, own, { pool: "all", range }));
  }
  const widths = targets.map((own) =>
    structure === "uniform" ? own.uniform : twoTierWidths(config, own, layersOf(config, kept))
  );
  const least = widths.reduceRight<LayerShape[][]>(
    (after, own) => [own.map((shape, l) => widest(shape, after[0]?.[l] ?? shape)), ...after],
    [],
  );
  return least.map((shapes) => () => shapes);
}

/** Scores that rank nothing, for one layer. */
const noScores = (shape: LayerShape): LayerScores => ({
  ffn: new Float64Array(shape.ffnChannels),
  queryHeads: new Float64Array(queryHeads(shape)),
  kvGroups: new Float64Array(shape.kvGroups),
});

const widest = (a: LayerShape, b: LayerShape): LayerShape => ({
  kvGroups: Math.max(a.kvGroups, b.kvGroups),
  queryHeadsPerGroup: Math.max(a.queryHeadsPerGroup, b.queryHeadsPerGroup),
  ffnChannels: Math.max(a.ffnChannels, b.ffnChannels),
});

/** Layers that may lose units: the paper's [3, 31) of 32, scaled, unless given. */
const layersOf = (
  { layers }: DecoderConfig,
  { keepFirst, keepLast }: Pick<LlmPrunerOptions, "keepFirst" | "keepLast">,
): LayerRange => layerRange(layers.length, { keepFirst: keepFirst ?? 3 / 32, keepLast: keepLast ?? 1 / 32 });

/** Removes the units with the smallest first- or second-order Taylor score. */
export const llmPruner: Method = defineMethod({
  id: "llm-pruner",
  summary: "Removes the units with the smallest Taylor estimate of the loss; first and last layers stay whole (block)",
  source: "Ma et al. 2023, arXiv:2305.11627, section 3.2, eqs. 3 to 5",
  display: { order: 4, colour: "#0072B2" },
  kind: "one-shot",
  needs: { calibration: true },
  options,
  uniformLayers: ({ structure }) => structure === "uniform",
  check: (config, target, options) => {
    const [last] = widthsOfSteps(config, target, { ...options, iterativeSteps: 1 });
    // Whether one ranking over layers can lose enough does not depend on the scores.
    last?.(config.layers.map(noScores));
  },
  async prune(context) {
    const { model: { config }, target, options } = context;
    const { estimator, iterativeSteps: steps } = options;
    const widths = widthsOfSteps(config, target, options);
    let plan = densePlan(config);
    for (const [i, widthsOf] of widths.entries()) {
      if (i > 0) context.report(`step ${i + 1} of ${steps}`);
      const scores = i === 0 ? await denseScores(context, estimator) : await scoresBehind(plan, context, estimator);
      plan = keepWidths(scores, widthsOf(scores));
    }
    return { plan };
  },
});

/** The budget on the way: `share` of the sparsity. */
function part(config: DecoderConfig, target: BudgetTarget, share: number): BudgetTarget {
  const { sparsity, units, ffnMultiple } = target;
  return share === 1 ? target : resolveTarget(config, { sparsity: share * sparsity, units, ffnMultiple });
}
