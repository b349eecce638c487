/** Task and group files of lm-evaluation-harness 0.4.13: YAML 1.1 with `include`, checked.
 *
 * @module
 */
import { dirname, isAbsolute, join } from "node:path";
import { parse } from "yaml";
import { z } from "zod";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { describeIssue } from "../../core/util/issues.ts";
import { type MetricName, OUTPUT_TYPES, type OutputType } from "../define.ts";

/** A Python function named in a file. The harness would run it; this program cannot. */
class PythonHook {
  constructor(readonly name: string) {}
}

/** A file's keys, its includes merged in. */
export type RawConfig = Record<string, unknown>;

/** Longest task file in bytes; usual ones have some kilobytes. */
const MAX_BYTES = 4 * 1024 * 1024;

function parseYaml(path: string): RawConfig {
  let text: string;
  try {
    const { size } = Deno.statSync(path);
    if (size > MAX_BYTES) throw new FileFormatError(path, `has ${size} bytes: task files have at most ${MAX_BYTES}`);
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw new UsageError(`The task file "${path}" does not exist`);
    throw error instanceof UsageError ? error : new FileFormatError(path, (error as Error).message);
  }
  let values: unknown;
  try {
    values = parse(text, {
      // The version of PyYAML: `yes` and `no` without quotes are booleans.
      version: "1.1",
      // PyYAML takes the last of equal keys.
      uniqueKeys: false,
      prettyErrors: false,
      logLevel: "error",
      maxAliasCount: 100,
      customTags: (tags) => [...tags, { tag: "!function", resolve: (name: string) => new PythonHook(name) }],
    });
  } catch (error) {
    throw new FileFormatError(path, `is not YAML: ${(error as Error).message}`);
  }
  if (typeof values !== "object" || values === null || Array.isArray(values)) {
    throw new FileFormatError(path, "must be a mapping of keys to values");
  }
  return { ...values };
}

/** Reads a file with its includes. Keys of the file itself win, then those of later includes.
 * @throws {UsageError} when a file is missing, is not YAML, or includes itself. */
export function readConfig(path: string, including: readonly string[] = []): RawConfig {
  if (including.includes(path)) {
    throw new FileFormatError(path, `includes itself: ${[...including, path].join(", ")}`);
  }
  const { include, ...own } = parseYaml(path);
  const merged: RawConfig = {};
  for (const name of include === undefined ? [] : [include].flat()) {
    if (typeof name !== "string") throw new FileFormatError(path, "include must be a path or a list of paths");
    const { task_list: _own, ...included } = readConfig(isAbsolute(name) ? name : join(dirname(path), name), [
      ...including,
      path,
    ]);
    Object.assign(merged, included);
  }
  return Object.assign(merged, own);
}

/** Metrics by output type; all but `acc_bytes` are the harness's defaults. */
const METRICS: Readonly<Record<OutputType, readonly MetricName[]>> = {
  multiple_choice: ["acc", "acc_norm", "acc_bytes"],
  loglikelihood: ["perplexity", "acc"],
  loglikelihood_rolling: ["word_perplexity", "byte_perplexity", "bits_per_byte"],
};
/** The supported aggregation of each metric. */
export const AGGREGATIONS: Readonly<Record<MetricName, string>> = {
  acc: "mean",
  acc_norm: "mean",
  acc_bytes: "mean",
  perplexity: "perplexity",
  word_perplexity: "weighted_perplexity",
  byte_perplexity: "weighted_perplexity",
  bits_per_byte: "bits_per_byte",
};

const template = z.union([z.string(), z.number()]);
const choices = z.union([z.string(), z.array(template), z.record(z.string(), template)]);
const fewshotConfig = z.strictObject({
  sampler: z.enum(["default", "first_n"]).default("default"),
  split: z.string().nullish(),
  samples: z.array(z.record(z.string(), z.unknown())).nullish(),
  doc_to_text: template.nullish(),
  doc_to_target: z.union([template, z.array(template)]).nullish(),
  doc_to_choice: choices.nullish(),
  fewshot_delimiter: z.string().nullish(),
  target_delimiter: z.string().nullish(),
});
const count = z.number().int().nonnegative();
const absent = z.union([z.null(), z.literal(false)]);
const dataFiles = z.union([z.string(), z.array(z.string())]);

/** Keys that must be absent or null, with the reason. */
const REFUSALS = {
  filter_list: "filters are not supported",
  process_docs: "records cannot be processed: prepare them for the templates",
  process_results: "custom metrics are not supported",
  use_prompt: "promptsource prompts are not supported",
  gen_prefix: "a generation prefix is not supported",
  custom_dataset: "data sets made by a program are not supported",
  doc_to_image: "images are not supported",
  doc_to_audio: "audio is not supported",
};
const refusedKeys = Object.fromEntries(
  Object.keys(REFUSALS).map((key) => [key, z.null().optional()]),
) as Record<keyof typeof REFUSALS, z.ZodOptional<z.ZodNull>>;

/** Keys of a task file. Keys that matter only to the harness itself may have any value. */
const taskSchema = z.strictObject({
  task: z.string().regex(/^[\w.:+-]+$/, "must consist of letters, digits and . _ : + -"),
  task_alias: z.string().nullish(),
  tag: z.union([z.string(), z.array(z.string())]).nullish(),
  dataset_path: z.string().min(1),
  dataset_name: z.union([z.string(), z.number()]).nullish(),
  dataset_kwargs: z.strictObject({
    data_files: z.union([dataFiles, z.record(z.string(), dataFiles)]).nullish(),
    trust_remote_code: z.boolean().nullish(),
  }).nullish(),
  training_split: z.string().nullish(),
  validation_split: z.string().nullish(),
  test_split: z.string().nullish(),
  fewshot_split: z.string().nullish(),
  output_type: z.enum(OUTPUT_TYPES),
  doc_to_text: template.nullish(),
  doc_to_target: z.union([template, z.array(template)]).nullish(),
  doc_to_choice: choices.nullish(),
  description: z.string().nullish(),
  target_delimiter: z.string().default(" "),
  fewshot_delimiter: z.string().default("\n\n"),
  fewshot_config: fewshotConfig.nullish(),
  num_fewshot: count.nullish(),
  // Other keys are arguments of metrics of generated text.
  metric_list: z.array(z.looseObject({
    metric: z.string(),
    aggregation: z.string().nullish(),
    higher_is_better: z.boolean().nullish(),
    hf_evaluate: absent.optional(),
  })).min(1).nullish(),
  repeats: z.literal(1).nullish(),
  metadata: z.unknown().optional(),
  should_decontaminate: z.unknown().optional(),
  doc_to_decontamination_query: z.unknown().optional(),
  generation_kwargs: z.unknown().optional(),
  unsafe_code: absent.optional(),
  ...refusedKeys,
});
/** The checked configuration of a task. */
export type TaskConfig = Omit<z.infer<typeof taskSchema>, "metric_list"> & { metrics: MetricName[] };

/** Unused keys, which may hold a Python function. */
const UNUSED = ["doc_to_decontamination_query", "metadata", "should_decontaminate", "generation_kwargs"];

/** The first Python function in `value`, and the keys that lead to it. */
function findHook(value: unknown, keys: readonly string[] = []): { key: string; hook: PythonHook } | undefined {
  if (value instanceof PythonHook) return { key: keys.join("."), hook: value };
  if (typeof value !== "object" || value === null) return undefined;
  for (const [key, item] of Object.entries(value)) {
    const found = findHook(item, [...keys, key]);
    if (found) return found;
  }
}

function metricsOf(path: string, { output_type: type, metric_list: listed }: z.infer<typeof taskSchema>): MetricName[] {
  const known = METRICS[type];
  if (!listed) return known.filter((name) => name !== "acc_bytes");
  return listed.map(({ metric, aggregation, higher_is_better: higher }) => {
    const name = known.find((one) => one === metric);
    if (name === undefined) {
      throw new FileFormatError(path, `the metric "${metric}" is not supported for ${type}: use ${known.join(", ")}`);
    }
    if (aggregation && aggregation !== AGGREGATIONS[name]) {
      throw new FileFormatError(
        path,
        `the aggregation "${aggregation}" of ${name} is not supported: must be ${AGGREGATIONS[name]}`,
      );
    }
    if (typeof higher === "boolean" && higher !== name.startsWith("acc")) {
      throw new FileFormatError(path, `higher_is_better of ${name} must be ${name.startsWith("acc")}`);
    }
    return name;
  });
}

/** Checks the configuration of a task.
 * @throws {FileFormatError} that names file, key and problem: a Python function, a filter, generation, an unknown key,
 *   or a wrong value. */
export function checkTask(path: string, raw: RawConfig): TaskConfig {
  const refuse = (problem: string) => new FileFormatError(path, problem);
  const { class: own } = raw;
  if (own !== undefined) throw refuse("tasks written in Python are not supported");
  const decisive = Object.fromEntries(Object.entries(raw).filter(([key]) => !UNUSED.includes(key)));
  const found = findHook(decisive);
  if (found) {
    throw refuse(`${found.key} is the Python function ${found.hook.name}: only templates and field names can be used`);
  }
  if (raw.output_type === undefined || raw.output_type === "generate_until") {
    throw refuse(`output_type must be ${OUTPUT_TYPES.join(", ")}: generation is not supported`);
  }
  const parsed = taskSchema.safeParse(raw);
  if (!parsed.success) throw refuse(explainIssue(parsed.error.issues[0], raw));
  const config = parsed.data;
  const needed: (keyof typeof config)[] = config.output_type === "multiple_choice"
    ? ["doc_to_text", "doc_to_target", "doc_to_choice"]
    : config.output_type === "loglikelihood"
    ? ["doc_to_text", "doc_to_target"]
    : ["doc_to_target"];
  const missing = needed.find((key) => config[key] === undefined || config[key] === null);
  if (missing) throw refuse(`${missing} is missing: a task of type ${config.output_type} needs it`);
  if (!config.test_split && !config.validation_split) throw refuse("test_split or validation_split must be given");
  const { metric_list: _listed, ...rest } = config;
  return { ...rest, metrics: metricsOf(path, config) };
}

function explainIssue(issue: z.core.$ZodIssue | undefined, raw: RawConfig): string {
  if (!issue) return "does not fit";
  const refusals: Readonly<Record<string, string>> = {
    ...REFUSALS,
    unsafe_code: "tasks that run code are not supported",
    repeats: "each request is scored once: repeats must be 1",
  };
  const key = String(issue.path[0]);
  const refused = refusals[key];
  return refused === undefined
    ? describeIssue(issue, raw, (path) => path.length === 0 ? Object.keys(taskSchema.shape) : [])
    : `${key}: ${refused}`;
}

const aggregate = z.strictObject({
  metric: z.string(),
  aggregation: z.literal("mean").default("mean"),
  weight_by_size: z.boolean().default(true),
  filter_list: z.union([z.string(), z.array(z.string())]).nullish(),
}).transform(({ metric, weight_by_size: weightBySize }) => ({ metric, weightBySize }));

/** Keys of a group file besides overrides of its tasks. */
const groupSchema = z.object({
  group: z.string().min(1),
  group_alias: z.string().nullish(),
  task: z.union([
    z.string().transform((one) => [one]),
    z.array(z.union([z.string(), z.record(z.string(), z.unknown())])),
  ]).nullish().transform((members) => members ?? []),
  aggregate_metric_list: z.union([aggregate, z.array(aggregate)]).nullish().transform((list) => [list ?? []].flat()),
  metadata: z.unknown().optional(),
});
/** The checked configuration of a group. */
export interface GroupConfig {
  task: z.infer<typeof groupSchema>["task"];
  /** `weightBySize`: whether tasks are weighted by their number of examples; otherwise all have the same weight. */
  metrics: { metric: string; weightBySize: boolean }[];
  /** Of its tasks. */
  overrides: RawConfig;
}

/** Checks the configuration of a group.
 * @throws {FileFormatError} that names file, key and problem. */
export function checkGroup(path: string, raw: RawConfig): GroupConfig {
  const parsed = groupSchema.safeParse(raw);
  if (!parsed.success) throw new FileFormatError(path, explainIssue(parsed.error.issues[0], raw));
  const overrides = Object.fromEntries(Object.entries(raw).filter(([key]) => !(key in groupSchema.shape)));
  return { task: parsed.data.task, metrics: parsed.data.aggregate_metric_list, overrides };
}
