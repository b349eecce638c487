/** Typed access to `config.json`: members by name, and RoPE settings.
 *
 * @module
 */
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import type { Rope, RopeScaling } from "../config.ts";
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

const PARTIAL = "partial_rotary_factor";

function yarnScaling(rope: HfMembers): RopeScaling {
  const factor = rope.number("factor");
  return {
    type: "yarn",
    factor,
    originalMaxPositions: rope.integer("original_max_position_embeddings"),
    betaFast: rope.number("beta_fast", 32),
    betaSlow: rope.number("beta_slow", 1),
    truncate: rope.flag("truncate", true),
    magnitude: rope.number("attention_factor", factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1),
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
  const partial = rope.value(PARTIAL);
  if (partial !== undefined && partial !== 1) {
    throw new UsageError(`${rope.path}: "${PARTIAL}" ${JSON.stringify(partial)} is not supported: must be 1`);
  }
  const type = rope.value("rope_type") ?? rope.value("type") ?? "default";
  switch (type) {
    case "default":
      return { base };
    case "linear":
      return { base, scaling: { type: "linear", factor: rope.number("factor") } };
    case "dynamic":
      return { base, scaling: { type: "dynamic", factor: rope.number("factor"), originalMaxPositions: maxPositions } };
    case "yarn":
      return { base, scaling: yarnScaling(rope) };
    case "llama3": {
      const scaling = {
        type: "llama3" as const,
        factor: rope.number("factor"),
        lowFrequencyFactor: rope.number("low_freq_factor"),
        highFrequencyFactor: rope.number("high_freq_factor"),
        originalMaxPositions: rope.integer("original_max_position_embeddings"),
      };
      if (scaling.highFrequencyFactor <= scaling.lowFrequencyFactor) {
        throw new FileFormatError(rope.path, `"high_freq_factor" of RoPE must be greater than "low_freq_factor"`);
      }
      return { base, scaling };
    }
  }
  throw new UsageError(
    `${rope.path}: RoPE type ${
      JSON.stringify(type)
    } is not supported: must be default, linear, dynamic, llama3 or yarn`,
  );
}

/** The value of `rope_scaling`; null for no scaling. */
export function ropeToHf(scaling: RopeScaling | undefined): Record<string, unknown> | null {
  if (!scaling) return null;
  const { type: rope_type, factor } = scaling;
  switch (scaling.type) {
    case "linear":
    case "dynamic":
      return { rope_type, factor };
    case "yarn":
      return {
        rope_type,
        factor,
        original_max_position_embeddings: scaling.originalMaxPositions,
        beta_fast: scaling.betaFast,
        beta_slow: scaling.betaSlow,
        truncate: scaling.truncate,
        attention_factor: scaling.magnitude,
      };
    case "llama3":
      return {
        rope_type,
        factor,
        low_freq_factor: scaling.lowFrequencyFactor,
        high_freq_factor: scaling.highFrequencyFactor,
        original_max_position_embeddings: scaling.originalMaxPositions,
      };
  }
}
