/** Sheared-style pruning: hard-concrete masks, pulled to a target shape by Lagrange multipliers while the model learns.
 *
 * Paper: Xia, Gao, Zeng and Chen 2024, "Sheared LLaMA", arXiv:2310.06694, section 3.1; constants from the authors' code
 * (princeton-nlp/LLM-Shearing b87218b).
 *
 * Shapes: log-alpha f32 [F] and [G] (or [H]) per layer, and [L] and [D] for the whole model where the options name a
 * target of layers and hidden size; one pair of multipliers for each, shared by all layers, which is what makes the layers
 * equally wide. The target shape is that of the budget, the same for all methods, unless options name another.
 *
 * One step: draw masks, gradient of the loss to masks and adapters, the masks' by the chain rule to log-alpha plus the
 * Lagrangian's; Adam on all three with the rate of log-alphas and multipliers far above that of weights, the multipliers
 * ascending. The target sparsity rises over the first part of the pruning steps. Then the deterministic masks of the
 * target shape are folded in, the rest is cut out, and the remaining steps train what is left.
 *
 * Cost: `steps` forward and backward passes; with `domainSteps` also a forward pass of the held-out windows at each
 * update. Deviations: adapters learn in place of all weights unless `weights` says otherwise, embedding and norms
 * never, with the loss shared by all methods (the authors train on cross entropy); layers and hidden size have masks only
 * where options name a target, as all methods of a comparison keep depth and width; the mask of the hidden size is not
 * folded into the output projection besides the final norm, which would count it twice; masks of heads sit on key/value
 * groups where there are groups; warm-ups scale with the steps; log-alphas are not clipped with the weights; batches
 * are loaded dynamically (section 3.2) only with `domainSteps`, the authors' being 50 of 3200, and the losses to reach
 * are the dense model's. The authors' rate of the multipliers is 1 and their target rises over a fifth of 3200 steps:
 * in a hundred steps or fewer the multipliers then close three masks where one was asked for, so the defaults here are
 * 0.1 and a half.
 *
 * @module
 */
import { z } from "zod";
import { UsageError } from "../../core/util/errors.ts";
import { at, lookUp } from "../../core/util/indexing.ts";
import type { HostTensor } from "../../models/config.ts";
import { densePlan, keptLayers } from "../../models/plan.ts";
import { createMoments, type Moments, scheduleFactor, stepValues } from "../../models/training/optimizer.ts";
import {
  type DomainLoading,
  endRun,
  keepSnapshot,
  nextStep,
  noteStep,
  type TrainingRun,
} from "../../models/training/run.ts";
import type { ModelMasks } from "../../models/training/student.ts";
import { MASK_RULE, resumeFrozen, startLearning, trainFrozen } from "../_shared/learned_run.ts";
import { keptOf, planOfRemoved } from "../_shared/learned_units.ts";
import { smallestInSegments } from "../_shared/ranking.ts";
import {
  clampLogAlpha,
  expectedSparsity,
  HARD_CONCRETE,
  lagrangian,
  type Multipliers,
  openProbability,
  sampleMasks,
  softMask,
} from "./hard_concrete.ts";
import {
  expectedParameters,
  fromModelMasks,
  maskAxes,
  type MaskAxis,
  removedOn,
  rowLengths,
  targetConfig,
  targetWords,
  toModelMasks,
  unitAxesOf,
} from "./shape.ts";
import { defineMethod, type Method, type MethodContext, type PruneResult } from "../define.ts";

const count = z.number().int().positive().optional();

const options = z.strictObject({
  targetHidden: count.describe("hidden size to prune to; absent: it stays"),
  targetLayers: count.describe("layers to prune to; absent: all stay"),
  targetHeads: count.describe("query heads of every layer to prune to; absent: as many as the budget allows"),
  targetFfn: count.describe("FFN channels of every layer to prune to; absent: as many as the budget allows"),
  pruneSteps: z.number().gt(0).max(1).default(0.5).describe("part of the steps that learn masks; the rest recovers"),
  maskRate: z.number().positive().default(1).describe("Adam's peak rate of log-alphas"),
  multiplierRate: z.number().positive().default(0.1).describe("Adam's peak rate of the multipliers, which ascend"),
  weights: z.enum(["adapters", "all"]).default("adapters").describe(
    "what learns besides masks: adapters, as with every other method, or all linear maps, as the authors have it",
  ),
  weightRate: z.number().positive().default(1e-4).describe("AdamW's peak rate of the linear maps when all learn"),
  warmup: z.number().min(0).max(1).default(0.5).describe("part of the pruning steps over which the target rises"),
  domainSteps: z.number().int().positive().optional().describe(
    "dynamic batch loading: steps from one update of the weights of `training.domains` to the next; absent: they stay",
  ),
});
type Options = z.infer<typeof options>;

/** Learns hard-concrete masks under Lagrange multipliers towards the budget's shape. */
export const sheared: Method<typeof options> = defineMethod({
  id: "sheared",
  summary: "Learns hard-concrete masks, pulled to the budget's shape or one of its own by Lagrange multipliers",
  source: "Xia et al. 2024, arXiv:2310.06694, section 3.1",
  display: { order: 8, colour: "#CC79A7" },
  kind: "learned",
  needs: { calibration: false },
  options,
  uniformLayers: () => true,
  ownTarget: (options) => targetWords(options) !== "",
  variants: [{ options: { weights: "all" } }],
  check(config, target, options, { training }) {
    requireDomains(options, training?.domains);
    targetConfig(config, target, options);
    refuseHiddenLoss(options, training?.hidden ?? 0);
  },
  async prune(context) {
    if (context.target.sparsity === 0) return { plan: densePlan(context.model.config) };
    refuseHiddenLoss(context.options, context.learning?.options.hidden ?? 0);
    const { run, found } = await startLearning(
      withWeights(context) as MethodContext<unknown>,
      "sheared",
      loadingOf(context),
    );
    try {
      const frozen = found && resumeFrozen(context.learning!, run, found, 0);
      if (frozen) return await frozen;
      found?.restore();
      const state = found ? unpackState(found.values as PlainState, found.arrays) : createState(context);
      await learnMasks(context, run, state);
      return await finish(context, run, state);
    } finally {
      endRun(run);
    }
  },
});

/** The hidden states of a model that lost layers or dimensions have no counterparts in the dense model.
 * @throws {UsageError} when the loss compares them. */
function refuseHiddenLoss({ targetHidden, targetLayers }: Options, weight: number): void {
  if (weight === 0 || (targetHidden === undefined && targetLayers === undefined)) return;
  throw new UsageError(
    `training.hidden=${weight} compares hidden states of every layer with the dense model's, which ` +
      `${targetWords({ targetHidden, targetLayers })} removes: leave one of them out`,
  );
}

/** The context in which what `weights` names learns.
 * @throws {UsageError} when compensation would change weights that learn. */
function withWeights(context: MethodContext<Options>): MethodContext<Options> {
  const { learning, options: { weights, weightRate } } = context;
  if (weights === "adapters" || !learning) return context;
  if (learning.compensate) {
    throw new UsageError(
      "sheared: weights=all leaves nothing to compensate: give --compensate none or weights=adapters",
    );
  }
  const options = { ...learning.options, allWeights: true, learningRate: weightRate };
  return { ...context, learning: { ...learning, options } };
}

/** Weights of domains can only move where there are domains.
 * @throws {UsageError} when there are none. */
function requireDomains({ domainSteps }: Options, domains: object | undefined): void {
  if (domainSteps === undefined || domains) return;
  throw new UsageError(
    `domainSteps=${domainSteps} needs domains: give --training domains.CORPUS=PART for two or more, or leave it out`,
  );
}

/** How domains are loaded; undefined where their weights stay.
 * @throws {UsageError} when there are no domains. */
function loadingOf({ learning, options, rng }: MethodContext<Options>): DomainLoading | undefined {
  requireDomains(options, learning?.domains);
  const { domainSteps: everySteps } = options;
  return everySteps !== undefined && learning?.domains ? { domains: learning.domains, everySteps, rng } : undefined;
}

/** Log-alphas and multipliers; arrays are [axis][row], a row per layer or one of the whole model. */
interface State {
  axes: MaskAxis[];
  logAlpha: Float32Array[][];
  moments: Moments[][];
  /** [axis]. */
  multipliers: Multipliers[];
  /** Of lambda1 and lambda2: [axis], each of length 2. */
  multiplierMoments: Moments[];
}

type PlainState = Pick<State, "axes"> & { rows: number[] };

function createState({ model: { config }, target, options, rng }: MethodContext<Options>): State {
  const axes = maskAxes(config, target.units, options);
  const draws = rng("log-alpha");
  const { initialMean, initialDeviation } = HARD_CONCRETE;
  const logAlpha = axes.map((axis) =>
    rowLengths(axis, config).map((length) =>
      Float32Array.from({ length }, () => initialMean + initialDeviation * draws.normal())
    )
  );
  return {
    axes,
    logAlpha,
    moments: logAlpha.map((axis) => axis.map(({ length }) => createMoments(length))),
    multipliers: axes.map(() => ({ linear: 0, quadratic: 0 })),
    multiplierMoments: axes.map(() => createMoments(2)),
  };
}

/** Units of each axis that the target shape removes: [axis]. */
function targetRemoved(
  { model: { config }, target, options }: MethodContext<Options>,
  axes: readonly MaskAxis[],
): number[] {
  return removedOn(config, targetConfig(config, target, options), axes);
}

async function learnMasks(context: MethodContext<Options>, run: TrainingRun, state: State): Promise<void> {
  const { options, model: { config } } = context;
  const { axes } = state;
  const steps = Math.max(1, Math.round(options.pruneSteps * run.given.options.steps));
  const removed = targetRemoved(context, axes);
  const final = axes.map(({ units }, a) => at(removed, a) / units);
  while (run.step < steps) {
    const step = run.step;
    state.logAlpha = state.logAlpha.map((axis) => axis.map(clampLogAlpha));
    const noise = context.rng(`noise ${step}`);
    const draws = state.logAlpha.map((axis) => axis.map((a) => sampleMasks(a, noise)));
    const drawn = draws.map((axis) => axis.map(({ masks }) => masks));
    const result = await nextStep(
      run,
      toModelMasks(axes, drawn, config.layers.length),
      () => currentMasks(state, config.layers.length),
    );
    const rise = Math.min(1, (step + 1) / Math.max(1, options.warmup * steps));
    const slopes = draws.map((axis) => axis.map((draw) => draw.slopes));
    const gaps = stepState(state, {
      gradients: fromModelMasks(axes, { masks: result.maskGradients, hidden: result.hiddenGradient }),
      slopes,
      targets: final.map((t) => t * rise),
      factor: scheduleFactor(
        { warmupSteps: Math.round(0.1 * steps), totalSteps: steps, finalFraction: 0.1 },
        step,
      ),
      step,
      options,
    });
    const share = context.target.budgetParameters / context.target.prunableParameters;
    noteStep(run, result, {
      budget: 1 - rise * (1 - share),
      retained: expectedParameters(config, axes, openOf(state)) / context.target.prunableParameters,
      removed: Object.fromEntries(axes.map(({ type, units }, a) => [type, units * expectedOf(state, a)])),
      duals: Object.fromEntries(axes.flatMap(({ type }, a) => [
        [`lambda1 ${type}`, at(state.multipliers, a).linear],
        [`lambda2 ${type}`, at(state.multipliers, a).quadratic],
      ])),
      residual: Math.max(...gaps),
    });
    await keepSnapshot(run, () => ({ values: plainState(state), arrays: packState(state) }));
  }
  state.logAlpha = state.logAlpha.map((axis) => axis.map(clampLogAlpha));
}

/** Deterministic masks of the present shape: as many of the smallest as are expected to be closed are 0, the others soft. */
function currentMasks({ axes, logAlpha }: State, layers: number): ModelMasks {
  const rows = logAlpha.map((axis) =>
    axis.map((values) => {
      const closed = smallestInSegments(values, Math.round(expectedSparsity(values) * values.length), 1);
      const masks = values.map(softMask);
      for (const unit of closed) masks[unit] = 0;
      return masks;
    })
  );
  return toModelMasks(axes, rows, layers);
}

/** Probabilities that masks are open: [axis][row]. */
function openOf({ logAlpha }: State): Float32Array[][] {
  return logAlpha.map((axis) => axis.map((values) => clampLogAlpha(values).map(openProbability)));
}

function expectedOf({ logAlpha }: State, a: number): number {
  return lagrangian(at(logAlpha, a).map(clampLogAlpha), 0, { linear: 0, quadratic: 0 }).multipliers.linear;
}

/** One Adam step on log-alphas (down) and multipliers (up); gives the largest gap to the target on each axis. */
function stepState(
  state: State,
  { gradients, slopes, targets, factor, step, options }: {
    gradients: Float32Array[][];
    slopes: Float32Array[][];
    targets: number[];
    factor: number;
    step: number;
    options: Options;
  },
): number[] {
  const { axes, logAlpha, moments, multipliers, multiplierMoments } = state;
  return axes.map((_, a) => {
    const [rows, { linear, quadratic }] = [at(logAlpha, a), at(multipliers, a)];
    const term = lagrangian(rows, at(targets, a), { linear, quadratic });
    logAlpha[a] = rows.map((values, l) => {
      const [slope, pull] = [at(at(slopes, a), l), at(term.slopes, l)];
      const gradient = at(at(gradients, a), l).map((g, i) => g * at(slope, i) + at(pull, i));
      return stepValues(values, gradient, at(at(moments, a), l), {
        rule: MASK_RULE,
        rate: factor * options.maskRate,
        step,
      });
    });
    const ascent = Float32Array.of(-term.multipliers.linear, -term.multipliers.quadratic);
    const raised = stepValues(Float32Array.of(linear, quadratic), ascent, at(multiplierMoments, a), {
      rule: MASK_RULE,
      rate: factor * options.multiplierRate,
      step,
    });
    multipliers[a] = { linear: at(raised, 0), quadratic: at(raised, 1) };
    return term.gap;
  });
}

/** Drops the masks with the smallest log-alpha down to the target shape; the others keep their soft value. */
function finish(context: MethodContext<Options>, run: TrainingRun, { axes, logAlpha }: State): Promise<PruneResult> {
  const { model: { config } } = context;
  const counts = targetRemoved(context, axes);
  const gone = logAlpha.map((axis, a) =>
    axis.map((values) => new Set(smallestInSegments(values, at(counts, a), at(axes, a).segments)))
  );
  const units = unitAxesOf(axes);
  // The only row of an axis of the whole model.
  const rowOf = <T>(type: "layer" | "hidden", rows: readonly T[][]) =>
    rows[axes.findIndex((axis) => axis.type === type)]?.[0];
  const layers = rowOf("layer", logAlpha);
  const hidden = rowOf("hidden", logAlpha);
  const goneHidden = rowOf("hidden", gone) ?? new Set();
  const plan = planOfRemoved(config, units, (a, l, unit) => at(at(gone, a), l).has(unit));
  for (const l of rowOf("layer", gone) ?? []) plan.layers[l] = { kvGroups: [], queryHeads: [], ffnChannels: [] };
  if (hidden && goneHidden.size > 0) plan.hidden = [...hidden.keys()].filter((i) => !goneHidden.has(i));
  const inLayers = keptOf(plan, units, (a, l, unit) => softMask(at(at(at(logAlpha, a), l), unit)));
  const masks = keptLayers(plan).map((l) => ({
    ...at(inLayers, l),
    ...layers && { layer: Float32Array.of(softMask(at(layers, l))) },
  }));
  const ofHidden = hidden?.filter((_, i) => !goneHidden.has(i)).map(softMask);
  return trainFrozen(context.learning!, run, { plan, masks, hidden: ofHidden, maskRate: 0 });
}

function plainState({ axes, logAlpha }: State): PlainState {
  return { axes, rows: logAlpha.map(({ length }) => length) };
}

function packState({ axes, logAlpha, moments, multipliers, multiplierMoments }: State): Map<string, HostTensor> {
  const arrays = new Map<string, HostTensor>();
  const put = (name: string, data: Float32Array) => arrays.set(`state/${name}`, { shape: [data.length], data });
  axes.forEach(({ type }, a) => {
    const { linear, quadratic } = at(multipliers, a);
    put(`${type}/multipliers`, Float32Array.of(linear, quadratic));
    const { first, second } = at(multiplierMoments, a);
    put(`${type}/first`, first);
    put(`${type}/second`, second);
    at(logAlpha, a).forEach((values, l) => {
      const own = at(at(moments, a), l);
      put(`${type}/${l}/log-alpha`, values);
      put(`${type}/${l}/first`, own.first);
      put(`${type}/${l}/second`, own.second);
    });
  });
  return arrays;
}

function unpackState({ axes, rows }: PlainState, arrays: Map<string, HostTensor>): State {
  const read = (name: string) => lookUp(arrays, `state/${name}`).data;
  const each = <T>(make: (prefix: string) => T) =>
    axes.map(({ type }, a) => Array.from({ length: at(rows, a) }, (_, l) => make(`${type}/${l}`)));
  return {
    axes,
    logAlpha: each((prefix) => read(`${prefix}/log-alpha`)),
    moments: each((prefix) => ({ first: read(`${prefix}/first`), second: read(`${prefix}/second`) })),
    multipliers: axes.map(({ type }) => {
      const pair = read(`${type}/multipliers`);
      return { linear: at(pair, 0), quadratic: at(pair, 1) };
    }),
    multiplierMoments: axes.map(({ type }) => ({ first: read(`${type}/first`), second: read(`${type}/second`) })),
  };
}
