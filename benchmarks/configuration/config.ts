/** From YAML files and flags to a checked {@linkcode RunConfig}. Flags override the file; both take the same short
 * forms (`flap:structure=UL-UM`, `wikitext2:b:128`), and every key of the schema has exactly one flag.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { isMap, LineCounter, parseDocument } from "yaml";
import type { z } from "zod";
import { FileFormatError, unknownName, UsageError } from "../../core/errors.ts";
import { SELF_TEXT } from "../../datasets/self_text.ts";
import { isFileName } from "../../datasets/text_file.ts";
import { type RunConfig, runConfigSchema } from "../../core/schema.ts";

type Key = keyof RunConfig;

/** How a key of the configuration is written on the command line. */
export interface Flag {
  /** What the value looks like, for `--help`; `null` for a switch (`--throughput`, `--no-throughput`). */
  value: string | null;
  /** The value as the schema wants it; a value that does not fit is left for the schema to refuse. */
  parse(text: string): unknown;
  /** Value of a switch that is turned off; absent, as if the key were not there, unless given. */
  off?: unknown;
  /** Whether the flag may be given several times: the values are a list. */
  many?: boolean;
}

const list = (text: string): string[] => text.split(",").map((part) => part.trim()).filter((part) => part !== "");
const number = (text: string): unknown => text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;

const textFlag = (value: string): Flag => ({ value, parse: (text) => text });
const numberFlag = (value: string): Flag => ({ value, parse: number });
const listFlag = (value: string, item: (text: string) => unknown = (text) => text): Flag => ({
  value,
  parse: (text) => list(text).map(item),
});

/** The flag of every key. */
export const FLAGS: Record<Key, Flag> = {
  name: textFlag("TITLE"),
  paper: textFlag("TABLE"),
  model: textFlag("PATH"),
  engine: textFlag("NAME"),
  methods: { value: "LIST", parse: parseMethods },
  methodFile: listFlag("FILE,…"),
  sparsity: listFlag("LIST", number),
  seeds: listFlag("LIST", number),
  units: listFlag("LIST"),
  ffnMultiple: numberFlag("N"),
  calibration: {
    value: "CORPUS|file:PATH|self[:SEQUENCES[:TOKENS]]",
    parse: (text) => parseColons(text, CALIBRATION_PARTS),
  },
  recover: textFlag("NAME"),
  compensate: textFlag("NAME"),
  ladder: { value: null, parse: () => true, off: false },
  layerwise: { value: null, parse: () => true, off: false },
  training: { value: "KEY=VALUE,…", parse: parseAssignments },
  perplexity: listFlag("CORPUS[/SPLIT]|file:PATH[:PROTOCOL[:L[:WINDOWS]]],…", parsePerplexity),
  tasks: listFlag("LIST"),
  taskFile: { ...textFlag("FILE"), many: true },
  limit: numberFlag("N"),
  numFewshot: numberFlag("N"),
  generate: { ...textFlag("PROMPT"), many: true },
  generateTokens: numberFlag("N"),
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

/** What the schema says of a key, and its default as a flag would write it. */
export function describeFlag(key: Key): { description: string; fallback?: string } {
  const field: z.ZodType = runConfigSchema.shape[key];
  const { defaultValue } = field.def as { defaultValue?: unknown };
  const fallback = Array.isArray(defaultValue) ? defaultValue.join(",") : defaultValue;
  return {
    description: field.description ?? "",
    ...(fallback === undefined || fallback === "" ? {} : { fallback: String(fallback) }),
  };
}

/** `steps=200,domains.c4=0.3` -> `{ steps: 200, domains: { c4: 0.3 } }`. */
function parseAssignments(text: string): unknown {
  const settings = list(text).map((part) => {
    const [, outer, inner, value] = /^([^=.]+)(?:[.]([^=]+))?=(.*)$/.exec(part) ?? [];
    if (outer === undefined) throw new UsageError(`"${part}" is not a setting: write KEY=VALUE,KEY=VALUE`);
    return { outer, inner, value: number(value) };
  });
  return Object.fromEntries(
    [...Map.groupBy(settings, ({ outer }) => outer)].map(([outer, all]) => {
      const last = all[all.length - 1];
      if (last.inner === undefined) return [outer, last.value];
      return [outer, Object.fromEntries(all.map(({ inner, value }) => [inner, value]))];
    }),
  );
}

const CALIBRATION_PARTS = ["corpus", "sequences", "tokens"];
const PERPLEXITY_PARTS = ["corpus", "protocol", "windowTokens", "maxWindows"];

/** `wikitext2:b:128` -> an object; an empty part keeps its default (`wikitext2::512`). */
function parseColons(text: string, keys: string[]): unknown {
  // `file:PATH` is one part.
  const parts = text.split(/(?<!^file):/);
  if (parts.length > keys.length) {
    throw new UsageError(`"${text}" has ${parts.length} parts between colons: at most ${keys.join(":")} is understood`);
  }
  const entries = parts.map((part, i) => [keys[i], i === 0 ? part : number(part)]).filter(([, part]) => part !== "");
  return Object.fromEntries(entries);
}

/** `wikitext2/validation:b:128`: as {@linkcode parseColons}, with a split after a slash. */
function parsePerplexity(text: string): unknown {
  const choice = parseColons(text, PERPLEXITY_PARTS) as { corpus?: string };
  if (isFileName(choice.corpus ?? "")) return choice;
  const [corpus, ...split] = (choice.corpus ?? "").split("/");
  return { ...choice, corpus, ...split.length > 0 ? { split: split.join("/") } : {} };
}

/** `random,flap:structure=UL-UM,bias=true` -> methods with options: a part with `=` and no method before its `=`
 * belongs to the method before it. */
export function parseMethods(text: string): { id: string; options: Record<string, unknown> }[] {
  const methods: { id: string; options: Record<string, unknown> }[] = [];
  for (const part of list(text)) {
    const [, id, option] = /^([^:=]+)(?::(.*))?$/.exec(part) ?? [];
    if (id !== undefined) methods.push({ id, options: {} });
    const assignment = id === undefined ? part : option;
    if (!assignment) continue;
    const [, name, value] = /^([^=:]+)=(.*)$/.exec(assignment) ?? [];
    if (name === undefined || methods.length === 0) {
      throw new UsageError(`"${part}" is not a method: write METHOD or METHOD:OPTION=VALUE,OPTION=VALUE`);
    }
    methods[methods.length - 1].options[name] = value === "true" ? true : value === "false" ? false : number(value);
  }
  return methods;
}

/** Values of a run from one place, and how to point at them in a message. */
export interface ConfigSource {
  values: Record<string, unknown>;
  /** Place of the value at `path`, such as `sweep.yaml:4:13` or `--sparsity`. */
  where(path: readonly PropertyKey[]): string;
}

/** Short forms of a YAML file to what the schema wants; everything else is left as it is. */
function expandShortForms(values: Record<string, unknown>): Record<string, unknown> {
  const expanded = { ...values };
  const expandItems = (key: Key, item: (text: string) => unknown[]) => {
    const items = values[key];
    if (Array.isArray(items)) {
      expanded[key] = items.flatMap((value) => typeof value === "string" ? item(value) : [value]);
    }
  };
  expandItems("methods", parseMethods);
  expandItems("perplexity", (text) => [parsePerplexity(text)]);
  if (typeof values.calibration === "string") expanded.calibration = FLAGS.calibration.parse(values.calibration);
  if (values.throughput === true) expanded.throughput = {};
  if (values.throughput === false) delete expanded.throughput;
  return expanded;
}

/** Reads a YAML (or JSON) configuration.
 * @throws {FileFormatError} with line and column when the text is not YAML or not a mapping. */
export function yamlSource(text: string, path: string): ConfigSource {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const place = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `${path}:${line}:${col}`;
  };
  const [error] = document.errors;
  if (error) throw new FileFormatError(place(error.pos[0]), error.message);
  if (!isMap(document.contents)) throw new FileFormatError(path, "must be a mapping of keys to values");
  let values: Record<string, unknown>;
  try {
    values = expandShortForms(document.toJS({ maxAliasCount: 100 }));
  } catch (error) {
    throw new FileFormatError(path, (error as Error).message);
  }
  return {
    values,
    where: (issuePath) => {
      // The deepest part of the path that the file has; short forms have no inner nodes.
      for (let depth = issuePath.length; depth > 0; depth--) {
        const node = document.getIn(issuePath.slice(0, depth), true) as
          | { range?: [number, number, number] }
          | undefined;
        if (node?.range) return place(node.range[0]);
      }
      return path;
    },
  };
}

/** What the command line holds beside the configuration. */
export interface ParsedFlags {
  source: ConfigSource;
  /** Values of the flags named in `extra`. */
  extra: Record<string, string | boolean | undefined>;
}

/** Flags of a command that are not part of the configuration. */
export interface ExtraFlags {
  string?: readonly string[];
  boolean?: readonly string[];
}

/** Parses flags of a run: those of {@linkcode FLAGS} and the `extra` ones.
 * @throws {UsageError} on an unknown flag, a flag without a value, or a positional argument. */
export function parseFlags(argv: string[], extra: ExtraFlags = {}): ParsedFlags {
  const keys = Object.keys(FLAGS) as Key[];
  const strings = [...keys.filter((key) => FLAGS[key].value !== null).map(flagName), ...extra.string ?? []];
  const switches = keys.filter((key) => FLAGS[key].value === null).map(flagName);
  const args = parseStrictly(argv, {
    string: strings,
    collect: keys.filter((key) => FLAGS[key].many).map(flagName),
    boolean: [...switches, ...extra.boolean ?? []],
    negatable: switches,
    default: Object.fromEntries(switches.map((name) => [name, undefined])),
  });
  const values: Record<string, unknown> = {};
  const parse = (key: Key, text: string): unknown => {
    if (text.trim() === "") throw new UsageError(`--${flagName(key)} needs a value: ${FLAGS[key].value}`);
    return FLAGS[key].parse(text);
  };
  for (const key of keys) {
    const text = args[flagName(key)];
    if (typeof text === "string") values[key] = parse(key, text);
    else if (Array.isArray(text)) {
      if (text.length > 0) values[key] = text.map((one: string) => parse(key, one));
    } else if (text !== undefined) values[key] = text === true ? FLAGS[key].parse("") : FLAGS[key].off;
  }
  const names = [...extra.string ?? [], ...extra.boolean ?? []];
  for (const name of extra.string ?? []) if (args[name] === "") throw new UsageError(`--${name} needs a value`);
  return {
    source: { values, where: ([key]) => `--${flagName(String(key))}` },
    extra: Object.fromEntries(names.map((name) => [name, args[name] as string | boolean | undefined])),
  };
}

/** `parseArgs`, but what no option names is an error.
 * @throws {UsageError} on an unknown flag or a positional argument. */
export function parseStrictly(
  argv: string[],
  options: {
    string?: readonly string[];
    boolean?: readonly string[];
    /** Strings that may be given several times: always an array. */
    collect?: readonly string[];
    negatable?: readonly string[];
    default?: Record<string, unknown>;
    /** How many positional arguments are allowed; 0 by default. */
    positional?: number;
  },
): Record<string, unknown> & { _: string[] } {
  const { positional = 0, string = [], boolean = [], negatable = [] } = options;
  let seen = 0;
  const args = parseArgs(argv, {
    string: [...string, "_"],
    boolean: [...boolean, "help"],
    collect: [...options.collect ?? []],
    negatable: [...negatable],
    alias: { h: "help" },
    default: options.default ?? {},
    unknown: (arg: string, key?: string) => {
      if (key === undefined) {
        if (++seen > positional) throw new UsageError(`"${arg}" is one argument too many: see --help`);
        return true;
      }
      const known = [...string, ...boolean, ...negatable.map((name) => `no-${name}`), "help"];
      throw unknownName("flag", arg.split("=")[0], known.map((name) => `--${name}`));
    },
  }) as unknown as Record<string, unknown> & { _: string[] };
  if (args.help === true) throw new HelpRequest();
  return args;
}

/** Thrown when `--help` was given: whoever knows the command prints its help. */
export class HelpRequest extends Error {}

/** One sentence for an issue of zod: the key, the limit and the current value. */
export function describeIssue(
  issue: z.core.$ZodIssue,
  values: unknown,
  known: (path: PropertyKey[]) => string[],
): string {
  const key = issue.path.reduce<string>(
    (text, part) => typeof part === "number" ? `${text}[${part}]` : text ? `${text}.${String(part)}` : String(part),
    "",
  );
  const value = issue.path.reduce<unknown>(
    (at, part) => (at as Record<PropertyKey, unknown> | undefined)?.[part],
    values,
  );
  const current = value === undefined ? "missing" : `current ${JSON.stringify(value)}`;
  switch (issue.code) {
    case "unrecognized_keys":
      return unknownName(key ? `key of ${key}` : "key", issue.keys[0], known(issue.path)).message;
    case "too_big":
      return `${key} must be ${issue.inclusive ? "at most" : "less than"} ${issue.maximum}: ${current}`;
    case "too_small":
      return issue.origin === "array"
        ? `${key} must have at least ${issue.minimum} item${issue.minimum === 1 ? "" : "s"}`
        : `${key} must be ${issue.inclusive ? "at least" : "more than"} ${issue.minimum}: ${current}`;
    case "invalid_value":
      return `${key} must be one of ${issue.values.join(", ")}: ${current}`;
    case "invalid_type": {
      const what = issue.expected === "int" ? "whole number" : issue.expected;
      return `${key} must be ${/^[aeio]/.test(what) ? "an" : "a"} ${what}: ${current}`;
    }
    default:
      return `${key}: ${issue.message} (${current})`;
  }
}

/** Keys of the (possibly wrapped) object schema at `path`, for suggestions. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  let schema = runConfigSchema as unknown as { def: Record<string, unknown>; shape?: Record<string, unknown> };
  const unwrap = () => {
    while (schema?.def.innerType) schema = schema.def.innerType as typeof schema;
  };
  for (const part of path) {
    unwrap();
    schema = (typeof part === "number" ? schema?.def.element : schema?.shape?.[String(part)]) as typeof schema;
  }
  unwrap();
  return Object.keys(schema?.shape ?? {});
}

/** Merges `sources` (later ones override whole keys) and checks the result. `out` defaults to `results/NAME`.
 * @throws {UsageError} that lists every problem with its place. */
export function resolveConfig(sources: readonly ConfigSource[]): RunConfig {
  const values: Record<string, unknown> = Object.assign({}, ...sources.map((source) => source.values));
  values.out ??= `results/${typeof values.name === "string" ? values.name : "run"}`;
  if (values.methodFile !== undefined) values.methods ??= [];
  const parsed = runConfigSchema.safeParse(values);
  if (parsed.success) {
    const { methods, methodFile } = parsed.data;
    if (methods.length + (methodFile?.length ?? 0) > 0) return parsed.data;
    throw new UsageError("methods must have at least 1 item (--methods or --method-file gives it)");
  }
  const problems = parsed.error.issues.map((issue) => {
    const unrecognized = issue.code === "unrecognized_keys" ? [...issue.path, issue.keys[0]] : issue.path;
    const source = sources.findLast((source) => String(unrecognized[0]) in source.values);
    const problem = describeIssue(issue, values, knownKeys);
    if (source) return `${source.where(unrecognized)}: ${problem}`;
    return `${problem} (--${flagName(String(issue.path[0]))} gives it)`;
  });
  throw new UsageError(problems.join("\n"));
}

/** What the names in a configuration may refer to. */
export interface KnownNames {
  /** Options of a method with their defaults filled in.
   * @throws {UsageError} on an unknown method or a wrong option. */
  parseOptions(id: string, options: Record<string, unknown>): Record<string, unknown>;
  tasks: readonly string[];
  corpora: readonly string[];
}

/** Checks every name, and fills in the defaults of the methods' options, so that a cell names all that decides it.
 * @throws {UsageError} on an unknown name or a wrong option. */
export function resolveNames(config: RunConfig, known: KnownNames): RunConfig {
  const check = (kind: string, name: string, names: readonly string[]) => {
    if (!names.includes(name)) throw unknownName(kind, name, names);
  };
  for (const task of config.tasks) check("task", task, known.tasks);
  const { calibration, training } = config;
  for (const { corpus } of config.perplexity) if (!isFileName(corpus)) check("corpus", corpus, known.corpora);
  const learned = [calibration?.corpus, training?.corpus, ...Object.keys(training?.domains ?? {})];
  for (const name of learned) {
    if (name !== undefined && !isFileName(name)) check("corpus", name, [...known.corpora, SELF_TEXT]);
  }
  const methods = config.methods.map(({ id, options }) => ({ id, options: known.parseOptions(id, options) }));
  return { ...config, methods };
}
