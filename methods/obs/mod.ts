/** Optimal brain surgeon for structures: removes the cheapest unit, then recomputes the costs of the others.
 *
 * Papers: ZipLM (Kurtic, Frantar and Alistarh 2023, arXiv:2302.04089) and SlimGPT (Ling et al. 2024, arXiv:2412.18110),
 * with their squared error of the block's output (`error: plain`). `error: kfac` weighs that error by its effect on the
 * loss: this project's choice, not those papers'.
 *
 * Shapes: A = mean of a a^T over the inputs a of the output or down map, f32 [H K, H K] or [F, F]; S = mean of g g^T
 * over the gradients g of the loss at its output, f32 [D, D].
 *
 * Statistics: `sequential` takes A of each map on the stream of the maps that are already cut, as SparseGPT's code does,
 * whose layer-wise frame SlimGPT shares. They are also corrected if the run compensates. `dense` takes A of the dense
 * model, so that one pass serves every sparsity, as S is in both: it is the default for `kfac`.
 *
 * Cost: one forward pass over the calibration data (dense), or three at each sparsity (sequential), for `kfac` one
 * backward pass as well, and O(F^3) a layer.
 *
 * Deviations: costs are those of weights that make up for what is gone, but the model's weights change only if the run
 * compensates (`--compensate least-squares-in-turn`), where both papers always change them. Every layer has the same width, where SlimGPT's rise from layer to layer.
 *
 * @module
 */
import { z } from "zod";
import { at } from "../../core/util/indexing.ts";
import { tensorNames } from "../../models/config.ts";
import { hostTensor, keptIndices } from "../../models/surgery.ts";
import { cutInTurn, withoutInputs } from "../../models/training/cut_in_turn.ts";
import { compensatedWeight } from "../../models/training/least_squares.ts";
import type { LayerPlan } from "../../models/units.ts";
import { defineMethod, type Method, type MethodContext, type PruneResult } from "../define.ts";
import { slopeFactors } from "./curvature.ts";
import { mapScores, type RemovalError, removalScores } from "./removal_order.ts";
import { keepBest, keepWidths } from "../_shared/selection.ts";

const options = z.strictObject({
  error: z.enum(["plain", "kfac"]).default("plain").describe(
    "cost of a removal: plain, the squared error of the block's output; kfac, weighted by the gradient of the loss",
  ),
  statistics: z.enum(["sequential", "dense"]).optional().describe(
    "sequential: each layer after the layers already cut; dense: the dense model, once for all levels; " +
      "default: dense for kfac, else sequential",
  ),
});

/** The kept units if each map is cut on the outputs of the cut maps before it. */
async function pruneInTurn(context: MethodContext<unknown>, error: RemovalError): Promise<PruneResult> {
  const { model, target, calibration, compensates } = context;
  const { headSize } = model.config;
  const slopes = error === "kfac" ? await slopeFactors(context) : null;
  const layers: LayerPlan[] = [];
  let raisedRidges = 0;
  await cutInTurn(model, calibration, async (l, site, gram) => {
    const scores = await mapScores(model, l, site, { gram, slopes: slopes?.[l]?.[site] });
    raisedRidges += at(scores.raises, 0);
    const own = at(keepWidths([scores], [at(target.uniform, l)]).layers, 0);
    layers[l] = site === "output" ? own : { ...at(layers, l), ffnChannels: own.ffnChannels };
    const kept = keptIndices(own, site, headSize);
    const name = tensorNames.weight(l, site);
    const given = { gram, kept };
    const weight = compensates ? await compensatedWeight(model, name, given) : await hostTensor(model, name);
    return withoutInputs(weight, kept);
  }, context);
  return { plan: { layers }, ...raisedRidges > 0 && { raisedRidges } };
}

/** Greedy removal by the inverse Gram matrix. */
export const obs: Method<typeof options> = defineMethod({
  id: "obs",
  version: 4,
  summary: "Removes the cheapest unit, updates the inverse Gram matrix, and repeats",
  source: "Kurtic et al. 2023, arXiv:2302.04089 (ZipLM); Ling et al. 2024, arXiv:2412.18110 (SlimGPT)",
  display: { order: 6, colour: "#C01884" },
  kind: "one-shot",
  needs: { calibration: true },
  options,
  uniformLayers: () => true,
  async prune(context) {
    const { error, statistics = error === "kfac" ? "dense" : "sequential" } = context.options;
    if (statistics === "sequential") return await pruneInTurn(context, error);
    const scores = await removalScores(context, error);
    const raisedRidges = scores.reduce((sum, { raises: [own = 0] }) => sum + own, 0);
    return { plan: keepBest(scores, context.target), ...raisedRidges > 0 && { raisedRidges } };
  },
});
