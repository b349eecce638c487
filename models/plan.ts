/** A prune plan: which units stay. Plain numbers, so that it can be stored, compared and applied anywhere.
 *
 * @module
 */
import type { DecoderConfig, LayerShape } from "./config.ts";
import { queryHeads } from "./config.ts";

/** What a method may remove. `kv-groups`: a key/value head with its query heads (the heads of multi-head attention);
 * `query-heads`: query heads inside each group, the same number in every group; `ffn`: FFN channels. */
export const UNIT_TYPES = ["ffn", "query-heads", "kv-groups"] as const;
/** One of {@linkcode UNIT_TYPES}. */
export type UnitType = (typeof UNIT_TYPES)[number];

/** Units kept in one layer: indices into the dense layer, ascending and unique. */
export interface LayerPlan {
  /** Kept key/value groups, in [0, G). */
  kvGroups: number[];
  /** Kept query heads, in [0, H); every kept group keeps the same number of its own heads, other groups none. */
  queryHeads: number[];
  /** Kept FFN channels, in [0, F). */
  ffnChannels: number[];
}

/** Units kept in the whole model. */
export interface PrunePlan {
  /** One per layer of the dense model; a layer that keeps no unit of any type is removed, its norms included. */
  layers: LayerPlan[];
  /** Kept hidden dimensions, the same in the whole model: indices in [0, D), ascending and unique; all when absent. */
  hidden?: number[];
}

/** Whether the whole layer goes. */
export function isRemoved({ kvGroups, queryHeads, ffnChannels }: LayerPlan): boolean {
  return kvGroups.length + queryHeads.length + ffnChannels.length === 0;
}

/** Layers of the dense model that stay, ascending. */
export function keptLayers({ layers }: PrunePlan): number[] {
  return [...layers.keys()].filter((l) => !isRemoved(layers[l]));
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** The plan that keeps everything. */
export function densePlan(config: DecoderConfig): PrunePlan {
  return {
    layers: config.layers.map((shape) => ({
      kvGroups: range(shape.kvGroups),
      queryHeads: range(queryHeads(shape)),
      ffnChannels: range(shape.ffnChannels),
    })),
  };
}

/** The plan for the dense model that keeps what `inner` keeps of the model that `outer` leaves. */
export function composePlans(outer: PrunePlan, inner: PrunePlan): PrunePlan {
  const place = new Map(keptLayers(outer).map((l, i) => [l, i]));
  const hidden = outer.hidden && inner.hidden
    ? inner.hidden.map((i) => outer.hidden![i])
    : inner.hidden ?? outer.hidden;
  return {
    layers: outer.layers.map((kept, l) => {
      const i = place.get(l);
      const wanted = i === undefined ? kept : inner.layers[i];
      return {
        kvGroups: wanted.kvGroups.map((i) => kept.kvGroups[i]),
        queryHeads: wanted.queryHeads.map((i) => kept.queryHeads[i]),
        ffnChannels: wanted.ffnChannels.map((i) => kept.ffnChannels[i]),
      };
    }),
    ...hidden && { hidden },
  };
}

/** The plan for the model that `outer` leaves that keeps what `plan`, for the dense model, keeps: the inverse of
 * {@linkcode composePlans}. Everything that `plan` keeps must be in `outer`. */
export function relativePlan(outer: PrunePlan, plan: PrunePlan): PrunePlan {
  const places = (kept: readonly number[], wanted: readonly number[]) => {
    const place = new Map(kept.map((unit, i) => [unit, i]));
    return wanted.map((unit) => {
      const found = place.get(unit);
      if (found === undefined) throw new RangeError(`Unit ${unit} was cut before: a plan cannot keep it`);
      return found;
    });
  };
  const layers = outer.layers.map((kept, l) => ({
    kvGroups: places(kept.kvGroups, plan.layers[l].kvGroups),
    queryHeads: places(kept.queryHeads, plan.layers[l].queryHeads),
    ffnChannels: places(kept.ffnChannels, plan.layers[l].ffnChannels),
  }));
  if (outer.hidden && !plan.hidden) throw new RangeError("Hidden dimensions were cut before: a plan cannot keep all");
  const hidden = plan.hidden && outer.hidden ? places(outer.hidden, plan.hidden) : plan.hidden;
  return { layers: keptLayers(outer).map((l) => layers[l]), ...hidden && { hidden } };
}

function checkIndices(what: string, indices: number[], limit: number): void {
  if (indices.length === 0) throw new RangeError(`A plan must keep at least one of the ${what}: current 0`);
  for (let i = 0; i < indices.length; i++) {
    const index = indices[i];
    if (!Number.isInteger(index) || index < 0 || index >= limit) {
      throw new RangeError(`Kept ${what} must be integers in [0, ${limit}): current ${index}`);
    }
    if (i > 0 && index <= indices[i - 1]) {
      throw new RangeError(`Kept ${what} must ascend without repeats: current ${indices[i - 1]}, ${index}`);
    }
  }
}

/** The configuration of the model that `plan` leaves of `config`; layers are numbered anew.
 * @throws {RangeError} when the plan does not fit the model. */
export function plannedConfig(config: DecoderConfig, plan: PrunePlan): DecoderConfig {
  const layers = plannedShapes(config, plan);
  if (plan.hidden) checkIndices("hidden dimensions", plan.hidden, config.width);
  return { ...config, width: plan.hidden?.length ?? config.width, layers };
}

/** Widths of the layers that `plan` leaves of `config`.
 * @throws {RangeError} when the plan does not fit the model. */
export function plannedShapes(config: DecoderConfig, plan: PrunePlan): LayerShape[] {
  if (plan.layers.length !== config.layers.length) {
    throw new RangeError(`A plan for ${config.layers.length} layers is needed: current ${plan.layers.length}`);
  }
  const kept = keptLayers(plan);
  if (kept.length === 0) throw new RangeError("A plan must keep at least one layer: current 0");
  return kept.map((l) => {
    const layer = plan.layers[l];
    const dense = config.layers[l];
    checkIndices(`key/value groups of layer ${l}`, layer.kvGroups, dense.kvGroups);
    checkIndices(`query heads of layer ${l}`, layer.queryHeads, queryHeads(dense));
    checkIndices(`FFN channels of layer ${l}`, layer.ffnChannels, dense.ffnChannels);
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
    return { kvGroups: layer.kvGroups.length, queryHeadsPerGroup: perGroup, ffnChannels: layer.ffnChannels.length };
  });
}
