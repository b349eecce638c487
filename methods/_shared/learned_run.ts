/** What all methods that learn share: reading batches, snapshots, the structure frozen and trained on, and the result.
 *
 * @module
 */
import { UsageError } from "../../core/errors.ts";
import type { CurveRow, TrainingReport } from "../../core/schema.ts";
import type { HostTensor } from "../../models/config.ts";
import { disposeModel } from "../../models/llama.ts";
import type { PrunePlan, UnitType } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { loadSnapshot, removeSnapshots, saveSnapshot, type Snapshot } from "../../models/training/checkpoint.ts";
import { createCurve, type Curve, type StepNotes, trainingReport } from "../../models/training/curve.ts";
import { mergedTensors } from "../../models/training/merge.ts";
import {
  createMoments,
  exportOptimizer,
  importOptimizer,
  type Moments,
  readTensors,
  stepValues,
  writeVariable,
} from "../../models/training/optimizer.ts";
import {
  createStudent,
  cutStudent,
  disposeStudent,
  type HostMasks,
  type StepResult,
  type Student,
  studentStep,
} from "../../models/training/student.ts";
import { hashWindows, openTeacher, type TeacherFeed } from "../../models/training/teacher.ts";
import type { LearningContext, MethodContext, PruneResult } from "../define.ts";
import { checkpoint } from "./device.ts";

/** A run under way. */
export interface LearnedRun {
  /** What the method was given. */
  context: MethodContext<unknown>;
  /** The same, present. */
  learning: LearningContext;
  /** The teacher's targets; null without distillation. */
  teacher: TeacherFeed | null;
  /** Dense while masks are learned, compact after the freeze. */
  student: Student;
  /** Loss and widths so far. */
  curve: Curve;
  /** Steps done. */
  step: number;
  /** Names the run in its snapshots. */
  key: string;
}

/** What a method keeps in snapshots besides adapters, moments and curve. */
export interface MethodState {
  /** Plain values; must survive JSON. */
  values: unknown;
  /** Arrays, f32. */
  arrays: Map<string, HostTensor>;
}

/** A snapshot that was found. */
export interface FoundRun extends MethodState {
  /** Puts adapters, moments and step back, once the student has the snapshot's widths. */
  restore(): void;
}

/** Starts a run, or finds the snapshot of one that was stopped: then `found` holds the method's own state and
 * `restore` puts the adapters back once the student has its widths again.
 * @throws {UsageError} when the learning context does not fit. */
export async function startRun(
  context: MethodContext<unknown>,
  name: string,
): Promise<{ run: LearnedRun; found: FoundRun | null }> {
  const { learning, model, target, seed, signal, report } = context;
  if (!learning) throw new RangeError(`Method "${name}" learns: it needs a learning context`);
  const { options, windows } = learning;
  const needed = options.steps * options.batch;
  if (windows.length < needed) {
    throw new UsageError(`Training needs ${needed} windows (steps x batch): current ${windows.length}`);
  }
  const settings = { name, options, target, seed, own: context.options, windows: hashWindows(windows) };
  const key = JSON.stringify(settings);
  const snapshot = learning.checkpoint ? loadSnapshot(learning.checkpoint.folder, key) : null;
  const stored = snapshot?.state as { method: unknown; curve: CurveRow[] } | undefined;
  const teacher = options.distillation > 0
    ? await openTeacher({
      model,
      windows: windows.slice(0, needed),
      options: { topK: options.teacherTokens, temperature: options.temperature },
      remember: context.remember,
      report,
      signal,
    })
    : null;
  const student = createStudent(model, options, context.rng("adapters"));
  const run: LearnedRun = { context, learning, teacher, student, curve: createCurve(stored?.curve), step: 0, key };
  if (!snapshot) return { run, found: null };
  report(`goes on from step ${snapshot.step}`);
  return {
    run,
    found: {
      values: stored!.method,
      arrays: snapshot.tensors,
      restore: () => restoreStudent(run, snapshot),
    },
  };
}

function restoreStudent(run: LearnedRun, { step, tensors }: Snapshot): void {
  const { adapters, optimizer } = run.student;
  for (const [name, variable] of Object.entries(adapters.parameters)) {
    writeVariable(variable, tensors.get(`adapters/${name}`)!.data);
  }
  const moments = new Map(
    [...tensors].filter(([name]) => name.startsWith("moments/"))
      .map(([name, tensor]) => [name.slice("moments/".length), tensor]),
  );
  importOptimizer(optimizer, { step, tensors: moments });
  run.step = step;
}

/** Writes a snapshot when one is due; `state` is asked only then. */
export async function keepSnapshot(run: LearnedRun, state: () => MethodState): Promise<void> {
  const place = run.learning.checkpoint;
  if (!place || run.step % place.everySteps !== 0) return;
  const { values, arrays } = state();
  const tensors = new Map(arrays);
  const { adapters, optimizer } = run.student;
  const names = Object.keys(adapters.parameters);
  const data = await readTensors(Object.values(adapters.parameters));
  names.forEach((name, i) =>
    tensors.set(`adapters/${name}`, { shape: [...adapters.parameters[name].shape], data: data[i] })
  );
  for (const [name, tensor] of exportOptimizer(optimizer).tensors) tensors.set(`moments/${name}`, tensor);
  saveSnapshot(place.folder, {
    key: run.key,
    step: run.step,
    state: { method: values, curve: run.curve.rows },
    tensors,
  });
}

/** One step on the next batch; `masks` get gradients, adapters move. */
export async function nextStep(run: LearnedRun, masks: readonly HostMasks[]): Promise<StepResult> {
  const { context, learning: { options, windows }, teacher, student, step } = run;
  await checkpoint(context.signal);
  const first = step * options.batch;
  const result = await studentStep(student, {
    windows: windows.slice(first, first + options.batch),
    targets: teacher ? await teacher(first, options.batch) : undefined,
    teacher: context.model,
    masks,
    options,
  });
  run.step++;
  return result;
}

/** Adds a step's row to the curve and says where the run is. */
export function noteStep(run: LearnedRun, result: StepResult, notes?: StepNotes): void {
  const row = run.curve.add(run.step, result, notes);
  const widths = Object.entries(row.removed ?? {}).map(([type, count]) => `${type} -${Math.round(count * 10) / 10}`);
  const budget = row.budget === undefined ? [] : [`budget ${row.budget.toFixed(3)}`];
  run.context.report(
    [`step ${run.step} of ${run.learning.options.steps}`, `loss ${row.loss.toFixed(3)}`, ...budget, ...widths].join(
      ", ",
    ),
  );
}

/** A structure that no longer changes. */
export interface Frozen {
  /** Kept units. */
  plan: PrunePlan;
  /** Values of the kept masks, at the widths of the plan. */
  masks: HostMasks[];
  /** Learning rate of the kept masks; 0 leaves them. */
  maskRate: number;
}

/** What a snapshot after the freeze holds besides arrays. */
interface FrozenValues {
  frozen: true;
  plan: PrunePlan;
  /** Unit types with a mask, per layer. */
  masks: UnitType[][];
}

/** Goes on after the freeze when the snapshot was taken there; null when it was taken before. */
export function resumeFrozen(run: LearnedRun, found: FoundRun, maskRate: number): Promise<PruneResult> | null {
  const values = found.values as Partial<FrozenValues>;
  if (!values.frozen) return null;
  const masks = values.masks!.map((types, l) =>
    Object.fromEntries(types.map((type) => [type, found.arrays.get(`frozen/${l}/${type}/mask`)!.data]))
  );
  return trainFrozen(run, { plan: values.plan!, masks, maskRate }, found);
}

const MASK_RULE = { kind: "adamw", betas: [0.9, 0.95] as [number, number] } as const;

/** Cuts the removed units out of the student and trains what is left for the remaining steps: adapters, and kept masks
 * when they have a rate. `restored` puts back a snapshot taken after the freeze. */
export async function trainFrozen(
  run: LearnedRun,
  frozen: Frozen,
  restored?: FoundRun,
): Promise<PruneResult> {
  const { context, learning: { options } } = run;
  const { plan, maskRate } = frozen;
  const dense = context.model.config;
  const compact = pruneModel(context.model, plan);
  try {
    run.student = await cutStudent(run.student, { compact, plan, config: dense, options });
    restored?.restore();
    const masks = frozen.masks.map((layer) => ({ ...layer }));
    const moments = masks.map((layer) =>
      Object.fromEntries(Object.entries(layer).map(([type, { length }]) => [type, createMoments(MASK_RULE, length)]))
    );
    if (restored) readMasks(restored.arrays, masks, moments);
    const start = run.step - (restored ? readCount(restored.arrays) : 0);
    const learns = options.rank > 0 || maskRate > 0;
    while (run.step < options.steps && learns) {
      const result = await nextStep(run, masks);
      if (maskRate > 0) stepMasks(masks, result.maskGradients, moments, { rate: maskRate, step: run.step - start - 1 });
      noteStep(run, result);
      await keepSnapshot(run, () => ({
        values: {
          frozen: true,
          plan,
          masks: frozen.masks.map((layer) => Object.keys(layer) as UnitType[]),
        } satisfies FrozenValues,
        arrays: writeMasks(masks, moments, run.step - start),
      }));
    }
    const replaced = await mergedTensors(run.student.model, { plan, dense, masks });
    return { plan, replaced, training: [runReport(run)] };
  } finally {
    disposeModel(compact);
    if (run.learning.checkpoint) removeSnapshots(run.learning.checkpoint.folder);
  }
}

function runReport({ curve, step, learning: { options } }: LearnedRun): TrainingReport {
  return trainingReport("learning", curve, { steps: step, tokens: step * options.batch * options.tokens });
}

function stepMasks(
  masks: HostMasks[],
  gradients: readonly HostMasks[],
  moments: readonly Record<string, Moments>[],
  { rate, step }: { rate: number; step: number },
): void {
  masks.forEach((layer, l) => {
    for (const type of Object.keys(layer) as UnitType[]) {
      layer[type] = stepValues(layer[type]!, gradients[l][type]!, moments[l][type], { rule: MASK_RULE, rate, step });
    }
  });
}

function writeMasks(
  masks: readonly HostMasks[],
  moments: readonly Record<string, Moments>[],
  count: number,
): Map<string, HostTensor> {
  const arrays = new Map<string, HostTensor>([["frozen/count", { shape: [1], data: Float32Array.of(count) }]]);
  masks.forEach((layer, l) => {
    for (const [type, data] of Object.entries(layer)) {
      const { first, second } = moments[l][type];
      for (const [what, values] of Object.entries({ mask: data, first: first!, second: second! })) {
        arrays.set(`frozen/${l}/${type}/${what}`, { shape: [values.length], data: values });
      }
    }
  });
  return arrays;
}

const readCount = (arrays: Map<string, HostTensor>) => arrays.get("frozen/count")?.data[0] ?? 0;

function readMasks(
  arrays: Map<string, HostTensor>,
  masks: HostMasks[],
  moments: Record<string, Moments>[],
): void {
  masks.forEach((layer, l) => {
    for (const type of Object.keys(layer) as UnitType[]) {
      const read = (what: string) => arrays.get(`frozen/${l}/${type}/${what}`)!.data;
      layer[type] = read("mask");
      moments[l][type] = { first: read("first"), second: read("second") };
    }
  });
}

/** Frees what a run holds on the device. */
export function endRun(run: LearnedRun): void {
  disposeStudent(run.student);
}
