/** The target shape of Sheared LLaMA, and the dimensions with masks: the shape that options set, or the budget's
 * uniform widths.
 *
 * Paper: Xia et al. 2024, arXiv:2310.06694, section 3.1 and appendix A.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { RemovedType } from "../../core/schema/schema.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { type LayerShape, queryHeads, unitCount } from "../../models/units.ts";
import { attentionAtRatio, type BudgetTarget, targetFrom } from "../../models/target.ts";
import { costOf } from "../../models/resource.ts";
import type { HostMasks, ModelMasks } from "../../models/training/student.ts";
import { removedUnits, unitAxes, type UnitAxis } from "../_shared/learned_units.ts";

const NAMES = ["targetHidden", "targetLayers", "targetHeads", "targetFfn"] as const;

/** A target shape: D and L of the model, H and F of every layer, at most the dense model's. Absent heads and channels
 * are left to the budget, an absent hidden size or depth stays whole. */
export type TargetOptions = { [name in (typeof NAMES)[number]]?: number };

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
    throw new UsageError(`targetFfn=${targetFfn} needs the unit type ffn: add it to --units, or leave out targetFfn`);
  }
  if (targetHeads !== undefined && !units.includes("kv-groups") && !units.includes("query-heads")) {
    throw new UsageError(`targetHeads=${targetHeads} needs the unit type kv-groups or query-heads: add one to --units`);
  }
  if (targetFfn !== undefined && targetFfn !== dense.ffnChannels && targetFfn % ffnMultiple !== 0) {
    throw new UsageError(`targetFfn must be a multiple of ${ffnMultiple} (--ffn-multiple): current ${targetFfn}`);
  }
}

/** Attention with the requested number of query heads: groups are removed first, then query heads inside them. */
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
  const { sparsity, budget, whole, resource } = target;
  const size = costOf(resource, given);
  if (size <= budget) return given;
  const free = target.units.filter((type) => (type === "ffn" ? targetFfn : targetHeads) === undefined);
  try {
    if (free.length === 0) throw new UsageError("every width is given");
    return { ...given, layers: targetFrom(given, { ...target, units: free }).uniform };
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    // Rounded down, so that the sparsity named is one that is accepted.
    const reached = Math.floor(1000 * (1 - size / whole)) / 1000;
    throw new UsageError(
      `${words} keeps ${size} of ${whole} ${resource.words}, sparsity ${sparsity} allows ` +
        `${budget}${free.length > 0 ? ` and ${free.join(" and ")} cannot compensate` : ""}: ` +
        `give a smaller shape, or --sparsity ${Math.max(0, reached)} or less`,
      { cause },
    );
  }
}

/** What has masks: a unit type with a row of masks in every layer, or layers or hidden dimensions with one row of masks
 * in the whole model. */
export interface MaskedPart extends Omit<UnitAxis, "type"> {
  type: RemovedType;
  /** How many of `units` go: of every layer, or of the model. */
  removed: number;
  /** Entries of each row. */
  rows: number[];
}

/** What has masks on the way to the target shape: the unit types of the run, then layers and hidden dimensions where
 * the options name a target. */
export function maskedParts(config: DecoderConfig, target: BudgetTarget, options: TargetOptions): MaskedPart[] {
  const goal = targetConfig(config, target, options);
  const [dense, kept] = [at(config.layers, 0), at(goal.layers, 0)];
  const { length } = config.layers;
  return [
    ...unitAxes(config, target.units).map((axis) => ({
      ...axis,
      removed: removedUnits(dense, kept, axis.type),
      rows: config.layers.map((shape) => unitCount(shape, axis.type)),
    })),
    ...options.targetLayers === undefined
      ? []
      : [{ type: "layer" as const, units: length, segments: 1, removed: length - goal.layers.length, rows: [length] }],
    ...options.targetHidden === undefined ? [] : [{
      type: "hidden" as const,
      units: config.width,
      segments: 1,
      removed: config.width - goal.width,
      rows: [config.width],
    }],
  ];
}

/** Rows of values as masks of a model of so many layers. */
export function toModelMasks(
  parts: readonly { type: RemovedType; rows: readonly Float32Array[] }[],
  layers: number,
): ModelMasks {
  const masks = Array.from({ length: layers }, (): HostMasks => ({}));
  let hidden: Float32Array | undefined;
  for (const { type, rows } of parts) {
    if (type === "hidden") hidden = rows[0];
    else {
      masks.forEach((layer, l) => {
        layer[type] = type === "layer" ? at(rows, 0).slice(l, l + 1) : at(rows, l);
      });
    }
  }
  return { masks, ...hidden && { hidden } };
}

/** The rows of one part, as {@linkcode toModelMasks} has them. */
export function rowsOf(type: RemovedType, { masks = [], hidden }: ModelMasks): Float32Array[] {
  if (type === "hidden") return [hidden!];
  if (type === "layer") return [Float32Array.from(masks, ({ layer }) => at(layer ?? [], 0))];
  return masks.map((layer) => layer[type]!);
}

/** Prunable parameters expected to stay, from the probabilities that masks are open:
 * `sum_l p_l (2 K (sum_h p_h + sum_g p_g) + 3 sum_c p_c) sum_j p_j`, where a query head needs its group as well. */
export function expectedParameters(config: DecoderConfig, { masks = [], hidden }: ModelMasks): number {
  const sum = (values: ArrayLike<number>) => Array.from(values).reduce((total, value) => total + value, 0);
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
