/** Structured Wanda: a unit's score is the size of its outgoing weights times the size of its activations.
 *
 * Papers: Sun et al. 2023, arXiv:2306.11695, eq. 1 (|W_ij| ||X_j||). The structured form ("Wanda-sp") is from An et al.
 * 2023, arXiv:2312.11983, section 4, and the authors' code (CASIA-IVA-Lab/FLAP 3bb57db).
 *
 * Shapes: for each input column j of the output and down projections W `[out, in]`, `m_j = mean_i |W_ij| sqrt(a_j)`
 * with a_j the mean square of x_j over calibration tokens: [L][H K] and [L][F]. A head's score is the sum over its K
 * columns, a key/value group's the sum over its heads.
 *
 * Statistics: `prefix` feeds each layer with the outputs of the layers already pruned, as the authors' code does.
 * `dense` takes those of the dense model, so that one pass serves every sparsity.
 *
 * Cost: one forward pass over calibration (dense), or two at each sparsity (prefix). Deviations from the authors' code:
 * a_j is a mean over tokens instead of a sum over the tokens of a sequence (a factor common to all units). Widths meet
 * a parameter budget, while the code removes the same rounded fraction of heads and of channels (LLaMA-7B at 20 %: 26
 * heads and 8807 channels stay, a sparsity of 0.1958).
 *
 * @module
 */
import { z } from "zod";
import { at } from "../core/util/indexing.ts";
import type { LayerPlan } from "../models/units.ts";
import { keptMasks } from "../models/masks.ts";
import { defineMethod, type Method, type MethodContext } from "./define.ts";
import { inputStatistics, statisticsByLayers } from "./_shared/calibration.ts";
import { keepBest } from "./_shared/selection.ts";
import { columnScores, columnWeights, scoresOfColumns, scoresOfLayer } from "./_shared/scoring.ts";

const options = z.strictObject({
  statistics: z.enum(["prefix", "dense"]).default("prefix").describe(
    "prefix: each layer after the layers already pruned, as published; dense: the dense model, once for all levels",
  ),
});

/** The plan of every layer, scored on the outputs of the pruned layers before it. */
async function prefixPlan(context: MethodContext<unknown>): Promise<LayerPlan[]> {
  const { model, target } = context;
  const { layers, headSize } = model.config;
  const weights = await columnWeights(model, "WIFN");
  const plan: LayerPlan[] = [];
  await statisticsByLayers(context, (l, statistics) => {
    const shape = at(layers, l);
    const columns = scoresOfLayer(at(weights, l), statistics, "WIFN");
    const uniform = [at(target.uniform, l)];
    const kept = at(keepBest([scoresOfColumns({ ...columns, shape, headSize })], { ...target, uniform }).layers, 0);
    plan.push(kept);
    return keptMasks(kept, shape);
  });
  return plan;
}

/** Removes the units with the smallest weight times activation. */
export const wandaSp: Method = defineMethod({
  id: "wanda-sp",
  version: 1,
  summary: "Removes the units with the smallest weight times activation, the same number in every layer",
  source: "Sun et al. 2023, arXiv:2306.11695, eq. 1; structured as in An et al. 2023, arXiv:2312.11983",
  display: { order: 3, colour: "#009E73" },
  kind: "one-shot",
  needs: { calibration: true },
  layerwise: true,
  options,
  uniformLayers: () => true,
  async prune(context) {
    const { model, target, options: { statistics } } = context;
    if (statistics === "prefix") return { plan: { layers: await prefixPlan(context) } };
    const { layers, headSize } = model.config;
    const columns = await columnScores(model, await inputStatistics(context), "WIFN");
    const scores = columns.map((own, l) => scoresOfColumns({ ...own, shape: at(layers, l), headSize }));
    return { plan: keepBest(scores, target) };
  },
});
