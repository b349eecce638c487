/** From a dense model to the one that a cell asks for: calibration, the method, compensation, recovery.
 *
 * @module
 */
import { openCheckpoint, type RebuildHost } from "./rebuild.ts";
import type { Engine } from "../../core/engine/engine.ts";
import { createRng } from "../../core/util/rng.ts";
import type { Cell, DoneRecord } from "../../core/schema/schema.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { UsageError } from "../../core/util/errors.ts";
import { drawCalibration } from "../../datasets/calibration.ts";
import { getCorpus } from "../../datasets/mod.ts";
import { SELF_TEXT } from "../../datasets/self_text.ts";
import type { LearningContext, Method, PruneResult } from "../../methods/define.ts";
import { getMethod } from "../../methods/mod.ts";
import type { WeightSource } from "../../models/config.ts";
import { type DecoderModel, uploadModel } from "../../models/device.ts";
import { counterparts, densePlan, keptLayers } from "../../models/plan.ts";
import { pruneByLayers, pruneModel } from "../../models/surgery.ts";
import { type BudgetTarget, resolveTarget } from "../../models/target.ts";
import { areVectors, type PruneStage, type Rebuild } from "../../models/training/stages.ts";
import type { Recovery } from "../../models/training/recover.ts";
import { hashWindows } from "../../models/training/teacher.ts";
import { createCache } from "./cache.ts";
import { canonicalJson } from "../../core/schema/cell_names.ts";
import type { CellJob } from "./job.ts";
import { climb, type LevelGiven, type Rung } from "./ladder.ts";
import { checkpointPlace, compensation, recover, type StageHost, type TrainingData, trainingData } from "./learning.ts";
import { checkBudget, runMethod } from "./method_result.ts";
import { createPhaseClock, type PhaseClock } from "./phase_clock.ts";
import { type DrawnWindows, type SelfText, selfText } from "./self_text.ts";
import { reloadMethodFile } from "../configuration/method_file.ts";
import { runPaths } from "../records/store.ts";

/** A dense model that was loaded, and what belongs to it. */
export interface Loaded {
  dense: DecoderModel;
  tokenizer: Tokenizer;
  source: WeightSource;
  engine: Engine;
  /** Told what the process is busy with, where that is recorded. */
  clock?: PhaseClock;
}

/** What pruning gives besides the model. */
export type Pruned = Pick<DoneRecord, "plan" | "calibrationData" | "training" | keyof TrainingData["use"]>;

/** A cell's model and how it came about. */
export type PrunedCell = Pruned & {
  model: DecoderModel;
  /** Whether weights are others than the dense model's. */
  changed: boolean;
  /** What makes the model again; null where that is no less than its weights. */
  rebuild: Rebuild | null;
};

/** The model of a cell that prunes nothing: `dense` itself, or one that was pruned elsewhere. */
async function unprunedCell({ cell, out }: Pick<CellJob, "cell" | "out">, dense: DecoderModel): Promise<PrunedCell> {
  const common = { rebuild: null, calibrationData: null };
  if (!cell.checkpoint) return { ...common, model: dense, changed: false, plan: densePlan(dense.config) };
  const given = await openCheckpoint(out, cell.checkpoint);
  try {
    return { ...common, model: await uploadModel(given, cell.weights), changed: true, plan: { layers: [] } };
  } finally {
    given.close();
  }
}

/** The model that the cell asks for; `dense` itself where nothing is pruned. */
export async function pruneCell(
  { cell, out, data }: Pick<CellJob, "cell" | "out" | "data">,
  { dense, tokenizer, source, engine, clock = createPhaseClock("pruneS") }: Loaded,
  host: RebuildHost,
): Promise<PrunedCell> {
  const { method: choice, sparsity, units, ffnMultiple, seed } = cell;
  if (choice === null || cell.checkpoint) return await unprunedCell({ cell, out }, dense);
  if (cell.methodFile) await reloadMethodFile(cell.methodFile);
  const method = getMethod(choice.id);
  const target = resolveTarget(dense.config, { sparsity, units, ffnMultiple });
  const waiting = <T>(work: () => Promise<T>) => clock.during("waitS", work);
  const self = selfText({
    model: dense,
    tokenizer,
    seed,
    remember: createCache(runPaths(out).cache, {
      weights: source.origin.sha256,
      engine: engine.name,
      seed,
      calibration: [],
    }, waiting),
    report: host.report,
    signal: host.signal,
  });
  const calibration = method.needs.calibration || cell.compensate ? await calibrate(cell, tokenizer, self, data) : null;
  const training = await trainingData(cell, tokenizer, data, self);
  host.report("pruning");
  const windows = calibration?.windows ?? [];
  const scope = {
    weights: source.origin.sha256,
    engine: engine.name,
    seed,
    calibration: windows,
    methodFile: cell.methodFile?.sha256,
  };
  const stage: StageHost = {
    remember: createCache(runPaths(out).cache, scope, waiting),
    report: (message) => host.report(`${method.kind === "learned" ? "learning" : "pruning"}: ${message}`),
    signal: host.signal,
  };
  const folder = runPaths(out).cache;
  const work: PruneWork = { cell, method, target, dense, stage, calibration: windows, folder, clock };
  const { model, plan, reports, stages, changed } = method.kind === "learned"
    ? await pruneLearned(work, training, canonicalJson({ ...scope, calibration: hashWindows(windows) }))
    : await pruneOnce(work, training?.windows, host);
  checkBudget(method, method.options.parse(choice.options), { dense: dense.config, left: model.config, plan, target });
  const isCompensated = stages?.some(({ compensated }) => compensated);
  return {
    model,
    changed,
    rebuild: stages && { stages, windows: isCompensated ? windows : [] },
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
  clock: PhaseClock;
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
  host: RebuildHost,
): Promise<Rung & { changed: boolean }> {
  const { cell, method, dense, target, stage, calibration, folder, clock } = work;
  const { plan, replaced: own = {} } = await runMethod(method, { ...contextOf(work, dense), target });
  const replaced = cell.compensate ? await compensation(dense, calibration, stage)(plan, own) : own;
  const model = await pruneByLayers(dense, plan, replaced);
  const reports: Rung["reports"] = [];
  let recovered: Recovery["parts"];
  if (windows && cell.training) {
    const teacherLayers = keptLayers(plan).length < plan.layers.length ? counterparts(plan) : undefined;
    const learning = { options: cell.training, windows, teacherLayers, checkpoint: checkpointPlace(folder, cell) };
    const recovery = { ...stage, report: (message: string) => host.report(`recovery: ${message}`) };
    const { report, parts } = await clock.during(
      "learnS",
      () => recover({ model, dense, cell, learning }, recovery),
    );
    reports.push(report);
    recovered = parts;
  }
  const compensated = cell.compensate !== undefined;
  return {
    model,
    plan,
    reports,
    stages: areVectors(own) ? [{ plan, replaced: own, compensated, ...recovered && { recovered } }] : null,
    changed: reports.length > 0 || Object.keys(replaced).length > 0,
  };
}

/** Lets a learned method run, once or along a ladder. `key` names what the result depends on besides the cell. */
async function pruneLearned(
  work: PruneWork,
  data: TrainingData | null,
  key: string,
): Promise<Rung & { changed: boolean }> {
  const { cell, method, dense, target, stage, calibration, folder, clock } = work;
  const { ladder, training } = cell;
  if (!training || !data) throw new UsageError(`Method "${method.id}" learns: its cell needs "training"`);
  const prune = ({ base, prefix, cell, target, calibrationShare, ...given }: LevelGiven) => {
    const ofBase: StageHost = { ...stage, remember: (name, compute) => stage.remember(prefix + name, compute) };
    const learning: LearningContext = {
      ...given,
      teacher: dense,
      checkpoint: checkpointPlace(folder, cell),
      ...cell.compensate && { compensate: compensation(base, calibration, ofBase) },
    };
    const seen = calibration.slice(0, Math.ceil(calibrationShare * calibration.length));
    // Statistics of some windows must not pass for those of all.
    const share = seen.length < calibration.length ? `${seen.length} windows: ` : "";
    const own: StageHost = { ...ofBase, remember: (name, compute) => ofBase.remember(share + name, compute) };
    return runMethod(method, { ...contextOf({ ...work, stage: own, calibration: seen }, base), target, learning });
  };
  const { windows, domains } = data;
  const stageOf = ({ plan, replaced = {}, parts }: PruneResult): PruneStage | null => {
    const isFolded = parts !== undefined;
    if (!isFolded && !areVectors(replaced)) return null;
    const compensated = isFolded && cell.compensate !== undefined;
    return { plan, replaced: isFolded ? {} : replaced, compensated, ...isFolded && { learned: parts } };
  };
  if (ladder) {
    const whole = { ...cell, ladder, training };
    const waiting = <T>(work: () => Promise<T>) => clock.during("waitS", work);
    const rung = await climb({ cell: whole, dense, windows, domains, key, folder, waiting, prune, stageOf });
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
  const own = stageOf(result);
  return { model, plan: result.plan, reports: result.training ?? [], stages: own && [own], changed: true };
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
