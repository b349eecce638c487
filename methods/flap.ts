/** FLAP: removes the units whose outputs fluctuate least, because a constant can replace them.
 *
 * Paper: An et al. 2023, arXiv:2312.11983, section 3: fluctuation metric (WIFV), adaptive structure search, bias
 * compensation.
 *
 * Shapes: for each input column j of the output and down projections W `[out, in]`, the metric is `v_j sum_i W_ij^2`
 * (WIFV), `v_j` (IFV) or `mean_i |W_ij| sqrt(a_j)` (WIFN). v_j is the variance of x_j over calibration tokens of the
 * dense model (see below) and a_j its mean square: [L][H K] and [L][F]. Metrics of the output projection are squared
 * first, as in the authors' code. Uniform structures score a head by the sum over its K columns. Adaptive ones
 * standardise `(x - mean) / sd` over the columns of a layer and module and score a head by the mean.
 *
 * Structures:
 * - `UL-UM` and `UL-MM`: every layer and module at the asked ratio;
 * - `AL-MM`: the attention units of the whole model in one ranking, and the channels in another;
 * - `AL-AM`: heads and channels of all layers in one ranking (the paper's default).
 *
 * Statistics are the dense model's, as in the authors' code, which cuts when all layers are scored.
 *
 * Variance: `running` is the update of the authors' code around a running mean, in which the first window does not
 * count. `exact` is the paper's, around the mean of all tokens. The score of a key/value group is the sum of its heads'
 * in the uniform structures and their mean in the adaptive ones (the authors have no grouped queries).
 *
 * Bias compensation adds a bias to the output and down maps of every layer, as published, so that the result is not a
 * plain LLaMA. `biasCompensation=false` is another method than the published one.
 *
 * Cost: one forward pass over calibration. Deviations from the authors' code: channels fill the parameter budget in
 * every structure, while the code meets it roughly; the MM structures take attention at the asked ratio, and no other;
 * one unit of each type stays in every layer.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { matrixProduct, readFlat } from "../core/engine/ops.ts";
import { z } from "zod";
import { UsageError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import { tensorNames, WRITING_NAMES } from "../models/config.ts";
import { eachLayer } from "../models/layerwise.ts";
import type { DecoderModel } from "../models/device.ts";
import type { ObservedSite } from "../models/layers.ts";
import type { PrunePlan } from "../models/plan.ts";
import { keptIndices } from "../models/surgery.ts";
import { siteInputs } from "../models/training/least_squares.ts";
import { defineMethod, type Method, type Statistics } from "./define.ts";
import { inputStatistics, type LayerStatistics } from "./_shared/calibration.ts";
import { globalWidths, keepWidths } from "./_shared/selection.ts";
import { COLUMN_METRICS, columnScores, scoresOfColumns } from "./_shared/scoring.ts";

const options = z.strictObject({
  structure: z.enum(["AL-AM", "AL-MM", "UL-MM", "UL-UM"]).default("AL-AM").describe(
    "across layers: uniform (UL) or adaptive (AL); across attention and FFN: uniform (UM), manual (MM) or adaptive " +
      "(AM). UL-MM is the same as UL-UM here",
  ),
  metric: z.enum(COLUMN_METRICS).default("WIFV").describe(
    "weighted input feature variance, weighted input feature norm, or input feature variance",
  ),
  variance: z.enum(["running", "exact"]).default("running").describe(
    "running: as the authors' code, which skips the first window; exact: over all tokens",
  ),
  biasCompensation: z.boolean().default(true).describe(
    "add W_removed mean(x_removed) as a bias, as published; the exported model then has biases",
  ),
});

/** (x - mean) / sd, unbiased; all 0 when nothing varies. */
function standardise(x: Float64Array): Float64Array {
  const mean = x.reduce((a, b) => a + b, 0) / x.length;
  const sd = Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (x.length - 1));
  return x.map((value) => sd > 0 ? (value - mean) / sd : 0);
}

/** Biases W_removed mean(x_removed) of the output and down projections (section 3.3), f32 [D] each, for every layer of
 * a projection that loses a column anywhere. */
export async function compensation(
  model: DecoderModel,
  plan: PrunePlan,
  statistics: readonly LayerStatistics[],
): Promise<Statistics> {
  const { layers, headSize, width } = model.config;
  const keptOf = (l: number, site: ObservedSite) => keptIndices(at(plan.layers, l), site, headSize);
  const sites = WRITING_NAMES.filter((site) =>
    layers.some((_, l) => keptOf(l, site).length < siteInputs(model.config, l, site))
  );
  if (sites.length === 0) return {};
  const values = await eachLayer(model, (layer, l) => {
    const biases = sites.map((site) =>
      tf.tidy(() => {
        const means = at(statistics, l)[site].mean;
        const kept = new Set(keptOf(l, site));
        const { weight, bias } = layer[site];
        const mean = tf.tensor2d(Float32Array.from(means, (value, j) => kept.has(j) ? 0 : value), [1, means.length]);
        const added = matrixProduct(mean, weight);
        return bias ? tf.add(added, bias) : added;
      })
    );
    return readFlat(biases, "compensating biases");
  });
  return Object.fromEntries(
    values.flatMap((own, l) =>
      sites.map((site, i) => [tensorNames.bias(l, site), { shape: [width], data: at(own, i) }])
    ),
  );
}

/** Removes the units whose output fluctuates least. */
export const flap: Method = defineMethod({
  id: "flap",
  version: 1,
  summary: "Removes the units whose output fluctuates least; widths of layers are adaptive (AL) or uniform (UL)",
  source: "An et al. 2023, arXiv:2312.11983, section 3",
  display: { order: 5, colour: "#E69F00" },
  kind: "one-shot",
  needs: { calibration: true },
  layerwise: true,
  options,
  uniformLayers: ({ structure }) => structure.startsWith("UL"),
  check(_config, _target, options, { compensate }) {
    if (!options.biasCompensation || (compensate ?? "none") === "none") return;
    throw new UsageError(
      `its biases and --compensate ${compensate} correct the same loss twice: use flap:biasCompensation=false ` +
        "or --compensate none",
    );
  },
  async prune(context) {
    const { model, target, options: { structure, metric, variance, biasCompensation } } = context;
    const statistics = await inputStatistics(context);
    const columns = await columnScores(model, statistics, metric, variance === "running" ? "fluctuation" : "variance");
    const { layers, headSize } = model.config;
    const isUniform = structure.startsWith("UL");
    const scores = layers.map((shape, l) => {
      const { output, down } = at(columns, l);
      const squared = output.map((value) => value * value);
      if (isUniform) return scoresOfColumns({ output: squared, down, shape, headSize });
      const standard = { output: standardise(squared), down: standardise(down) };
      return scoresOfColumns({ ...standard, shape, headSize, reduction: "mean" });
    });
    const pool = structure === "AL-MM" ? "type" : "all";
    const plan = keepWidths(scores, isUniform ? target.uniform : globalWidths(model.config, scores, target, { pool }));
    if (!biasCompensation) return { plan };
    return { plan, replaced: await compensation(model, plan, statistics) };
  },
});
