/** A training run: batches in order, the teacher's targets, one step after the other, snapshots and the curve. Learned
 * masks and recovery share it.
 *
 * @module
 */
import { giveWay } from "../../core/engine/give_way.ts";
import { lookUp } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { Rng } from "../../core/util/rng.ts";
import type { CurveRow, TrainingReport } from "../../core/schema/schema.ts";
import type { HostTensor } from "../config.ts";
import type { DecoderModel } from "../device.ts";
import { loadSnapshot, removeSnapshots, saveSnapshot, type Snapshot, type SnapshotPlace } from "./snapshot.ts";
import { createCurve, type Curve, type StepNotes, trainingReport } from "./curve.ts";
import { fetchMoments } from "./device_optimizer.ts";
import { exportOptimizer, importOptimizer, readVariables, writeVariable } from "./optimizer.ts";
import {
  createStudent,
  disposeStudent,
  type ModelMasks,
  type StepResult,
  type Student,
  type StudentOptions,
  type StudentStep,
  studentStep,
  trainedTensors,
} from "./student.ts";
import { hashWindows, openTeacher, type TeacherFeed, type TeacherSource } from "./teacher.ts";

/** What {@linkcode startRun} is given. */
export interface RunOptions {
  /** The model on which adapters and scales train; its weights stay. */
  base: DecoderModel;
  /** The dense model. */
  teacher: DecoderModel;
  /** For each layer of `base`, the teacher's whose hidden states it is compared with, where `base` has fewer layers. */
  teacherLayers?: readonly number[];
  options: StudentOptions;
  /** `steps * batch` windows of `tokens` ids, in order: step i reads `batch` of them from `i * batch` on. */
  windows: readonly Int32Array[];
  /** Draws the adapters. */
  rng: Rng;
  /** Names the run: a snapshot of a run with another key is not used. */
  key: string;
  /** Where to keep snapshots; without it a stopped run begins again. */
  snapshots?: SnapshotPlace;
  /** Keeps the teacher's targets from one run to the next. */
  remember?: TeacherSource["remember"];
  report(message: string): void;
  signal: AbortSignal;
}

/** A run under way. Free it with {@linkcode endRun}. */
export interface TrainingRun {
  given: RunOptions;
  /** Targets of distillation; null without it. */
  feed: TeacherFeed | null;
  /** What learns; after the cut a smaller one. */
  student: Student;
  curve: Curve;
  step: number;
}

/** What the owner of a run keeps in snapshots besides adapters, moments and curve. */
interface OwnState {
  /** Plain values; must survive JSON. */
  values: unknown;
  /** Arrays, f32. */
  arrays: Map<string, HostTensor>;
}

/** A snapshot that was found. */
export interface FoundRun extends OwnState {
  /** Steps in which adapters and scales stayed frozen. */
  frozenSteps: number;
  /** Puts adapters, moments and step back, once the student has the snapshot's widths. */
  restore(): void;
}

/** The plain values of a snapshot. */
interface StoredState {
  own: unknown;
  curve: CurveRow[];
  frozenSteps: number;
}

function checkWindows({ options: { steps, batch, tokens }, windows }: RunOptions): void {
  const needed = steps * batch;
  if (windows.length < needed) {
    throw new UsageError(`Training needs ${needed} windows (steps x batch): current ${windows.length}`);
  }
  const wrong = windows.find(({ length }) => length !== tokens);
  if (wrong) throw new UsageError(`Training windows must have ${tokens} tokens: current ${wrong.length}`);
}

/** Starts a run; `found` is the snapshot of one that was stopped, if there is one.
 * @throws {UsageError} when the windows do not fit the options. */
export async function startRun(given: RunOptions): Promise<{ run: TrainingRun; found: FoundRun | null }> {
  const { base, options, rng, snapshots } = given;
  checkWindows(given);
  const key = runKey(given);
  const snapshot = snapshots ? loadSnapshot(snapshots.folder, key) : null;
  const stored = snapshot?.state as StoredState | undefined;
  const isOver = snapshot?.step === options.steps;
  const feed = options.distillation > 0 && !isOver
    ? await openTeacher({
      ...given,
      model: given.teacher,
      windows: given.windows.slice(0, options.steps * options.batch),
      options: { topK: options.teacherTokens, temperature: options.temperature },
    })
    : null;
  const student = createStudent(base, options, rng);
  const run: TrainingRun = { given, feed, student, curve: createCurve(stored?.curve), step: 0 };
  if (!snapshot) return { run, found: null };
  given.report(`goes on from step ${snapshot.step}`);
  const { own: values, frozenSteps } = stored!;
  const restore = () => restoreRun(run, snapshot, frozenSteps);
  return { run, found: { values, arrays: snapshot.tensors, frozenSteps, restore } };
}

const runKey = ({ key, options, windows }: RunOptions): string =>
  JSON.stringify({ key, options, windows: hashWindows(windows) });

/** Steps so far in which adapters and scales stayed frozen. */
export const frozenSteps = ({ step, student }: TrainingRun): number => step - student.optimizer.step;

function restoreRun(run: TrainingRun, { step, tensors }: Snapshot, frozen: number): void {
  for (const [name, variable] of Object.entries(trainedTensors(run.student))) {
    writeVariable(variable, lookUp(tensors, `trained/${name}`).data);
  }
  const moments = new Map(
    [...tensors].filter(([name]) => name.startsWith("moments/"))
      .map(([name, tensor]) => [name.slice("moments/".length), tensor]),
  );
  if (step < run.given.options.steps) importOptimizer(run.student.optimizer, { step: step - frozen, tensors: moments });
  run.step = step;
}

/** Writes a snapshot when one is due; `own` is asked only then. That of the last step has no moments. */
export async function keepSnapshot(run: TrainingRun, own: () => OwnState): Promise<void> {
  const place = run.given.snapshots;
  const isLast = run.step === run.given.options.steps && place?.keepsLast === true;
  if (!place || (run.step % place.everySteps !== 0 && !isLast)) return;
  const { values, arrays } = own();
  const tensors = new Map(arrays);
  const trained = await readVariables(trainedTensors(run.student));
  for (const [name, tensor] of Object.entries(trained)) tensors.set(`trained/${name}`, tensor);
  if (!isLast) {
    await fetchMoments(run.student.optimizer);
    for (const [name, tensor] of exportOptimizer(run.student.optimizer).tensors) tensors.set(`moments/${name}`, tensor);
  }
  const state: StoredState = { own: values, curve: run.curve.rows, frozenSteps: frozenSteps(run) };
  saveSnapshot(place.folder, { key: runKey(run.given), step: run.step, state, tensors });
}

/** One step on the next batch: adapters and scales move unless they are `frozen`, masks get gradients. */
export async function nextStep(
  run: TrainingRun,
  masks: ModelMasks & Pick<StudentStep, "frozen"> = {},
): Promise<StepResult> {
  const { given: { options, teacher, teacherLayers, windows: all, signal }, feed, student, step } = run;
  await giveWay(signal);
  const windows = all.slice(step * options.batch, (step + 1) * options.batch);
  const result = await studentStep(student, {
    windows,
    targets: feed ? await feed(step * options.batch, windows) : undefined,
    teacher,
    teacherLayers,
    ...masks,
    // It falls to 0: the dense model's states help at first, but later limit what the text can teach.
    options: { ...options, hidden: options.hidden * (1 - step / options.steps) },
  });
  run.step++;
  return result;
}

/** Adds a step's row to the curve and says where the run is. */
export function noteStep(run: TrainingRun, result: StepResult, notes?: StepNotes): void {
  const row = run.curve.add(run.step, result, notes);
  const widths = Object.entries(row.removed ?? {}).map(([type, count]) => `${type} -${Math.round(count * 10) / 10}`);
  const budget = row.budget === undefined ? [] : [`budget ${row.budget.toFixed(3)}`];
  const parts = [`step ${run.step} of ${run.given.options.steps}`, `loss ${row.loss.toFixed(3)}`, ...budget, ...widths];
  run.given.report(parts.join(", "));
}

/** The report of a run that ended; its snapshots are removed, but for the last one where that is kept. */
export function finishRun(run: TrainingRun, stage: TrainingReport["stage"]): TrainingReport {
  const { given: { options: { batch, tokens }, snapshots }, curve, step } = run;
  if (snapshots && !snapshots.keepsLast) removeSnapshots(snapshots.folder);
  return trainingReport(stage, curve, { steps: step, tokens: step * batch * tokens });
}

/** Frees what a run holds on the device. */
export function endRun(run: TrainingRun): void {
  disposeStudent(run.student);
}
