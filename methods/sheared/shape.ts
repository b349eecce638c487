/** The shape that Sheared LLaMA prunes to, and what it has masks for: its paper's own target, where the options name one,
 * or the budget's uniform widths.
 *
 * Paper: Xia et al. 2024, arXiv:2310.06694, section 3.1 and appendix A.
 *
 * Shape legend: L layers, D width, H query heads, G key/value groups, K head size, F FFN channels.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { RemovedType, UnitType } from "../../core/schema/schema.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { type LayerShape, queryHeads } from "../../models/units.ts";
import { attentionAtRatio, type BudgetTarget, targetFrom } from "../../models/target.ts";
import { keptParameters } from "../../models/count.ts";
import type { ModelMasks } from "../../models/training/student.ts";
import { maskLength, removedUnits, unitAxes, type UnitAxis } from "../_shared/learned_units.ts";

/** A target shape; what is absent is left to the budget (heads and channels) or stays whole (hidden size and layers). */
export interface TargetOptions {
  /** Hidden dimensions, at most D. */
  targetHidden?: number;
  /** Layers, at most L. */
  targetLayers?: number;
  /** Query heads of every layer, at most H. */
  targetHeads?: number;
  /** FFN channels of every layer, at most F. */
  targetFfn?: number;
}

const NAMES = ["targetHidden", "targetLayers", "targetHeads", "targetFfn"] as const;

/** The target shape in the words of its options; empty where none is given. */
export function targetWords(options: TargetOptions): string {
  return NAMES.flatMap((name) => options[name] === undefined ? [] : [`${name}=${options[name]}`]).join(",");
}

/** Refuses a target above the dense model's size, and one whose units the run may not remove. */
function checkTarget(config: DecoderConfig, { units, ffnMultiple }: BudgetTarget, options: TargetOptions): void {
  const dense = at(config.layers, 0);
  const most = {
    targetHidden: config.width,
    targetLayers: config.layers.length,
    targetHeads: queryHeads(dense),
    targetFfn: dense.ffnChannels,
  };
  for (const name of NAMES) {
    const value = options[name] ?? 0;
    if (value > most[name]) throw new UsageError(`${name} must be at most the model's ${most[name]}: current ${value}`);
  }
  const { targetHeads, targetFfn } = options;
  if (targetFfn !== undefined && !units.includes("ffn")) {
    throw new UsageError(`targetFfn=${targetFfn} needs the unit type ffn: give --units with it or leave it out`);
  }
  if (targetHeads !== undefined && !units.includes("kv-groups") && !units.includes("query-heads")) {
    throw new UsageError(
      `targetHeads=${targetHeads} needs the unit type kv-groups or query-heads: give --units with it`,
    );
  }
  if (targetFfn !== undefined && targetFfn !== dense.ffnChannels && targetFfn % ffnMultiple !== 0) {
    throw new UsageError(`targetFfn must be a multiple of ${ffnMultiple} (--ffn-multiple): current ${targetFfn}`);
  }
}

/** Attention with as many query heads as asked for: groups go first, then query heads inside them. */
function attentionOf(dense: LayerShape, { units }: BudgetTarget, { targetHeads }: TargetOptions): LayerShape {
  if (targetHeads === undefined) return dense;
  const shape = attentionAtRatio(dense, units, 1 - targetHeads / queryHeads(dense));
  if (queryHeads(shape) === targetHeads) return shape;
  throw new UsageError(
    `targetHeads=${targetHeads} cannot be met in ${dense.kvGroups} groups of ${dense.queryHeadsPerGroup} query heads by ` +
      `removing ${units.filter((type) => type !== "ffn").join(" and ")}: give ${queryHeads(shape)}`,
  );
}

/** The configuration to prune to. Heads and channels that `options` do not name fill the budget; the budget is never
 * exceeded, and not filled where the options name a smaller shape.
 * @throws {UsageError} when the shape does not fit the model, or is over the budget. */
export function targetConfig(config: DecoderConfig, target: BudgetTarget, options: TargetOptions): DecoderConfig {
  const words = targetWords(options);
  if (words === "") return { ...config, layers: target.uniform };
  checkTarget(config, target, options);
  const { targetHidden = config.width, targetLayers = config.layers.length, targetHeads, targetFfn } = options;
  const dense = at(config.layers, 0);
  const shape = { ...attentionOf(dense, target, options), ffnChannels: targetFfn ?? dense.ffnChannels };
  const given = { ...config, width: targetHidden, layers: Array.from({ length: targetLayers }, () => ({ ...shape })) };
  const { sparsity, budgetParameters, prunableParameters } = target;
  const size = keptParameters(given);
  if (size <= budgetParameters) return given;
  const free = target.units.filter((type) => (type === "ffn" ? targetFfn : targetHeads) === undefined);
  try {
    if (free.length === 0) throw new UsageError("every width is given");
    return { ...given, layers: targetFrom(given, { ...target, units: free }).uniform };
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    // Rounded down, so that the sparsity named is one that is accepted.
    const reached = Math.floor(1000 * (1 - size / prunableParameters)) / 1000;
    throw new UsageError(
      `${words} keeps ${size} of ${prunableParameters} prunable parameters, sparsity ${sparsity} allows ` +
        `${budgetParameters}${free.length > 0 ? ` and ${free.join(" and ")} cannot make up for it` : ""}: ` +
        `give a smaller shape, or --sparsity ${Math.max(0, reached)} or less`,
      { cause },
    );
  }
}

/** What has masks: a unit type with a row of masks in every layer, or layers or hidden dimensions with one row of masks in
 * the whole model. */
export interface MaskAxis extends Omit<UnitAxis, "type"> {
  /** What is removed. */
  type: RemovedType;
}

/** What has masks: the unit types of the run, then layers and hidden dimensions where a target names them. */
export function maskAxes(config: DecoderConfig, units: readonly UnitType[], options: TargetOptions): MaskAxis[] {
  const { targetLayers, targetHidden } = options;
  return [
    ...unitAxes(config, units),
    ...targetLayers === undefined ? [] : [{ type: "layer" as const, units: config.layers.length, segments: 1 }],
    ...targetHidden === undefined ? [] : [{ type: "hidden" as const, units: config.width, segments: 1 }],
  ];
}

/** The axes of unit types; they come first. */
export function unitAxesOf(axes: readonly MaskAxis[]): UnitAxis[] {
  return axes.filter((axis): axis is UnitAxis => axis.type !== "layer" && axis.type !== "hidden");
}

/** Entries of each row of masks on an axis. */
export function rowLengths(axis: MaskAxis, config: DecoderConfig): number[] {
  const [unit] = unitAxesOf([axis]);
  return unit ? config.layers.map((shape) => maskLength(unit, shape)) : [axis.units];
}

/** How many units, as `units` of an axis counts them, go on each axis on the way to `goal`: of every layer, or of the
 * model. */
export function removedOn(config: DecoderConfig, goal: DecoderConfig, axes: readonly MaskAxis[]): number[] {
  return axes.map((axis) => {
    if (axis.type === "layer") return config.layers.length - goal.layers.length;
    if (axis.type === "hidden") return config.width - goal.width;
    return at(removedUnits(at(config.layers, 0), at(goal.layers, 0), unitAxesOf([axis])), 0);
  });
}

/** Rows of values, [axis][row], as masks of the model. */
export function toModelMasks(axes: readonly MaskAxis[], rows: readonly Float32Array[][], layers: number): ModelMasks {
  const hidden = axes.findIndex(({ type }) => type === "hidden");
  const masks = Array.from({ length: layers }, (_, l) =>
    Object.fromEntries(axes.flatMap(({ type }, a) => {
      if (type === "hidden") return [];
      const own = at(rows, a);
      return [[type, type === "layer" ? at(own, 0).slice(l, l + 1) : at(own, l)]];
    })));
  return { masks, ...hidden >= 0 && { hidden: at(at(rows, hidden), 0) } };
}

/** The inverse of {@linkcode toModelMasks}. */
export function fromModelMasks(axes: readonly MaskAxis[], { masks = [], hidden }: ModelMasks): Float32Array[][] {
  return axes.map(({ type }) => {
    if (type === "hidden") return [hidden!];
    if (type === "layer") return [Float32Array.from(masks, ({ layer }) => at(layer ?? [], 0))];
    return masks.map((layer) => layer[type]!);
  });
}

/** Prunable parameters expected to stay, from the probabilities [axis][row] that masks are open:
 * `sum_l p_l (2 K (sum_h p_h + sum_g p_g) + 3 sum_c p_c) sum_j p_j`, where a query head needs its group as well. */
export function expectedParameters(
  config: DecoderConfig,
  axes: readonly MaskAxis[],
  open: readonly Float32Array[][],
): number {
  const sum = (values: ArrayLike<number>) => Array.from(values).reduce((total, value) => total + value, 0);
  const { masks = [], hidden } = toModelMasks(axes, open, config.layers.length);
  const inLayers = config.layers.map((shape, l) => {
    const { layer, ffn, "query-heads": heads, "kv-groups": groups } = at(masks, l);
    const perHead = Array.from(
      { length: queryHeads(shape) },
      (_, h) => (heads?.[h] ?? 1) * (groups?.[Math.floor(h / shape.queryHeadsPerGroup)] ?? 1),
    );
    const attention = 2 * config.headSize * (sum(perHead) + (groups ? sum(groups) : shape.kvGroups));
    return (layer?.[0] ?? 1) * (attention + 3 * (ffn ? sum(ffn) : shape.ffnChannels));
  });
  return sum(inLayers) * (hidden ? sum(hidden) : config.width);
}
