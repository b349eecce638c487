/** Typed access to `config.json`: members by name, and RoPE settings.
 *
 * @module
 */
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import type { DecoderConfig, Rope, RopeScaling } from "../config.ts";
import { yarnMagnitude } from "../rope.ts";
import { checkedMembers, type Members } from "./members.ts";

/** Members of a JSON object; the messages name file and key. Null counts as missing. */
export interface HfMembers extends Members {
  path: string;
  value(key: string): unknown;
  /** Whether the key is there, also with null. */
  has(key: string): boolean;
  /** The members of a nested object; none if it is missing. */
  object(key: string): HfMembers;
  /** The first `length` entries of a list; undefined if it is missing. */
  list<T>(key: string, length: number, isEntry: (entry: unknown) => entry is T, must: string): T[] | undefined;
  /** Refuses other values than `allowed`. */
  only(key: string, allowed: readonly unknown[]): void;
}

/** Access to `json`, which is at `prefix` in the file at `path`. */
export function hfMembers(json: Record<string, unknown>, path: string, prefix = ""): HfMembers {
  const value = (key: string) => Object.hasOwn(json, key) && json[key] !== null ? json[key] : undefined;
  const fail = (key: string, must: string): never => {
    const current = value(key) === undefined ? "is missing" : `is ${JSON.stringify(value(key))}`;
    throw new FileFormatError(path, `"${prefix}${key}" ${current}: must be ${must}`);
  };
  return {
    path,
    value,
    has: (key) => Object.hasOwn(json, key),
    ...checkedMembers(value, fail),
    object: (key) => {
      const nested = value(key) ?? {};
      if (typeof nested !== "object" || nested === null || Array.isArray(nested)) {
        throw new FileFormatError(path, `"${prefix}${key}" must be an object or null`);
      }
      return hfMembers(Object.fromEntries(Object.entries(nested)), path, `${prefix}${key}.`);
    },
    list: (key, length, isEntry, must) => {
      const found = value(key);
      if (found === undefined) return undefined;
      const entries: unknown[] = Array.isArray(found) ? found.slice(0, length) : [];
      return entries.length === length && entries.every(isEntry) ? entries : fail(key, `${length} times ${must}`);
    },
    only: (key, allowed) => {
      const found = value(key);
      if (found === undefined || allowed.includes(found)) return;
      const names = allowed.map((each) => JSON.stringify(each)).join(" or ") || "null";
      throw new UsageError(`${path}: ${key} ${JSON.stringify(found)} is not supported: must be ${names}`);
    },
  };
}

/** RoPE settings from `rope`: `rope_scaling`, or `rope_parameters` (transformers 5), which may have `rope_theta` too.
 * @param fallback base if none is given
 * @throws {UsageError} for a type that is not supported. */
export function readRope(
  rope: HfMembers,
  { base: fallback, maxPositions }: { base: number; maxPositions: number },
): Rope {
  const base = rope.number("rope_theta", fallback);
  rope.only("partial_rotary_factor", [1]);
  const type: unknown = rope.value("rope_type") ?? rope.value("type") ?? "default";
  if (type === "default") return { base };
  const originalMaxPositions = () => rope.integer("original_max_position_embeddings");
  switch (type) {
    case "linear":
      return { base, scaling: { type, factor: rope.number("factor") } };
    case "dynamic":
      return { base, scaling: { type, factor: rope.number("factor"), originalMaxPositions: maxPositions } };
    case "yarn": {
      const factor = rope.number("factor");
      const scaling = {
        type,
        factor,
        originalMaxPositions: originalMaxPositions(),
        betaFast: rope.number("beta_fast", 32),
        betaSlow: rope.number("beta_slow", 1),
        truncate: rope.flag("truncate", true),
        magnitude: rope.number("attention_factor", yarnMagnitude(factor)),
      } as const;
      return { base, scaling };
    }
    case "llama3": {
      const scaling = {
        type,
        factor: rope.number("factor"),
        lowFrequencyFactor: rope.number("low_freq_factor"),
        highFrequencyFactor: rope.number("high_freq_factor"),
        originalMaxPositions: originalMaxPositions(),
      } as const;
      if (scaling.highFrequencyFactor <= scaling.lowFrequencyFactor) {
        throw new FileFormatError(rope.path, `"high_freq_factor" of RoPE must be greater than "low_freq_factor"`);
      }
      return { base, scaling };
    }
  }
  const given = `${rope.path}: RoPE type ${JSON.stringify(type)}`;
  throw new UsageError(`${given} is not supported: must be default, linear, dynamic, llama3 or yarn`);
}

/** In `layer_types`: a layer with a window. */
export const LOCAL = "sliding_attention";
/** In `layer_types`: a layer without one. */
export const GLOBAL = "full_attention";

/** Whether each of `count` layers has a window, by `layer_types`; undefined if it is missing. */
export function readWindowed(members: HfMembers, count: number): boolean[] | undefined {
  const isType = (type: unknown): type is string => type === LOCAL || type === GLOBAL;
  return members.list("layer_types", count, isType, `"${GLOBAL}" or "${LOCAL}"`)?.map((type) => type === LOCAL);
}

/** `layer_types` of layers. */
export const layerTypes = ({ attention }: DecoderConfig): string[] | undefined =>
  attention?.map(({ window }) => window === null ? GLOBAL : LOCAL);

const ROPE_KEYS: Readonly<Record<string, string>> = {
  type: "rope_type",
  factor: "factor",
  originalMaxPositions: "original_max_position_embeddings",
  betaFast: "beta_fast",
  betaSlow: "beta_slow",
  truncate: "truncate",
  magnitude: "attention_factor",
  lowFrequencyFactor: "low_freq_factor",
  highFrequencyFactor: "high_freq_factor",
};

/** The value of `rope_scaling`; null for no scaling. */
export function ropeToHf(scaling: RopeScaling | undefined): Record<string, unknown> | null {
  if (!scaling) return null;
  // The original positions of `dynamic` are the model's own.
  const { type, factor } = scaling;
  const written = type === "dynamic" ? { type, factor } : scaling;
  return Object.fromEntries(Object.entries(written).map(([field, value]) => [ROPE_KEYS[field], value]));
}
