/** The units that learned methods remove: their geometry, those of lowest rank, and plans in terms of masks.
 *
 * @module
 */
import { NumericError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { UNIT_TYPES, type UnitType } from "../../core/schema/schema.ts";
import { layerPlan, type LayerShape, unitCount, UNITS, widthOf } from "../../models/units.ts";
import type { HostMasks } from "../../models/training/student.ts";

/** One unit type with its geometry, the same in every layer. */
export interface UnitAxis {
  type: UnitType;
  /** n: what a width counts, channels, groups, or query heads inside a group. */
  units: number;
  /** Equal runs of a layer's units that lose the same number each: G for query heads, else 1. */
  segments: number;
}

/** The axes along which `units` allow a model to become narrower, attention before the FFN. */
export function unitAxes(config: DecoderConfig, units: readonly UnitType[]): UnitAxis[] {
  const shape = at(config.layers, 0);
  return UNIT_TYPES.toReversed()
    .map((type): UnitAxis => ({ type, units: widthOf(shape, type), segments: UNITS[type].runs(shape) }))
    .filter((axis) => units.includes(axis.type) && axis.units > 1);
}

/** Units removed on the axis of `type` between two shapes of a layer. */
export function removedUnits(dense: LayerShape, shape: LayerShape, type: UnitType): number {
  return widthOf(dense, type) - widthOf(shape, type);
}

/** The plan that keeps the units whose gate is not 0; query heads of a removed group go with it. */
export function planOfGates(config: DecoderConfig, gates: readonly HostMasks[]): PrunePlan {
  return {
    layers: config.layers.map((shape, l) => {
      const plan = layerPlan((type) =>
        [...Array(unitCount(shape, type)).keys()].filter((unit) => at(gates, l)[type]?.[unit] !== 0)
      );
      const group = (head: number) => Math.floor(head / shape.queryHeadsPerGroup);
      return { ...plan, queryHeads: plan.queryHeads.filter((head) => plan.kvGroups.includes(group(head))) };
    }),
  };
}

/** Indices of the `k` smallest values, ascending; among equal values the lower index comes first. */
function smallest(values: Float64Array, k: number): number[] {
  if (k <= 0) return [];
  const limit = values.toSorted()[k - 1] ?? Infinity;
  let equal = k - values.reduce((count, value) => value < limit ? count + 1 : count, 0);
  return [...values.keys()].filter((i) => at(values, i) < limit || at(values, i) === limit && equal-- > 0);
}

/** The `k` units of lowest rank in each of `segments` equal runs, ascending indices into the whole.
 * @throws {NumericError} when a rank is not a number; `what` names the units, such as `FFN channels of layer 3`. */
export function smallestInSegments(ranks: ArrayLike<number>, k: number, segments: number, what = "units"): number[] {
  const all = Float64Array.from(ranks);
  const bad = all.findIndex(Number.isNaN);
  if (bad >= 0) throw new NumericError(`Ranks of ${what} must be numbers: current NaN for unit ${bad}`);
  const length = all.length / segments;
  return Array.from({ length: segments }, (_, s) => s * length)
    .flatMap((start) => smallest(all.subarray(start, start + length), k).map((i) => start + i));
}
