/** What methods that learn share beyond a training run: the structure frozen, cut out and trained on, and the result.
 *
 * @module
 */
import { at, entry, lookUp } from "../../core/util/indexing.ts";
import { type CurveRow, type RemovedType, UNIT_TYPES } from "../../core/schema/schema.ts";
import type { DecoderConfig, HostTensor } from "../../models/config.ts";
import { keptParameters } from "../../models/count.ts";
import { disposeModel } from "../../models/device.ts";
import { keptLayers, plannedShapes, type PrunePlan, relativePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { mergedTensors } from "../../models/training/merge.ts";
import { createMoments, type Moments, stepValues } from "../../models/training/optimizer.ts";
import {
  type DomainLoading,
  finishRun,
  type FoundRun,
  keepSnapshot,
  nextStep,
  noteStep,
  startRun,
  type TrainingRun,
} from "../../models/training/run.ts";
import { trainedParts } from "../../models/training/rebuild.ts";
import { cutStudent, type HostMasks, type MaskType } from "../../models/training/student.ts";
import type { LearningContext, MethodContext, PruneResult } from "../define.ts";
import { removedUnits, unitAxes } from "./learned_units.ts";
import { mean } from "../../core/util/stats.ts";

/** Starts the run of method `name` on the dense model; with `loading`, windows are drawn while it learns.
 * @throws {UsageError} when the learning context does not fit. */
export function startLearning(
  context: MethodContext<unknown>,
  name: string,
  loading?: DomainLoading,
): Promise<{ run: TrainingRun; found: FoundRun | null }> {
  const { learning, model, target, seed, options, signal, report, remember } = context;
  if (!learning) throw new RangeError(`Method "${name}" learns: it needs a learning context`);
  return startRun({
    base: model,
    teacher: learning.teacher ?? model,
    teacherLayers: learning.teacherLayers,
    options: learning.options,
    windows: learning.windows,
    loading,
    rng: context.rng("adapters"),
    key: JSON.stringify({ name, options, target, seed }),
    checkpoint: learning.checkpoint,
    remember,
    report,
    signal,
  });
}

/** A structure that no longer changes. */
export interface Frozen {
  /** Kept units. */
  plan: PrunePlan;
  /** Values of the kept masks, at the widths of the plan, for each layer that stays. */
  masks: HostMasks[];
  /** Values of the kept mask of the hidden dimensions, if there is one; it stays as it is. */
  hidden?: Float32Array;
  /** Learning rate of the kept masks; 0 leaves them. */
  maskRate: number;
  /** Units that the student has, when it was cut before; all when absent. */
  working?: PrunePlan;
}

/** What a snapshot after the freeze holds besides arrays. */
interface FrozenValues {
  frozen: true;
  plan: PrunePlan;
  /** What has a mask, per layer. */
  masks: MaskType[][];
}

/** Goes on after the freeze when the snapshot was taken there; null when it was taken before. */
export function resumeFrozen(
  learning: Pick<LearningContext, "compensate">,
  run: TrainingRun,
  found: FoundRun,
  maskRate: number,
): Promise<PruneResult> | null {
  const values = found.values as Partial<FrozenValues>;
  if (!values.frozen) return null;
  const masks = values.masks!.map((types, l) =>
    Object.fromEntries(types.map((type) => [type, lookUp(found.arrays, `frozen/${l}/${type}/mask`).data]))
  );
  const hidden = found.arrays.get(HIDDEN)?.data;
  return trainFrozen(learning, run, { plan: values.plan!, masks, hidden, maskRate }, found);
}

/** Where a snapshot has the kept mask of the hidden dimensions. */
const HIDDEN = "frozen/hidden/mask";

/** Adam of the masks. */
export const MASK_RULE = { betas: [0.9, 0.95] as [number, number] } as const;

/** Cuts the removed units out of the student and trains what is left for the remaining steps: adapters, and kept masks
 * when they have a rate. Base weights are compensated first where that is asked for. `restored` puts back a snapshot taken after the freeze. */
export async function trainFrozen(
  { compensate }: Pick<LearningContext, "compensate">,
  run: TrainingRun,
  frozen: Frozen,
  restored?: FoundRun,
): Promise<PruneResult> {
  const { options, base } = run.given;
  const { plan, hidden, maskRate } = frozen;
  const dense = base.config;
  let compensated = await compensate?.(plan);
  const compact = pruneModel(base, plan, compensated);
  try {
    const inner = frozen.working ? relativePlan(frozen.working, plan) : plan;
    run.student = await cutStudent(run.student, { compact, plan: inner, config: dense, options });
    restored?.restore();
    const hasAdapters = Object.keys(run.student.adapters.parameters).length > 0;
    // They are on every map, so that merging gives all weights: nothing else need be held while they train.
    if (hasAdapters) compensated = undefined;
    const masks = frozen.masks.map((layer) => ({ ...layer }));
    const moments = masks.map((layer) =>
      Object.fromEntries(Object.entries(layer).map(([type, { length }]) => [type, createMoments(length)]))
    );
    if (restored) readMasks(restored.arrays, masks, moments);
    const start = run.step - (restored ? readCount(restored.arrays) : 0);
    const notes = { retained: keptParameters(compact.config) / keptParameters(dense), removed: removedOf(dense, plan) };
    const learns = hasAdapters || maskRate > 0;
    while (run.step < options.steps && learns) {
      const result = await nextStep(run, { masks, hidden });
      if (maskRate > 0) stepMasks(masks, result.maskGradients, moments, { rate: maskRate, step: run.step - start - 1 });
      noteStep(run, result, notes);
      await keepSnapshot(run, () => ({
        values: {
          frozen: true,
          plan,
          masks: frozen.masks.map((layer) => Object.keys(layer) as MaskType[]),
        } satisfies FrozenValues,
        arrays: writeMasks({ masks, hidden }, moments, run.step - start),
      }));
    }
    // What training left alone keeps the weights that it was cut with.
    const merged = await mergedTensors(run.student.model, { plan, dense, masks, hidden });
    const replaced = { ...compensated, ...merged };
    const parts = await trainedParts(run.student.adapters, { masks, ...hidden && { hidden } });
    return { plan, replaced, training: [finishRun(run, "learning")], ...parts && { parts } };
  } finally {
    disposeModel(compact);
  }
}

/** Units removed per layer, mean over the layers that stay, by type, and layers and hidden dimensions of the model; what
 * lost none is left out. */
function removedOf(dense: DecoderConfig, plan: PrunePlan): CurveRow["removed"] {
  const axes = unitAxes(dense, UNIT_TYPES);
  const kept = keptLayers(plan);
  const layers = plannedShapes(dense, plan).map((shape, i) => removedUnits(at(dense.layers, at(kept, i)), shape, axes));
  const counts: [RemovedType, number][] = [
    ...axes.map(({ type }, a): [RemovedType, number] => [type, mean(layers.map((removed) => at(removed, a)))]),
    ["layer", dense.layers.length - kept.length],
    ["hidden", dense.width - (plan.hidden?.length ?? dense.width)],
  ];
  return Object.fromEntries(counts.filter(([, count]) => count > 0));
}

function stepMasks(
  masks: HostMasks[],
  gradients: readonly HostMasks[],
  moments: readonly Record<string, Moments>[],
  { rate, step }: { rate: number; step: number },
): void {
  masks.forEach((layer, l) => {
    const [slopes, own] = [at(gradients, l), at(moments, l)];
    for (const type of Object.keys(layer) as MaskType[]) {
      layer[type] = stepValues(layer[type]!, slopes[type]!, entry(own, type), { rule: MASK_RULE, rate, step });
    }
  });
}

function writeMasks(
  { masks, hidden }: Pick<Frozen, "masks" | "hidden">,
  moments: readonly Record<string, Moments>[],
  count: number,
): Map<string, HostTensor> {
  const arrays = new Map<string, HostTensor>([["frozen/count", { shape: [1], data: Float32Array.of(count) }]]);
  if (hidden) arrays.set(HIDDEN, { shape: [hidden.length], data: hidden });
  masks.forEach((layer, l) => {
    for (const [type, data] of Object.entries(layer)) {
      const { first, second } = entry(at(moments, l), type);
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
    for (const type of Object.keys(layer) as MaskType[]) {
      const read = (what: string) => lookUp(arrays, `frozen/${l}/${type}/${what}`).data;
      layer[type] = read("mask");
      at(moments, l)[type] = { first: read("first"), second: read("second") };
    }
  });
}
