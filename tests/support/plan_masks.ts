/** Hard masks of a plan: the oracle of cutting.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import type { HiddenMask, LayerMasks } from "../../models/masks.ts";
import { isRemoved, plannedConfig, type PrunePlan } from "../../models/plan.ts";

/** A mask of `length` entries, 1 where `kept` says so and 0 elsewhere. */
function hardMask(length: number, kept: readonly number[]): tf.Tensor1D {
  const mask = new Float32Array(length);
  for (const index of kept) mask[index] = 1;
  return tf.tensor1d(mask);
}

/** Hard masks of a plan, 1 for a kept query head or FFN channel and 0 for any other: a model with these masks, and with
 * {@linkcode planToHidden}'s, computes what the pruned model computes. Free the tensors with `tf.dispose`. */
export function planToMasks(
  config: DecoderConfig,
  plan: PrunePlan,
): (Required<Pick<LayerMasks, "queryHeads" | "ffn">> & Pick<LayerMasks, "layer">)[] {
  plannedConfig(config, plan);
  return plan.layers.map((layer, l) => ({
    queryHeads: hardMask(queryHeads(at(config.layers, l)), layer.queryHeads),
    ffn: hardMask(at(config.layers, l).ffnChannels, layer.ffnChannels),
    ...isRemoved(layer) && { layer: hardMask(1, []) },
  }));
}

/** The hard mask of a plan's hidden dimensions; undefined where all are kept. */
export function planToHidden(config: DecoderConfig, { hidden }: PrunePlan): HiddenMask | undefined {
  return hidden && { mask: hardMask(config.width, hidden), open: hidden.length };
}
