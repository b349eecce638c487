/** Measures one cell in this process: load, prune, evaluate.
 *
 * @module
 */
import { type Engine, startEngine } from "../../core/engine.ts";
import { createRng } from "../../core/rng.ts";
import type { Cell, DoneRecord, StoredWeights } from "../../core/schema.ts";
import type { Tokenizer } from "../../core/tokenizer.ts";
import { UsageError } from "../../core/errors.ts";
import { at } from "../../core/indexing.ts";
import { drawCalibration } from "../../datasets/calibration.ts";
import { addFileTasks, getCorpus } from "../../datasets/mod.ts";
import { SELF_TEXT } from "../../datasets/self_text.ts";
import type { LearningContext, Method } from "../../methods/define.ts";
import { getMethod } from "../../methods/mod.ts";
import type { WeightSource } from "../../models/config.ts";
import { modelSize } from "../../models/count.ts";
import { openLayerwise } from "../../models/layerwise.ts";
import { type DecoderModel, disposeModel, uploadModel } from "../../models/decoder.ts";
import { openModel } from "../../models/load.ts";
import { densePlan } from "../../models/plan.ts";
import { scoringModel } from "../../models/scoring.ts";
import { pruneByLayers, pruneModel } from "../../models/surgery.ts";
import { type BudgetTarget, resolveTarget } from "../../models/target.ts";
import { hashWindows } from "../../models/training/teacher.ts";
import { createCache } from "./cache.ts";
import { canonicalJson } from "../../core/cell_names.ts";
import { describeEnvironment } from "./environment.ts";
import type { CellJob } from "./job.ts";
import { finiteScores } from "./finite_scores.ts";
import { climb, type LevelGiven, type Rung } from "./ladder.ts";
import { checkpointPlace, compensation, recover, type StageHost, type TrainingData, trainingData } from "./learning.ts";
import { type DrawnWindows, type SelfText, selfText } from "./self_text.ts";
import { checkBudget, runMethod } from "./method_result.ts";
import { peakMemory, residentMemoryBytes } from "./memory.ts";
import { reloadMethodFile } from "../configuration/method_file.ts";
import { aggregateGroup } from "../evaluation/groups.ts";
import { measureTask, type ScoredExample } from "../evaluation/multiple_choice.ts";
import { measurePerplexity, type ScoredDocument } from "../evaluation/perplexity.ts";
import { createScorer } from "../evaluation/scorer.ts";
import { runPaths } from "../records/store.ts";
import { keepsWeights, openStoredWeights, storeWeights } from "../records/stored_weights.ts";
import { measureThroughput } from "../evaluation/throughput.ts";

/** What the process of a cell offers to its measurement. */
export interface CellHost {
  /** Progress in words. */
  report(phase: string): void;
  /** Does `work` while no other cell of the run computes. */
  alone<T>(work: () => Promise<T>): Promise<T>;
  /** Told the scores of every example of a task. */
  onScored?(task: string, scored: readonly ScoredExample[]): void;
  /** Told the scores of every document of a corpus under protocol (c). */
  onDocuments?(corpus: string, scored: readonly ScoredDocument[]): void;
  signal: AbortSignal;
}

/** The part of a record that measuring gives. */
export type Measured = Omit<DoneRecord, "schemaVersion" | "id" | "cell" | "paper" | "startedAt" | "seconds" | "state">;

/** What measuring reads of a job. */
type Job = Pick<
  CellJob,
  "id" | "cell" | "out" | "data" | "taskDefinitions" | "taskGroups" | "commit" | "keepWeights" | "layerwise"
>;

/** Seconds since `start`, a time of `performance.now()`. */
const secondsSince = (start: number) => (performance.now() - start) / 1000;

/** Loads the model of `job`, prunes it as its cell says, and measures what is left. With the record of an earlier
 * measurement its model is made again, and its results stand before the new ones.
 * @throws {UsageError} when model, data or method cannot give what the cell asks for.
 * @throws {EngineError} when the engine does not start or the device fails.
 * @throws {NumericError} when the pruned model's output is not finite. */
export async function measureCell(job: Job, host: CellHost, before?: DoneRecord): Promise<Measured> {
  const { cell } = job;
  let start = performance.now();
  host.report("load");
  const engine = await startEngine(cell.engine);
  const { source, tokenizer } = await openModel(cell.model);
  const isLayerwise = job.layerwise === true && cell.method !== null && !before;
  const dense = isLayerwise ? openLayerwise(source, cell.weights) : await uploadModel(source, cell.weights);
  if (!isLayerwise) source.close();
  engine.check();
  const loadS = secondsSince(start);
  const afterLoadBytes = residentMemoryBytes();

  start = performance.now();
  const loaded = { dense, tokenizer, source, engine };
  const { model, changed, ...pruned } = before
    ? await modelAgain(job, before, loaded, host)
    : await pruneCell(job, loaded, host);
  const denseConfig = dense.config;
  if (model !== dense) disposeModel(dense);
  if (isLayerwise) source.close();
  engine.check();
  const pruneS = secondsSince(start);

  start = performance.now();
  const { generations = before?.generations, ...scored } = await finiteScores(
    cell.method?.id ?? null,
    () => evaluate(job, model, tokenizer, host),
  );
  const perplexity = [...before?.perplexity ?? [], ...scored.perplexity];
  const tasks = [...before?.tasks ?? [], ...scored.tasks];
  const latest = [...new Map(tasks.map((result) => [result.task, result])).values()];
  const groups = (job.taskGroups ?? []).map((group) => aggregateGroup(group, latest));
  engine.check();
  let evaluateS = secondsSince(start);
  const { throughput: choice } = cell;
  const throughput = choice === undefined ? [] : await host.alone(async () => {
    // The wait for a turn is no work.
    start = performance.now();
    host.report("throughput");
    const results = await measureThroughput(model, choice, { signal: host.signal });
    engine.check();
    evaluateS += secondsSince(start);
    return results;
  });
  const peak = peakMemory();
  const keeps = changed && !before?.storedWeights &&
    (before ? job.keepWeights === true : keepsWeights(model.config, job.keepWeights));
  const storedWeights = keeps ? await tryToStore(job, model, host) : null;
  return {
    environment: describeEnvironment(engine, job.commit),
    weights: { ...source.origin },
    size: modelSize(model.config, denseConfig),
    denseSize: modelSize(denseConfig),
    ...pruned,
    changedWeights: changed,
    ...(storedWeights ?? before?.storedWeights) && { storedWeights: storedWeights ?? before?.storedWeights },
    perplexity,
    tasks,
    ...groups.length > 0 && { groups },
    throughput: [...before?.throughput ?? [], ...throughput],
    ...generations && { generations },
    memory: { afterLoadBytes, peakBytes: peak.bytes, measure: peak.measure },
    timings: {
      loadS,
      pruneS: before?.timings.pruneS ?? pruneS,
      evaluateS: (before?.timings.evaluateS ?? 0) + evaluateS,
    },
  };
}

/** The model of a record: its stored weights, the dense ones without the removed units, or pruned again from what training
 * kept.
 * @throws {UsageError} when that gives another plan than the record's. */
async function modelAgain(
  job: Job,
  before: DoneRecord,
  { dense, tokenizer, source, engine }: Loaded,
  host: CellHost,
): Promise<Pruned & { model: DecoderModel; changed: boolean }> {
  const { plan, calibrationData, training, trainingData, trainingDomains, changedWeights: changed } = before;
  const kept: Pruned = {
    plan,
    calibrationData,
    ...training && { training },
    ...trainingData && { trainingData },
    ...trainingDomains && { trainingDomains },
  };
  if (job.cell.method === null) return { ...kept, model: dense, changed };
  if (before.storedWeights) {
    const stored = openStoredWeights(job.out, { ...before, storedWeights: before.storedWeights }, source);
    try {
      return { ...kept, model: await uploadModel(stored), changed };
    } finally {
      stored.close();
    }
  }
  if (!changed) return { ...kept, model: await pruneByLayers(dense, plan), changed };
  const again = await pruneCell(job, { dense, tokenizer, source, engine }, host);
  if (canonicalJson(again.plan) === canonicalJson(plan)) return { ...kept, model: again.model, changed };
  throw new UsageError("The cell, pruned again, keeps other units than its record says: run it in another folder");
}

/** Stores the model's weights. Measured numbers are not lost because of a full disk. */
async function tryToStore(job: Job, model: DecoderModel, host: CellHost): Promise<StoredWeights | null> {
  host.report("store weights");
  try {
    return await storeWeights(job.out, job, model);
  } catch (error) {
    host.report(`the weights could not be stored: ${(error as Error).message}`);
    return null;
  }
}

/** A dense model that was loaded, and what belongs to it. */
export interface Loaded {
  dense: DecoderModel;
  tokenizer: Tokenizer;
  source: WeightSource;
  engine: Engine;
}

/** What pruning gives besides the model. */
type Pruned = Pick<Measured, "plan" | "calibrationData" | "training" | keyof TrainingData["use"]>;

/** The model that the cell asks for; `dense` itself where nothing is pruned. `changed` says whether its weights are others
 * than the dense model's. */
export async function pruneCell(
  { cell, out, data }: Pick<Job, "cell" | "out" | "data">,
  { dense, tokenizer, source, engine }: Loaded,
  host: CellHost,
): Promise<Pruned & { model: DecoderModel; changed: boolean }> {
  const { method: choice, sparsity, units, ffnMultiple, seed } = cell;
  if (choice === null) return { model: dense, changed: false, plan: densePlan(dense.config), calibrationData: null };
  if (cell.methodFile) await reloadMethodFile(cell.methodFile);
  const method = getMethod(choice.id);
  const target = resolveTarget(dense.config, { sparsity, units, ffnMultiple });
  const self = selfText({
    model: dense,
    tokenizer,
    seed,
    remember: createCache(runPaths(out).cache, {
      weights: source.origin.sha256,
      engine: engine.name,
      seed,
      calibration: [],
    }),
    report: host.report,
    signal: host.signal,
  });
  const calibration = method.needs.calibration || cell.compensate ? await calibrate(cell, tokenizer, self, data) : null;
  const training = await trainingData(cell, tokenizer, data, self);
  host.report("prune");
  const windows = calibration?.windows ?? [];
  const scope = { weights: source.origin.sha256, engine: engine.name, seed, calibration: windows };
  const stage: StageHost = {
    remember: createCache(runPaths(out).cache, scope),
    report: (message) => host.report(`prune: ${message}`),
    signal: host.signal,
  };
  const work: PruneWork = { cell, method, target, dense, stage, calibration: windows, folder: runPaths(out).cache };
  const { model, plan, reports, changed } = method.kind === "learned"
    ? await pruneLearned(work, training, canonicalJson({ ...scope, calibration: hashWindows(windows) }))
    : await pruneOnce(work, training?.windows, host);
  checkBudget(method, method.options.parse(choice.options), { dense: dense.config, left: model.config, plan, target });
  return {
    model,
    changed,
    plan,
    calibrationData: calibration?.dataset ?? null,
    ...reports.length > 0 && { training: reports },
    ...training?.use,
  };
}

/** What pruning a model works on. */
interface PruneWork {
  cell: Cell;
  method: Method;
  target: BudgetTarget;
  dense: DecoderModel;
  stage: StageHost;
  /** Calibration windows. */
  calibration: Int32Array[];
  /** For snapshots. */
  folder: string;
}

/** What every method is given, on model `base`. */
function contextOf({ cell: { method: choice, seed }, method, stage, calibration }: PruneWork, base: DecoderModel) {
  const rng = (name: string) => createRng(seed, `${method.id} ${name}`);
  return { model: base, calibration, options: method.options.parse(choice!.options), seed, rng, ...stage };
}

/** Scores, cuts, compensates and recovers. */
async function pruneOnce(
  work: PruneWork,
  windows: Int32Array[] | undefined,
  host: CellHost,
): Promise<Rung & { changed: boolean }> {
  const { cell, method, dense, target, stage, calibration, folder } = work;
  const { plan, replaced: own } = await runMethod(method, { ...contextOf(work, dense), target });
  const replaced = cell.compensate ? await compensation(dense, calibration, stage)(plan, own) : own;
  const model = await pruneByLayers(dense, plan, replaced);
  const reports: Rung["reports"] = [];
  if (windows && cell.training) {
    const learning = { options: cell.training, windows, checkpoint: checkpointPlace(folder, cell) };
    const recovery = { ...stage, report: (message: string) => host.report(`recover: ${message}`) };
    reports.push(await recover({ model, dense, cell, learning }, recovery));
  }
  return { model, plan, reports, changed: reports.length > 0 || Object.keys(replaced ?? {}).length > 0 };
}

/** Lets a learned method run, once or along a ladder. `key` names what the result depends on besides the cell. */
async function pruneLearned(
  work: PruneWork,
  data: TrainingData | null,
  key: string,
): Promise<Rung & { changed: boolean }> {
  const { cell, method, dense, target, stage, calibration, folder } = work;
  const { ladder, training } = cell;
  if (!training || !data) throw new UsageError(`Method "${method.id}" learns: its cell needs "training"`);
  const prune = ({ base, prefix, cell, target, calibrationShare, ...given }: LevelGiven) => {
    const own: StageHost = { ...stage, remember: (name, compute) => stage.remember(prefix + name, compute) };
    const learning: LearningContext = {
      ...given,
      teacher: dense,
      checkpoint: checkpointPlace(folder, cell),
      ...cell.compensate && { compensate: compensation(base, calibration, own) },
    };
    const seen = calibration.slice(0, Math.ceil(calibrationShare * calibration.length));
    return runMethod(method, { ...contextOf({ ...work, stage: own, calibration: seen }, base), target, learning });
  };
  const { windows, domains } = data;
  if (ladder) {
    const rung = await climb({ cell: { ...cell, ladder, training }, dense, windows, domains, key, folder, prune });
    return { ...rung, changed: true };
  }
  const result = await prune({
    base: dense,
    target,
    options: training,
    windows,
    domains,
    calibrationShare: 1,
    cell,
    prefix: "",
  });
  const model = pruneModel(dense, result.plan, result.replaced);
  return { model, plan: result.plan, reports: result.training ?? [], changed: true };
}

function calibrate(
  { calibration, seed }: Cell,
  tokenizer: Tokenizer,
  self: SelfText,
  data?: string,
): Promise<DrawnWindows> {
  const { corpus, draw, ...choice } = calibration;
  if (corpus !== SELF_TEXT) {
    return drawCalibration({ corpus: getCorpus(corpus), tokenizer, draw, ...choice, seed, data });
  }
  if (draw === "distinct-rows") {
    throw new UsageError("Text of the model itself has no rows to draw: leave distinct-rows out");
  }
  return self({ ...choice, stream: "calibration" });
}

async function evaluate(
  { cell, data, taskDefinitions = [] }: Job,
  model: DecoderModel,
  tokenizer: Tokenizer,
  host: CellHost,
): Promise<Pick<DoneRecord, "perplexity" | "tasks" | "generations">> {
  addFileTasks(taskDefinitions);
  let phase = "";
  let reported = 0;
  const scorer = createScorer(scoringModel(model), tokenizer, {
    signal: host.signal,
    encoding: cell.requestEncoding,
    onProgress: (share) => {
      const now = performance.now();
      if (now - reported < 500) return;
      reported = now;
      host.report(`${phase} ${Math.floor(100 * share)} %`);
    },
  });
  const enter = (name: string) => host.report(phase = name);
  const perplexity: DoneRecord["perplexity"] = [];
  for (const choice of cell.perplexity) {
    enter(`perplexity ${choice.corpus}`);
    perplexity.push(
      await measurePerplexity(scorer, choice, {
        data,
        onDocuments: (scored) => host.onDocuments?.(choice.corpus, scored),
      }),
    );
  }
  const tasks: DoneRecord["tasks"] = [];
  for (const task of cell.tasks) {
    enter(task);
    const { result, scored } = await measureTask(scorer, task, { data, limit: cell.limit, fewshot: cell.numFewshot });
    tasks.push(result);
    host.onScored?.(task, scored);
  }
  const scores = { perplexity, tasks };
  if (!cell.generations) return scores;
  enter("generate");
  const { prompts, tokens } = cell.generations;
  const texts = await scorer.generate(prompts, { maxTokens: tokens });
  return { ...scores, generations: prompts.map((prompt, i) => ({ prompt, text: at(texts, i).text })) };
}
