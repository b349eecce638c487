/** Options for the first and last layers that stay whole.
 *
 * @module
 */
import { z } from "zod";
import { UsageError } from "../../core/util/errors.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import type { BudgetTarget } from "../../models/target.ts";
import { type LayerRange, twoTierWidths } from "./selection.ts";

/** Schema of a number of layers: a whole number, or a fraction of all layers if below 1. */
export const layerCount = z.number().min(0)
  .refine((value) => value < 1 || Number.isInteger(value), "must be a whole number or a part below 1");

/** The layers of `count` that may lose units.
 * @throws {UsageError} when none is left. */
export function layerRange(count: number, { keepFirst, keepLast }: KeptLayers): LayerRange {
  const layers = (value: number) => value < 1 ? Math.round(value * count) : value;
  const [start, last] = [layers(keepFirst), layers(keepLast)];
  if (start + last >= count) {
    throw new UsageError(`keepFirst and keepLast must leave a layer to prune: current ${start} + ${last} of ${count}`);
  }
  return { start, end: count - last };
}

/** Options of a method that prunes all layers alike unless asked to leave some whole. */
export const keptLayers = {
  keepFirst: layerCount.default(0).describe("number of first layers left unpruned; below 1: a fraction of all layers"),
  keepLast: layerCount.default(0).describe("number of last layers left unpruned; below 1: a fraction of all layers"),
};

/** Values of {@linkcode keptLayers}. */
export type KeptLayers = Record<keyof typeof keptLayers, number>;

/** Whether no layer is left whole. */
export const prunesAllLayers = ({ keepFirst, keepLast }: KeptLayers): boolean => keepFirst === 0 && keepLast === 0;

/** Equal widths of the layers that may lose units.
 * @throws {UsageError} when they cannot lose enough. */
export function rangeWidths(config: DecoderConfig, target: BudgetTarget, options: KeptLayers): LayerShape[] {
  if (prunesAllLayers(options)) return target.uniform;
  return twoTierWidths(config, target, layerRange(config.layers.length, options));
}
