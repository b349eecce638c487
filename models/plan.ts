/** A prune plan: the units to keep, as plain numbers that can be stored and compared.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import type { DecoderConfig } from "./config.ts";
import { type LayerPlan, layerPlan, type LayerShape, unitCount, UNITS } from "./units.ts";
import { UNIT_TYPES } from "../core/schema/schema.ts";

/** Units kept in the whole model. */
export interface PrunePlan {
  /** One per layer of the dense model; a layer that keeps no unit of any type is removed, its norms included. */
  layers: LayerPlan[];
  /** Kept hidden dimensions, the same in the whole model: indices in [0, D), ascending and unique; all when absent. */
  hidden?: number[];
}

/** Whether the whole layer is removed. */
export function isRemoved(layer: LayerPlan): boolean {
  return UNIT_TYPES.every((type) => layer[UNITS[type].plan].length === 0);
}

/** Layers of the dense model that stay, ascending. */
export function keptLayers({ layers }: PrunePlan): number[] {
  return layers.flatMap((layer, l) => isRemoved(layer) ? [] : [l]);
}

/** For each kept layer, the dense layer whose output it replaces: the layer before the next kept one, or the last
 * layer. */
export function counterparts(plan: PrunePlan): number[] {
  const kept = keptLayers(plan);
  return kept.map((_, i) => (kept[i + 1] ?? plan.layers.length) - 1);
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** The plan that keeps everything. */
export function densePlan(config: DecoderConfig): PrunePlan {
  return { layers: config.layers.map((shape) => layerPlan((type) => range(unitCount(shape, type)))) };
}

/** The plan that removes the layers `removed` and keeps all others whole. */
export function planWithoutLayers(config: DecoderConfig, removed: Iterable<number>): PrunePlan {
  const plan = densePlan(config);
  for (const l of removed) plan.layers[l] = layerPlan(() => []);
  return plan;
}

function checkIndices(what: string, indices: readonly number[], limit: number): void {
  if (indices.length === 0) throw new RangeError(`A plan must keep at least one of the ${what}: current 0`);
  let before = -1;
  for (const index of indices) {
    if (!Number.isInteger(index) || index < 0 || index >= limit) {
      throw new RangeError(`Kept ${what} must be integers in [0, ${limit}): current ${index}`);
    }
    if (index <= before) throw new RangeError(`Kept ${what} must ascend without repeats: current ${before}, ${index}`);
    before = index;
  }
}

/** The configuration of the model that `plan` leaves of `config`; layers are numbered anew.
 * @throws {RangeError} when the plan does not fit the model. */
export function plannedConfig(config: DecoderConfig, plan: PrunePlan): DecoderConfig {
  const layers = plannedShapes(config, plan);
  const { attention } = config;
  if (plan.hidden) checkIndices("hidden dimensions", plan.hidden, config.width);
  return {
    ...config,
    width: plan.hidden?.length ?? config.width,
    layers,
    ...attention && { attention: keptLayers(plan).map((l) => at(attention, l)) },
  };
}

/** Widths of the layers that `plan` leaves of `config`.
 * @throws {RangeError} when the plan does not fit the model. */
export function plannedShapes(config: DecoderConfig, plan: PrunePlan): LayerShape[] {
  if (plan.layers.length !== config.layers.length) {
    throw new RangeError(`The plan must have ${config.layers.length} layers: current ${plan.layers.length}`);
  }
  const kept = keptLayers(plan);
  if (kept.length === 0) throw new RangeError("A plan must keep at least one layer: current 0");
  return kept.map((l) => {
    const layer = at(plan.layers, l);
    const dense = at(config.layers, l);
    for (const type of UNIT_TYPES) {
      checkIndices(`${UNITS[type].noun} of layer ${l}`, layer[UNITS[type].plan], unitCount(dense, type));
    }
    return { ...dense, ...plannedHeads(layer, dense, l), ffnChannels: layer.ffnChannels.length };
  });
}

/** Kept groups, and the kept query heads that each of them has.
 * @throws {RangeError} when a kept head has no group, or groups keep different numbers. */
function plannedHeads(
  layer: LayerPlan,
  dense: LayerShape,
  l: number,
): Pick<LayerShape, "kvGroups" | "queryHeadsPerGroup"> {
  const headsOf = new Map(layer.kvGroups.map((group) => [group, 0]));
  for (const head of layer.queryHeads) {
    const group = Math.floor(head / dense.queryHeadsPerGroup);
    const count = headsOf.get(group);
    if (count === undefined) {
      throw new RangeError(`Query head ${head} of layer ${l} is kept but its key/value group ${group} is not`);
    }
    headsOf.set(group, count + 1);
  }
  const perGroup = layer.queryHeads.length / layer.kvGroups.length;
  if ([...headsOf.values()].some((count) => count !== perGroup)) {
    throw new RangeError(`Every kept key/value group of layer ${l} must keep the same number of query heads`);
  }
  return { kvGroups: layer.kvGroups.length, queryHeadsPerGroup: perGroup };
}
