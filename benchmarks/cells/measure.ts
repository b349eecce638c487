/** Runs one cell in this process and fills its record. Throughput is timed later.
 *
 * @module
 */
import { currentEngine } from "../../core/engine/engine.ts";
import { isDiskFull } from "../../core/schema/failure.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { addFileTasks } from "../../datasets/mod.ts";
import { modelSize } from "../../models/count.ts";
import { type DecoderModel, modelBytes } from "../../models/device.ts";
import { aggregateGroup } from "../evaluation/tasks.ts";
import { free, type LoadedModel } from "../pipeline/load.ts";
import { score, type ScoreOptions } from "../pipeline/score.ts";
import type { StepOptions } from "../pipeline/step.ts";
import { time } from "../pipeline/time.ts";
import { storeRebuild, storeWeights } from "../records/kept_weights.ts";
import { weightBytes } from "./cell_cost.ts";
import { describeEnvironment, environmentsWith } from "./environment.ts";
import type { CellJob } from "./job.ts";
import { loadDense, type MadeModel, makeModel } from "./make_model.ts";
import { createPhaseClock, timingsOf } from "./phase_clock.ts";
import { keptModel } from "./rebuild.ts";

/** Callbacks for the progress of a cell, and the signal that stops it. */
export type CellHost = Pick<ScoreOptions, "report" | "signal" | "onScored" | "onDocuments">;

/** The part of a record that measuring gives. */
export type Measured = Omit<DoneRecord, "schemaVersion" | "id" | "cell" | "paper" | "startedAt" | "seconds" | "state">;

/** What measuring reads of a job. */
type Job = Omit<CellJob, "hashes" | "logSamples" | "coordinated" | "paper">;

/** Loads the model of `job`, prunes it and measures it. With an earlier record, its model is rebuilt, and its results
 * precede the new ones.
 * @throws {UsageError} when model, data or method do not support the cell.
 * @throws {EngineError} when the engine does not start or the device fails.
 * @throws {NumericError} when the pruned model's output is not finite. */
export async function measureCell(job: Job, host: CellHost, before?: DoneRecord): Promise<Measured> {
  const { cell } = job;
  const clock = createPhaseClock("loadS");
  host.report?.("loading");
  const dense = await loadDense(job, job.layerwise === true && cell.method !== null && !before);
  const engine = currentEngine();
  engine.check();
  const afterLoadBytes = engine.memory.usedBytes();

  // Rebuilding the model of a record is loading: nothing is decided.
  if (!before) clock.enter("pruneS");
  const made = before ? await keptAs(job, before, dense, host) : await makeModel(job, dense, host, clock);
  const { model, facts } = made;
  const sizeOf = (of: DecoderModel) => ({
    ...modelSize(of.config, dense.model.config),
    // Layers that are read one at a time are on the device one at a time, too.
    weightBytes: of.readLayer ? weightBytes(of.config, cell.weights) : modelBytes(of),
  });
  const [size, denseSize] = [sizeOf(model), sizeOf(dense.model)];
  if (model !== dense.model) free(dense);
  engine.check();
  const kept = await keep(job, made, host, before);

  clock.enter("evaluateS");
  const scored = await scoreCell(job, { ...dense, model }, host, before);
  engine.check();
  const peak = engine.memory.peak();
  return {
    ...environmentsWith(describeEnvironment(engine, job.commit), before),
    weights: { ...dense.source.origin },
    size,
    denseSize,
    ...facts,
    ...kept,
    ...scored,
    throughput: before?.throughput ?? [],
    memory: {
      afterLoadBytes: before?.memory.afterLoadBytes ?? afterLoadBytes,
      peakBytes: Math.max(before?.memory.peakBytes ?? 0, peak.bytes),
      measure: peak.measure,
    },
    timings: timingsOf(clock.seconds(), facts.training, before?.timings),
  };
}

/** The model of a record, as the run kept it. */
async function keptAs({ out }: Job, before: DoneRecord, dense: LoadedModel, host: CellHost): Promise<MadeModel> {
  const { plan, calibrationData, training, trainingData, changedWeights } = before;
  const { raisedRidges, openResidual, budget } = before;
  const learned = { training, trainingData };
  return {
    model: await keptModel(out, before, { dense: dense.model, source: dense.source }, host),
    rebuild: null,
    facts: { plan, calibrationData, ...learned, changedWeights, raisedRidges, openResidual, budget },
  };
}

/** Scores of a cell's model, after those of `before`. */
async function scoreCell(
  { cell, data, taskDefinitions = [], taskGroups = [], batchTokens }: Job,
  model: Parameters<typeof score>[0],
  host: CellHost,
  before?: DoneRecord,
): Promise<Pick<DoneRecord, "perplexity" | "tasks" | "groups">> {
  addFileTasks(taskDefinitions);
  const { perplexity, tasks: names, limit, numFewshot, requestEncoding: encoding } = cell;
  const found = await score(model, {
    ...{ perplexity, tasks: names, limit, numFewshot, encoding, data, batchTokens },
    ...host,
  });
  const tasks = [...before?.tasks ?? [], ...found.tasks];
  const latest = [...new Map(tasks.map((result) => [result.task, result])).values()];
  const groups = taskGroups.map((group) => aggregateGroup(group, latest));
  return {
    perplexity: [...before?.perplexity ?? [], ...found.perplexity],
    tasks,
    ...groups.length > 0 && { groups },
  };
}

/** Keeps all weights of the model if that is asked for or nothing less makes it again, else what does. */
async function keep(
  job: Job,
  { model, rebuild, facts: { changedWeights } }: MadeModel,
  host: CellHost,
  before?: DoneRecord,
): Promise<Pick<DoneRecord, "rebuild" | "storedWeights">> {
  if (!changedWeights || job.cell.checkpoint) return {};
  const known = {
    ...before?.rebuild && { rebuild: before.rebuild },
    ...before?.storedWeights && { storedWeights: before.storedWeights },
  };
  host.report?.("store what makes the model again");
  try {
    const isWhole = !known.storedWeights && (job.keepWeights ?? (rebuild === null && !known.rebuild));
    return {
      ...rebuild && !known.rebuild && { rebuild: storeRebuild(job.out, job, rebuild) },
      ...isWhole && { storedWeights: await storeWeights(job.out, job, model) },
      ...known,
    };
  } catch (error) {
    // Scores are worth more than a model that a full disk does not hold.
    if (!isDiskFull(error)) throw error;
    host.report?.(`the model could not be stored: ${(error as Error).message}`);
    return known;
  }
}

/** The record's results with the throughput that its cell asks for. With `layerwise` the dense model is never whole on
 * the device, and the repeats do not alternate.
 * @throws {UsageError} when the model cannot be opened, or has fewer positions than are asked for.
 * @throws {EngineError} when the engine does not start or the device fails. */
export async function timeCell(
  job: Pick<CellJob, "cell" | "out" | "weights" | "device" | "layerwise">,
  host: StepOptions,
  before: DoneRecord,
): Promise<Measured> {
  const { cell, out, layerwise } = job;
  const clock = createPhaseClock("loadS");
  host.report?.("loading");
  const inLayers = layerwise === true && cell.method !== null;
  const dense = await loadDense(job, inLayers);
  const model = await keptModel(out, before, { dense: dense.model, source: dense.source }, host);
  if (inLayers) free(dense);
  const engine = currentEngine();
  engine.check();
  clock.enter("throughputS");
  host.report?.("throughput");
  const measured = await time({ model }, {
    ...cell.throughput,
    dense: inLayers ? undefined : dense,
    signal: host.signal,
  });
  engine.check();
  const { engine: name, library, device: on, cpu } = describeEnvironment(engine, null);
  return {
    ...before,
    throughput: [
      ...before.throughput,
      ...measured.map((result) => ({ ...result, machine: { engine: name, library, device: on, cpu } })),
    ],
    timings: timingsOf(clock.seconds(), [], before.timings),
  };
}
