/** From YAML files and flags to a checked {@linkcode RunConfig}. Flags override the file; both take the same shorthand.
 *
 * @module
 */
import { isMap, LineCounter, parseDocument } from "yaml";
import { isObject } from "../../core/util/canonical_json.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { describeIssue } from "../../core/util/issues.ts";
import { type Budget, type RunConfig, runConfigSchema } from "../../core/schema/schema.ts";
import { isTime } from "../../models/latency.ts";
import { type ConfigSource, flagName, FLAGS } from "./flags.ts";

/** Switches as YAML 1.1 writes them, which PyYAML reads. */
const SWITCHES: Partial<Record<string, boolean>> = { on: true, yes: true, off: false, no: false };

/** Replaces shorthand in the values of a YAML file by what the schema wants: text and switches are read as the key's
 * flag reads them. */
function expandShortForms(values: Record<string, unknown>): Record<string, unknown> {
  const expanded = Object.entries(values).map(([key, value]) => {
    if (!Object.hasOwn(FLAGS, key)) return [key, value];
    const { value: taken, parse, off, item } = FLAGS[key as keyof RunConfig];
    if (taken === null) {
      const on = typeof value === "string" ? SWITCHES[value.toLowerCase()] : value;
      return [key, typeof on === "boolean" ? (on ? parse("") : off) : value];
    }
    if (typeof value === "string") return [key, parse(value)];
    if (!Array.isArray(value) || !item) return [key, value];
    return [key, value.flatMap((each) => typeof each === "string" ? item(each) : [each])];
  });
  return Object.fromEntries(expanded.filter(([, value]) => value !== undefined));
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
  const said = error?.message.replace(/^Implicit keys .*/, "A key needs a colon and a space after it") ?? "";
  if (error) throw new FileFormatError(place(error.pos[0]), said);
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
      // The deepest part of the path that the file has; shorthand has no inner nodes.
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

/** Keys of the object schema at `path`, for suggestions. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  let schema = runConfigSchema as unknown as { def: Record<string, unknown>; shape?: Record<string, unknown> };
  const unwrap = () => {
    // A list that also accepts a single item is a pipe into an array.
    const inner = () => schema?.def.innerType ?? schema?.def.out;
    while (inner()) schema = inner() as typeof schema;
  };
  for (const part of path) {
    unwrap();
    schema = (typeof part === "number" ? schema?.def.element : schema?.shape?.[String(part)]) as typeof schema;
  }
  unwrap();
  return Object.keys(schema?.shape ?? {});
}

const NO_METHODS = "No methods given: use --methods, --method-file or --checkpoints";

/** Merges `sources` and checks the result: later ones override whole keys, and single keys of `training` and
 * `throughput`. `out` defaults to `results/NAME`.
 * @throws {UsageError} that lists every problem with its place. */
export function resolveConfig(sources: readonly ConfigSource[]): RunConfig {
  const given = sources.map((source) => source.values);
  const values: Record<string, unknown> = Object.assign({}, ...given);
  for (const key of ["training", "throughput"]) {
    const parts = given.map((source) => source[key]).filter((part) => part !== undefined);
    // A budget in time is measured as the file says, also with --no-throughput.
    const isUsed = values[key] !== undefined || key === "throughput" && isTime(values.budget as Budget);
    if (isUsed && parts.length > 0 && parts.every(isObject)) values[key] = Object.assign({}, ...parts);
  }
  values.out ??= `results/${typeof values.name === "string" ? values.name : "run"}`;
  if (values.methodFile !== undefined || values.checkpoints !== undefined) values.methods ??= [];
  const parsed = runConfigSchema.safeParse(values);
  if (parsed.success) {
    const { methods, methodFile = [], checkpoints = [] } = parsed.data;
    if (methods.length + methodFile.length + checkpoints.length > 0) return parsed.data;
    throw new UsageError(NO_METHODS);
  }
  const problems = parsed.error.issues.map((issue) => {
    const unrecognized = issue.code === "unrecognized_keys" ? [...issue.path, at(issue.keys, 0)] : issue.path;
    const [key = "", part = ""] = unrecognized.map(String);
    const giving = sources.filter(({ values }) => Object.hasOwn(values, key));
    const source = giving.findLast(({ values }) => Object.hasOwn(Object(values[key]), part)) ?? giving.at(-1);
    if (source) return `${source.where(unrecognized)}: ${describeIssue(issue, values, knownKeys)}`;
    return key === "methods" ? NO_METHODS : `No ${key} given: use --${flagName(key)}`;
  });
  // A missing key may be a misspelt one, which comes first.
  problems.sort((a, b) => Number(a.startsWith("No ")) - Number(b.startsWith("No ")));
  throw new UsageError(problems.join("\n"));
}
