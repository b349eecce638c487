/** The units that learned methods remove: their geometry, and plans and masks in terms of it.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { layerPlan, type LayerShape, unitCount, UNITS, widened, widthOf } from "../../models/units.ts";
import { UNIT_TYPES, type UnitType } from "../../core/schema/schema.ts";
import type { HostMasks } from "../../models/training/student.ts";

/** One unit type with its geometry, the same in every layer. */
export interface UnitAxis {
  /** What is removed. */
  type: UnitType;
  /** n: what a width counts, channels, groups, or query heads inside a group. */
  units: number;
  /** Equal runs of a layer's mask that lose the same number each: G for query heads, else 1. */
  segments: number;
}

/** Attention before the FFN. */
const AXIS_ORDER = UNIT_TYPES.toReversed();

/** The axes along which `units` allow a model to become narrower. */
export function unitAxes(config: DecoderConfig, units: readonly UnitType[]): UnitAxis[] {
  const shape = at(config.layers, 0);
  return AXIS_ORDER
    .map((type): UnitAxis => ({ type, units: widthOf(shape, type), segments: UNITS[type].runs(shape) }))
    .filter((axis) => units.includes(axis.type) && axis.units > 1);
}

/** A layer after removing units; `removed` has one number per axis. */
export function narrowed(dense: LayerShape, axes: readonly UnitAxis[], removed: readonly number[]): LayerShape {
  return axes.reduce((shape, { type }, a) => widened(shape, type, -at(removed, a)), dense);
}

/** Units removed on each axis in a layer of the given shape. */
export function removedUnits(dense: LayerShape, shape: LayerShape, axes: readonly UnitAxis[]): number[] {
  return axes.map(({ type }) => widthOf(dense, type) - widthOf(shape, type));
}

/** Entries of a layer's mask on an axis. */
export function maskLength(axis: UnitAxis, shape: LayerShape): number {
  return unitCount(shape, axis.type);
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** The plan without the units for which `isRemoved(axis, layer, unit)`; query heads of a removed group go with it. */
export function planOfRemoved(
  config: DecoderConfig,
  axes: readonly UnitAxis[],
  isRemoved: (axis: number, layer: number, unit: number) => boolean,
): PrunePlan {
  return {
    layers: config.layers.map((shape, l) => {
      const plan = layerPlan((type) => {
        const a = axes.findIndex((axis) => axis.type === type);
        return range(unitCount(shape, type)).filter((unit) => a < 0 || !isRemoved(a, l, unit));
      });
      const group = (head: number) => Math.floor(head / shape.queryHeadsPerGroup);
      return { ...plan, queryHeads: plan.queryHeads.filter((head) => plan.kvGroups.includes(group(head))) };
    }),
  };
}

/** Mask values of the kept units, at the widths of the plan. */
export function keptOf(
  plan: PrunePlan,
  axes: readonly UnitAxis[],
  value: (axis: number, layer: number, unit: number) => number,
): HostMasks[] {
  return plan.layers.map((layer, l) =>
    Object.fromEntries(
      axes.map(({ type }, a) => [type, Float32Array.from(layer[UNITS[type].plan], (i) => value(a, l, i))]),
    ) as HostMasks
  );
}
