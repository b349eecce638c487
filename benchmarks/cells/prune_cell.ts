/** From a dense model to the one that a cell asks for: calibration, the method, compensation, recovery.
 *
 * @module
 */
import { openCheckpoint, type RebuildHost } from "./rebuild.ts";
import type { Engine } from "../../core/engine/engine.ts";
import { createRng } from "../../core/util/rng.ts";
import type { Cell, DoneRecord, TrainingReport } from "../../core/schema/schema.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { UsageError } from "../../core/util/errors.ts";
import { drawCalibration } from "../../datasets/calibration.ts";
import { getCorpus } from "../../datasets/mod.ts";
import { SELF_TEXT } from "../../datasets/self_text.ts";
import type { Method } from "../../methods/define.ts";
import { getMethod } from "../../methods/mod.ts";
import type { WeightSource } from "../../models/config.ts";
import { type DecoderModel, uploadModel } from "../../models/device.ts";
import { counterparts, densePlan, keptLayers } from "../../models/plan.ts";
import { pruneByLayers, pruneModel } from "../../models/surgery.ts";
import { type BudgetTarget, resolveTarget } from "../../models/target.ts";
import { areVectors, type Rebuild } from "../../models/training/rebuild.ts";
import type { Recovery } from "../../models/training/recover.ts";
import { createCache } from "./cache.ts";
import type { CellJob } from "./job.ts";
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
  const { model, plan, reports, rebuild, changed } = method.kind === "learned"
    ? await pruneLearned(work, training)
    : await pruneOnce(work, training?.windows, host);
  checkBudget(method, method.options.parse(choice.options), { dense: dense.config, left: model.config, plan, target });
  return {
    model,
    changed,
    rebuild,
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

/** The pruned model, what trained it, and what makes it again. */
type PruneOutcome = Pick<PrunedCell, "model" | "plan" | "changed" | "rebuild"> & { reports: TrainingReport[] };

/** Scores, cuts, compensates and recovers. */
async function pruneOnce(
  work: PruneWork,
  windows: Int32Array[] | undefined,
  host: RebuildHost,
): Promise<PruneOutcome> {
  const { cell, method, dense, target, stage, calibration, folder, clock } = work;
  const { plan, replaced: own = {} } = await runMethod(method, { ...contextOf(work, dense), target });
  const replaced = cell.compensate ? await compensation(dense, calibration, stage)(plan, own) : own;
  const model = await pruneByLayers(dense, plan, replaced);
  const reports: TrainingReport[] = [];
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
  return {
    model,
    plan,
    reports,
    rebuild: areVectors(own)
      ? { plan, replaced: own, windows: cell.compensate ? calibration : [], ...recovered && { recovered } }
      : null,
    changed: reports.length > 0 || Object.keys(replaced).length > 0,
  };
}

/** Lets a learned method run. */
async function pruneLearned(work: PruneWork, data: TrainingData | null): Promise<PruneOutcome> {
  const { cell, method, dense, target, stage, calibration, folder } = work;
  const { training: options } = cell;
  if (!options || !data) throw new UsageError(`Method "${method.id}" learns: its cell needs "training"`);
  const { windows, domains } = data;
  const learning = {
    options,
    windows,
    domains,
    checkpoint: checkpointPlace(folder, cell),
    ...cell.compensate && { compensate: compensation(dense, calibration, stage) },
  };
  const { plan, replaced = {}, parts, training: reports = [] } = await runMethod(
    method,
    { ...contextOf(work, dense), target, learning },
  );
  const kept = parts ? { replaced: {}, learned: parts } : { replaced };
  const rebuild = parts || areVectors(replaced)
    ? { plan, windows: parts && cell.compensate ? calibration : [], ...kept }
    : null;
  return { model: pruneModel(dense, plan, replaced), plan, reports, rebuild, changed: true };
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
