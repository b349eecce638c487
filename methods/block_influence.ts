/** Removes the whole layers that change the direction of the residual stream the least.
 *
 * Paper: ShortGPT (Men et al. 2024, arXiv:2403.03853), equation 1: block influence `BI_l = 1 - E[cos(x_l, x_l+1)]`.
 * Shapes: x_l f32 [N, D], the hidden states of N calibration tokens before layer l of the dense model; one influence a
 * layer. The layers of lowest influence are removed until the budget is met. Cost: one forward pass. Deviations: none.
 * The unit is a layer, so a level is met within one layer. The unit types of a run only determine what the budget
 * counts.
 *
 * @module
 */
import { z } from "zod";
import { at } from "../core/util/indexing.ts";
import { UsageError } from "../core/util/errors.ts";
import type { DecoderConfig } from "../models/config.ts";
import { densePlan, planWithoutLayers } from "../models/plan.ts";
import { costOf } from "../models/resource.ts";
import type { BudgetTarget } from "../models/target.ts";
import { layersByInfluence } from "./_shared/depth.ts";
import { defineMethod, type Method } from "./define.ts";

const options = z.strictObject({});

/** Removes the layers of lowest block influence. */
export const blockInfluence: Method<typeof options> = defineMethod({
  id: "block-influence",
  version: 1,
  summary: "Removes the layers that change the direction of the residual stream the least",
  source: "Men et al. 2024, arXiv:2403.03853 (ShortGPT), equation 1",
  display: { order: 7, colour: "#487058" },
  kind: "one-shot",
  granularity: "layer",
  ownDepth: true,
  needs: { calibration: true },
  options,
  uniformLayers: () => true,
  check(config, target) {
    layersToRemove(config, target, config.layers.keys());
  },
  async prune(context) {
    const { model: { config }, target } = context;
    if (target.sparsity === 0) return { plan: densePlan(config) };
    const ranked = await layersByInfluence(context);
    return { plan: planWithoutLayers(config, layersToRemove(config, target, ranked)) };
  },
});

/** The first layers of `ranked` whose removal meets the budget.
 * @throws {UsageError} when no layer would stay. */
function layersToRemove(config: DecoderConfig, target: BudgetTarget, ranked: Iterable<number>): number[] {
  const { resource, budget } = target;
  let left = costOf(resource, config);
  const removed: number[] = [];
  for (const l of ranked) {
    if (left <= budget) break;
    left -= resource.ofLayer(config, at(config.layers, l));
    removed.push(l);
  }
  if (removed.length === config.layers.length) {
    throw new UsageError(
      `block-influence removes whole layers, and sparsity ${target.sparsity} would remove all ${removed.length}: ` +
        `use at most ${(Math.floor(100 * (removed.length - 1) / removed.length) / 100).toFixed(2)}`,
    );
  }
  return removed;
}
