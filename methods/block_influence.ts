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
import * as tf from "@tensorflow/tfjs";
import { z } from "zod";
import { giveWay } from "../core/engine/give_way.ts";
import { readFlat } from "../core/engine/ops.ts";
import { at } from "../core/util/indexing.ts";
import { UsageError } from "../core/util/errors.ts";
import type { DecoderConfig } from "../models/config.ts";
import type { DecoderModel } from "../models/device.ts";
import { createPass, disposePass, embed, runLayers, type TokenBatch } from "../models/layers.ts";
import { densePlan, planWithoutLayers } from "../models/plan.ts";
import { costOf } from "../models/resource.ts";
import type { BudgetTarget } from "../models/target.ts";
import { calibrationBatches, rememberLayers } from "./_shared/calibration.ts";
import { defineMethod, type Method, type MethodContext } from "./define.ts";

const options = z.strictObject({});

/** Removes the layers of lowest block influence. */
export const blockInfluence: Method<typeof options> = defineMethod({
  id: "block-influence",
  version: 1,
  summary: "Removes the layers that change the direction of the residual stream the least",
  source: "Men et al. 2024, arXiv:2403.03853 (ShortGPT), equation 1",
  display: { order: 7, colour: "#332288" },
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

/** All layers of the model, the least block influence first (equation 1). */
async function layersByInfluence(context: MethodContext<unknown>): Promise<number[]> {
  const { model, calibration, signal, report } = context;
  const layers = await rememberLayers(context, "block influence by layer", async () => {
    const batches = calibrationBatches(calibration);
    const sums = new Float64Array(model.layers.length);
    for (const [i, batch] of batches.entries()) {
      await giveWay(signal);
      report(`block influence, batch ${i + 1} of ${batches.length}`);
      const turned = await readFlat(turns(model, batch), "hidden states");
      for (const [l, [value = 0]] of turned.entries()) sums[l] = at(sums, l) + value;
    }
    const tokens = batches.reduce((sum, { batch, length }) => sum + batch * length, 0);
    return Array.from(sums, (sum) => ({ influence: [sum / tokens] }));
  });
  const influence = layers.map((own) => at(own.influence, 0));
  return [...influence.keys()].sort((x, y) => at(influence, x) - at(influence, y) || x - y);
}

/** Sum over the tokens of a batch of `1 - cos(x_l, x_l+1)`: a scalar per layer. */
function turns(model: DecoderModel, batch: TokenBatch): tf.Tensor[] {
  const pass = createPass(model.config, batch);
  try {
    return tf.tidy(() => {
      const states = [embed(model, batch.tokens)];
      runLayers(model, at(states, 0), pass, { each: (state) => states.push(state) });
      return model.layers.map((_, l) => {
        const [before, after] = [at(states, l), at(states, l + 1)];
        const norms = tf.mul(tf.norm(before, 2, 1), tf.norm(after, 2, 1));
        return tf.sum(tf.sub(1, tf.divNoNan(tf.sum(tf.mul(before, after), 1), norms)));
      });
    });
  } finally {
    disposePass(pass);
  }
}
