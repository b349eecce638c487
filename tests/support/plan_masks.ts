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

/** `length` entries, 1 for those in `kept` and 0 for others. */
export const hardMask = (length: number, kept: readonly number[]): number[] =>
  Array.from({ length }, (_, i) => kept.includes(i) ? 1 : 0);

/** Masks of a plan as numbers: 1 for a kept query head, FFN channel or layer, 0 for any other. */
export function maskValues(
  config: DecoderConfig,
  plan: PrunePlan,
): { queryHeads: number[]; ffn: number[]; layer: number }[] {
  plannedConfig(config, plan);
  return plan.layers.map((layer, l) => ({
    queryHeads: hardMask(queryHeads(at(config.layers, l)), layer.queryHeads),
    ffn: hardMask(at(config.layers, l).ffnChannels, layer.ffnChannels),
    layer: isRemoved(layer) ? 0 : 1,
  }));
}

/** {@linkcode maskValues} as tensors. A model with these masks, and with {@linkcode planToHidden}'s, computes what the
 * pruned model computes. Free the tensors with `tf.dispose`. */
export function planToMasks(
  config: DecoderConfig,
  plan: PrunePlan,
): (Required<Pick<LayerMasks, "queryHeads" | "ffn">> & Pick<LayerMasks, "layer">)[] {
  return maskValues(config, plan).map(({ queryHeads, ffn, layer }) => ({
    queryHeads: tf.tensor1d(queryHeads),
    ffn: tf.tensor1d(ffn),
    ...layer === 0 && { layer: tf.tensor1d([0]) },
  }));
}

/** The hard mask of a plan's hidden dimensions; undefined if all are kept. */
export function planToHidden(config: DecoderConfig, { hidden }: PrunePlan): HiddenMask | undefined {
  return hidden && { mask: tf.tensor1d(hardMask(config.width, hidden)), open: hidden.length };
}
