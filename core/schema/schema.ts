/** The one definition of configurations, cells and records. Types, checks and JSON Schema all come from here.
 *
 * @module
 */
import { z } from "zod";
import {
  datasetUseSchema,
  groupResultSchema,
  perplexityChoiceSchema,
  perplexityResultSchema,
  taskResultSchema,
  throughputChoiceSchema,
  throughputResultSchema,
} from "./schema_measurements.ts";
import {
  BUDGETS,
  COMPENSATIONS,
  RECOVERIES,
  RUN_UNITS,
  trainingReportSchema,
  trainingSchema,
} from "./schema_training.ts";

export * from "./schema_measurements.ts";
export * from "./schema_training.ts";

/** Version of {@linkcode cellRecordSchema}; records of other versions are refused by name. */
export const SCHEMA_VERSION = 5;

/** Engines a run may ask for. */
export const ENGINE_NAMES = ["wasm", "tensorflow", "webgpu", "cpu"] as const;
/** An engine a run may ask for. */
export type EngineName = (typeof ENGINE_NAMES)[number];

/** How products are taken: in f32, or with factors that CUDA may round to TF32, which has 10 bits of mantissa. */
export const ARITHMETICS = ["exact", "fast"] as const;
/** How products are taken. */
export type Arithmetic = (typeof ARITHMETICS)[number];

/** Why a cell failed: memory (of the process, the device or the machine), NaN or infinite numbers, a native library
 * that crashed, the time limit, a full disk, data that is missing, settings that cannot be used, an engine that does
 * not start, and everything else (`error`). */
export const FAILURE_KINDS = [
  "out-of-memory",
  "numeric",
  "crash",
  "timeout",
  "disk-full",
  "missing-data",
  "usage",
  "engine",
  "error",
] as const;
/** Why a cell failed. */
export type FailureKind = (typeof FAILURE_KINDS)[number];

/** Published tables that a run may be set beside; each is a file of `reports/paper`. */
export const PAPER_TABLES = [
  "llm-pruner-20",
  "llm-pruner-50",
  "flap",
  "gisp",
  "multipruner",
  "sheared-llama",
  "tyr",
  "maskprune-llama-7b",
  "maskprune-llama2-7b",
] as const;
/** A published table. */
export type PaperTableId = (typeof PAPER_TABLES)[number];

const unit = z.enum(RUN_UNITS);
const fraction = z.number().min(0).lt(1);
const positiveInt = z.number().int().positive();

/** A setting of tasks: one value for all, or one by task. */
function perTask<T extends z.ZodType>(value: T) {
  return z.union([value, z.record(z.string(), value)]);
}

/** The value of a setting for one task; undefined if there is none. */
export function ofTask<T>(setting: T | Record<string, T> | undefined, task: string): T | undefined {
  return setting instanceof Object ? setting[task] : setting;
}

/** A list; a single item is accepted, too. */
function listOf<T extends z.ZodType>(item: T, minimum = 0) {
  const toList = (value: z.input<T> | z.input<T>[]) => value == null || Array.isArray(value) ? value : [value];
  return z.preprocess(toList, z.array(item).min(minimum));
}

const methodChoiceSchema = z.strictObject({
  id: z.string().describe("method id, see `bench ls methods`"),
  options: z.record(z.string(), z.unknown()).default({}).describe("options of the method"),
});

const methodFileSchema = z.strictObject({
  path: z.string().describe("as given"),
  sha256: z.string().describe("over the file and what it imports"),
  imports: z.array(z.string()).describe("other files of the user, relative to the file's folder"),
});
/** A file that a method comes from. */
export type MethodFile = z.infer<typeof methodFileSchema>;

/** Ways of turning context and continuation into tokens. */
export const REQUEST_ENCODINGS = ["lm-eval", "llm-pruner"] as const;

/** Calibration data, the same for every method of a run. */
export const calibrationSchema = z.strictObject({
  corpus: z.string().describe("corpus id whose calibration split is used, file:PATH, or self: text of the dense model"),
  sequences: positiveInt.default(32).describe("number of windows"),
  tokens: z.number().int().min(2).default(128).describe("window length in tokens"),
  draw: z.enum(["places", "distinct-rows"]).optional().describe(
    "places (default): as SparseGPT; distinct-rows: each window from another record, as LLM-Pruner's code",
  ),
});

/** A run: everything `bench run` needs. YAML presets and flags both give this. */
export const runConfigSchema = z.strictObject({
  name: z.string().default("run").describe("title of the report"),
  paper: z.enum(PAPER_TABLES).optional().describe("published table to show beside the run"),
  model: z.string().default("tiny").describe("Hugging Face folder, .gguf file, or `tiny` for the bundled model"),
  engine: z.enum([...ENGINE_NAMES, "auto"]).default("auto").describe(
    `${ENGINE_NAMES.join(", ")}, or auto: tensorflow if it is set up, else wasm`,
  ),
  device: z.string().min(1).optional().describe(
    "cuda or cpu for tensorflow, part of an adapter's name for webgpu; a missing device is an error",
  ),
  arithmetic: z.enum(ARITHMETICS).default("exact").describe(
    "exact: f32; fast: reduced-precision products (TF32 on CUDA, bfloat16 on CPUs), f32 sums",
  ),
  methods: listOf(methodChoiceSchema).describe(
    "methods to compare, see `bench ls methods`; the dense model is always measured",
  ),
  methodFile: listOf(z.string(), 1).optional().describe(
    "files with your own methods, see docs/adding-a-method.md; all are run unless --methods names some",
  ),
  checkpoints: listOf(z.strictObject({
    label: z.string().regex(/^\w[\w.+ -]*$/, "must be letters, digits, spaces or .+-").describe(
      "name of its rows",
    ),
    model: z.string().describe("Hugging Face folder or .gguf file"),
  })).optional().describe("models that were pruned elsewhere, to compare with the methods"),
  sparsity: listOf(fraction, 1).describe("fractions of the budget to remove, such as 0.2,0.5"),
  budget: z.enum(BUDGETS).default("parameters").describe(
    "what sparsity counts: parameters, macs, prefill-ms or decode-ms of the layers; times are measured before the " +
      "first cell, see docs/equal-speed.md",
  ),
  seeds: listOf(z.number().int().nonnegative().max(0xffff_ffff), 1).default([0]).describe("one cell per seed"),
  units: listOf(unit, 1).default(["ffn", "kv-groups"]).describe(`what may be removed: ${unit.options.join(", ")}`),
  dropLayers: listOf(z.number().int().nonnegative(), 1).optional().describe(
    "how many whole layers to remove first, by greedy removal; one cell per count; other units fill the budget",
  ),
  ffnMultiple: z.union([positiveInt, z.literal("auto")]).default(1).describe(
    "FFN widths are multiples of this; auto: chosen for the engine and the model's file, see docs/equal-speed.md",
  ),
  calibration: calibrationSchema.optional().describe(
    "text for calibration: a corpus, a file, or self (sampled from the dense model); default: the first scored corpus",
  ),
  recover: z.enum(RECOVERIES).optional().describe(
    "training after pruning: none, scales (one number per kept unit) or lora (adapters and scales)",
  ),
  compensate: z.enum(["none", ...COMPENSATIONS]).optional().describe(
    "least-squares: correct the output and down projections for the removed units, before recovery; " +
      "least-squares-in-turn: the same, with inputs from layers that are already cut and corrected",
  ),
  training: trainingSchema.optional().describe("settings of learning and recovery, see `bench ls training`"),
  layerwise: z.boolean().default(false).describe(
    "hold one dense layer on the device while pruning (random, magnitude, wanda-sp, flap): less memory, same results",
  ),
  weights: z.enum(["f32", "stored"]).optional().describe(
    "precision of matrices on the device: f32, or stored (f16 and bf16 files stay in 16 bits, products in f32); " +
      "stored needs tensorflow on the CPU, and is the default there for such files",
  ),
  perplexity: listOf(perplexityChoiceSchema.extend({
    windowTokens: perplexityChoiceSchema.shape.windowTokens.unwrap().optional().describe(
      "window length L in tokens (default: 1024, or what the model and a file have)",
    ),
  })).default([]).describe("perplexity measurements; for corpora see `bench ls tasks`"),
  tasks: listOf(z.string()).default([]).describe("tasks (see `bench ls tasks`), and groups and tags of task files"),
  taskFile: listOf(z.string(), 1).optional().describe(
    "task file of lm-evaluation-harness, or a folder of them; may be repeated; see docs/tasks-and-data.md",
  ),
  limit: perTask(positiveInt).optional().describe("score only the first N examples of each task (default: all)"),
  numFewshot: perTask(z.number().int().nonnegative()).default(0).describe("few-shot examples in the prompts of tasks"),
  requestEncoding: z.enum(REQUEST_ENCODINGS).default("lm-eval").describe(
    "llm-pruner: encode context and continuation separately, without BOS, as in LLM-Pruner's tables",
  ),
  logSamples: z.boolean().default(false).describe("write every example with its scores, as lm-evaluation-harness does"),
  throughput: throughputChoiceSchema.optional().describe("measure tokens per second of prefill and decoding"),
  data: z.string().optional().describe("folder with data sets (JSON Lines, Parquet, text)"),
  out: z.string().describe("folder for records and reports"),
  jobs: positiveInt.default(1).describe("cells at once"),
  keepWeights: z.boolean().optional().describe(
    "also store the full weights of trained or compensated cells; the data that rebuilds them is always kept",
  ),
});
/** A perplexity measurement. */
export type PerplexityChoice = z.infer<typeof perplexityChoiceSchema>;
/** A run. */
export type RunConfig = z.infer<typeof runConfigSchema>;

/** The measurements of a cell. Its other fields decide the model, and with it the cell's id. */
const measureFields = {
  perplexity: z.array(perplexityChoiceSchema),
  tasks: z.array(z.string()),
  limit: perTask(positiveInt).optional().describe("of all tasks, or by task; absent: all examples"),
  numFewshot: perTask(z.number().int().nonnegative()).optional().describe("of all tasks, or by task; absent: none"),
  throughput: throughputChoiceSchema.optional(),
};

/** One cell: exactly the settings that determine its numbers. */
export const cellSchema = z.strictObject({
  model: z.string(),
  engine: z.enum(ENGINE_NAMES),
  method: z.strictObject({
    ...methodChoiceSchema.shape,
    version: positiveInt.optional().describe("of the method's code; absent: 1"),
    changed: z.array(z.string()).optional().describe("options that are not the method's defaults; unknown when absent"),
  }).nullable().describe("null: the dense model"),
  methodFile: methodFileSchema.optional().describe("the file of a user's own method"),
  checkpoint: z.strictObject({ path: z.string(), sha256: z.string() }).optional().describe(
    "a model that was pruned elsewhere: `method` holds its label, `changed` has no meaning",
  ),
  sparsity: fraction,
  seed: z.number().int().nonnegative(),
  units: z.array(unit),
  dropLayers: z.number().int().nonnegative().optional().describe(
    "whole layers that went first; absent: as many as the method or the budget needs",
  ),
  budget: z.enum(BUDGETS).exclude(["parameters"]).optional().describe("what sparsity is a part of; absent: parameters"),
  latency: z.string().optional().describe("SHA-256 of the table of times that a budget in time is met by"),
  ffnMultiple: positiveInt,
  calibration: calibrationSchema,
  recover: z.enum(["scales", "lora"]).optional().describe("absent: a learned method learns its choice alone"),
  compensate: z.enum(COMPENSATIONS).optional(),
  training: trainingSchema.optional().describe("present when the method learns or anything is trained"),
  weights: z.literal("stored").optional().describe("matrices in 16 bits on the device; in f32 when absent"),
  arithmetic: z.literal("fast").optional().describe(
    "factors of products in TF32 (CUDA) or bfloat16 (CPU); in f32 when absent",
  ),
  requestEncoding: z.literal("llm-pruner").optional().describe("absent: as lm-evaluation-harness"),
  ...measureFields,
});
/** One cell. */
export type Cell = z.infer<typeof cellSchema>;

/** The part of a cell that decides its model: everything but what is measured of it. */
export function pruningOf(cell: Cell): Omit<Cell, keyof typeof measureFields> {
  return Object.fromEntries(Object.entries(cell).filter(([name]) => !(name in measureFields))) as ReturnType<
    typeof pruningOf
  >;
}

const environmentSchema = z.strictObject({
  engine: z.enum(ENGINE_NAMES).describe("engine that ran"),
  library: z.string().describe("TensorFlow.js and native library versions"),
  device: z.string(),
  visibleDevices: z.string().optional().describe("CUDA_VISIBLE_DEVICES of the cell's process, if set"),
  arithmetic: z.enum(ARITHMETICS).optional().describe("absent in older records"),
  threads: positiveInt,
  deno: z.string(),
  os: z.string(),
  cpu: z.string(),
  commit: z.string().nullable().describe("git commit of the harness, with `-dirty` when files differ"),
});
/** Machine and library versions. */
export type Environment = z.infer<typeof environmentSchema>;

const sizeSchema = z.strictObject({
  parameters: z.number(),
  prunableParameters: z.number(),
  /** Multiply-accumulates of one 64-token sequence, LLM-Pruner's convention. */
  macs64: z.number(),
  weightBytes: z.number().describe("on the device; in older records as if all were f32"),
  kvBytesPerToken: z.number(),
  sparsityOfModel: z.number().describe("fraction of all parameters removed"),
  sparsityOfPrunable: z.number().describe("fraction of prunable parameters removed"),
  layerwiseUniform: z.boolean(),
  plainLlama: z.boolean().describe("loads as a plain Llama: layer-wise uniform and no added biases"),
  layers: z.array(z.strictObject({ kvGroups: z.number(), queryHeadsPerGroup: z.number(), ffnChannels: z.number() }))
    .describe("layers that are left"),
  hidden: z.strictObject({ kept: z.number(), of: z.number() }).optional().describe(
    "hidden size and the dense model's; absent when they are equal",
  ),
});
/** Size and shape of a model. */
export type ModelSize = z.infer<typeof sizeSchema>;

const recordHead = {
  schemaVersion: z.literal(SCHEMA_VERSION),
  id: z.string().describe("hash of the cell"),
  cell: cellSchema,
  paper: z.enum(PAPER_TABLES).optional().describe("published table to show beside the run"),
  startedAt: z.string(),
  seconds: z.number(),
};

const storedWeightsSchema = z.strictObject({
  file: z.string().describe("safetensors file in the run's folder `weights`, f32"),
  sizeBytes: z.number(),
  sha256: z.string(),
});
/** Weights kept beside a record. */
export type StoredWeights = z.infer<typeof storedWeightsSchema>;

/** Which units stay. */
export const planSchema = z.strictObject({
  layers: z.array(z.strictObject({
    kvGroups: z.array(z.number()),
    queryHeads: z.array(z.number()),
    ffnChannels: z.array(z.number()),
  })).describe("one per layer of the dense model; a layer that keeps no unit is removed; empty for a checkpoint"),
  hidden: z.array(z.number()).optional().describe("kept hidden dimensions; all when absent"),
});

const storedRebuildSchema = storedWeightsSchema.extend({
  stages: z.array(z.object({
    compensated: z.boolean().describe("whether least squares corrected maps, on the calibration windows in the file"),
    scale: z.number().optional().describe("of the adapters; 0: only scales were trained; absent: nothing was"),
  })).length(1),
});
/** What makes a cell's model again from the dense one. */
export type StoredRebuild = z.infer<typeof storedRebuildSchema>;

const doneRecordSchema = z.object({
  ...recordHead,
  state: z.literal("done"),
  environment: environmentSchema,
  laterEnvironments: z.array(environmentSchema).optional().describe(
    "of measurements that were added on other machines or by other versions, in order",
  ),
  weights: z.strictObject({
    path: z.string(),
    format: z.string(),
    dtypes: z.array(z.string()),
    sizeBytes: z.number(),
    sha256: z.string(),
  }),
  size: sizeSchema,
  denseSize: sizeSchema,
  plan: planSchema,
  raisedRidges: z.number().int().min(1).optional().describe(
    "times that rounding made an inverse indefinite, so that the method added more to a diagonal",
  ),
  openResidual: z.number().positive().optional().describe(
    "largest relative residual of least squares that did not converge; absent when all did",
  ),
  changedWeights: z.boolean().describe("whether weights that stayed differ from the dense model's"),
  rebuild: storedRebuildSchema.optional().describe("present if the cell changed weights and can be rebuilt"),
  storedWeights: storedWeightsSchema.optional().describe("every tensor; present if the cell changed and kept them"),
  calibrationData: datasetUseSchema.nullable(),
  training: z.array(trainingReportSchema).optional().describe("stages of learning and recovery, in order"),
  trainingData: datasetUseSchema.optional(),
  perplexity: z.array(perplexityResultSchema),
  tasks: z.array(taskResultSchema),
  groups: z.array(groupResultSchema).optional().describe("groups of task files; their tasks are in `tasks`"),
  throughput: z.array(throughputResultSchema),
  budget: z.strictObject({
    whole: z.number().describe("cost of the dense model's layers"),
    asked: z.number().describe("most that may stay"),
    left: z.number().describe("cost of the layers that are left, by count or by the table of times"),
    rest: z.number().describe("cost outside the layers; 0 for counts"),
  }).optional().describe("multiply-accumulates or milliseconds; absent where parameters are counted"),
  memory: z.strictObject({ afterLoadBytes: z.number(), peakBytes: z.number(), measure: z.string() }),
  timings: z.strictObject({
    loadS: z.number().describe("reading models, and rebuilding a pruned one"),
    pruneS: z.number().describe("scoring units and cutting, without learning"),
    learnS: z.number().describe("stages of `training`"),
    evaluateS: z.number().describe("perplexity and tasks"),
    throughputS: z.number().nullable().describe("null in older records, where `evaluateS` includes it"),
    waitS: z.number().nullable().describe("waiting for statistics of another cell; null in older records"),
  }).describe("parts of `seconds`; starting processes is in none"),
});
/** The record of a cell that failed. */
export const failedRecordSchema = z.strictObject({
  ...recordHead,
  state: z.literal("failed"),
  failure: z.strictObject({
    kind: z.enum(FAILURE_KINDS),
    message: z.string(),
    exitCode: z.number().nullable(),
    phase: z.string().optional().describe("what the cell was doing: `learning: step 41 of 60`"),
  }),
});
/** One record per cell. */
export const cellRecordSchema = z.discriminatedUnion("state", [doneRecordSchema, failedRecordSchema]);
/** One record per cell. */
export type CellRecord = z.infer<typeof cellRecordSchema>;
/** The record of a cell that finished. */
export type DoneRecord = z.infer<typeof doneRecordSchema>;
/** The record of a cell that failed. */
export type FailedRecord = z.infer<typeof failedRecordSchema>;
