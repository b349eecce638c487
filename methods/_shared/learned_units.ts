/** The units that learned methods remove: their geometry, and plans and masks in terms of it.
 *
 * @module
 */
import { type DecoderConfig, type LayerShape, queryHeads } from "../../models/config.ts";
import type { LayerPlan, PrunePlan, UnitType } from "../../models/plan.ts";
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

/** The axes along which `units` allow a model to become narrower. */
export function unitAxes(config: DecoderConfig, units: readonly UnitType[]): UnitAxis[] {
  const [shape] = config.layers;
  const all: UnitAxis[] = [
    { type: "kv-groups", units: shape.kvGroups, segments: 1 },
    { type: "query-heads", units: shape.queryHeadsPerGroup, segments: shape.kvGroups },
    { type: "ffn", units: shape.ffnChannels, segments: 1 },
  ];
  return all.filter((axis) => units.includes(axis.type) && axis.units > 1);
}

/** A layer after removing units; `removed` has one number per axis. */
export function narrowed(dense: LayerShape, axes: readonly UnitAxis[], removed: readonly number[]): LayerShape {
  const shape = { ...dense };
  axes.forEach(({ type }, a) => {
    if (type === "ffn") shape.ffnChannels -= removed[a];
    if (type === "kv-groups") shape.kvGroups -= removed[a];
    if (type === "query-heads") shape.queryHeadsPerGroup -= removed[a];
  });
  return shape;
}

/** Units removed on each axis in a layer of the given shape. */
export function removedUnits(dense: LayerShape, shape: LayerShape, axes: readonly UnitAxis[]): number[] {
  return axes.map(({ type }) => {
    if (type === "ffn") return dense.ffnChannels - shape.ffnChannels;
    if (type === "kv-groups") return dense.kvGroups - shape.kvGroups;
    return dense.queryHeadsPerGroup - shape.queryHeadsPerGroup;
  });
}

/** Entries of a layer's mask on an axis. */
export function maskLength(axis: UnitAxis, shape: LayerShape): number {
  if (axis.type === "ffn") return shape.ffnChannels;
  return axis.type === "kv-groups" ? shape.kvGroups : queryHeads(shape);
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** The plan without the units for which `isRemoved(axis, layer, unit)`; query heads of a removed group go with it. */
export function planOfRemoved(
  config: DecoderConfig,
  axes: readonly UnitAxis[],
  isRemoved: (axis: number, layer: number, unit: number) => boolean,
): PrunePlan {
  const kept = (type: UnitType, l: number, count: number) => {
    const a = axes.findIndex((axis) => axis.type === type);
    return a < 0 ? range(count) : range(count).filter((i) => !isRemoved(a, l, i));
  };
  return {
    layers: config.layers.map((shape, l): LayerPlan => {
      const kvGroups = kept("kv-groups", l, shape.kvGroups);
      const heads = kept("query-heads", l, queryHeads(shape));
      const r = shape.queryHeadsPerGroup;
      return {
        kvGroups,
        queryHeads: heads.filter((head) => kvGroups.includes(Math.floor(head / r))),
        ffnChannels: kept("ffn", l, shape.ffnChannels),
      };
    }),
  };
}

/** Mask values of the kept units, at the widths of the plan. */
export function keptOf(
  plan: PrunePlan,
  axes: readonly UnitAxis[],
  value: (axis: number, layer: number, unit: number) => number,
): HostMasks[] {
  const FIELDS = { "ffn": "ffnChannels", "query-heads": "queryHeads", "kv-groups": "kvGroups" } as const;
  return plan.layers.map((layer, l) =>
    Object.fromEntries(
      axes.map(({ type }, a) => [type, Float32Array.from(layer[FIELDS[type]], (i) => value(a, l, i))]),
    ) as HostMasks
  );
}
