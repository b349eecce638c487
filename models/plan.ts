/** A prune plan: which units stay. Plain numbers, so that it can be stored, compared and applied anywhere.
 *
 * @module
 */
import type { LayerShape, LlamaConfig } from "./config.ts";
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
  /** One per layer of the dense model. */
  layers: LayerPlan[];
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** The plan that keeps everything. */
export function densePlan(config: LlamaConfig): PrunePlan {
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
  return {
    layers: outer.layers.map((kept, l) => ({
      kvGroups: inner.layers[l].kvGroups.map((i) => kept.kvGroups[i]),
      queryHeads: inner.layers[l].queryHeads.map((i) => kept.queryHeads[i]),
      ffnChannels: inner.layers[l].ffnChannels.map((i) => kept.ffnChannels[i]),
    })),
  };
}

/** The plan for the model that `outer` leaves that keeps what `plan`, for the dense model, keeps: the inverse of
 * {@linkcode composePlans}. Everything that `plan` keeps must be in `outer`. */
export function relativePlan(outer: PrunePlan, plan: PrunePlan): PrunePlan {
  const places = (kept: number[], wanted: number[]) => {
    const place = new Map(kept.map((unit, i) => [unit, i]));
    return wanted.map((unit) => {
      const found = place.get(unit);
      if (found === undefined) throw new RangeError(`Unit ${unit} was cut before: a plan cannot keep it`);
      return found;
    });
  };
  return {
    layers: outer.layers.map((kept, l) => ({
      kvGroups: places(kept.kvGroups, plan.layers[l].kvGroups),
      queryHeads: places(kept.queryHeads, plan.layers[l].queryHeads),
      ffnChannels: places(kept.ffnChannels, plan.layers[l].ffnChannels),
    })),
  };
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

/** Widths of the model that `plan` leaves of `config`.
 * @throws {RangeError} when the plan does not fit the model. */
export function plannedShapes(config: LlamaConfig, plan: PrunePlan): LayerShape[] {
  if (plan.layers.length !== config.layers.length) {
    throw new RangeError(`A plan for ${config.layers.length} layers is needed: current ${plan.layers.length}`);
  }
  return plan.layers.map((layer, l) => {
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
