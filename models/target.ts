/** The budget of one cell, and the uniform widths that meet it.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { UsageError } from "../core/util/errors.ts";
import { counted } from "../core/util/words.ts";
import { type DecoderConfig, isLayerwiseUniform } from "./config.ts";
import { plannedConfig, planWithoutLayers } from "./plan.ts";
import type { LayerShape } from "./units.ts";
import { costOf, PARAMETERS, type Resource } from "./resource.ts";
import { RUN_UNITS, type RunUnit, type UnitType } from "../core/schema/schema.ts";

/** The budget that every method of a comparison must meet, from the sparsity level; see `resolveTarget`. */
export interface BudgetTarget {
  /** Asked fraction of `whole` to remove, in [0, 1). */
  sparsity: number;
  /** Unit types that may be touched. */
  units: readonly UnitType[];
  resource: Resource;
  /** Cost of the dense model's layers; of its linear maps where parameters are counted. */
  whole: number;
  /** Most that may remain: (1 - sparsity) * whole, rounded down where whole numbers are counted. */
  budget: number;
  /** FFN widths are multiples of this. */
  ffnMultiple: number;
  /** Whole layers that are removed before units. */
  dropLayers: number;
  /** Whether a method may choose another depth: layers are among the units, and their number is not given. */
  freeDepth: boolean;
  /** The layer-wise uniform widths that meet the budget: attention units are removed at the requested ratio (rounded
   * down), FFN channels fill the rest, so that one more unit per layer would exceed the budget. One entry per kept
   * layer. */
  uniform: LayerShape[];
}

/** floor() that treats 28.999999999999996 (100 * 0.29) as 29. */
const floor = (x: number) => Math.floor(x + 1e-6);

/** Attention widths that `units` allow, the largest first. */
function attentionChoices(dense: LayerShape, units: readonly UnitType[]): LayerShape[] {
  const widths = (width: number, type: UnitType) =>
    Array.from({ length: units.includes(type) ? width : 1 }, (_, i) => width - i);
  const choices = widths(dense.kvGroups, "kv-groups").flatMap((kvGroups) =>
    widths(dense.queryHeadsPerGroup, "query-heads")
      .map((queryHeadsPerGroup) => ({ ...dense, kvGroups, queryHeadsPerGroup }))
  );
  const weight = ({ kvGroups, queryHeadsPerGroup }: LayerShape) => kvGroups * (queryHeadsPerGroup + 1);
  return choices.sort((a, b) => weight(b) - weight(a) || b.kvGroups - a.kvGroups);
}

/** Attention widths after removing the fraction `sparsity`, rounded down: groups first, then query heads until that
 * fraction of heads is removed. */
export function attentionAtRatio(dense: LayerShape, units: readonly UnitType[], sparsity: number): LayerShape {
  const { kvGroups, queryHeadsPerGroup } = dense;
  const groups = units.includes("kv-groups") ? Math.max(1, kvGroups - floor(sparsity * kvGroups)) : kvGroups;
  const heads = kvGroups * queryHeadsPerGroup;
  const perGroup = units.includes("query-heads")
    ? Math.max(1, Math.ceil((heads - floor(sparsity * heads)) / groups))
    : queryHeadsPerGroup;
  return { ...dense, kvGroups: groups, queryHeadsPerGroup: perGroup };
}

/** How the widths of a cell are chosen. */
type WidthRules = Pick<BudgetTarget, "sparsity" | "units" | "ffnMultiple" | "resource">;

/** Largest FFN width that `fits`, a multiple of `multiple` or the dense one; 0 where none does. */
function largestFfn(dense: number, multiple: number, fits: (channels: number) => boolean): number {
  if (fits(dense)) return dense;
  let [low, high] = [0, Math.ceil(dense / multiple)];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle * multiple)) low = middle;
    else high = middle;
  }
  return low * multiple;
}

/** Widths of one layer that cost at most `budget`; null when none exist. */
function uniformShape(
  config: DecoderConfig,
  budget: number,
  { sparsity, units, ffnMultiple, resource }: WidthRules,
): LayerShape | null {
  const dense = at(config.layers, 0);
  const size = (shape: LayerShape) => resource.ofLayer(config, shape);
  const choices = attentionChoices(dense, units);
  if (!units.includes("ffn")) return choices.find((shape) => size(shape) <= budget) ?? null;
  const atRatio = attentionAtRatio(dense, units, sparsity);
  for (const shape of [atRatio, ...choices.filter((shape) => size(shape) < size(atRatio))]) {
    const fits = (ffnChannels: number) => size({ ...shape, ffnChannels }) <= budget;
    const ffnChannels = largestFfn(dense.ffnChannels, ffnMultiple, fits);
    if (ffnChannels >= 1) return { ...shape, ffnChannels };
  }
  return null;
}

/** Largest fraction of the resource that can be removed if this many layers are kept (all when absent), with one unit
 * of each type. */
export function largestSparsity(
  config: DecoderConfig,
  { units, ffnMultiple, resource }: Pick<WidthRules, "units" | "ffnMultiple" | "resource">,
  layers: number = config.layers.length,
): number {
  const dense = at(config.layers, 0);
  const attention = attentionChoices(dense, units).at(-1)!;
  const ffnChannels = units.includes("ffn") ? Math.min(ffnMultiple, dense.ffnChannels) : dense.ffnChannels;
  const part = resource.ofLayer(config, { ...attention, ffnChannels }) / resource.ofLayer(config, dense);
  return 1 - part * layers / config.layers.length;
}

/** The budget of `target`, made for the dense model, for `narrower`, which was pruned before.
 * @throws {UsageError} as {@linkcode resolveTarget}. */
export function targetFrom(narrower: DecoderConfig, target: BudgetTarget): BudgetTarget {
  const { units, ffnMultiple, budget, resource } = target;
  const sparsity = Math.max(0, 1 - budget / costOf(resource, narrower));
  const rest = { sparsity, ffnMultiple, resource, dropLayers: 0 };
  return { ...resolveTarget(narrower, { ...rest, units: units.length > 0 ? units : ["layers"] }), budget };
}

/** The model and the budget that a method decides on when the `removed` layers of `target` are gone, whichever they are.
 * None goes before a method that chooses their number itself. */
export function afterDepth(
  { ownDepth = false }: { ownDepth?: boolean },
  config: DecoderConfig,
  target: BudgetTarget,
): { config: DecoderConfig; target: BudgetTarget; removed: number } {
  const removed = ownDepth && target.freeDepth ? 0 : target.dropLayers;
  if (removed === 0) return { config, target, removed };
  const left = plannedConfig(config, planWithoutLayers(config, Array(removed).keys()));
  return { config: left, target: targetFrom(left, target), removed };
}

/** Whether layers may go that are ranked on calibration data. */
export const ranksLayers = ({ units, dropLayers }: Pick<TargetOptions, "units" | "dropLayers">): boolean =>
  dropLayers === undefined ? units.includes("layers") : dropLayers > 0;

/** How {@linkcode resolveTarget} makes a budget. */
export interface TargetOptions {
  /** Fraction of the resource to remove, in [0, 1). */
  sparsity: number;
  units: readonly RunUnit[];
  /** FFN widths are multiples of this; 1 when absent. */
  ffnMultiple?: number;
  /** What is counted; parameters when absent. */
  resource?: Resource;
  /** Whole layers to remove first. When absent, none, or with `layers` among the units, as few as the other units need
   * to meet the budget. */
  dropLayers?: number;
}

/** The budget of a cell and the uniform widths that meet it.
 *
 * At sparsity 0 nothing is removed. With `ffn` among the units, attention units are removed at the requested ratio,
 * rounded down (more only if FFN channels do not suffice), and FFN channels fill the budget; without it, the largest
 * attention that fits is taken. One unit of each type is always kept. If layers are removed, the ratio is the part that
 * the others must lose.
 * @throws {UsageError} when the sparsity cannot be reached with these units, the layers to remove leave nothing to
 * prune, or the model's layers already differ in width. */
export function resolveTarget(
  config: DecoderConfig,
  { sparsity, units: all, ffnMultiple = 1, resource = PARAMETERS, dropLayers }: TargetOptions,
): BudgetTarget {
  if (!(sparsity >= 0 && sparsity < 1)) {
    throw new UsageError(`Sparsity must be at least 0 and below 1: current ${sparsity}`);
  }
  if (all.length === 0) throw new UsageError(`At least one unit type is needed: ${RUN_UNITS.join(", ")}`);
  if (!Number.isInteger(ffnMultiple) || ffnMultiple < 1) {
    throw new UsageError(`The FFN multiple must be a whole number from 1: current ${ffnMultiple}`);
  }
  const units = all.filter((unit) => unit !== "layers");
  const whole = costOf(resource, config);
  const kept = (1 - sparsity) * whole;
  // Sums of times are rounded: nine layers less take what a budget of 30 % of thirty allows.
  const budget = Number.isInteger(whole) ? floor(kept) : kept * (1 + 1e-9);
  const freeDepth = dropLayers === undefined && units.length < all.length;
  const target = { sparsity, units, resource, whole, budget, ffnMultiple, freeDepth };
  if (sparsity === 0) return { ...target, dropLayers: 0, uniform: config.layers.map((shape) => ({ ...shape })) };
  if (!isLayerwiseUniform(config)) {
    const widths = new Set(config.layers.map((s) => `${s.kvGroups}x${s.queryHeadsPerGroup}+${s.ffnChannels}`));
    throw new UsageError(
      `The layers of this model already differ in width (groups x heads + channels: ${[...widths].join(", ")}), ` +
        "so no uniform widths meet a sparsity: prune the original dense model instead",
    );
  }
  const most = mostLayers(config, target);
  if (dropLayers !== undefined && dropLayers > most) {
    throw new UsageError(
      `Removing ${dropLayers} of ${config.layers.length} layers removes more than sparsity ${sparsity}: ` +
        `use --drop-layers ${most} or less`,
    );
  }
  const depths = freeDepth ? config.layers.keys() : [dropLayers ?? 0];
  for (const gone of depths) {
    const left = config.layers.length - gone;
    const ofLayer = budget / left;
    // Rounding must not change the ratio where every layer stays.
    const ratio = gone === 0 ? sparsity : Math.max(0, 1 - ofLayer * config.layers.length / whole);
    const shape = uniformShape(config, ofLayer, { units, ffnMultiple, resource, sparsity: ratio });
    if (shape) return { ...target, dropLayers: gone, uniform: Array.from({ length: left }, () => ({ ...shape })) };
  }
  const staying = freeDepth ? 1 : config.layers.length - (dropLayers ?? 0);
  const largest = floor(1000 * largestSparsity(config, target, staying));
  const level = `Sparsity ${sparsity}${resource === PARAMETERS ? "" : ` of the ${resource.words}`}`;
  throw new UsageError(
    `${level} cannot be reached with units ${all.join(", ")} on this model: the largest is ${largest / 1000}` +
      (units.includes("ffn") && ffnMultiple > 1 ? ` at FFN multiple ${ffnMultiple}` : "") +
      (dropLayers ? ` without ${counted(dropLayers, "layer")}` : ""),
  );
}

/** Most layers that the budget takes: without one fewer, it is not met yet. One layer stays. */
export function mostLayers(
  { layers }: DecoderConfig,
  { whole, budget }: Pick<BudgetTarget, "whole" | "budget">,
): number {
  return Math.min(layers.length - 1, Math.ceil(floor(1e6 * layers.length * (1 - budget / whole)) / 1e6));
}
