/** Measurements and their results.
 *
 * @module
 */
import { z } from "zod";

const positiveInt = z.number().int().positive();

/** A perplexity measurement. */
export const perplexityChoiceSchema = z.strictObject({
  corpus: z.string().describe("corpus id, see `bench ls tasks`, or file:PATH (.txt, .jsonl, .parquet)"),
  split: z.string().optional().describe("split of the corpus; defaults to the one that papers report"),
  protocol: z.enum(["a", "b", "c"]).default("a").describe(
    "a: SparseGPT/Wanda windows, mean of window means; b: LLM-Pruner windows, mean over tokens; " +
      "c: lm-evaluation-harness, whole documents, per word and per byte",
  ),
  windowTokens: z.number().int().min(2).default(1024).describe(
    "window length L in tokens; a and b score L - 1 of each window, c predicts L at once",
  ),
  maxWindows: positiveInt.optional().describe("score only the first windows (c: documents)"),
});

/** A throughput measurement. */
export const throughputChoiceSchema = z.strictObject({
  prefillTokens: positiveInt.default(512).describe("pp: tokens of the prompt"),
  decodeTokens: positiveInt.default(128).describe("tg: tokens generated one at a time"),
  batch: positiveInt.default(1).describe("sequences at once"),
  repeats: z.number().int().min(2).default(5).describe("timed repeats after one untimed pass of the same shape"),
});

/** Processor cores of other programs from which a machine counts as busy. */
export const BUSY_CORES = 0.25;

const milliseconds = z.array(z.number().positive()).min(1);

/** Times of models whose layers are all alike, each measured in turns with the dense model. */
export const latencyTableSchema = z.strictObject({
  of: z.strictObject({
    budget: z.enum(["prefill-ms", "decode-ms"]),
    weights: z.string().describe("SHA-256 of the dense model"),
    form: z.enum(["f32", "stored"]).describe("how matrices were held"),
    arithmetic: z.enum(["exact", "fast"]),
    engine: z.string(),
    library: z.string(),
    device: z.string(),
    cpu: z.string(),
    tokens: positiveInt.describe("tokens of a pass"),
    batch: positiveInt,
  }).describe("what was timed, and where: all of it must be equal for the times to hold"),
  dense: z.strictObject({ layers: positiveInt, ffnChannels: positiveInt, attentionWeights: positiveInt }),
  points: z.array(z.strictObject({
    layers: positiveInt,
    ffnChannels: positiveInt,
    attentionWeights: positiveInt.describe("weights of a layer's four attention maps"),
    samplesMs: milliseconds,
    denseSamplesMs: milliseconds.describe("the dense model's repeats, next to those of the same index"),
  })).min(1).describe("each differs from the dense model in one respect: layers, FFN channels or attention"),
  otherCores: z.number().nullable().describe("cores that other programs kept busy meanwhile, on average"),
  startedAt: z.string(),
  seconds: z.number(),
  command: z.string().describe("that measured it"),
});
/** Times of models whose layers are all alike. */
export type LatencyTable = z.infer<typeof latencyTableSchema>;

/** A data set that was read. */
export const datasetUseSchema = z.strictObject({
  id: z.string(),
  split: z.string(),
  source: z.string().describe("file or hub id"),
  revision: z.string().nullable(),
  licence: z.string(),
  sha256: z.string().describe("of the bytes read"),
});
/** A data set that was read. */
export type DatasetUse = z.infer<typeof datasetUseSchema>;

/** Most tokens of a batch, on which rounding depends. */
const batchTokens = positiveInt.optional().describe(
  "most tokens of a batch, padding included; absent in older records",
);

/** A perplexity with its protocol. */
export const perplexityResultSchema = z.object({
  ...perplexityChoiceSchema.shape,
  dataset: datasetUseSchema,
  tokens: z.number().describe("ids in the whole text"),
  windows: z.number().describe("scored windows (c: documents)"),
  droppedTokens: z.number().describe("ids after the last scored window"),
  nllPerToken: z.number().describe("nats"),
  perplexity: z.number().describe("per token (c: per word)"),
  perplexityStderr: z.number().nullable().describe(
    "delta method from the standard error of the window means; null for one window and for c",
  ),
  windowNll: z.array(z.number()).describe(
    "mean nats per scored token of each window (c: per word of each document), for paired comparison",
  ),
  documentWords: z.array(z.number()).optional().describe(
    "words of each document, its weight in the perplexity; protocol c only, absent in older records",
  ),
  documents: z.strictObject({
    words: z.number().describe("pieces of the raw text between white space"),
    bytes: z.number().describe("UTF-8 bytes of the raw text"),
    wordPerplexity: z.number(),
    bytePerplexity: z.number(),
    bitsPerByte: z.number(),
  }).optional().describe("protocol c only"),
  bosPolicy: z.string(),
  tokenizerSha256: z.string(),
  batchTokens,
  seconds: z.number(),
});
/** A perplexity with its protocol. */
export type PerplexityResult = z.infer<typeof perplexityResultSchema>;

/** A task's scores. */
export const taskResultSchema = z.object({
  task: z.string(),
  version: z.number(),
  definition: z.strictObject({ path: z.string(), sha256: z.string() }).optional().describe(
    "the task's file, and the hash of its contents with includes",
  ),
  dataset: datasetUseSchema,
  numFewshot: z.number(),
  fewshotDataset: datasetUseSchema.optional().describe("data set of the examples in the prompt"),
  bosPolicy: z.string(),
  samples: z.strictObject({ original: z.number(), effective: z.number() }),
  metrics: z.record(
    z.string(),
    z.strictObject({ value: z.number(), stderr: z.number().nullable(), higherIsBetter: z.boolean() }),
  ),
  /** One character per example, `1` right and `0` wrong, per metric; for paired comparison. */
  outcomes: z.record(z.string(), z.string()),
  chance: z.number().describe("expected accuracy of a uniform guess"),
  batchTokens,
  seconds: z.number(),
});
/** A task's scores. */
export type TaskResult = z.infer<typeof taskResultSchema>;

/** Metrics of several tasks together. */
export const groupResultSchema = z.strictObject({
  group: z.string(),
  tasks: z.array(z.string()),
  metrics: z.record(
    z.string(),
    z.strictObject({ value: z.number(), stderr: z.number().nullable(), weightBySize: z.boolean() }),
  ),
});
/** Metrics of several tasks together. */
export type GroupResult = z.infer<typeof groupResultSchema>;

/** Throughput of one kind of work. */
export const throughputResultSchema = z.strictObject({
  name: z.string().describe("`pp512`, `tg128`"),
  batch: z.number(),
  tokensPerS: z.strictObject({ mean: z.number(), sd: z.number() }),
  samplesMs: z.array(z.number()),
  denseSamplesMs: z.array(z.number()).optional().describe(
    "the dense model's repeats, next to those of the same index; absent if repeats did not alternate",
  ),
  threads: z.number().optional().describe("of the timing process; absent: those of the cell's environment"),
  machine: z.strictObject({ engine: z.string(), library: z.string(), device: z.string(), cpu: z.string() }).optional()
    .describe("that timed; absent: that of the cell's environment"),
  otherCores: z.number().nullable().optional().describe(
    "cores that other programs kept busy meanwhile, on average; null if the system does not tell",
  ),
  sharedFrom: z.string().optional().describe("id of the timed cell: models of one shape share a measurement"),
});
/** Throughput of one kind of work. */
export type ThroughputResult = z.infer<typeof throughputResultSchema>;
