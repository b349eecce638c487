/** Flags: every key of the schema has exactly one.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import type { z } from "zod";
import { unknownName, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { type RunConfig, runConfigSchema } from "../../core/schema/schema.ts";
import {
  list,
  number,
  parseAssignments,
  parseCalibration,
  parseCheckpoint,
  parseMethods,
  parsePerplexity,
} from "./short_forms.ts";

type Key = keyof RunConfig;

/** How a key of the configuration is written on the command line. */
export interface Flag {
  /** The value in `--help`; `null` for a switch (`--throughput`, `--no-throughput`). */
  value: string | null;
  /** The value for the schema, which refuses what does not fit. */
  parse(text: string): unknown;
  /** The same for one item of a list in a YAML file. */
  item?(text: string): unknown;
  /** Value of a switch that is turned off; none if absent. */
  off?: unknown;
  /** Whether the flag may be given several times: the values are a list. */
  many?: boolean;
}

const textFlag = (value: string): Flag => ({ value, parse: (text) => text });
const numberFlag = (value: string): Flag => ({ value, parse: number });
const listFlag = (value: string, item: (text: string) => unknown = (text) => text): Flag => ({
  value,
  parse: (text) => list(text).map(item),
  item,
});

/** The flag of every key. */
export const FLAGS: Record<Key, Flag> = {
  name: textFlag("TITLE"),
  paper: textFlag("TABLE"),
  model: textFlag("PATH"),
  engine: textFlag("NAME"),
  device: textFlag("NAME"),
  arithmetic: textFlag("exact|fast"),
  methods: { value: "LIST", parse: parseMethods, item: parseMethods },
  methodFile: listFlag("FILE,…"),
  checkpoints: listFlag("LABEL=PATH,…", parseCheckpoint),
  sparsity: listFlag("LIST", number),
  budget: textFlag("NAME"),
  seeds: listFlag("LIST", number),
  units: listFlag("LIST"),
  dropLayers: listFlag("LIST", number),
  ffnMultiple: numberFlag("N|auto"),
  calibration: { value: "CORPUS|file:PATH|self[:SEQUENCES[:TOKENS[:DRAW]]]", parse: parseCalibration },
  recover: textFlag("NAME"),
  compensate: textFlag("NAME"),
  layerwise: { value: null, parse: () => true, off: false },
  weights: textFlag("f32|stored"),
  training: { value: "KEY=VALUE,…", parse: parseAssignments },
  perplexity: listFlag("CORPUS[/SPLIT]|file:PATH[:PROTOCOL[:L[:WINDOWS]]],…", parsePerplexity),
  tasks: listFlag("LIST"),
  taskFile: { ...textFlag("FILE"), many: true },
  limit: { value: "N|all", parse: (text) => text === "all" ? undefined : number(text) },
  numFewshot: numberFlag("N"),
  requestEncoding: textFlag("NAME"),
  logSamples: { value: null, parse: () => true, off: false },
  throughput: { value: null, parse: () => ({}) },
  data: textFlag("DIR"),
  out: textFlag("DIR"),
  jobs: numberFlag("N"),
  keepWeights: { value: null, parse: () => true, off: false },
};

/** `ffnMultiple` -> `ffn-multiple`. */
export function flagName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** A key's description in the schema, and its default as a flag value. */
export function describeFlag(key: Key): { description: string; fallback?: string } {
  const field: z.ZodType = runConfigSchema.shape[key];
  const { defaultValue } = field.def as { defaultValue?: unknown };
  const fallback = Array.isArray(defaultValue) ? defaultValue.join(",") : defaultValue;
  return {
    description: field.description ?? "",
    ...(fallback === undefined || fallback === "" ? {} : { fallback: String(fallback) }),
  };
}

/** Values of a run from one place, and their places for messages. */
export interface ConfigSource {
  values: Record<string, unknown>;
  /** Place of the value at `path`, such as `sweep.yaml:4:13` or `--sparsity`. */
  where(path: readonly PropertyKey[]): string;
}

/** Options of {@linkcode parseStrictly}. */
export interface StrictOptions {
  string?: readonly string[];
  boolean?: readonly string[];
  /** Strings that may be given several times: always an array. */
  collect?: readonly string[];
  negatable?: readonly string[];
  /** How many positional arguments are allowed; 0 by default. */
  positional?: number;
}

/** Every key of a configuration. */
export const KEYS = Object.keys(FLAGS) as Key[];

/** Flags of the `keys` of a configuration, and others, for {@linkcode parseStrictly}. */
export function flagOptions(
  { keys = KEYS, string = [], boolean = [], positional = 0 }: {
    keys?: readonly Key[];
    string?: readonly string[];
    boolean?: readonly string[];
    positional?: number;
  } = {},
): StrictOptions {
  const switches = keys.filter((key) => FLAGS[key].value === null).map(flagName);
  return {
    string: [...keys.filter((key) => FLAGS[key].value !== null).map(flagName), ...string],
    collect: keys.filter((key) => FLAGS[key].many).map(flagName),
    boolean: [...switches, ...boolean],
    negatable: switches,
    positional,
  };
}

/** Values of a configuration from parsed flags; other flags are ignored.
 * @throws {UsageError} on a flag without a value. */
export function flagSource(args: Record<string, unknown>): ConfigSource {
  const values: Record<string, unknown> = {};
  const parse = (key: Key, text: string): unknown => {
    if (text.trim() === "") throw new UsageError(`--${flagName(key)} needs a value: ${FLAGS[key].value}`);
    return FLAGS[key].parse(text);
  };
  for (const key of KEYS) {
    const text = args[flagName(key)];
    if (typeof text === "string") values[key] = parse(key, text);
    else if (Array.isArray(text)) {
      if (text.length > 0) values[key] = text.map((one: string) => parse(key, one));
    } else if (text !== undefined) values[key] = text === true ? FLAGS[key].parse("") : FLAGS[key].off;
  }
  return { values, where: ([key]) => `--${flagName(String(key))}` };
}

/** `parseArgs` that refuses unknown flags and arguments.
 * @throws {UsageError} on an unknown flag or a positional argument. */
export function parseStrictly(argv: string[], options: StrictOptions = {}): Record<string, unknown> & { _: string[] } {
  const { positional = 0, string = [], boolean = [], negatable = [] } = options;
  let seen = 0;
  const args = parseArgs(argv, {
    string: [...string, "_"],
    boolean: [...boolean, "help"],
    collect: [...options.collect ?? []],
    negatable: [...negatable],
    alias: { h: "help" },
    default: Object.fromEntries(negatable.map((name) => [name, undefined])),
    unknown: (arg: string, key?: string) => {
      if (key === undefined) {
        if (++seen > positional) throw new UsageError(`Unexpected argument "${arg}": see --help`);
        return true;
      }
      const known = [...string, ...boolean, ...negatable.map((name) => `no-${name}`), "help"];
      throw unknownName("flag", at(arg.split("="), 0), known.map((name) => `--${name}`));
    },
  }) as unknown as Record<string, unknown> & { _: string[] };
  if (args.help === true) throw new HelpRequest();
  if (args._.includes("")) throw new UsageError("An argument is empty: see --help");
  return args;
}

/** Thrown when `--help` was given. */
export class HelpRequest extends Error {}
