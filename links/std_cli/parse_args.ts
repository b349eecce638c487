/** Stand-in for `parseArgs` of `jsr:@std/cli/parse-args`, over `node:util`: the part of it that this project uses.
 *
 * @module
 */
import { parseArgs as parseNodeArgs } from "node:util";
import { at } from "../../core/util/indexing.ts";

/** Options of {@linkcode parseArgs}. */
export interface ParseOptions {
  /** Arguments that are booleans; `false` when not given. */
  boolean?: readonly string[];
  /** Arguments that are strings; `""` when given without a value. */
  string?: readonly string[];
  /** Arguments that may be given more than once; always an array. */
  collect?: readonly string[];
  /** Booleans that `--no-NAME` sets to `false`. */
  negatable?: readonly string[];
  /** Short names: `{ h: "help" }`. */
  alias?: Record<string, string>;
  /** Values of arguments that were not given. */
  default?: Record<string, unknown>;
  /** Called for an argument that no option names, and for a positional one (without `key`); `false` drops it. */
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
  /** Put what follows `--` into `"--"` rather than into `_`. */
  "--"?: boolean;
}

/** Parsed arguments. */
// deno-lint-ignore no-explicit-any
export type Args = { _: (string | number)[]; "--"?: string[] } & Record<string, any>;

/** Parses command-line arguments. */
export function parseArgs(args: string[], options: ParseOptions = {}): Args {
  const { boolean = [], string = [], collect = [], negatable = [], alias = {}, unknown } = options;
  const stop = args.indexOf("--");
  const head = stop < 0 ? args : args.slice(0, stop);
  const rest = stop < 0 ? [] : args.slice(stop + 1);

  const long = head.map((arg) => (arg[0] === "-" && alias[arg.slice(1)] ? `--${alias[arg.slice(1)]}` : arg));
  // An option is never taken as the value of the option before it.
  const closed = long.map((arg, i) =>
    arg.startsWith("--") && string.includes(arg.slice(2)) && (long[i + 1] ?? "-").startsWith("-") ? `${arg}=` : arg
  );
  const known = Object.fromEntries([
    ...boolean.map((name) => [name, { type: "boolean" }] as const),
    ...string.filter((name) => name !== "_").map((name) => [name, { type: "string" }] as const),
  ]);
  const { tokens } = parseNodeArgs({
    args: closed,
    options: known,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });

  const result: Args = { _: [] };
  const set = (name: string, value: unknown) => {
    result[name] = collect.includes(name) ? [...(result[name] ?? []), value] : value;
  };
  for (const token of tokens) {
    if (token.kind === "positional") {
      if (unknown?.(token.value) !== false) result._.push(token.value);
    } else if (token.kind === "option") {
      const { name, value } = token;
      const positive = name.replace(/^no-/, "");
      if (string.includes(name)) set(name, value ?? "");
      else if (boolean.includes(name)) set(name, value !== "false");
      else if (positive !== name && negatable.includes(positive)) result[positive] = false;
      else if (unknown?.(at(head, token.index), name, value ?? true) !== false) set(name, value ?? true);
    }
  }
  for (const [name, value] of Object.entries(options.default ?? {})) if (!(name in result)) result[name] = value;
  for (const name of boolean) if (!(name in result)) result[name] = false;
  for (const name of collect) result[name] ??= [];
  if (options["--"]) result["--"] = rest;
  else result._.push(...rest);
  return result;
}
