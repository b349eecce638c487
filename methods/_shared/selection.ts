/** From scores to a plan: how many units stay in each layer, and which.
 *
 * @module
 */
import { z } from "zod";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { UNIT_TYPES, type UnitType } from "../../core/schema/schema.ts";
import { type LayerPlan, type LayerShape, UNITS, widened } from "../../models/units.ts";
import { costOf, type Resource } from "../../models/resource.ts";
import { type BudgetTarget, resolveTarget } from "../../models/target.ts";
import type { LayerScores } from "./scoring.ts";

/** Indices from the highest score to the lowest; among equal scores the lower index comes first. */
function ranked(scores: ArrayLike<number>, from = 0, to = scores.length): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i).sort((a, b) => at(scores, b) - at(scores, a) || a - b);
}

const ascending = (indices: number[]) => indices.sort((a, b) => a - b);

/** Refuses scores that are not numbers.
 * @throws {NumericError} that names the layer and the unit. */
function checkScores(scores: readonly LayerScores[]): void {
  for (const [l, layer] of scores.entries()) {
    for (const type of UNIT_TYPES) {
      const values: Float64Array | undefined = layer[UNITS[type].mask];
      const bad = values?.findIndex(Number.isNaN) ?? 0;
      if (bad < 0) continue;
      throw new NumericError(
        `Scores of ${UNITS[type].noun} must be numbers: layer ${l} has ${values?.[bad]} for unit ${bad}`,
      );
    }
  }
}

function keepInLayer(scores: LayerScores, widths: LayerShape): LayerPlan {
  const perGroup = scores.queryHeads.length / scores.kvGroups.length;
  const kvGroups = ascending(ranked(scores.kvGroups).slice(0, widths.kvGroups));
  return {
    kvGroups,
    queryHeads: kvGroups.flatMap((group) =>
      ascending(ranked(scores.queryHeads, group * perGroup, (group + 1) * perGroup).slice(0, widths.queryHeadsPerGroup))
    ),
    ffnChannels: ascending(ranked(scores.ffn).slice(0, widths.ffnChannels)),
  };
}

/** Keeps the best units of each layer at given widths: the best key/value groups, the best query heads inside each,
 * the best FFN channels. */
export function keepWidths(scores: readonly LayerScores[], widths: readonly LayerShape[]): PrunePlan {
  checkScores(scores);
  return { layers: scores.map((layer, l) => keepInLayer(layer, at(widths, l))) };
}

/** Keeps the best units of each layer at the uniform widths of the budget. */
export function keepBest(scores: readonly LayerScores[], target: BudgetTarget): PrunePlan {
  return keepWidths(scores, target.uniform);
}

/** Layers that may lose units: half-open, 0-based. */
export interface LayerRange {
  start: number;
  /** Layer after the last. */
  end: number;
}

/** Widths where the layers of `range` are equally narrow and all others stay whole.
 * @throws {UsageError} when the range cannot lose enough. */
export function twoTierWidths(config: DecoderConfig, target: BudgetTarget, range: LayerRange): LayerShape[] {
  const whole = config.layers.map((shape) => ({ ...shape }));
  if (target.sparsity === 0) return whole;
  const layers = config.layers.slice(range.start, range.end);
  const prunable = costOf(target.resource, config, layers);
  const removed = target.whole - target.budget;
  const { units, ffnMultiple, resource } = target;
  let inner: LayerShape[];
  try {
    if (layers.length === 0 || removed >= prunable) throw new UsageError("the layers hold too little");
    inner =
      resolveTarget({ ...config, layers }, { sparsity: removed / prunable, units, ffnMultiple, resource }).uniform;
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    throw new UsageError(
      `Sparsity ${target.sparsity} cannot be reached by pruning layers ${range.start} to ${range.end - 1} of ` +
        `${config.layers.length}: prune more layers, or all of them uniformly`,
      { cause },
    );
  }
  return [...whole.slice(0, range.start), ...inner, ...whole.slice(range.end)];
}

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
  keepFirst: layerCount.default(0).describe("number of first layers not pruned; below 1: a fraction of all layers"),
  keepLast: layerCount.default(0).describe("number of last layers not pruned; below 1: a fraction of all layers"),
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

/** One step of a removal: units of one type in one layer that go together. */
interface Removal {
  layer: number;
  type: UnitType;
  /** Units by which the layer's width falls: groups, query heads of every group, or channels. */
  count: number;
  /** Mean score of the units. */
  score: number;
}

/** Plain sums: ties are decided by the last digit. */
const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** The removals that one layer allows, lowest score first in each type; the last units of a type stay. Runs of a type
 * keep equal numbers of units, so a step takes the j-th lowest unit of every run; of FFN channels, `multiple` steps at
 * once. */
function removalsOfLayer(layer: number, scores: LayerScores, units: readonly UnitType[], multiple: number): Removal[] {
  const kvGroups = scores.kvGroups.length;
  const shape = { kvGroups, queryHeadsPerGroup: scores.queryHeads.length / kvGroups, ffnChannels: scores.ffn.length };
  // Of equal scores, attention goes first.
  return UNIT_TYPES.toReversed().filter((type) => units.includes(type)).flatMap((type) => {
    const values = scores[UNITS[type].mask];
    const size = values.length / UNITS[type].runs(shape);
    const runs = Array.from({ length: values.length / size }, (_, r) => values.slice(r * size, (r + 1) * size).sort());
    const step = type === "ffn" ? multiple : 1;
    const removals: Removal[] = [];
    for (let from = 0; from < size - step;) {
      const count = from === 0 && size % step !== 0 ? size % step : step;
      const score = mean(runs.flatMap((run) => [...run.subarray(from, from + count)]));
      removals.push({ layer, type, count, score });
      from += count;
    }
    return removals;
  });
}

interface Widths {
  shapes: LayerShape[];
  resource: Resource;
  /** Of all layers. */
  cost: number;
}

function change(config: DecoderConfig, widths: Widths, removal: Removal, sign: 1 | -1): void {
  const before = at(widths.shapes, removal.layer);
  const after = widened(before, removal.type, sign * removal.count);
  widths.shapes[removal.layer] = after;
  widths.cost += widths.resource.ofLayer(config, after) - widths.resource.ofLayer(config, before);
}

/** Removes units in ascending order of score until at most `budget` is left. If the last step took an attention unit,
 * which is worth many channels, the channels removed just before it come back as far as they fit, so that methods are
 * compared at the same size. */
function removeLowest(config: DecoderConfig, widths: Widths, removals: Removal[], budget: number): void {
  const done: Removal[] = [];
  // The sort is stable: equal scores are removed in the order of layers.
  for (const removal of removals.sort((a, b) => a.score - b.score)) {
    if (widths.cost <= budget) break;
    change(config, widths, removal, -1);
    done.push(removal);
  }
  for (const removal of done.reverse()) {
    if (removal.type !== "ffn") continue;
    change(config, widths, removal, 1);
    if (widths.cost <= budget) continue;
    change(config, widths, removal, -1);
    break;
  }
}

/** Widths from one ranking over layers.
 *
 * `pool: "all"`: attention units and FFN channels in one ranking. `pool: "type"`: one ranking per type; attention units
 * are removed down to the uniform widths, FFN channels fill the budget. Scores are compared raw; in ties the earlier
 * layer comes first. Every layer keeps one unit of each type.
 * @throws {UsageError} when the layers cannot lose enough. */
export function globalWidths(
  config: DecoderConfig,
  scores: readonly LayerScores[],
  target: BudgetTarget,
  { pool }: { pool: "all" | "type" },
): LayerShape[] {
  checkScores(scores);
  const removals = scores.flatMap((layer, l) => removalsOfLayer(l, layer, target.units, target.ffnMultiple));
  const { resource } = target;
  const shapes = config.layers.map((shape) => ({ ...shape }));
  const widths: Widths = { shapes, resource, cost: costOf(resource, config) };
  if (pool === "all") {
    removeLowest(config, widths, removals, target.budget);
  } else {
    const dense = (l: number) => at(config.layers, l).ffnChannels;
    const withDenseFfn = target.uniform.map((shape, l) => ({ ...shape, ffnChannels: dense(l) }));
    const isFfn = ({ type }: Removal) => type === "ffn";
    removeLowest(config, widths, removals.filter((r) => !isFfn(r)), costOf(resource, config, withDenseFfn));
    removeLowest(config, widths, removals.filter(isFfn), target.budget);
  }
  if (widths.cost > target.budget) throw outOfReach(target);
  return widths.shapes;
}

/** The error of a budget that no widths meet. */
export const outOfReach = ({ sparsity }: BudgetTarget): UsageError =>
  new UsageError(
    `Sparsity ${sparsity} cannot be reached with one unit of each type left in every layer: use other --units or remove less`,
  );
