/** Structured Wanda: a unit is worth the size of its outgoing weights times the size of what flows through them.
 *
 * Papers: Sun et al. 2023, arXiv:2306.11695, eq. 1 (|W_ij| ||X_j||); structured form ("Wanda-sp") from An et al. 2023,
 * arXiv:2312.11983, section 4.
 *
 * Shapes: for each input column j of the output and down projections W `[out, in]`, m_j = mean_i |W_ij| sqrt(a_j) with
 * a_j the mean square of x_j over calibration tokens: [L][H K] and [L][F]. A head's score is the sum over its K columns,
 * a key/value group's the sum over its heads.
 *
 * Cost: one forward pass over calibration. Deviations from the authors' code: a_j is a mean over tokens, not a sum over
 * the tokens of a sequence (a factor common to all units); statistics come from the dense model, where the code feeds
 * each layer with the outputs of the layers already pruned, so that one pass serves every sparsity; widths meet a
 * parameter budget, where the code removes the same rounded fraction of heads and of channels.
 *
 * @module
 */
import { z } from "zod";
import { defineMethod, type Method } from "./define.ts";
import { inputStatistics } from "./_shared/calibration.ts";
import { columnScores } from "./_shared/column_metrics.ts";
import { keepBest } from "./_shared/selection.ts";
import { scoresOfColumns } from "./_shared/scoring.ts";

/** Removes the units with the smallest weight times activation. */
export const wandaSp: Method = defineMethod({
  id: "wanda-sp",
  summary: "Removes the units with the smallest weight times activation, the same number in every layer",
  source: "Sun et al. 2023, arXiv:2306.11695, eq. 1; structured as in An et al. 2023, arXiv:2312.11983",
  kind: "one-shot",
  needs: { calibration: true },
  layerwise: true,
  options: z.strictObject({}),
  uniformLayers: () => true,
  async prune(context) {
    const { model, target } = context;
    const columns = await columnScores(model, await inputStatistics(context), "WIFN");
    const { layers, headSize } = model.config;
    const scores = layers.map((shape, l) => scoresOfColumns({ ...columns[l], shape, headSize }));
    return { plan: keepBest(scores, target) };
  },
});
