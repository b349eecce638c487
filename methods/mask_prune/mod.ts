/** MaskPrune: masks, layer widths and their multipliers learned together under a budget, one width for all layers.
 *
 * Paper: Qin, Tan, Zhang, Cai and Wang 2025, arXiv:2502.14008; the minimax form with straight-through widths follows Yuan
 * et al. 2021, "UMEC" (ICLR 2021).
 *
 * Problem: `min over masks m, adapters, widths s  max over y, z >= 0  of  loss + sum_l,t y[l,t] bottom_s(m[l,t]) +
 * z (R(s) - B)`, with bottom_s the sum of the s smallest h m^2 of a layer, R the fraction of the resource that stays
 * and B the budget. Shapes: m[l,t] f32 [F], [H] or [G]; s[t] is shared by all layers when `uniform`.
 *
 * Before the first step, calibration windows decide what the options leave open: the uniform widths that the budget is
 * split into and how much of a unit's metric is what its removal costs at its turn (`mask_prune/metric.ts`), both by how
 * near the pruned model stays to the dense one (KL), and whether the steps learn or repair (`mask_prune/settle.ts`). Then
 * units go along a ramp; or, with `course: at-once`, before the first step, where the FFN masks that stay get the values of
 * least second-order loss and every step trains what is left.
 *
 * With `layers`, how many layers go is an integer of s as well: `mask_prune/depth.ts`.
 *
 * One iteration: gradient step on masks and adapters; proximal step on the s units of lowest rank in every layer;
 * straight-through step on the widths (`split: learned`; else they follow the budget to the measured widths); projected
 * ascent of y and z. The budget falls from 1 to B between `rampStart` and `rampEnd`; at `freeze` the widths are made
 * whole, the masked units are cut out, and the rest of the steps trains what is left: most of a long run
 * (`courseSteps()`). Kept masks are folded into the output and down maps and adapters are merged, so that the result
 * needs neither.
 *
 * Cost: forward and backward passes of the masked model over the windows of the run, two forward passes of the dense model
 * per window (`distillation`, `hidden`), two backward passes per calibration sequence, and O(F^3) a layer for the removal
 * order. Deviations: the paper's constants are not public, so all are options with defaults chosen on validation data
 * (`docs/maskprune.md`); h is the metric of `mask_prune/metric.ts` instead of 1 (`selection: magnitude` gives the
 * paper's form, which from a cold start chooses nearly at random); units that leave the bottom s start again at 1; widths
 * and duals are normalised as `mask_prune/widths.ts` says; the split is measured by default; the weight of the hidden-state
 * term falls to 0 over the run; what damage and surprise decide is no part of the paper, whose way is `course: gradual`.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { TrainingOptions } from "../../core/schema/schema.ts";
import type { LayerShape } from "../../models/units.ts";
import { densePlan, type PrunePlan } from "../../models/plan.ts";
import {
  endRun,
  type FoundRun,
  keepSnapshot,
  nextStep,
  noteStep,
  type TrainingRun,
} from "../../models/training/run.ts";
import { resumeFrozen, startLearning, trainFrozen } from "../_shared/learned_run.ts";
import { keptOf, planOfRemoved, removedUnits, unitAxes, type UnitAxis } from "../_shared/learned_units.ts";
import { type Depth, layersToRemove, resourceKind, withoutLayers } from "./depth.ts";
import { closedFormMasks, knowsRedundancy, measuredShapes, measureRedundancy, planOfMetrics } from "./choice.ts";
import { damageOf, type Reference, referenceOf } from "./distance.ts";
import { calibratedMetrics, type UnitMetric } from "./metric.ts";
import { mean } from "../../core/util/stats.ts";
import { type Options, options } from "./options.ts";
import { courseSteps, HIDDEN_WEIGHT, isOpen, settledByDamage, settledByText, surpriseOfText } from "./settle.ts";
import {
  denseWorking,
  disposeWorking,
  markIdle,
  narrowMasks,
  shrinkTo,
  widenGradients,
  type WorkingModel,
  workingPlan,
} from "./shrink.ts";
import {
  type BudgetStep,
  createMaskState,
  gradientStep,
  layerMasks,
  leastRemoved,
  type MaskPruneRates,
  type MaskState,
  packState,
  type PlainState,
  plainState,
  proximalUpdate,
  removePlan,
  retainedNow,
  setFfnMasks,
  unpackState,
  updateWidths,
} from "./state.ts";
import { budgetRamp, budgetResource, costShares, finalShapes, type Resource, unreachable } from "./widths.ts";
import { defineMethod, type Method, type MethodContext, type PruneResult } from "../define.ts";

/** Learns which units go, under one width for all layers. */
export const maskPrune: Method<typeof options> = defineMethod({
  id: "mask-prune",
  summary: "Learns masks, widths and multipliers together under the budget, one width for all layers",
  source: "Qin et al. 2025, arXiv:2502.14008; minimax form after Yuan et al. 2021, UMEC",
  display: { order: 9, colour: "#D55E00" },
  kind: "learned",
  needs: { calibration: true },
  options,
  uniformLayers: ({ uniform }) => uniform,
  ownTarget: ({ resource }) => resource !== "parameters",
  trainsWith: ownTraining,
  variants: [
    { options: { uniform: false } },
    { options: { split: "fixed" } },
    { options: { split: "learned" } },
    { options: { redundancy: "none" } },
    { options: { redundancy: "full" } },
    { options: { course: "at-once", updates: "window" } },
    { options: { course: "gradual", redundancy: "measured" } },
    { options: { masks: "hard" } },
    { options: { resource: "macs" } },
    { options: { selection: "magnitude" } },
    { options: { regrowth: false } },
    { options: { distillation: false } },
    { options: { adapters: false } },
    { options: { shrink: 2 } },
  ],
  async prune(context) {
    const { model, remember, options, target } = context;
    if (target.sparsity === 0) return { plan: densePlan(model.config) };
    const removed = options.layers ? await layersToRemove(context) : [];
    if (removed.length === 0) return await learnWidths(context, { dense: model, remember, removed });
    return await withoutLayers(context, removed, learnWidths);
  },
});

/** Learns the widths of the layers that are there, and trains what is left. */
async function learnWidths(given: MethodContext<Options>, depth: Depth): Promise<PruneResult> {
  const { dense, remember, removed } = depth;
  // Where every option is set, nothing reads it.
  const surprise = isOpen(given.options) ? await surpriseOfText({ ...given, remember }, dense) : 0;
  const options = settledByText(given.options, surprise);
  const context = { ...given, options };
  const { learning } = context;
  let first: Promise<FirstChoice> | undefined;
  const choose = () => first ??= chooseFirst(context, { ...depth, surprise });
  const open = learning && await settledByDamage(context, { surprise, damage: async () => (await choose()).damage() });
  const own = learning && { ...learning, options: ownTraining(learning.options, { ...options, ...open }) };
  const name = removed.length > 0 ? `mask-prune without layers ${removed.join(", ")}` : "mask-prune";
  const { run, found } = await startLearning({ ...context, learning: own, remember } as MethodContext<unknown>, name);
  try {
    const frozen = found && resumeFrozen(context.learning!, run, found, options.frozenMaskRate);
    if (frozen) return await frozen;
    const steps = courseSteps(given.options, run.given.options);
    return await learnAndTrain(context, run, { choice: await choose(), found, courseSteps: steps });
  } finally {
    endRun(run);
  }
}

/** What calibration decides before the first step. A run that goes on before the freeze decides it again, from the same
 * statistics. */
interface FirstChoice {
  axes: UnitAxis[];
  resource: Resource;
  /** [axis][layer]. */
  metrics: UnitMetric[][];
  /** The widths to end at, where they do not come from the minimax problem. */
  goal: LayerShape[] | null;
  /** KL from the dense model when all units that go do so at once, in nats per token; measured when asked for. */
  damage(): Promise<number>;
}

async function chooseFirst(
  context: MethodContext<Options>,
  { surprise, ...depth }: Depth & { surprise: number },
): Promise<FirstChoice> {
  const { model: { config }, target } = context;
  const axes = unitAxes(config, target.units);
  if (axes.length === 0) throw new UsageError("mask-prune: the unit types have a single unit each on this model");
  const resource = budgetResource(config, target, await resourceKind(context, depth));
  const reference = referenceOf({ ...context, model: depth.dense });
  const metrics = await calibratedMetrics(context as MethodContext<unknown>, axes, knowsRedundancy(context.options));
  const goal = await finalGoal(context, { axes, metrics, resource, reference });
  const shapes = goal ?? target.uniform;
  const measured = await measureRedundancy(context, { axes, metrics, shapes, reference, surprise });
  const damage = async () => {
    const nats = measured ?? await damageOf({ ...context, reference }, planOfMetrics(config, axes, metrics, shapes));
    context.report(`all units removed at once: ${nats.toFixed(3)} nats per token from the dense model`);
    return nats;
  };
  return { axes, resource, metrics, goal, damage };
}

/** Iterates until the freeze, then trains what is left. */
async function learnAndTrain(
  context: MethodContext<Options>,
  run: TrainingRun,
  { choice, found, courseSteps }: {
    choice: FirstChoice;
    found: FoundRun | null;
    /** Steps that the parts of the course are of. */
    courseSteps: number;
  },
): Promise<PruneResult> {
  const { model } = context;
  const restored = found ? unpackState(found.values as PlainState, found.arrays) : null;
  let working = denseWorking(model);
  try {
    if (restored?.cut.flat().some((cut) => cut.includes(1))) {
      working = await shrinkTo(run, working, workingPlan(model.config, restored));
    }
    found?.restore();
    const onShrink = (narrower: WorkingModel) => working = narrower;
    const learned = await learnStructure(context, run, { choice, restored, working, onShrink, courseSteps });
    return await freezeAndTrain(context, run, learned, working.plan);
  } finally {
    disposeWorking(working, model);
  }
}

/** Windows of a run up to which each has a step of its own. */
const MOST_SINGLE_WINDOWS = 240;

/** Training with the paper's whole loss, without what the method's options switch off. Where they leave the hidden-state
 * term open it is in, so that plans count it. With `updates: window` the same windows are more and smaller steps. */
function ownTraining(training: TrainingOptions, options: Options): TrainingOptions {
  const { steps, batch } = training;
  const { hidden, distillation, adapters, updates } = options;
  return {
    ...training,
    hidden: training.hidden || (hidden ?? HIDDEN_WEIGHT),
    ...!adapters && { rank: 0 },
    ...!distillation && { crossEntropy: training.crossEntropy + training.distillation, distillation: 0, hidden: 0 },
    ...updates === "window" && steps * batch <= MOST_SINGLE_WINDOWS && { steps: steps * batch, batch: 1 },
  };
}

/** Step sizes for a course of so many steps: widths must be able to follow the steepest part of the ramp. */
function ratesOf(context: MethodContext<Options>, steps: number, resource: Resource): MaskPruneRates {
  const { options, model, target } = context;
  const axes = unitAxes(model.config, target.units);
  const share = costShares(resource, axes, at(model.config.layers, 0), model.config.layers.length)
    .reduce((a, b) => a + b, 0);
  const rampSteps = Math.max(1, (options.rampEnd - options.rampStart) * steps);
  const steepest = 3 * (1 - resource.budget) / rampSteps / share;
  return { ...options, widthRate: options.widthRate / rampSteps, maxWidthStep: Math.max(0.02, 1.5 * steepest) };
}

/** Iterates until the freeze; the state's bottom sets then have the final widths. */
async function learnStructure(
  context: MethodContext<Options>,
  run: TrainingRun,
  given: {
    choice: FirstChoice;
    restored: MaskState | null;
    courseSteps: number;
    working: WorkingModel;
    onShrink: (working: WorkingModel) => void;
  },
): Promise<MaskState> {
  const { options, model: { config }, target } = context;
  const { choice: { axes, resource, goal }, restored, courseSteps: steps } = given;
  let { working } = given;
  const rates = ratesOf(context, steps, resource);
  const state = restored ?? createMaskState(config, axes, given.choice.metrics, rates);
  if (!restored && await removesAtOnce(context, state, given.choice)) return state;
  const freezeStep = Math.max(1, Math.round(options.freeze * steps));
  const settleStep = Math.max(0, freezeStep - options.settleSteps);
  while (state.step < freezeStep) {
    // The first step with the final widths still ranks by the metric, which fills them up.
    if (state.step === settleStep) fixWidths(context, state, resource, goal);
    const settle = state.step > settleStep;
    const result = await nextStep(run, { masks: narrowMasks(layerMasks(state), working.plan) });
    gradientStep(state, widenGradients(result.maskGradients, working.plan, config), rates);
    const { swaps, residuals } = proximalUpdate(state, rates, settle);
    const budget = budgetRamp(
      { final: resource.budget, start: options.rampStart, end: options.rampEnd },
      (state.step + 1) / steps,
    );
    const step = { config, resource, budget, arrived: (state.step + 1) / steps >= options.rampEnd };
    if (state.step < settleStep) {
      updateWidths(state, residuals, step, rates);
      if (goal) moveTowards(state, goal, step);
    }
    state.step++;
    noteStep(run, result, {
      budget,
      retained: retainedNow(state, step),
      removed: Object.fromEntries(axes.map(({ type }, a) => [type, mean(at(state.whole, a))])),
      duals: {
        ...Object.fromEntries(axes.map(({ type }, a) => [`y ${type}`, mean(at(state.duals, a))])),
        z: state.budgetDual,
      },
      swaps,
      residual: Math.max(...residuals.flat()),
    });
    const most = at(config.layers, 0).ffnChannels - at(target.uniform, 0).ffnChannels;
    if (options.shrink > 0 && state.step < settleStep && markIdle(state, { window: options.shrink, most })) {
      given.onShrink(working = await shrinkTo(run, working, workingPlan(config, state)));
    }
    await keepSnapshot(run, () => ({ values: plainState(state), arrays: packState(state) }));
  }
  return state;
}

/** The widths to end at, where they do not come from the minimax problem. */
async function finalGoal(
  { options, target, ...context }: MethodContext<Options>,
  { reference, ...given }: { axes: UnitAxis[]; metrics: UnitMetric[][]; resource: Resource; reference: Reference },
): Promise<LayerShape[] | null> {
  if (!options.uniform || options.split === "learned") return null;
  if (options.split === "fixed") return target.uniform;
  const shapes = await measuredShapes({ ...context, reference }, { ...given, target });
  if (!shapes) throw unreachable({ options, target });
  return shapes;
}

/** Removes what the goal does not keep before the first step, where that is the course; masks that stay get the values of
 * least second-order loss. Whether it did. */
async function removesAtOnce(
  context: MethodContext<Options>,
  state: MaskState,
  { axes, goal, metrics }: FirstChoice,
): Promise<boolean> {
  const { options, model: { config }, learning } = context;
  if (!goal || options.course !== "at-once" || options.selection === "magnitude") return false;
  const plan = planOfMetrics(config, axes, metrics, goal);
  removePlan(state, config, plan);
  const isSolved = options.masks === "learned" && !learning?.compensate && axes.some(({ type }) => type === "ffn");
  if (isSolved) setFfnMasks(state, plan, await closedFormMasks(context as MethodContext<unknown>, plan));
  return true;
}

/** Widths at the part of the way to `goal` that the budget has gone. */
function moveTowards(state: MaskState, goal: LayerShape[], { config, resource, budget }: BudgetStep): void {
  const done = resource.budget < 1 ? (1 - budget) / (1 - resource.budget) : 1;
  state.removed = state.axes.map((_, a) =>
    config.layers.map((dense, l) => done * at(removedUnits(dense, at(goal, l), state.axes), a))
  );
  state.whole = state.removed.map((axis) => axis.map((s) => Math.round(s)));
}

/** Makes the widths whole, so that the budget is met to the last unit. */
function fixWidths(
  { options, model: { config }, target }: MethodContext<Options>,
  state: MaskState,
  resource: Resource,
  goal: LayerShape[] | null,
): void {
  const { axes } = state;
  const learned = axes.map((axis, a) => [...at(axis.type === "ffn" ? state.removed : state.whole, a)]);
  const fit = () => finalShapes({ config, axes, removed: learned, resource, target }, options.uniform);
  let shapes = goal ?? fit();
  // Attention gives way where more channels have been cut than the learned split leaves to remove.
  const ffn = axes.findIndex(({ type }) => type === "ffn");
  const least = ffn < 0 ? 0 : leastRemoved(state, ffn, 0, true);
  const attention = axes.findLastIndex(({ type }) => type !== "ffn");
  while (
    shapes && at(config.layers, 0).ffnChannels - at(shapes, 0).ffnChannels < least && mean(at(learned, attention)) > 0
  ) {
    learned[attention] = at(learned, attention).map((count) => Math.max(0, Math.round(count) - 1));
    shapes = fit();
  }
  if (!shapes) throw unreachable({ options, target });
  const fitted = shapes;
  state.whole = axes.map((_, a) => config.layers.map((dense, l) => at(removedUnits(dense, at(fitted, l), axes), a)));
  state.removed = state.whole.map((axis) => [...axis]);
}

/** Cuts the bottom units out and trains the rest. */
function freezeAndTrain(
  context: MethodContext<Options>,
  run: TrainingRun,
  state: MaskState,
  working: PrunePlan,
): Promise<PruneResult> {
  const { options, model } = context;
  const { axes, chosen, masks: all } = state;
  const plan = planOfRemoved(model.config, axes, (a, l, unit) => at(at(at(chosen, a), l), unit) === 1);
  const hard = options.masks === "hard";
  const masks = hard
    ? model.config.layers.map(() => ({}))
    : keptOf(plan, axes, (a, l, unit) => at(at(at(all, a), l), unit));
  return trainFrozen(context.learning!, run, { plan, masks, maskRate: hard ? 0 : options.frozenMaskRate, working });
}
