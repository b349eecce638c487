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
 * do). Statistics are the dense model's, not those of the layers pruned before. The widths of `layers: incremental`
 * follow SlimGPT's logarithmic rise; the first ratio is an option and the budget gives the last.
 *
 * @module
 */
import { z } from "zod";
import type { DecoderConfig } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type BudgetTarget, largestSparsity, resolveTarget } from "../../models/target.ts";
import { keptParameters } from "../../models/count.ts";
import { defineMethod, type Method } from "../define.ts";
import { removalScores } from "./removal_order.ts";
import { keepWidths } from "../_shared/selection.ts";

const options = z.strictObject({
  error: z.enum(["plain", "kfac"]).default("plain").describe(
    "cost of a removal: plain, the squared error of the block's output; kfac, weighted by the gradient of the loss",
  ),
  layers: z.enum(["uniform", "incremental"]).default("uniform").describe(
    "widths: uniform, the same in every layer; incremental, more removed in later layers (SlimGPT: a logarithmic rise)",
  ),
  firstRatio: z.number().min(0).max(1).default(0.5).describe(
    "incremental: ratio of the first layer, as a part of the mean ratio of all layers",
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
  uniformLayers: ({ layers }) => layers === "uniform",
  check: (config, target, { layers, firstRatio }) => {
    if (layers === "incremental") incrementalWidths(config, target, firstRatio);
  },
  async prune(context) {
    const { model: { config }, options, target } = context;
    const widths = options.layers === "uniform"
      ? target.uniform
      : incrementalWidths(config, target, options.firstRatio);
    const scores = await removalScores(context, options.error);
    const raisedRidges = scores.reduce((sum, { raises: [own = 0] }) => sum + own, 0);
    return { plan: keepWidths(scores, widths), ...raisedRidges > 0 && { raisedRidges } };
  },
});

/** Widths that shrink from layer to layer: layer i of n loses `r_0 + (r_n-1 - r_0) log(i + 1) / log(n)` of its weights
 * (SlimGPT's incremental pruning ratio). r_0 is given and r_n-1 is the smallest that meets the budget. A layer keeps
 * one unit of each type.
 * @throws {UsageError} when later layers cannot make up for the first. */
export function incrementalWidths(config: DecoderConfig, target: BudgetTarget, firstRatio: number): LayerShape[] {
  const { sparsity, units, ffnMultiple, budgetParameters } = target;
  const count = config.layers.length;
  const rise = Array.from({ length: count }, (_, i) => count === 1 ? 0 : Math.log(i + 1) / Math.log(count));
  const meanRise = rise.reduce((a, b) => a + b, 0) / count;
  const size = (shapes: readonly LayerShape[]) => keptParameters(config, shapes);
  const most = largestSparsity(config, units, ffnMultiple);
  const widthsAt = (mean: number) => {
    const first = meanRise === 0 ? mean : firstRatio * mean;
    const last = meanRise === 0 ? mean : first + (mean - first) / meanRise;
    return config.layers.flatMap((layer, i) => {
      const ratio = Math.min(most, first + (last - first) * (rise[i] ?? 0));
      return resolveTarget({ ...config, layers: [layer] }, { sparsity: ratio, units, ffnMultiple }).uniform;
    });
  };
  // Ratios are rounded up layer by layer and capped: the smallest mean that keeps the budget is found by halving.
  let [low, high] = [sparsity / 2, 1];
  if (size(widthsAt(sparsity)) <= budgetParameters) high = sparsity;
  else if (size(widthsAt(high)) > budgetParameters) {
    throw new UsageError(
      `Sparsity ${sparsity} cannot be reached by layers=incremental with firstRatio=${firstRatio}, since no layer ` +
        `loses more than ${most.toFixed(3)}: raise firstRatio, or leave layers out`,
    );
  }
  for (let i = 0; i < 30; i++) {
    const middle = (low + high) / 2;
    if (size(widthsAt(middle)) <= budgetParameters) high = middle;
    else low = middle;
  }
  return widthsAt(high);
}
