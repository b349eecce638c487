/** The steps of a comparison one by one, for scripts: load a model, draw windows, prune, recover, score, generate, save. A
 * sweep does the same with records, failures and processes of their own; see `runSweep`.
 *
 * @module
 */
import { type EngineOptions, startBestEngine, startEngine } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { describeIssue } from "../../core/util/issues.ts";
import { kindOfPath } from "../../core/util/paths.ts";
import { createRng } from "../../core/util/rng.ts";
import {
  type EngineName,
  perplexityChoiceSchema,
  type PerplexityResult,
  type TaskResult,
  type TrainingOptions,
  type TrainingReport,
  trainingSchema,
  type UnitType,
} from "../../core/schema/schema.ts";
import type { FloatDtype } from "../../core/formats/safetensors.ts";
import type { Tokenizer, TokenizerDefinition } from "../../core/formats/tokenizer.ts";
import { drawCalibration } from "../../datasets/calibration.ts";
import { getCorpus } from "../../datasets/mod.ts";
import type { LearningContext } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { expectedTensors, type HostTensor, memorySource } from "../../models/config.ts";
import { modelSize } from "../../models/count.ts";
import { type DecoderModel, disposeModel, uploadModel, usualForm } from "../../models/device.ts";
import { exportHfFolder } from "../../models/export.ts";
import { paddedSource } from "../../models/export_source.ts";
import { openModel } from "../../models/load.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { scoringModel } from "../../models/scoring.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { resolveTarget } from "../../models/target.ts";
import { recoverModel } from "../../models/training/recover.ts";
import { measureTask } from "../evaluation/tasks.ts";
import { measurePerplexity } from "../evaluation/perplexity.ts";
import { createScorer } from "../evaluation/scorer.ts";
import { compensation } from "./learning.ts";
import { checkBudget, runMethod } from "./method_result.ts";

/** A model on the device with its tokenizer. Free it with {@linkcode freeModel}. */
export interface LoadedModel {
  /** Weights on the device. */
  model: DecoderModel;
  /** Text to ids and back. */
  tokenizer: Tokenizer;
  /** What the tokenizer was made of. */
  tokenizerDefinition: TokenizerDefinition;
}

/** A model that was pruned. */
export interface PrunedModel extends LoadedModel {
  /** Units that stayed. */
  plan: PrunePlan;
  /** Prunable parameters removed, as a fraction of the dense model's. */
  sparsity: number;
  /** What a method that learns did; empty for the others. */
  training: TrainingReport[];
}

/** Settings of a training, as in a run's `training`: `steps`, `batch`, `tokens`, `learningRate` and others. */
export type TrainingInput = Partial<Omit<TrainingOptions, "corpus" | "domains">>;

/** What may be told of the progress of a step, and how it is stopped. */
export interface StepOptions {
  /** Progress in words. */
  report?(message: string): void;
  /** Aborts between batches. */
  signal?: AbortSignal;
}

/** Where a model is computed, as the command line's `--engine`, `--device` and `--arithmetic` say it. */
export interface LoadOptions extends EngineOptions {
  /** The fastest that starts, and that has the device and the arithmetic, when absent. */
  engine?: EngineName;
}

/** Starts an engine and loads a model.
 * @param path a Hugging Face folder, a `.gguf` file, or `tiny`
 * @throws {UsageError} when there is no such model, or it is not supported.
 * @throws {EngineError} when the engine does not start, or has no such device or arithmetic. */
export async function loadModel(path: string, { engine, ...options }: LoadOptions = {}): Promise<LoadedModel> {
  const started = engine === undefined ? (await startBestEngine(options)).engine : await startEngine(engine, options);
  const { source, tokenizer, tokenizerDefinition } = await openModel(path);
  try {
    return { model: await uploadModel(source, usualForm(source, started)), tokenizer, tokenizerDefinition };
  } finally {
    source.close();
  }
}

/** Which windows to draw. */
export interface WindowOptions {
  /** A corpus, see `bench ls tasks`; its calibration split is read. */
  corpus?: string;
  /** How many windows. */
  sequences?: number;
  /** Length of a window in tokens. */
  tokens?: number;
  /** Seed of the places. */
  seed?: number;
  /** Folder with data sets. */
  data?: string;
  /** Windows of another stream are drawn apart. */
  stream?: "calibration" | "training";
}

/** Windows of text at seeded places of a corpus, each i32 `[tokens]`: 128 of 128 tokens of `tiny-world` unless told
 * otherwise.
 * @throws {UsageError} when the corpus is unknown, its data are missing, or the text is too short. */
export async function calibrationWindows(
  { tokenizer }: Pick<LoadedModel, "tokenizer">,
  { corpus = "tiny-world", sequences = 128, tokens = 128, seed = 0, data, stream }: WindowOptions = {},
): Promise<Int32Array[]> {
  for (const [name, count] of Object.entries({ sequences, tokens })) {
    if (Number.isInteger(count) && count > 0) continue;
    throw new UsageError(`${name} of calibration windows must be a whole number of at least 1: current ${count}`);
  }
  return (await drawCalibration({ corpus: getCorpus(corpus), tokenizer, sequences, tokens, seed, data, stream }))
    .windows;
}

/** @throws {UsageError} that names the first setting that does not fit. */
function parseTraining(training: TrainingInput): TrainingOptions {
  const parsed = trainingSchema.safeParse(training);
  if (parsed.success) return parsed.data;
  throw new UsageError(
    `training: ${describeIssue(at(parsed.error.issues, 0), training, () => Object.keys(trainingSchema.shape))}`,
  );
}

/** Windows for a training: `steps * batch` of them, drawn apart from the calibration windows.
 * @throws {UsageError} as {@linkcode calibrationWindows}. */
export function trainingWindows(
  loaded: Pick<LoadedModel, "tokenizer">,
  { corpus, seed, data, ...training }: Pick<WindowOptions, "corpus" | "seed" | "data"> & TrainingInput,
): Promise<Int32Array[]> {
  const { steps, batch, tokens } = parseTraining(training);
  return calibrationWindows(loaded, { corpus, seed, data, tokens, sequences: steps * batch, stream: "training" });
}

/** How to prune. */
export interface PruneOptions extends StepOptions {
  /** Id of a method, see `bench ls methods`. */
  method: string;
  /** Options of the method; its defaults unless given. */
  options?: Record<string, unknown>;
  /** Part of the prunable parameters to remove, in [0, 1). */
  sparsity: number;
  /** What may be removed; FFN channels and key/value groups by default. */
  units?: readonly UnitType[];
  /** FFN widths are multiples of this. */
  ffnMultiple?: number;
  /** Windows for methods that read data, and for `compensate`. */
  calibration?: Int32Array[];
  /** For methods that learn: {@linkcode trainingWindows} and the settings they were drawn with. */
  learning?: TrainingInput & { windows: Int32Array[] };
  /** Corrects the maps that read removed units. */
  compensate?: "least-squares";
  /** Seed of the method's random streams. */
  seed?: number;
}

/** A smaller model by the method; `dense` stays as it is.
 * @throws {UsageError} when method, options or budget do not fit the model, or windows are missing. */
export async function prune(dense: LoadedModel, given: PruneOptions): Promise<PrunedModel> {
  const { sparsity, units = ["ffn", "kv-groups"], ffnMultiple = 1, calibration = [], seed = 0 } = given;
  const method = getMethod(given.method);
  const stage = stageOf(given);
  const { config } = dense.model;
  const target = resolveTarget(config, { sparsity, units, ffnMultiple });
  const compensate = given.compensate === "least-squares" && compensation(dense.model, calibration, stage);
  const options = parseOptions(method, given.options ?? {});
  const learning = given.learning && learningOf(given.learning);
  method.check?.(config, target, options, {
    ...compensate && { compensate: "least-squares" as const },
    ...learning && { training: learning.options },
  });
  const { plan, replaced, training = [] } = await runMethod(method, {
    model: dense.model,
    calibration,
    options,
    seed,
    rng: (name) => createRng(seed, `${method.id} ${name}`),
    target,
    ...stage,
    ...learning && { learning: { ...learning, ...compensate && { compensate } } },
  });
  const changed = compensate && method.kind === "one-shot" ? await compensate(plan, replaced) : replaced;
  const model = pruneModel(dense.model, plan, changed);
  checkBudget(method, options, { dense: config, left: model.config, plan, target });
  const kept = modelSize(model.config, config);
  return { ...dense, model, plan, sparsity: kept.sparsityOfPrunable, training };
}

/** Trains adapters on a pruned model towards the dense one and folds them in; `pruned` is changed.
 * @throws {UsageError} when there are fewer windows than the steps read. */
export async function recover(
  pruned: LoadedModel,
  { dense, seed = 0, ...given }:
    & { dense: LoadedModel; windows: Int32Array[]; seed?: number }
    & TrainingInput
    & StepOptions,
): Promise<TrainingReport> {
  const { report, signal, ...settings } = given;
  const learning = learningOf(settings);
  const { crossEntropy, distillation, hidden } = learning.options;
  if (crossEntropy + distillation + hidden === 0) {
    throw new UsageError(
      "The weights crossEntropy, distillation and hidden of a recovery are 0: set one of them above 0",
    );
  }
  const { report: done } = await recoverModel({
    base: pruned.model,
    teacher: dense.model,
    ...learning,
    rng: createRng(seed, "recovery"),
    key: "recovery",
    ...stageOf({ report, signal }),
  });
  return done;
}

/** What to score on. */
export interface ScoreOptions extends StepOptions {
  /** Corpora, and what differs from the default protocol (`a`, as SparseGPT and Wanda measure). */
  perplexity?: readonly (string | {
    corpus: string;
    split?: string;
    protocol?: "a" | "b" | "c";
    windowTokens?: number;
    maxWindows?: number;
  })[];
  /** Tasks, see `bench ls tasks`. */
  tasks?: readonly string[];
  /** Only the first examples of each task. */
  limit?: number;
  /** Solved examples in the prompts. */
  numFewshot?: number;
  /** Folder with data sets. */
  data?: string;
}

/** Perplexities and task results of a model, with the protocol in each.
 * @throws {UsageError} when a corpus or task is unknown, its data are missing, or `limit` is no number of examples.
 * @throws {NumericError} when the model's output is not finite. */
export async function score(
  { model, tokenizer }: LoadedModel,
  { perplexity = [], tasks = [], limit, numFewshot, data, signal }: ScoreOptions,
): Promise<{ perplexity: PerplexityResult[]; tasks: TaskResult[] }> {
  if (limit !== undefined && !(Number.isInteger(limit) && limit > 0)) {
    throw new UsageError(`limit must be a whole number above 0: current ${limit}`);
  }
  const scorer = createScorer(scoringModel(model), tokenizer, { signal });
  const found = { perplexity: [] as PerplexityResult[], tasks: [] as TaskResult[] };
  for (const choice of perplexity) {
    const parsed = perplexityChoiceSchema.parse(typeof choice === "string" ? { corpus: choice } : choice);
    found.perplexity.push(await measurePerplexity(scorer, parsed, { data }));
  }
  for (const id of tasks) {
    found.tasks.push((await measureTask(scorer, id, { data, limit, fewshot: numFewshot })).result);
  }
  return found;
}

/** The continuation of each prompt by the most probable tokens.
 * @throws {UsageError} when a prompt is empty, or leaves no room for `tokens` more. */
export async function generate(
  { model, tokenizer }: LoadedModel,
  prompts: readonly string[],
  { tokens = 40, signal }: { tokens?: number; signal?: AbortSignal } = {},
): Promise<string[]> {
  const texts = await createScorer(scoringModel(model), tokenizer, { signal }).generateUntil(prompts, {
    maxTokens: tokens,
  });
  return texts.map(({ text }) => text);
}

/** Writes a model as a folder that transformers and this program load; the folder around it must exist. All weights are in
 * host memory at once.
 * @throws {UsageError} when there is something at `to` but an empty folder, or layers have unequal widths and `pad`, which
 * fills them up with zeros, is not set. */
export async function saveModel(
  { model, tokenizerDefinition }: LoadedModel,
  to: string,
  { dtype = "F32", pad = false }: { dtype?: FloatDtype; pad?: boolean } = {},
): Promise<void> {
  checkEmpty(to);
  const tensors = new Map<string, HostTensor>();
  for (const name of expectedTensors(model.config).keys()) tensors.set(name, await hostTensor(model, name));
  const source = memorySource(model.config, tensors);
  exportHfFolder(pad ? paddedSource(source) : source, { to, dtype, tokenizer: tokenizerDefinition });
}

/** A folder is replaced as a whole, so nothing may be in it. */
function checkEmpty(to: string): void {
  const kind = kindOfPath(to);
  if (kind === null || kind === "folder" && Deno.readDirSync(to).next().done) return;
  throw new UsageError(`"${to}" exists and is no empty folder: remove it or choose another`);
}

/** Frees a model's memory on the device. */
export function freeModel({ model }: LoadedModel): void {
  disposeModel(model);
}

function learningOf({ windows, ...training }: TrainingInput & { windows: Int32Array[] }): LearningContext {
  return { options: parseTraining(training), windows };
}

/** Statistics are kept for the call alone. */
function stageOf({ report = () => {}, signal = new AbortController().signal }: StepOptions) {
  const cache = new Map<string, Record<string, HostTensor>>();
  const remember = async (key: string, compute: () => Promise<Record<string, HostTensor>>) => {
    const found = cache.get(key) ?? await compute();
    cache.set(key, found);
    return found;
  };
  return { report, signal, remember };
}
