/** The types of units that can be removed from a decoder layer. Shape legend as in `config.ts`.
 *
 * @module
 */
import { UNIT_TYPES, type UnitType } from "../core/schema/schema.ts";

/** Widths of one decoder layer. All widths may differ between layers; a plain Llama config needs them equal. */
export interface LayerShape {
  /** G: key/value groups (key/value heads). */
  kvGroups: number;
  /** R: query heads in each group; 1 in multi-head attention. */
  queryHeadsPerGroup: number;
  /** F: intermediate channels of the SwiGLU block. */
  ffnChannels: number;
}

/** Units kept in one layer: indices into the dense layer, ascending and unique. */
export interface LayerPlan {
  /** Kept key/value groups, in [0, G). */
  kvGroups: number[];
  /** Kept query heads, in [0, H); every kept group keeps the same number of its own heads, other groups none. */
  queryHeads: number[];
  /** Kept FFN channels, in [0, F). */
  ffnChannels: number[];
}

interface UnitDefinition {
  noun: string;
  widthNoun: string;
  width: keyof LayerShape;
  plan: keyof LayerPlan;
  /** Its masks and scores: `LayerMasks` of `masks.ts`, `LayerScores` of the methods. */
  mask: "ffn" | "queryHeads" | "kvGroups";
  /** Equal runs of a layer's units that keep the same number each; the width counts the units of one run. */
  runs(shape: LayerShape): number;
}

/** The types of units. `kv-groups`: a key/value head with its query heads (the heads of multi-head attention);
 * `query-heads`: query heads inside each group, the same number in every group; `ffn`: FFN channels. */
export const UNITS = {
  "kv-groups": {
    noun: "key/value groups",
    widthNoun: "KV groups",
    width: "kvGroups",
    plan: "kvGroups",
    mask: "kvGroups",
    runs: () => 1,
  },
  "query-heads": {
    noun: "query heads",
    widthNoun: "query heads per group",
    width: "queryHeadsPerGroup",
    plan: "queryHeads",
    mask: "queryHeads",
    runs: (shape) => shape.kvGroups,
  },
  "ffn": {
    noun: "FFN channels",
    widthNoun: "FFN channels",
    width: "ffnChannels",
    plan: "ffnChannels",
    mask: "ffn",
    runs: () => 1,
  },
} as const satisfies Record<UnitType, UnitDefinition>;

/** H of one layer. */
export function queryHeads(shape: LayerShape): number {
  return shape.kvGroups * shape.queryHeadsPerGroup;
}

/** A layer's width on the axis of `type`. */
export function widthOf(shape: LayerShape, type: UnitType): number {
  return shape[UNITS[type].width];
}

/** Number of units of `type` in a layer. */
export function unitCount(shape: LayerShape, type: UnitType): number {
  return widthOf(shape, type) * UNITS[type].runs(shape);
}

/** The shape with `count` more (or, below 0, fewer) on the axis of `type`. */
export function widened(shape: LayerShape, type: UnitType, count: number): LayerShape {
  return { ...shape, [UNITS[type].width]: widthOf(shape, type) + count };
}

/** A shape from its width on the axis of each type. */
export function layerShape(width: (type: UnitType) => number): LayerShape {
  const shape: LayerShape = { kvGroups: 0, queryHeadsPerGroup: 0, ffnChannels: 0 };
  for (const type of UNIT_TYPES) shape[UNITS[type].width] = width(type);
  return shape;
}

/** A plan of a layer from the kept units of each type. */
export function layerPlan(kept: (type: UnitType) => number[]): LayerPlan {
  const plan: LayerPlan = { kvGroups: [], queryHeads: [], ffnChannels: [] };
  for (const type of UNIT_TYPES) plan[UNITS[type].plan] = kept(type);
  return plan;
}
