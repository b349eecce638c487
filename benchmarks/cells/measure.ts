/** Measures one cell in this process: load, prune, evaluate. Throughput is timed later, see `time_cell.ts`.
 *
 * @module
 */
import { startEngine } from "../../core/engine/engine.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { modelSize } from "../../models/count.ts";
import { openLayerwise } from "../../models/layerwise.ts";
import { type DecoderModel, disposeModel, modelBytes, uploadModel } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { canonicalJson } from "../../core/schema/cell_names.ts";
import { weightBytes } from "./cell_cost.ts";
import { describeEnvironment, environmentsWith } from "./environment.ts";
import type { CellJob } from "./job.ts";
import { type CellHost, evaluate } from "./evaluate.ts";
import { finiteScores } from "./finite_scores.ts";
import { type Loaded, pruneCell, type Pruned, type PrunedCell } from "./prune_cell.ts";
import { isKept, keptModel } from "./rebuild.ts";
import { createPhaseClock, timingsOf } from "./phase_clock.ts";
import { aggregateGroup } from "../evaluation/groups.ts";
import { storeRebuild } from "../records/rebuild_file.ts";
import { storeWeights } from "../records/stored_weights.ts";

/** The part of a record that measuring gives. */
export type Measured = Omit<DoneRecord, "schemaVersion" | "id" | "cell" | "paper" | "startedAt" | "seconds" | "state">;

/** What measuring reads of a job. */
type Job = Pick<
  CellJob,
  | "id"
  | "cell"
  | "out"
  | "data"
  | "taskDefinitions"
  | "taskGroups"
  | "device"
  | "batchTokens"
  | "commit"
  | "keepWeights"
  | "layerwise"
>;

/** Loads the model of `job`, prunes it as its cell says, and measures what is left. With the record of an earlier
 * measurement its model is made again, and its results stand before the new ones.
 * @throws {UsageError} when model, data or method cannot give what the cell asks for.
 * @throws {EngineError} when the engine does not start or the device fails.
 * @throws {NumericError} when the pruned model's output is not finite. */
export async function measureCell(job: Job, host: CellHost, before?: DoneRecord): Promise<Measured> {
  const { cell } = job;
  const clock = createPhaseClock("loadS");
  host.report("loading");
  const engine = await startEngine(cell.engine, { device: job.device, arithmetic: cell.arithmetic });
  const { source, tokenizer } = await openModel(cell.model);
  const isLayerwise = job.layerwise === true && cell.method !== null && !before;
  const dense = await (isLayerwise ? openLayerwise : uploadModel)(source, cell.weights);
  if (!isLayerwise) source.close();
  engine.check();
  const afterLoadBytes = engine.memory.usedBytes();

  // Making the model of a record again is loading: nothing is decided.
  if (!before) clock.enter("pruneS");
  const loaded = { dense, tokenizer, source, engine, clock };
  const { model, changed, rebuild, ...pruned } = before
    ? await modelAgain(job, before, loaded, host)
    : await pruneCell(job, loaded, host);
  const denseConfig = dense.config;
  const sizeOf = (of: DecoderModel) => ({
    ...modelSize(of.config, denseConfig),
    // Layers that are read one at a time are on the device one at a time, too.
    weightBytes: of.readLayer ? weightBytes(of.config, cell.weights) : modelBytes(of),
  });
  const [size, denseSize] = [sizeOf(model), sizeOf(dense)];
  if (model !== dense) disposeModel(dense);
  if (isLayerwise) source.close();
  engine.check();
  const kept = await keep(job, { model, changed, rebuild }, host, before);

  clock.enter("evaluateS");
  const { generations = before?.generations, ...scored } = await finiteScores(
    cell.method?.id ?? null,
    () => evaluate(job, { model, tokenizer }, host),
  );
  const perplexity = [...before?.perplexity ?? [], ...scored.perplexity];
  const tasks = [...before?.tasks ?? [], ...scored.tasks];
  const latest = [...new Map(tasks.map((result) => [result.task, result])).values()];
  const groups = (job.taskGroups ?? []).map((group) => aggregateGroup(group, latest));
  engine.check();
  const peak = engine.memory.peak();
  return {
    ...environmentsWith(describeEnvironment(engine, job.commit), before),
    weights: { ...source.origin },
    size,
    denseSize,
    ...pruned,
    changedWeights: changed,
    ...kept,
    perplexity,
    tasks,
    ...groups.length > 0 && { groups },
    throughput: before?.throughput ?? [],
    ...generations && { generations },
    memory: {
      afterLoadBytes: before?.memory.afterLoadBytes ?? afterLoadBytes,
      peakBytes: Math.max(before?.memory.peakBytes ?? 0, peak.bytes),
      measure: peak.measure,
    },
    timings: timingsOf(clock.seconds(), pruned.training, before?.timings),
  };
}

/** The model of a record as the run kept it, or pruned again from what training left in the folder of statistics.
 * @throws {UsageError} when that gives another plan than the record's. */
async function modelAgain(
  job: Job,
  before: DoneRecord,
  loaded: Loaded,
  host: CellHost,
): Promise<Pruned & Pick<PrunedCell, "model" | "changed" | "rebuild">> {
  const { plan, calibrationData, training, trainingData, trainingDomains, changedWeights: changed } = before;
  const kept: Pruned = {
    plan,
    calibrationData,
    ...training && { training },
    ...trainingData && { trainingData },
    ...trainingDomains && { trainingDomains },
  };
  if (isKept(before)) {
    return { ...kept, model: await keptModel(job.out, before, loaded, host), changed, rebuild: null };
  }
  const { model, rebuild, plan: planAgain } = await pruneCell(job, loaded, host);
  if (canonicalJson(planAgain) === canonicalJson(plan)) return { ...kept, model, changed, rebuild };
  throw new UsageError("The cell, pruned again, keeps other units than its record says: run it in another folder");
}

/** What of the model is kept: all its weights where that is asked for, or where nothing less makes it again; else what
 * does. Measured numbers are not lost because of a full disk. */
async function keep(
  job: Job,
  { model, changed, rebuild }: Pick<PrunedCell, "model" | "changed" | "rebuild">,
  host: CellHost,
  before?: DoneRecord,
): Promise<Pick<DoneRecord, "rebuild" | "storedWeights">> {
  const kept = { ...before?.rebuild && { rebuild: before.rebuild } };
  const stored = { ...before?.storedWeights && { storedWeights: before.storedWeights } };
  if (!changed || job.cell.checkpoint) return {};
  host.report("store what makes the model again");
  try {
    const whole = !before?.storedWeights &&
      (job.keepWeights ?? (rebuild === null && !before?.rebuild));
    return {
      ...rebuild && !before?.rebuild ? { rebuild: storeRebuild(job.out, job, rebuild) } : kept,
      ...whole ? { storedWeights: await storeWeights(job.out, job, model) } : stored,
    };
  } catch (error) {
    host.report(`the model could not be stored: ${(error as Error).message}`);
    return { ...kept, ...stored };
  }
}
