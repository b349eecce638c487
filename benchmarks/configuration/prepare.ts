/** Makes a run ready to go: everything that can be checked before the first cell is checked here.
 *
 * @module
 */
import { SETUP_COMMAND } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import {
  calibrationSchema,
  type DatasetUse,
  type EngineName,
  type MethodFile,
  type RunConfig,
} from "../../core/schema/schema.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import type { TaskDefinition } from "../../datasets/define.ts";
import { definitionHash, selectTasks, type TaskGroup } from "../../datasets/lm_eval/task_files.ts";
import { addFileTasks, anyTask, corpora, getCorpus, tasks } from "../../datasets/mod.ts";
import { SELF_SETTINGS, SELF_TEXT } from "../../datasets/self_text.ts";
import { isFileName } from "../../datasets/text_file.ts";
import type { RunSettings } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import type { DecoderConfig, WeightSource } from "../../models/config.ts";
import { usualForm, type WeightForm } from "../../models/device.ts";
import { isShapeOnly, openModel, readShape } from "../../models/load.ts";
import { resolveTarget } from "../../models/target.ts";
import { canonicalJson, type NamedCell } from "../../core/schema/cell_names.ts";
import { findCheckpoints } from "./checkpoints.ts";
import { trainingParts } from "../pipeline/calibrate.ts";
import { calibrationUse, expandCells, type Fingerprint, learningOf, trainingUse } from "./expand.ts";
import { resolveNames } from "./resolve.ts";
import type { Wanted } from "../records/measured.ts";
import { readRunFile } from "../records/run_file.ts";
import { probeEngine } from "./engine_probe.ts";
import { loadMethodFile } from "./method_file.ts";

/** A run, ready to go. */
export interface PreparedRun {
  config: RunConfig & { calibration: NonNullable<RunConfig["calibration"]> };
  engine: EngineName;
  /** What the engine must run on in every cell; whatever there is when absent. */
  device?: string;
  /** On CUDA: UUIDs of the GPUs that cells may use; empty where `nvidia-smi` does not say. */
  gpus?: string[];
  fingerprint: Fingerprint;
  cells: NamedCell[];
  /** Shape of the dense model. */
  model: DecoderConfig;
  /** Tasks of the run that files define. */
  taskDefinitions: TaskDefinition[];
  /** Groups of its tasks. */
  taskGroups: TaskGroup[];
}

/** What a run asks of its cells besides measurements. */
export function wantedOf({ config: { keepWeights }, fingerprint }: PreparedRun): Wanted {
  return { hashes: fingerprint.data, ...keepWeights !== undefined && { keepWeights } };
}

/** Most tokens of text that a cell may be asked to hold, as 32-bit integers. */
const MOST_TOKENS = 2 ** 30;

/** Windows of more tokens than the model has positions, and more of them than fit into memory.
 * @throws {UsageError} that names the setting. */
function checkLengths(
  { perplexity, calibration, training, throughput }: PreparedRun["config"],
  positions: number,
): void {
  const lengths: [what: string, tokens: number | undefined][] = [
    ...perplexity.map(({ corpus, protocol, windowTokens }): [string, number] => [
      `windowTokens of perplexity ${corpus} (${corpus}:${protocol}:${positions} gives others)`,
      windowTokens,
    ]),
    ["calibration.tokens", calibration.tokens],
    ["training.tokens", training?.tokens],
    ["throughput.prefillTokens", throughput?.prefillTokens],
    ["throughput.decodeTokens", throughput?.decodeTokens],
  ];
  const [what, tokens] = lengths.find(([, tokens = 0]) => tokens > positions) ?? [];
  if (what !== undefined) {
    throw new UsageError(`${what} must be at most the ${positions} positions of the model: current ${tokens}`);
  }
  const trained = training ? training.steps * training.batch * training.tokens : 0;
  const counts = {
    "calibration sequences x tokens": calibration.sequences * calibration.tokens,
    "training steps x batch x tokens": trained,
  };
  const [large, count] = Object.entries(counts).find(([, count]) => count > MOST_TOKENS) ?? [];
  if (large !== undefined) throw new UsageError(`${large} must be at most ${MOST_TOKENS}: current ${count}`);
}

/** How {@linkcode prepareRun} prepares. */
export interface PrepareOptions {
  /** Cells run on other machines, so that this one need not have their device. */
  elsewhere?: boolean;
  /** Nothing will run: of the model its shape is enough, and a folder without weights will do. */
  planned?: boolean;
}

/** Where weights come from, as far as a run must know before it. */
type Origin = Pick<WeightSource["origin"], "dtypes" | "sha256">;

/** The model's shape, what names its contents, which are nothing where it has no weights, and the checkpoints beside it. */
async function openDense(
  { model: path, checkpoints: paths = [], sparsity }: Pick<RunConfig, "model" | "checkpoints" | "sparsity">,
  planned: boolean,
): Promise<{
  model: DecoderConfig;
  origin: Origin;
  tokenizer: string;
  checkpoints: Awaited<ReturnType<typeof findCheckpoints>>;
}> {
  if (planned && paths.length === 0 && isShapeOnly(path)) {
    return { model: readShape(path), origin: { dtypes: [], sha256: "" }, tokenizer: "", checkpoints: [] };
  }
  const opened = await openModel(path);
  const { source, tokenizer } = opened;
  try {
    const checkpoints = await findCheckpoints(paths, opened, sparsity);
    const { dtypes, sha256 } = source.origin;
    return { model: source.config, origin: { dtypes, sha256 }, tokenizer: tokenizer.sha256, checkpoints };
  } finally {
    source.close();
  }
}

/** Checks everything that can be checked before the first cell: names, engine, checkpoint, data. */
export async function prepareRun(
  asked: RunConfig,
  note: (message: string) => void,
  { elsewhere = false, planned = false }: PrepareOptions = {},
): Promise<PreparedRun> {
  const { config: withMethods, fileOf } = await loadMethodFiles(asked);
  const { definitions: taskDefinitions, groups: taskGroups, tasks: selected } = selectTasks(
    withMethods.taskFile ?? [],
    withMethods.tasks,
    [...tasks.keys()],
  );
  addFileTasks(taskDefinitions);
  const resolved = resolveNames({ ...withMethods, tasks: selected }, {
    parseOptions: (id, options) => parseOptions(getMethod(id), options) as Record<string, unknown>,
    tasks: selected,
    corpora: [...corpora.keys()],
  });
  const checked = { ...resolved, calibration: resolved.calibration ?? defaultCalibration(resolved) };
  checkDomains(checked);
  checkLosses(checked);
  checkLayerwise(checked);
  const { engine, decoderOps, ...devices } = await chooseEngine(checked, note, elsewhere);
  const { model, origin, tokenizer, checkpoints } = await openDense(checked, planned);
  const { maxPositions } = model;
  const config = { ...checked, weights: chooseForm(checked, { engine, decoderOps }, origin) };
  checkLengths(config, maxPositions);
  checkLevels(config, model);
  if (config.generate.length > 0 && config.generateTokens >= maxPositions) {
    throw new UsageError(
      `generateTokens must be less than the ${maxPositions} positions of the model: current ${config.generateTokens} ` +
        "(--generate-tokens gives it)",
    );
  }
  const fingerprint = { weights: origin.sha256, tokenizer, data: await hashData(config) };
  const methodFile = (method: string) => fileOf.get(method);
  const registry = { needsCalibration, needsSeed, learns, changedOptions, methodFile };
  const cells = expandCells(config, { engine, fingerprint, checkpoints, ...registry });
  return { config, engine, ...devices, fingerprint, cells, model, taskDefinitions, taskGroups };
}

/** Loads the method files of a run. All methods of a file join those that the run names, unless it names some of them. */
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

const needsCalibration = (method: string) => getMethod(method).needs.calibration;
const needsSeed = (method: string) => getMethod(method).needs.seed ?? true;
const changedOptions = ({ id, options }: RunConfig["methods"][number]) => {
  const defaults = getMethod(id).options.parse({}) as Record<string, unknown>;
  return Object.keys(options).filter((name) =>
    canonicalJson(options[name] ?? null) !== canonicalJson(defaults[name] ?? null)
  );
};
const learns = (method: string) => getMethod(method).kind === "learned";

/** The bundled model's own corpus; for others the first of the scored corpora that has a split for it, which files of the
 * user's have not, else the one that papers use most. */
function defaultCalibration({ model, perplexity }: RunConfig): NonNullable<RunConfig["calibration"]> {
  const named = perplexity.find(({ corpus }) => !isFileName(corpus))?.corpus ?? "wikitext2";
  const corpus = model === "tiny" ? "tiny-world" : named;
  return calibrationSchema.parse({ corpus });
}

type Levels = Pick<RunConfig, "sparsity" | "units" | "ffnMultiple" | "methods"> & RunSettings;

/** Refuses levels that the units of the run cannot reach on this model, and options that a method cannot keep there.
 * @throws {UsageError} that names the level or the method. */
export function checkLevels({ sparsity, units, ffnMultiple, methods, ...run }: Levels, model: DecoderConfig): void {
  for (const level of new Set(sparsity.filter((level) => level > 0))) {
    const target = resolveTarget(model, { sparsity: level, units, ffnMultiple });
    for (const { id, options } of methods) {
      try {
        getMethod(id).check?.(model, target, options, run);
      } catch (error) {
        throw error instanceof UsageError ? new UsageError(`Method "${id}": ${error.message}`) : error;
      }
    }
  }
}

/** What trains has a loss, as its method trains.
 * @throws {UsageError} otherwise. */
export function checkLosses(config: RunConfig): void {
  for (const { id, options } of config.methods) {
    const { training } = learningOf(config, learns(id));
    if (!training) continue;
    const { crossEntropy, distillation, hidden } = getMethod(id).trainsWith?.(training, options) ?? training;
    if (crossEntropy + distillation + hidden > 0) continue;
    throw new UsageError(
      `Method "${id}" would learn nothing, since the weights crossEntropy, distillation and hidden of its loss are 0: set ` +
        "one of them above 0 by --training",
    );
  }
}

/** Domains replace the corpus, and there is something to choose between.
 * @throws {UsageError} otherwise. */
function checkDomains({ training }: RunConfig): void {
  const { domains, corpus } = training ?? {};
  if (!domains) return;
  const count = Object.keys(domains).length;
  if (count < 2) throw new UsageError(`training.domains must name two corpora or more: current ${count}`);
  if (corpus !== undefined) {
    throw new UsageError(`training.corpus and training.domains exclude each other: leave out corpus=${corpus}`);
  }
}

/** One layer at a time gives activations and weights, but no gradients.
 * @throws {UsageError} when a method, recovery or compensation needs all layers at once. */
function checkLayerwise({ layerwise, methods, recover, compensate, calibration }: RunConfig): void {
  if (!layerwise) return;
  const whole = methods.find(({ id }) => !getMethod(id).layerwise);
  const needsAll = [
    whole && `method ${whole.id}`,
    recover === "lora" && "--recover lora",
    compensate === "least-squares" && "--compensate least-squares",
    calibration?.corpus === SELF_TEXT && "--calibration self",
  ].find((what) => what);
  if (needsAll) {
    throw new UsageError(`--layerwise holds one layer at a time, ${needsAll} needs all: leave one of them out`);
  }
}

/** How matrices are held: as asked, else as before in a folder that holds a run, else as the file and the engine suggest; in
 * f32 where cells run elsewhere and nobody knows what their engine can.
 * @throws {UsageError} when 16 bits are asked of an engine that has f32 only. */
function chooseForm(
  { weights, out, arithmetic }: RunConfig,
  { engine, decoderOps }: { engine: EngineName; decoderOps?: boolean },
  origin: Origin,
): WeightForm {
  if (weights === "f32" && arithmetic === "fast" && decoderOps) {
    throw new UsageError("Arithmetic fast holds weights in bfloat16 on a CPU: leave --weights f32 or --arithmetic out");
  }
  if (weights === "stored" && !(decoderOps ?? engine === "tensorflow")) {
    throw new UsageError(
      `Engine "${engine}" holds weights in f32 only here: leave --weights stored out, or use tensorflow on the CPU`,
    );
  }
  if (weights) return weights;
  const before = decoderOps === false ? undefined : readRunFile(out);
  return before
    ? before.config.weights ?? "f32"
    : usualForm({ origin }, { decoderOps: decoderOps ?? false, arithmetic });
}

/** Every cell at once has a GPU of its own.
 * @throws {UsageError} when there are too few, or nobody knows how many. */
export function checkGpus(jobs: number, gpus: number): void {
  if (jobs <= Math.max(1, gpus)) return;
  throw new UsageError(
    gpus === 0
      ? `${jobs} cells at once need a GPU each, and nvidia-smi does not say which there are: leave --jobs out`
      : `${jobs} cells at once need a GPU each, and ${gpus} may be used: give --jobs ${gpus}`,
  );
}

/** Finds out before any cell whether the engine starts, and on what. What ran on a GPU must not go on without one, so every
 * cell is told of it. */
async function chooseEngine(
  { engine: asked, device, arithmetic, jobs }: RunConfig,
  note: (message: string) => void,
  elsewhere: boolean,
): Promise<Pick<PreparedRun, "engine" | "device" | "gpus"> & { decoderOps?: boolean }> {
  const { name: engine, note: why, gpus, decoderOps } = await probeEngine(
    asked,
    elsewhere ? {} : { device, arithmetic },
  );
  if (why !== undefined) note(engineNote(engine, why));
  if (elsewhere) return { engine, ...device !== undefined && { device } };
  if (gpus) checkGpus(jobs, gpus.length);
  const used = gpus ? "cuda" : device;
  return { engine, decoderOps, ...used !== undefined && { device: used }, ...gpus && { gpus } };
}

/** What a user should know about the engine that `auto` took. */
function engineNote(name: EngineName, note: string): string {
  if (!note.includes("is not set up")) return `Engine "${name}": ${note}`;
  return `The native engine is not set up: "${name}" runs instead, several times slower; \`${SETUP_COMMAND}\` sets it up`;
}

/** What is calibrated or trained on. Text of the model itself is known by the model and by how it is sampled. */
async function learnedData(name: string, data?: string): Promise<Pick<DatasetUse, "sha256">> {
  if (name === SELF_TEXT) return { sha256: SELF_SETTINGS };
  return (await loadCorpus(getCorpus(name), { data, split: "calibration" })).dataset;
}

async function hashData(config: PreparedRun["config"]): Promise<Record<string, string>> {
  const { data } = config;
  const uses: Record<string, Pick<DatasetUse, "sha256">> = {};
  if (config.compensate === "least-squares" || config.methods.some(({ id }) => needsCalibration(id))) {
    uses[calibrationUse(config)] = await learnedData(config.calibration.corpus, data);
  }
  if (config.recover === "lora" || config.methods.some(({ id }) => learns(id))) {
    for (const { corpus } of trainingParts(config.training, config.calibration.corpus)) {
      uses[trainingUse(corpus)] = await learnedData(corpus, data);
    }
  }
  for (const { corpus, split } of config.perplexity) {
    const { dataset } = await loadCorpus(getCorpus(corpus), { data, split });
    uses[`perplexity ${corpus}/${dataset.split}`] = dataset;
  }
  const hashes: Record<string, string> = {};
  for (const id of config.tasks) {
    const task = anyTask(id);
    const definition = "definition" in task ? definitionHash(task.definition) : undefined;
    // Every example of a task file is built here, so that what does not fit is refused before the first cell.
    const limit = definition === undefined ? 1 : config.limit;
    const { dataset, fewshotDataset, numFewshot } = await loadTask(task, { data, limit, fewshot: config.numFewshot });
    hashes[`task ${id}`] = [dataset.sha256, ...definition === undefined ? [] : [definition]].join(" ");
    if (definition !== undefined) hashes[`shots ${id}`] = String(numFewshot);
    if (fewshotDataset) uses[`few-shot ${id}`] = fewshotDataset;
  }
  return { ...Object.fromEntries(Object.entries(uses).map(([use, { sha256 }]) => [use, sha256])), ...hashes };
}
