/** The model of a cell, pruned and recovered.
 *
 * @module
 */
import { join } from "node:path";
import type { DoneRecord, LatencyTable } from "../../core/schema/schema.ts";
import { getMethod } from "../../methods/mod.ts";
import { uploadModel } from "../../models/device.ts";
import { layerTimes, resourceOf } from "../../models/latency.ts";
import { densePlan } from "../../models/plan.ts";
import { ranksLayers } from "../../models/target.ts";
import { costOf, type Resource } from "../../models/resource.ts";
import { reloadMethodFile } from "../configuration/method_file.ts";
import { calibrate, trainingData } from "../pipeline/calibrate.ts";
import { load, type LoadedModel } from "../pipeline/load.ts";
import { prune, type PrunedModel } from "../pipeline/prune.ts";
import { recover } from "../pipeline/recover.ts";
import type { StepOptions } from "../pipeline/step.ts";
import { runPaths } from "../records/store.ts";
import { createCache } from "./cache.ts";
import type { CellJob } from "./job.ts";
import type { PhaseClock } from "./phase_clock.ts";
import { openCheckpoint } from "./rebuild.ts";

/** The part of a record that says how its model came about. */
type MadeFacts =
  & Pick<DoneRecord, "plan" | "calibrationData" | "training" | "trainingData" | "changedWeights" | "budget">
  & Pick<DoneRecord, "raisedRidges" | "openResidual">;

/** A cell's model. */
export interface MadeModel extends Pick<PrunedModel, "model" | "rebuild"> {
  facts: MadeFacts;
}

/** Steps from one snapshot of a training run to the next. */
const SNAPSHOT_STEPS = 25;

/** Starts the cell's engine and loads its dense model; with `layerwise` one layer at a time. */
export async function loadDense(
  { cell, device, weights: hash }: Pick<CellJob, "cell" | "device" | "weights">,
  layerwise: boolean,
): Promise<LoadedModel> {
  const { model, engine, arithmetic, weights = "f32" as const } = cell;
  return await load(model, { engine, device, arithmetic, weights, hash, layerwise });
}

/** The model that a cell asks for; `dense` itself where nothing is pruned. */
export async function makeModel(
  job: Pick<CellJob, "id" | "cell" | "out" | "data" | "latency">,
  dense: LoadedModel,
  host: StepOptions,
  clock: PhaseClock,
): Promise<MadeModel> {
  const { cell, out } = job;
  if (cell.method === null) {
    const facts = { plan: densePlan(dense.model.config), calibrationData: null, changedWeights: false };
    return { model: dense.model, rebuild: null, facts };
  }
  if (!cell.checkpoint) return await prunedModel(job, dense, host, clock);
  const given = await openCheckpoint(out, cell.checkpoint);
  try {
    const facts = { plan: { layers: [] }, calibrationData: null, changedWeights: true };
    return { model: await uploadModel(given, cell.weights), rebuild: null, facts };
  } finally {
    given.close();
  }
}

async function prunedModel(
  { id, cell, out, data, latency }: Pick<CellJob, "id" | "cell" | "out" | "data" | "latency">,
  dense: LoadedModel,
  { report = () => {}, signal }: StepOptions,
  clock: PhaseClock,
): Promise<MadeModel> {
  const { method: choice, methodFile, sparsity, units, dropLayers, ffnMultiple, seed, compensate } = cell;
  if (choice === null) throw new TypeError("A cell that is pruned has a method");
  if (methodFile) await reloadMethodFile(methodFile);
  const { kind, needs } = getMethod(choice.id);
  const folder = runPaths(out).cache;
  const { engine, arithmetic, weights: form } = cell;
  const scope = { weights: dense.source.origin.sha256, engine, arithmetic, form, seed };
  const waiting = <T>(work: () => Promise<T>) => clock.during("waitS", work);
  const { corpus } = cell.calibration;
  const text = { seed, data, report, signal, remember: createCache(folder, { ...scope, calibration: [] }, waiting) };
  const calibration = needs.calibration || compensate || ranksLayers(cell)
    ? await calibrate(dense, { ...cell.calibration, ...text })
    : undefined;
  const { recover: trains = "none" } = cell;
  const training = cell.training &&
    await trainingData(dense, { ...cell.training, recover: trains }, { corpus, ...text });
  report("pruning");
  const calibrated = {
    ...{ ...scope, calibration: calibration?.windows ?? [] },
    ...{ methodFile: methodFile?.sha256, methodVersion: choice.version },
  };
  const step = {
    seed,
    training,
    // A folder of its own, so that a stopped cell can resume. The id names all contents of files that the cell reads.
    snapshots: { folder: join(folder, `training-${id}`), everySteps: SNAPSHOT_STEPS, keepsLast: true },
    signal,
    remember: createCache(folder, calibrated, waiting),
  };
  const { id: method, options } = choice;
  const phase = kind === "learned" ? "learning" : "pruning";
  const resource = resourceOf(cell.budget, latency);
  const how = { method, options, sparsity, resource, units, dropLayers, ffnMultiple, calibration, compensate };
  let pruned = await prune(dense, { ...how, ...step, report: (message) => report(`${phase}: ${message}`) });
  // A method that learns has trained, unless whole layers alone met its budget.
  if (training && trains !== "none" && pruned.training.every(({ stage }) => stage === "search")) {
    const recovery = { ...step, dense, training, report: (message: string) => report(`recovery: ${message}`) };
    pruned = await clock.during("learnS", () => recover(pruned, recovery));
  }
  return {
    model: pruned.model,
    rebuild: pruned.rebuild,
    facts: {
      plan: pruned.plan,
      calibrationData: calibration?.dataset ?? null,
      ...pruned.training.length > 0 && { training: pruned.training },
      ...training && { trainingData: training.dataset },
      changedWeights: pruned.changed,
      ...cell.budget && { budget: budgetFacts(cell, resource, { dense, pruned, latency }) },
      ...pruned.raisedRidges && { raisedRidges: pruned.raisedRidges },
      ...pruned.openResidual !== undefined && { openResidual: pruned.openResidual },
    },
  };
}

/** The requested and the met budget. */
function budgetFacts(
  { sparsity }: CellJob["cell"],
  resource: Resource,
  { dense, pruned, latency }: { dense: LoadedModel; pruned: PrunedModel; latency?: LatencyTable },
): NonNullable<DoneRecord["budget"]> {
  const whole = costOf(resource, dense.model.config);
  const left = costOf(resource, pruned.model.config);
  return { whole, asked: (1 - sparsity) * whole, left, rest: latency ? layerTimes(latency).restMs : 0 };
}
