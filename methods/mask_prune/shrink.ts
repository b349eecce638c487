/** Shrinking while learning: FFN channels that stayed in the bottom k for a whole window of steps are cut from the working
 * model, so that later steps are cheaper. Attention units stay to the end: they are few.
 *
 * Masks, metrics and widths keep the dense size; only what the student computes becomes narrower. A cut channel cannot
 * come back, so the choice may differ from that of a run that does not shrink.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { keptParameters } from "../../models/count.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { densePlan, type PrunePlan, relativePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import type { TrainingRun } from "../../models/training/run.ts";
import { cutStudent, type HostMasks } from "../../models/training/student.ts";
import { planOfRemoved } from "../_shared/learned_units.ts";
import type { MaskState } from "./state.ts";

/** The model that the student works on. */
export interface WorkingModel {
  /** Units of the dense model that it has. */
  plan: PrunePlan;
  /** Its frozen weights. */
  base: DecoderModel;
}

/** The dense model as the first working model. */
export function denseWorking(base: DecoderModel): WorkingModel {
  return { plan: densePlan(base.config), base };
}

/** Frees a working model that is not the dense one. */
export function disposeWorking({ base }: WorkingModel, dense: DecoderModel): void {
  if (base !== dense) disposeModel(base);
}

/** Marks the channels as cut that were in the bottom k for the last `window` steps, at most `most` in each layer; masks of
 * cut channels are 0. Whether there were any. */
export function markIdle(state: MaskState, { window, most }: { window: number; most: number }): boolean {
  let found = false;
  state.axes.forEach(({ type, units }, a) => {
    if (type !== "ffn") return;
    at(state.idle, a).forEach((idle, l) => {
      const cut = at(at(state.cut, a), l);
      const mask = at(at(state.masks, a), l);
      const room = most - cut.reduce((sum, one) => sum + one, 0);
      const isNew = Array.from(idle.keys()).filter((i) => at(idle, i) >= window && cut[i] === 0).slice(
        0,
        Math.max(0, room),
      );
      // The cost of making a narrower model must come back.
      if (isNew.length < units / 16) return;
      for (const i of isNew) [cut[i], mask[i]] = [1, 0];
      found = true;
    });
  });
  return found;
}

/** Units that are not cut. */
export function workingPlan(config: DecoderConfig, { axes, cut }: MaskState): PrunePlan {
  return planOfRemoved(config, axes, (a, l, unit) => at(at(at(cut, a), l), unit) === 1);
}

/** Makes the student as narrow as `plan`; the working model before is freed. */
export async function shrinkTo(run: TrainingRun, working: WorkingModel, plan: PrunePlan): Promise<WorkingModel> {
  const { base: dense, options } = run.given;
  const inner = relativePlan(working.plan, plan);
  const base = pruneModel(working.base, inner);
  run.student = await cutStudent(run.student, { compact: base, plan: inner, config: dense.config, options });
  disposeWorking(working, dense);
  const share = keptParameters(base.config) / keptParameters(dense.config);
  run.given.report(`the working model has ${(100 * share).toFixed(1)} % of the prunable parameters`);
  return { plan, base };
}

/** Masks at the widths of the working model, [layer]. */
export function narrowMasks(masks: readonly HostMasks[], { layers }: PrunePlan): HostMasks[] {
  return masks.map((layer, l) => {
    const { ffn } = layer;
    return ffn ? { ...layer, ffn: Float32Array.from(at(layers, l).ffnChannels, (i) => at(ffn, i)) } : layer;
  });
}

/** Gradients of narrow masks at the dense widths, 0 for what was cut, [layer]. */
export function widenGradients(
  gradients: readonly HostMasks[],
  { layers }: PrunePlan,
  config: DecoderConfig,
): HostMasks[] {
  return gradients.map((layer, l) => {
    const { ffn: narrow } = layer;
    if (!narrow) return layer;
    const ffn = new Float32Array(at(config.layers, l).ffnChannels);
    for (const [i, unit] of at(layers, l).ffnChannels.entries()) ffn[unit] = at(narrow, i);
    return { ...layer, ffn };
  });
}
