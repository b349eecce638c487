/** Magnitude pruning: removes units with small weights, without data.
 *
 * Papers: Ma et al. 2023, arXiv:2305.11627 (LLM-Pruner), the L1 and L2 baselines (`scope: group`); An et al. 2023,
 * arXiv:2312.11983 (FLAP), the "mag-sp" baseline (`scope: output`).
 *
 * Shapes, weights W `[out, in]`:
 * - group: slot score a_s = sum_k |W_sk|^p, p = 1 or 2, no root; s a row of query, key, value, gate and up, a column of
 *   output and down. A unit's score is the sum of its slots over all matrices that lose them: ffn [L][F],
 *   query heads [L][H], key/value groups [L][G].
 * - output: column norm ||W_:,j||_p of the output and down projections, f32 [L][H K] and [L][F]; a head's score is the
 *   sum over its K columns.
 *
 * Cost: one pass over the weights. Deviations: LLM-Pruner averages over the matrices of a unit where this sums, which
 * ranks the units of a layer the same; with grouped queries it credits a key/value head with query heads of other
 * groups, here each group is scored by the heads that go with it. Every layer has the same width unless `keepFirst` and
 * `keepLast` leave some whole, as LLM-Pruner's tables do.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { z } from "zod";
import { at } from "../core/util/indexing.ts";
import { defineMethod, type Method } from "./define.ts";
import { keepWidths, keptLayers, prunesAllLayers, rangeWidths } from "./_shared/selection.ts";
import { scoresOfColumns, scoresOfGroups, siteWeights, weightSlots } from "./_shared/scoring.ts";

/** Removes the units with the smallest weights. */
export const magnitude: Method = defineMethod({
  id: "magnitude",
  version: 1,
  summary: "Removes the units with the smallest weights, the same number in every layer",
  source: "Ma et al. 2023, arXiv:2305.11627 (L1, L2); An et al. 2023, arXiv:2312.11983 (mag-sp)",
  display: { order: 2, colour: "#56B4E9" },
  kind: "one-shot",
  needs: { calibration: false, seed: false },
  layerwise: true,
  options: z.strictObject({
    ...keptLayers,
    norm: z.enum(["l1", "l2"]).default("l2").describe("power of the weights"),
    scope: z.enum(["group", "output"]).default("group").describe(
      "group: all matrices of a unit, as in LLM-Pruner; output: only the output matrix, as in FLAP",
    ),
  }),
  uniformLayers: prunesAllLayers,
  check: rangeWidths,
  async prune({ model, target, options: { norm, scope, ...kept } }) {
    const { layers, headSize } = model.config;
    const widths = rangeWidths(model.config, target, kept);
    const power = (weight: tf.Tensor2D) => norm === "l1" ? tf.abs(weight) : tf.square(weight);
    if (scope === "group") {
      const slots = await weightSlots(model, power);
      return { plan: keepWidths(slots.map((own, l) => scoresOfGroups(own, at(layers, l), headSize)), widths) };
    }
    const columns = await siteWeights(model, (weight) => {
      const sum = tf.sum(power(weight), 1);
      return norm === "l1" ? sum : tf.sqrt(sum);
    });
    const scores = columns.map((own, l) => scoresOfColumns({ ...own, shape: at(layers, l), headSize }));
    return { plan: keepWidths(scores, widths) };
  },
});
