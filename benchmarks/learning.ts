/** What happens to a pruned model besides pruning: learning data, least-squares compensation, recovery.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { createRng } from "../core/rng.ts";
import type { Cell, DatasetUse, TrainingReport } from "../core/schema.ts";
import type { Tokenizer } from "../core/tokenizer.ts";
import { drawCalibration } from "../datasets/calibration.ts";
import { getCorpus } from "../datasets/mod.ts";
import type { LearningContext, MethodContext, Statistics } from "../methods/define.ts";
import type { LlamaModel } from "../models/llama.ts";
import type { PrunePlan } from "../models/plan.ts";
import type { CheckpointPlace } from "../models/training/checkpoint.ts";
import { compensate, gramMatrices } from "../models/training/least_squares.ts";
import { recoverModel } from "../models/training/recover.ts";
import { ladderSteps } from "./ladder.ts";

/** Steps from one snapshot of a training run to the next. */
const SNAPSHOT_STEPS = 25;

/** What a stage needs from the process of its cell. */
export type StageHost = Pick<MethodContext<unknown>, "remember" | "report" | "signal">;

/** Training windows of a cell: `steps * batch` windows (a ladder's for its levels together) at seeded places of the corpus's calibration split, drawn apart
 * from the calibration windows; the same for every method of a comparison. Null where nothing trains. */
export async function trainingWindows(
  { training, calibration, seed, ladder }: Cell,
  tokenizer: Tokenizer,
  data?: string,
): Promise<{ windows: Int32Array[]; dataset: DatasetUse } | null> {
  if (!training) return null;
  return await drawCalibration({
    corpus: getCorpus(training.corpus ?? calibration.corpus),
    tokenizer,
    sequences: (ladder ? ladderSteps(training.steps) : training.steps) * training.batch,
    tokens: training.tokens,
    seed,
    stream: "training",
    data,
  });
}

/** Where a cell's training keeps its snapshots: a folder of its own, so that a stopped cell goes on. */
export function checkpointPlace(cacheFolder: string, cell: Cell): CheckpointPlace {
  const name = createHash("sha256").update(JSON.stringify(cell)).digest("hex").slice(0, 16);
  return { folder: join(cacheFolder, `training-${name}`), everySteps: SNAPSHOT_STEPS };
}

/** Least-squares tensors for a plan, from Gram matrices of the dense model on the calibration windows. */
export function compensation(
  dense: LlamaModel,
  windows: Int32Array[],
  { remember, report, signal }: StageHost,
): (plan: PrunePlan, replaced?: Statistics) => Promise<Statistics> {
  return async (plan, replaced) => {
    const gram = await remember("gram matrices", () => gramMatrices(dense, windows, { report, signal }));
    return { ...replaced, ...await compensate(dense, plan, { gram, replaced, report, signal }) };
  };
}

/** Trains adapters on a pruned model and folds them in; `model` is changed. */
export function recover(
  { model, dense, cell, learning }: { model: LlamaModel; dense: LlamaModel; cell: Cell; learning: LearningContext },
  { remember, report, signal }: StageHost,
): Promise<TrainingReport> {
  return recoverModel({
    base: model,
    teacher: dense,
    options: learning.options,
    windows: learning.windows,
    checkpoint: learning.checkpoint,
    // The same adapters for every method.
    rng: createRng(cell.seed, "recovery"),
    key: `recovery of ${JSON.stringify(cell.method)} at ${cell.sparsity}, ${cell.compensate ?? "no"} compensation`,
    remember,
    report,
    signal,
  });
}
