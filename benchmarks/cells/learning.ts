/** What happens to a pruned model besides pruning: learning data, least-squares compensation, recovery.
 *
 * @module
 */
import { join } from "node:path";
import { createRng } from "../../core/util/rng.ts";
import { sha256OfJson } from "../../core/schema/cell_names.ts";
import { at } from "../../core/util/indexing.ts";
import { type Cell, type DatasetUse, type DoneRecord, pruningOf } from "../../core/schema/schema.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { drawCalibration } from "../../datasets/calibration.ts";
import { getCorpus } from "../../datasets/mod.ts";
import { SELF_TEXT } from "../../datasets/self_text.ts";
import type { LearningContext, MethodContext, Statistics } from "../../methods/define.ts";
import type { DecoderModel } from "../../models/device.ts";
import type { PrunePlan } from "../../models/plan.ts";
import type { SnapshotPlace } from "../../models/training/snapshot.ts";
import { createMix, type Domain, drawWindows } from "../../models/training/domains.ts";
import { compensate, gramMatrices } from "../../models/training/least_squares.ts";
import { recoverModel, type Recovery } from "../../models/training/recover.ts";
import { trainingParts } from "../configuration/expand.ts";
import type { DrawnWindows, SelfText } from "./self_text.ts";

/** Steps from one snapshot of a training run to the next. */
const SNAPSHOT_STEPS = 25;

/** What a stage needs from the process of its cell. */
export type StageHost = Pick<MethodContext<unknown>, "remember" | "report" | "signal">;

/** Part of a domain's records, the last ones, that nothing is trained on, and windows that are drawn from them. */
const [HELD_OUT, HELD_OUT_WINDOWS] = [0.05, 8];

/** What the cells of a run train on. */
export interface TrainingData {
  /** In order; the same for every method of a comparison. */
  windows: Int32Array[];
  /** What the windows were drawn from, where it is several corpora. */
  domains?: Domain[];
  /** For the record. */
  use: Pick<DoneRecord, "trainingData" | "trainingDomains">;
}

/** Training windows of a cell: `steps * batch` windows at seeded places of the
 * corpus's calibration split, drawn apart from the calibration windows; with domains each window draws its corpus by their
 * parts. `self` gives text of the dense model. Null where nothing trains.
 * @throws {UsageError} when a corpus is unknown, or its data are missing or too short. */
export async function trainingData(
  cell: Cell,
  tokenizer: Tokenizer,
  data?: string,
  self?: SelfText,
): Promise<TrainingData | null> {
  const { training, seed } = cell;
  if (!training) return null;
  const { tokens } = training;
  const sequences = training.steps * training.batch;
  const parts = trainingParts(cell);
  const draw = (
    name: string,
    wanted: { sequences: number; part?: readonly [number, number]; stream: string },
  ): Promise<DrawnWindows> => {
    if (name === SELF_TEXT && self) return self({ tokens, ...wanted });
    return drawCalibration({ corpus: getCorpus(name), tokenizer, tokens, seed, data, ...wanted });
  };
  if (!training.domains) {
    const drawn = await draw(at(parts, 0).corpus, { sequences, stream: "training" });
    return { windows: drawn.windows, use: { trainingData: drawn.dataset } };
  }
  const domains: Domain[] = [];
  const trainingDomains: DatasetUse[] = [];
  for (const { corpus: name, part: weight } of parts) {
    const train = { sequences, part: [0, 1 - HELD_OUT], stream: `training ${name}` } as const;
    const rest = { sequences: HELD_OUT_WINDOWS, part: [1 - HELD_OUT, 1], stream: `held out ${name}` } as const;
    const { windows, dataset } = await draw(name, train);
    const { windows: heldOut } = await draw(name, rest);
    domains.push({ name, weight, windows, heldOut });
    trainingDomains.push(dataset);
  }
  const windows = drawWindows(createMix(domains), domains, sequences, createRng(seed, "training domains"));
  return { windows, domains, use: { trainingDomains } };
}

/** Where a cell's training keeps its snapshots: a folder of its own, so that a stopped cell goes on. */
export function checkpointPlace(cacheFolder: string, cell: Cell): SnapshotPlace {
  const name = sha256OfJson(pruningOf(cell)).slice(0, 16);
  return { folder: join(cacheFolder, `training-${name}`), everySteps: SNAPSHOT_STEPS, keepsLast: true };
}

/** Least-squares tensors for a plan, from Gram matrices of the dense model on the calibration windows. */
export function compensation(
  dense: DecoderModel,
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
  { model, dense, cell, learning }: { model: DecoderModel; dense: DecoderModel; cell: Cell; learning: LearningContext },
  { remember, report, signal }: StageHost,
): Promise<Recovery> {
  return recoverModel({
    base: model,
    teacher: dense,
    teacherLayers: learning.teacherLayers,
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
