/** The training that learned methods share: they learn a structure, then the pruned model is recovered.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { mean } from "../../core/util/stats.ts";
import { type CurveRow, type RemovedType, UNIT_TYPES } from "../../core/schema/schema.ts";
import type { DecoderConfig, HostTensor } from "../../models/config.ts";
import { keptParameters } from "../../models/count.ts";
import { disposeModel } from "../../models/device.ts";
import { keptLayers, plannedShapes, type PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { trainedParts } from "../../models/training/rebuild.ts";
import {
  endRun,
  finishRun,
  type FoundRun,
  frozenSteps,
  keepSnapshot,
  nextStep,
  noteStep,
  startRun,
  type TrainingRun,
} from "../../models/training/run.ts";
import {
  createStudent,
  cutStudent,
  disposeStudent,
  type HostMasks,
  type MaskType,
  type ModelMasks,
} from "../../models/training/student.ts";
import type { MethodContext, PruneResult } from "../define.ts";
import { removedUnits } from "./learned_units.ts";

/** A structure that was learned. */
export interface Structure extends ModelMasks {
  /** Kept units. `masks` and `hidden` are their values; they do not change. */
  plan: PrunePlan;
}

/** Trains method `name`: `fit` returns the structure, and the remaining steps train the pruned model. `fit` gets the
 * snapshot of a run that was stopped before its freeze.
 * @throws {RangeError} when there is no learning context.
 * @throws {UsageError} when the context does not fit. */
export async function learn(
  context: MethodContext<unknown>,
  name: string,
  fit: (run: TrainingRun, found: FoundRun | null) => Promise<Structure>,
): Promise<PruneResult> {
  const { learning, model, target, seed, options, signal, report, remember } = context;
  if (!learning) throw new RangeError(`Method "${name}" learns: it needs a learning context`);
  const { run, found } = await startRun({
    base: model,
    teacher: learning.teacher?.model ?? model,
    teacherLayers: learning.teacher?.layers,
    options: learning.options,
    windows: learning.windows,
    rng: context.rng("adapters"),
    key: JSON.stringify({ name, options, target, seed }),
    snapshots: learning.snapshots,
    remember: learning.remember ?? remember,
    report,
    signal,
  });
  try {
    const frozen = found && frozenStructure(found);
    const structure = frozen ?? await fit(run, found);
    const replaced = await learning.compensate?.(structure.plan);
    if (learning.options.recover === "none") {
      return { plan: structure.plan, ...replaced && { replaced }, training: [finishRun(run, "learning")] };
    }
    return await heal(run, structure, { replaced, restored: frozen && found });
  } finally {
    endRun(run);
  }
}

/** The step at which the structure is fixed: after `part` of the steps, or after all where nothing can heal. */
export function freezeStep({ given: { options: { steps, recover } } }: TrainingRun, part: number): number {
  return recover === "none" ? steps : Math.max(1, Math.round(part * steps));
}

function frozenStructure({ values, arrays }: FoundRun): Structure | null {
  const { frozen, plan } = (values ?? {}) as { frozen?: true; plan: PrunePlan };
  if (!frozen) return null;
  const masks: HostMasks[] = [];
  for (const [name, { data }] of arrays) {
    const [, l, type] = /^frozen\/(\d+)\/(.+)$/.exec(name) ?? [];
    if (type !== undefined) (masks[Number(l)] ??= {})[type as MaskType] = data;
  }
  const hidden = arrays.get("frozen/hidden")?.data;
  return { plan, masks, ...hidden && { hidden } };
}

/** Cuts the removed units out of the student and trains it for the remaining steps. */
async function heal(
  run: TrainingRun,
  { plan, masks = [], hidden }: Structure,
  { replaced, restored }: { replaced?: Record<string, HostTensor>; restored: FoundRun | null },
): Promise<PruneResult> {
  const { options, base: { config }, base } = run.given;
  const compact = await pruneModel(base, plan, replaced);
  try {
    if (replaced && run.student.optimizer.step > 0) {
      // What trained so far made up for the loss that least squares have made up for now.
      disposeStudent(run.student);
      run.student = createStudent(base, options, run.given.rng);
    }
    const trainedSteps = options.steps - (restored?.frozenSteps ?? frozenSteps(run));
    // The rate's course covers only the steps in which something trains.
    const healing = { ...options, steps: trainedSteps };
    run.student = await cutStudent(run.student, { compact, plan, config, options: healing });
    restored?.restore();
    const kept = keptParameters(compact.config) / keptParameters(config);
    const notes = { retained: kept, removed: removedOf(config, plan) };
    while (run.step < options.steps) {
      noteStep(run, await nextStep(run, { masks, hidden }), notes);
      await keepSnapshot(run, () => ({ values: { frozen: true, plan }, arrays: packMasks({ masks, hidden }) }));
    }
    const trained = await trainedParts(run.student, { masks, hidden });
    return { plan, ...replaced && { replaced }, trained, training: [finishRun(run, "learning")] };
  } finally {
    disposeModel(compact);
  }
}

function packMasks({ masks = [], hidden }: ModelMasks): Map<string, HostTensor> {
  const arrays = new Map<string, HostTensor>();
  const put = (name: string, data: Float32Array) => arrays.set(`frozen/${name}`, { shape: [data.length], data });
  if (hidden) put("hidden", hidden);
  masks.forEach((layer, l) => Object.entries(layer).forEach(([type, data]) => put(`${l}/${type}`, data)));
  return arrays;
}

/** Units removed per layer, mean over the layers that stay, by type, and layers and hidden dimensions of the model;
 * what lost none is left out. */
function removedOf(dense: DecoderConfig, plan: PrunePlan): CurveRow["removed"] {
  const kept = keptLayers(plan);
  const shapes = plannedShapes(dense, plan);
  const counts: [RemovedType, number][] = [
    ...UNIT_TYPES.map((type): [RemovedType, number] => [
      type,
      mean(shapes.map((shape, i) => removedUnits(at(dense.layers, at(kept, i)), shape, type))),
    ]),
    ["layer", dense.layers.length - kept.length],
    ["hidden", dense.width - (plan.hidden?.length ?? dense.width)],
  ];
  return Object.fromEntries(counts.filter(([, count]) => count > 0));
}
