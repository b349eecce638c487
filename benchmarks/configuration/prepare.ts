/** Prepares a run: everything that can be checked before the first cell is checked here.
 *
 * @module
 */
import os from "node:os";
import { SETUP_COMMAND } from "../../core/engine/engine.ts";
import { MissingDataError, UsageError } from "../../core/util/errors.ts";
import {
  calibrationSchema,
  type DatasetUse,
  type EngineName,
  type LatencyTable,
  type MethodFile,
  ofTask,
  type PerplexityChoice,
  type RunConfig,
  throughputChoiceSchema,
  trainingSchema,
} from "../../core/schema/schema.ts";
import type { NamedCell } from "../../core/schema/cell_names.ts";
import { canonicalJson, sha256OfJson } from "../../core/util/canonical_json.ts";
import { BLOCK_FORMATS } from "../../core/formats/dequantize.ts";
import { encodeForWindows, type Tokenizer } from "../../core/formats/tokenizer.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import type { TaskDefinition } from "../../datasets/define.ts";
import { definitionHash, selectTasks, type TaskGroup } from "../../datasets/lm_eval/task_files.ts";
import { addFileTasks, anyTask, getCorpus, tasks } from "../../datasets/mod.ts";
import { SELF_SETTINGS, SELF_TEXT } from "../../datasets/self_text.ts";
import { isFileName } from "../../datasets/text_file.ts";
import { getMethod } from "../../methods/mod.ts";
import type { DecoderConfig, WeightSource } from "../../models/config.ts";
import { usualForm, type WeightForm } from "../../models/device.ts";
import { isTime, resourceOf } from "../../models/latency.ts";
import { isShapeOnly, openModel, readShape } from "../../models/load.ts";
import { PARAMETERS, type Resource } from "../../models/resource.ts";
import { ranksLayers } from "../../models/target.ts";
import { checkAgainstModel, checkGpus, checkLayerwise, checkResultNames, resolveNames } from "./checks.ts";
import { findCheckpoints, type FoundCheckpoint } from "./checkpoints.ts";
import {
  calibrationUse,
  depthsOf,
  expandCells,
  type Fingerprint,
  isOn,
  type ReadyConfig,
  trainingUse,
} from "./expand.ts";
import type { Wanted } from "../records/measured.ts";
import { readRunFile } from "../records/run_file.ts";
import { type ProbedEngine, probeEngine } from "./engine_probe.ts";
import { checkConditions, latencyTable } from "./latency_table.ts";
import { loadMethodFile } from "./method_file.ts";

/** A run, ready to go. */
export interface PreparedRun {
  config: ReadyConfig;
  engine: EngineName;
  /** Device of every cell; any if absent. */
  device?: string;
  /** On CUDA: UUIDs of the GPUs that cells may use; empty if `nvidia-smi` does not list them. */
  gpus?: string[];
  fingerprint: Fingerprint;
  cells: NamedCell[];
  /** Shape of the dense model. */
  model: DecoderConfig;
  /** Times of the dense model's layers; absent unless the budget is a time. */
  latency?: LatencyTable;
  /** What the budget counts; parameters stand for times that are not measured yet. */
  resource: Resource;
  /** When the weights were hashed, milliseconds since 1970. */
  preparedAtMs: number;
  taskDefinitions: TaskDefinition[];
  taskGroups: TaskGroup[];
}

/** Settings of a run for its cells besides measurements. */
export function wantedOf({ config: { keepWeights }, fingerprint }: PreparedRun): Wanted {
  return { hashes: fingerprint.data, ...keepWeights !== undefined && { keepWeights } };
}

/** Prepares a run: checks names, engine, model and data, and names its cells. With `elsewhere`, cells run on other
 * machines, and this one need not have their device. With `planned`, nothing will run, and the model's shape is enough.
 * @throws {UsageError} that says what to change.
 * @throws {EngineError} when the engine that was asked for does not start. */
export async function prepareRun(
  asked: RunConfig,
  note: (message: string) => void,
  { elsewhere = false, planned = false }: { elsewhere?: boolean; planned?: boolean } = {},
): Promise<PreparedRun> {
  const preparedAtMs = Date.now();
  const { config: withMethods, fileOf } = await loadMethodFiles(asked);
  const { definitions: taskDefinitions, groups: taskGroups, tasks: selected } = selectTasks(
    withMethods.taskFile ?? [],
    withMethods.tasks,
    [...tasks.keys()],
  );
  addFileTasks(taskDefinitions);
  const named = resolveNames({ ...withMethods, tasks: selected }, selected);
  const checked = { ...named, calibration: named.calibration ?? defaultCalibration(named) };
  checkLayerwise(checked);
  const { probe, ...devices } = await chooseEngine(checked, note, elsewhere);
  const { name: engine, decoderOps } = probe;
  const dense = await openDense(checked, planned);
  const config: ReadyConfig = {
    ...checked,
    perplexity: await withWindows(checked.perplexity, dense),
    ffnMultiple: chooseMultiple(checked.ffnMultiple, engine, dense.origin.dtypes),
    weights: chooseForm(checked, { engine, decoderOps: elsewhere ? undefined : decoderOps }, dense.origin),
    ...isTime(checked.budget) && { throughput: checked.throughput ?? throughputChoiceSchema.parse({}) },
  };
  checkResultNames(config);
  const data = await hashData(config, asked.calibration === undefined);
  await checkLearnedTexts(config, data, dense.tokenizer);
  const { here, latency } = await findTimes(config, dense, { ...devices, probe, elsewhere, planned, note });
  const isMeasured = latency !== undefined || !isTime(checked.budget);
  const resource = isMeasured ? resourceOf(config.budget, latency) : PARAMETERS;
  checkAgainstModel(config, dense.model, resource);
  const fingerprint = { weights: dense.origin.sha256, tokenizer: dense.tokenizer?.sha256 ?? "", data };
  const { checkpoints } = dense;
  const cells = expandCells(config, {
    ...{ engine, fingerprint, checkpoints, fileOf },
    ...latency && { latency: sha256OfJson(latency) },
  });
  if (here && latency) checkConditions(config.out, latency, { here, cells });
  return {
    ...{ config, engine, ...devices, fingerprint, preparedAtMs, cells },
    ...{ model: dense.model, taskDefinitions, taskGroups, resource, ...latency && { latency } },
  };
}

/** Loads the method files of a run. All methods of a file are added, unless the run names some of them. */
async function loadMethodFiles(asked: RunConfig): Promise<{ config: RunConfig; fileOf: Map<string, MethodFile> }> {
  const fileOf = new Map<string, MethodFile>();
  const named = new Set(asked.methods.map(({ id }) => id));
  const added: RunConfig["methods"] = [];
  for (const path of asked.methodFile ?? []) {
    const { file, ids } = await loadMethodFile(path);
    for (const id of ids) fileOf.set(id, file);
    if (!ids.some((id) => named.has(id))) added.push(...ids.map((id) => ({ id, options: {} })));
  }
  return { config: { ...asked, methods: [...asked.methods, ...added] }, fileOf };
}

/** The bundled model's own corpus; for others the first scored corpus that has a calibration split, else WikiText-2. */
function defaultCalibration({ model, perplexity }: RunConfig): ReadyConfig["calibration"] {
  const named = perplexity.find(({ corpus }) => !isFileName(corpus))?.corpus ?? "wikitext2";
  return calibrationSchema.parse({ corpus: model === "tiny" ? "tiny-world" : named });
}

/** Tests before any cell whether the engine starts, and on which device. Every cell gets that device: a run on a GPU
 * must not continue without one. */
async function chooseEngine(
  { engine: asked, device, arithmetic, jobs }: RunConfig,
  note: (message: string) => void,
  elsewhere: boolean,
): Promise<Pick<PreparedRun, "device" | "gpus"> & { probe: ProbedEngine }> {
  const probe = await probeEngine(asked, elsewhere ? {} : { device, arithmetic });
  const { name: engine, note: why, gpus } = probe;
  if (why?.includes("is not set up")) {
    note(`The native engine is not set up, so the slower "${engine}" runs: \`${SETUP_COMMAND}\` sets it up`);
  } else if (why !== undefined) note(`Chosen engine: ${engine} (${why})`);
  if (elsewhere) return { probe, ...device !== undefined && { device } };
  if (gpus) checkGpus(jobs, gpus.length);
  const used = gpus ? "cuda" : device;
  return { probe, ...used !== undefined && { device: used }, ...gpus && { gpus } };
}

/** The table of times and what it is measured of here, where the budget is a time.
 * @throws {UsageError} when cells run on other machines than this one. */
async function findTimes(
  { budget, out, model, weights = "f32", arithmetic, throughput }: ReadyConfig,
  { origin }: DenseModel,
  { probe: { name: engine, library, device: on, gpus }, device, elsewhere, ...manner }:
    & Pick<PreparedRun, "device">
    & { probe: ProbedEngine; elsewhere: boolean; planned: boolean; note: (message: string) => void },
): Promise<{ here?: LatencyTable["of"]; latency?: LatencyTable }> {
  if (!isTime(budget) || !throughput) return {};
  if (elsewhere) throw new UsageError(`--budget ${budget} is measured on this machine: run the cells here`);
  const tokens = budget === "decode-ms" ? throughput.decodeTokens : throughput.prefillTokens;
  const cpu = os.cpus()[0]?.model.trim() || "unknown";
  const of = { budget, weights: origin.sha256, form: weights, arithmetic, tokens, batch: throughput.batch };
  const here = { ...of, engine, library, device: on, cpu };
  const job = { of: here, model, device, choice: throughput, gpu: gpus?.[0] };
  return { here, latency: await latencyTable(out, job, manner) };
}

/** The dense model before a run. */
interface DenseModel {
  model: DecoderConfig;
  /** Empty without weights. */
  origin: Pick<WeightSource["origin"], "dtypes" | "sha256">;
  tokenizer?: Tokenizer;
  checkpoints: FoundCheckpoint[];
}

async function openDense(
  { model: path, checkpoints: paths = [], sparsity, budget }: RunConfig,
  planned: boolean,
): Promise<DenseModel> {
  if (planned && paths.length === 0 && isShapeOnly(path)) {
    return { model: readShape(path), origin: { dtypes: [], sha256: "" }, checkpoints: [] };
  }
  const opened = await openModel(path);
  const { source, tokenizer } = opened;
  try {
    const checkpoints = await findCheckpoints(paths, opened, budget === "parameters" ? sparsity : []);
    const { dtypes, sha256 } = source.origin;
    return { model: source.config, origin: { dtypes, sha256 }, tokenizer, checkpoints };
  } finally {
    source.close();
  }
}

/** Perplexity measurements with a window length each: at most the model's positions, and the tokens of a user's file.
 * @throws {UsageError} when a file has fewer tokens than one window. */
async function withWindows(
  perplexity: RunConfig["perplexity"],
  { model: { maxPositions }, tokenizer }: DenseModel,
): Promise<PerplexityChoice[]> {
  const usual = Math.min(1024, maxPositions);
  const choices = await Promise.all(perplexity.map(async (choice) => {
    const { corpus, protocol, windowTokens: asked } = choice;
    const needed = asked ?? usual;
    const isCut = isFileName(corpus) && protocol !== "c" && tokenizer !== undefined;
    const tokens = isCut ? await countTokens(corpus, tokenizer, needed) : Infinity;
    if (tokens < (asked ?? 2)) {
      throw new UsageError(
        `"${corpus}" has ${tokens} tokens, fewer than one window of ${asked ?? 2}: ` +
          `give more text, or shorter windows as ${corpus}:${protocol}:LENGTH`,
      );
    }
    return { ...choice, windowTokens: Math.min(needed, tokens) };
  }));
  // A default length may be the one that another choice gives.
  return [...new Map(choices.map((choice) => [canonicalJson(choice), choice])).values()];
}

/** Checks that a user's files hold a window of calibration or training.
 * @throws {UsageError} that names the file and its tokens. */
async function checkLearnedTexts(
  { calibration, training }: ReadyConfig,
  data: Record<string, string>,
  tokenizer?: Tokenizer,
): Promise<void> {
  const { corpus: trained = calibration.corpus } = training ?? {};
  const uses: [use: string, corpus: string, tokens: number][] = [
    [calibrationUse({ calibration }), calibration.corpus, calibration.tokens],
    [trainingUse(trained), trained, training?.tokens ?? trainingSchema.parse({}).tokens],
  ];
  for (const [use, corpus, needed] of uses) {
    if (!(use in data) || !isFileName(corpus) || tokenizer === undefined) continue;
    const tokens = await countTokens(corpus, tokenizer, needed);
    if (tokens >= needed) continue;
    throw new UsageError(
      `"${corpus}" has ${tokens} tokens, fewer than one window of ${needed} for ${use.split(" ", 1)[0]}: ` +
        "give more text, or shorter windows",
    );
  }
}

/** Tokens of the windows that a file gives, counted up to `enough`. */
async function countTokens(corpus: string, tokenizer: Tokenizer, enough: number): Promise<number> {
  const source = getCorpus(corpus);
  const { texts } = await loadCorpus(source, {});
  const text = texts.join(source.joiner);
  const count = (part: string) => encodeForWindows(tokenizer, part).length + tokenizer.windowStart.length;
  // Encoding a whole book takes long, and its beginning is enough.
  const beginning = count(text.slice(0, 16 * enough));
  return beginning >= enough ? beginning : count(text);
}

/** The form of weights: as requested, else as before in the run's folder, else by the file and the engine. Cells that
 * run elsewhere use f32, because their engine is unknown. So do cells that change weights, and those of a budget in
 * time: with exact arithmetic changed weights are f32, and unchanged ones in 16 bits would be faster.
 * @throws {UsageError} when 16 bits are asked of an engine that has f32 only. */
function chooseForm(
  { weights, out, arithmetic, budget, recover, compensate }: RunConfig,
  { engine, decoderOps }: { engine: EngineName; decoderOps?: boolean },
  origin: DenseModel["origin"],
): WeightForm {
  if (weights === "f32" && arithmetic === "fast" && decoderOps) {
    throw new UsageError(
      "Arithmetic fast holds weights in bfloat16 on a CPU: leave out --weights f32 or --arithmetic fast",
    );
  }
  if (weights === "stored" && !(decoderOps ?? engine === "tensorflow")) {
    throw new UsageError(
      `Engine "${engine}" holds only f32 weights here: leave out --weights stored, or use tensorflow on the CPU`,
    );
  }
  if (weights) return weights;
  // No other engine has held 16 bits.
  const before = engine === "tensorflow" ? readRunFile(out) : undefined;
  if (decoderOps === false) {
    if (before?.engine !== engine || before.config.weights !== "stored") return "f32";
    throw new UsageError(`"${out}" has weights in 16 bits, and engine "${engine}" only f32 here: give another --out`);
  }
  return before || (isOn(recover) || isOn(compensate) || isTime(budget)) && arithmetic === "exact"
    ? before?.config.weights ?? "f32"
    : usualForm({ origin }, { decoderOps: decoderOps ?? false, arithmetic });
}

/** What FFN widths are multiples of, as asked; `auto`: of the native engine's vectors, and of the blocks of quantised
 * matrices in the model's file. */
export function chooseMultiple(asked: RunConfig["ffnMultiple"], engine: EngineName, dtypes: readonly string[]): number {
  if (asked !== "auto") return asked;
  const blocks = Object.entries(BLOCK_FORMATS).filter(([type]) => dtypes.includes(type));
  return Math.max(engine === "tensorflow" ? 16 : 1, ...blocks.map(([, { blockValues }]) => blockValues));
}

/** Hash of each data set that the run reads, by what it is used for. */
async function hashData(config: ReadyConfig, calibratesByDefault: boolean): Promise<Record<string, string>> {
  const { data, calibration, methods, compensate, perplexity, units } = config;
  const uses: Record<string, Pick<DatasetUse, "sha256">> = {};
  const isRanked = methods.some(({ id }) =>
    depthsOf(getMethod(id), config).some((dropLayers) => ranksLayers({ units, dropLayers }))
  );
  if (isOn(compensate) || isRanked || methods.some(({ id }) => getMethod(id).needs.calibration)) {
    try {
      uses[calibrationUse(config)] = await learnedData(calibration.corpus, data);
    } catch (error) {
      if (!calibratesByDefault || !(error instanceof MissingDataError)) throw error;
      throw new UsageError(
        `No calibration data: "${calibration.corpus}", the default, was not found. Give --calibration file:TEXT ` +
          `(text that is not scored), --calibration self, or run \`deno task bench fetch ${calibration.corpus}\``,
      );
    }
  }
  if (isOn(config.recover) || methods.some(({ id }) => getMethod(id).kind === "learned")) {
    const { corpus = calibration.corpus } = config.training ?? {};
    uses[trainingUse(corpus)] = await learnedData(corpus, data);
  }
  for (const { corpus, split } of perplexity) {
    const { dataset } = await loadCorpus(getCorpus(corpus), { data, split });
    uses[`perplexity ${corpus}/${dataset.split}`] = dataset;
  }
  const hashes = Object.fromEntries(Object.entries(uses).map(([use, { sha256 }]) => [use, sha256]));
  for (const id of config.tasks) Object.assign(hashes, await hashTask(id, config));
  return hashes;
}

/** Data for calibration or training. Text of the model itself is known by the model and its sampling settings. */
async function learnedData(name: string, data?: string): Promise<Pick<DatasetUse, "sha256">> {
  if (name === SELF_TEXT) return { sha256: SELF_SETTINGS };
  return (await loadCorpus(getCorpus(name), { data, split: "calibration" })).dataset;
}

async function hashTask(id: string, { data, limit, numFewshot }: ReadyConfig): Promise<Record<string, string>> {
  const task = anyTask(id);
  const definition = "definition" in task ? task.definition : undefined;
  // All examples of a task file are built, so that wrong ones are refused before the first cell.
  const examples = { limit: definition ? ofTask(limit, id) : 1, fewshot: ofTask(numFewshot, id) };
  const { dataset, fewshotDataset, ...loaded } = await loadTask(task, { data, ...examples });
  return {
    [`task ${id}`]: definition ? [dataset.sha256, definitionHash(definition)].join(" ") : dataset.sha256,
    ...definition && { [`shots ${id}`]: String(loaded.numFewshot) },
    ...fewshotDataset && { [`few-shot ${id}`]: fewshotDataset.sha256 },
  };
}
