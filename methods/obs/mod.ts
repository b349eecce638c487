/** Optimal brain surgeon for structures: the cheapest unit is removed, then the costs of the others are computed anew.
 *
 * Papers: ZipLM (Kurtic, Frantar and Alistarh 2023, arXiv:2302.04089) and SlimGPT (Ling et al. 2024, arXiv:2412.18110),
 * with their squared error of the block's output (`error: plain`). `error: kfac` weighs that error by its effect on the
 * loss: this project's choice, not those papers'.
 *
 * Shapes: A = mean of a a^T over the inputs a of the output or down map, f32 [H K, H K] or [F, F]; S = mean of g g^T
 * over the gradients g of the loss at its output, f32 [D, D].
 *
 * Cost: one forward pass over the calibration data, for `kfac` one backward pass as well, and O(F^3) a layer, once for
 * all levels.
 *
 * Deviations: the remaining weights change only if the run compensates (`--compensate least-squares`, as both papers
 * do). Statistics are the dense model's, not those of the layers pruned before. Every layer has the same width,
 * where SlimGPT's rise from layer to layer.
 *
 * @module
 */
import { z } from "zod";
import { defineMethod, type Method } from "../define.ts";
import { removalScores } from "./removal_order.ts";
import { keepBest } from "../_shared/selection.ts";

const options = z.strictObject({
  error: z.enum(["plain", "kfac"]).default("plain").describe(
    "cost of a removal: plain, the squared error of the block's output; kfac, weighted by the gradient of the loss",
  ),
});

/** Greedy removal by the inverse Gram matrix. */
export const obs: Method<typeof options> = defineMethod({
  id: "obs",
  version: 2,
  summary: "Removes the cheapest units one after the other, with the inverse Gram matrix updated",
  source: "Kurtic et al. 2023, arXiv:2302.04089 (ZipLM); Ling et al. 2024, arXiv:2412.18110 (SlimGPT)",
  display: { order: 6, colour: "#C01884" },
  kind: "one-shot",
  needs: { calibration: true },
  options,
  uniformLayers: () => true,
  async prune(context) {
    const scores = await removalScores(context, context.options.error);
    const raisedRidges = scores.reduce((sum, { raises: [own = 0] }) => sum + own, 0);
    return { plan: keepBest(scores, context.target), ...raisedRidges > 0 && { raisedRidges } };
  },
});
