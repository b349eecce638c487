/** Sheared-style pruning: hard-concrete masks, pulled to a target shape by Lagrange multipliers while the model learns.
 *
 * Paper: Xia, Gao, Zeng and Chen 2024, "Sheared LLaMA", arXiv:2310.06694, section 3.1; constants from the authors' code
 * (princeton-nlp/LLM-Shearing b87218b).
 *
 * Shapes: log-alpha f32 [F] and [G] (or [H]) per layer; one pair of multipliers per unit type, shared by all layers, which
 * is what makes the layers equally wide. The target shape is that of the budget, the same for all methods.
 *
 * One step: draw masks, gradient of the loss to masks and adapters, the masks' by the chain rule to log-alpha plus the
 * Lagrangian's; Adam on all three with the rate of log-alphas and multipliers far above that of weights, the multipliers
 * ascending. The target sparsity rises over the first part of the pruning steps. Then the deterministic masks of the
 * target shape are folded in, the rest is cut out, and the remaining steps train what is left.
 *
 * Cost: `steps` forward and backward passes; with `domainSteps` also a forward pass of the held-out windows at each
 * update. Deviations: adapters learn in place of all weights unless `weights` says otherwise, embedding and norms
 * never, with the loss shared by all methods (the authors train on cross entropy); heads and intermediate masks only,
 * no layer and hidden-size masks, as all methods of a comparison keep depth and width; masks of heads sit on key/value
 * groups where there are groups; warm-ups scale with the steps; log-alphas are not clipped with the weights; batches
 * are loaded dynamically (section 3.2) only with `domainSteps`, the authors' being 50 of 3200, and the losses to reach
 * are the dense model's. The authors' rate of the multipliers is 1 and their target rises over a fifth of 3200 steps:
 * in a hundred steps or fewer the multipliers then close three masks where one was asked for, so the defaults here are
 * 0.1 and a half.
 *
 * @module
 */
import { z } from "zod";
import { UsageError } from "../core/errors.ts";
import type { HostTensor } from "../models/config.ts";
import { densePlan, type UnitType } from "../models/plan.ts";
import { createMoments, type Moments, scheduleFactor, stepValues } from "../models/training/optimizer.ts";
import {
  type DomainLoading,
  endRun,
  keepSnapshot,
  nextStep,
  noteStep,
  type TrainingRun,
} from "../models/training/run.ts";
import type { HostMasks } from "../models/training/student.ts";
import { resumeFrozen, startLearning, trainFrozen } from "./_shared/learned_run.ts";
import { smallestInSegments } from "./_shared/maskprune_prox.ts";
import { keptOf, maskLength, planOfRemoved, removedUnits, unitAxes, type UnitAxis } from "./_shared/learned_units.ts";
import {
  clampLogAlpha,
  expectedSparsity,
  HARD_CONCRETE,
  lagrangian,
  type Multipliers,
  sampleMasks,
  softMask,
} from "./_shared/sheared_hard_concrete.ts";
import { defineMethod, type Method, type MethodContext, type PruneResult } from "./define.ts";

const options = z.strictObject({
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

const RULE = { kind: "adamw", betas: [0.9, 0.95] as [number, number] } as const;

/** Learns hard-concrete masks under Lagrange multipliers towards the budget's shape. */
export const sheared: Method<typeof options> = defineMethod({
  id: "sheared",
  summary: "Learns hard-concrete masks, pulled to the budget's shape by Lagrange multipliers",
  source: "Xia et al. 2024, arXiv:2310.06694, section 3.1",
  kind: "learned",
  needs: { calibration: false, gradients: true },
  options,
  uniformLayers: () => true,
  async prune(context) {
    if (context.target.sparsity === 0) return { plan: densePlan(context.model.config) };
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

/** How domains are loaded; undefined where their weights stay.
 * @throws {UsageError} when there are no domains. */
function loadingOf({ learning, options, rng }: MethodContext<Options>): DomainLoading | undefined {
  const { domainSteps: everySteps } = options;
  if (everySteps === undefined) return undefined;
  if (!learning?.domains) {
    throw new UsageError(
      `sheared: domainSteps=${everySteps} needs domains: give --training domains.CORPUS=PART for two or more, or leave it out`,
    );
  }
  return { domains: learning.domains, everySteps, rng };
}

/** Log-alphas and multipliers; arrays are [axis][layer]. */
interface State {
  axes: UnitAxis[];
  logAlpha: Float32Array[][];
  moments: Moments[][];
  /** [axis]. */
  multipliers: Multipliers[];
  /** Of lambda1 and lambda2: [axis], each of length 2. */
  multiplierMoments: Moments[];
}

type PlainState = Pick<State, "axes"> & { layers: number };

function createState({ model: { config }, target, rng }: MethodContext<Options>): State {
  const axes = unitAxes(config, target.units);
  const draws = rng("log-alpha");
  const { initialMean, initialDeviation } = HARD_CONCRETE;
  const logAlpha = axes.map((axis) =>
    config.layers.map((shape) =>
      Float32Array.from({ length: maskLength(axis, shape) }, () => initialMean + initialDeviation * draws.normal())
    )
  );
  return {
    axes,
    logAlpha,
    moments: logAlpha.map((axis) => axis.map(({ length }) => createMoments(RULE, length))),
    multipliers: axes.map(() => ({ linear: 0, quadratic: 0 })),
    multiplierMoments: axes.map(() => createMoments(RULE, 2)),
  };
}

/** Fraction of each axis that the target shape removes: [axis]. */
function targetSparsity({ model: { config }, target }: MethodContext<Options>, axes: readonly UnitAxis[]): number[] {
  const removed = removedUnits(config.layers[0], target.uniform[0], axes);
  return axes.map(({ units }, a) => removed[a] / units);
}

async function learnMasks(context: MethodContext<Options>, run: TrainingRun, state: State): Promise<void> {
  const { options } = context;
  const { axes } = state;
  const steps = Math.max(1, Math.round(options.pruneSteps * run.given.options.steps));
  const final = targetSparsity(context, axes);
  while (run.step < steps) {
    const step = run.step;
    state.logAlpha = state.logAlpha.map((axis) => axis.map(clampLogAlpha));
    const noise = context.rng(`noise ${step}`);
    const draws = state.logAlpha.map((axis) => axis.map((a) => sampleMasks(a, noise)));
    const masks = draws[0].map((_, l) =>
      Object.fromEntries(axes.map(({ type }, a) => [type, draws[a][l].masks])) as HostMasks
    );
    const result = await nextStep(run, masks, () => currentMasks(state));
    const rise = Math.min(1, (step + 1) / Math.max(1, options.warmup * steps));
    const slopes = draws.map((axis) => axis.map((draw) => draw.slopes));
    const gaps = stepState(state, {
      gradients: result.maskGradients,
      slopes,
      targets: final.map((t) => t * rise),
      factor: scheduleFactor(
        { kind: "cosine", warmupSteps: Math.round(0.1 * steps), totalSteps: steps, finalFraction: 0.1 },
        step,
      ),
      step,
      options,
    });
    const share = context.target.budgetParameters / context.target.prunableParameters;
    noteStep(run, result, {
      budget: 1 - rise * (1 - share),
      removed: Object.fromEntries(axes.map(({ type, units }, a) => [type, units * expectedOf(state, a)])),
      duals: Object.fromEntries(axes.flatMap(({ type }, a) => [
        [`lambda1 ${type}`, state.multipliers[a].linear],
        [`lambda2 ${type}`, state.multipliers[a].quadratic],
      ])),
      residual: Math.max(...gaps),
    });
    await keepSnapshot(run, () => ({ values: plainState(state), arrays: packState(state) }));
  }
  state.logAlpha = state.logAlpha.map((axis) => axis.map(clampLogAlpha));
}

/** Deterministic masks of the present shape: as many of the smallest as are expected to be closed are 0, the others soft. */
function currentMasks({ axes, logAlpha }: State): HostMasks[] {
  return logAlpha[0].map((_, l) =>
    Object.fromEntries(axes.map(({ type }, a) => {
      const values = logAlpha[a][l];
      const closed = smallestInSegments(values, Math.round(expectedSparsity(values) * values.length), 1);
      const masks = values.map(softMask);
      for (const unit of closed) masks[unit] = 0;
      return [type, masks];
    })) as HostMasks
  );
}

function expectedOf({ logAlpha }: State, a: number): number {
  return lagrangian(logAlpha[a].map(clampLogAlpha), 0, { linear: 0, quadratic: 0 }).multipliers.linear;
}

/** One Adam step on log-alphas (down) and multipliers (up); gives the largest gap to the target on each axis. */
function stepState(
  state: State,
  { gradients, slopes, targets, factor, step, options }: {
    gradients: readonly HostMasks[];
    slopes: Float32Array[][];
    targets: number[];
    factor: number;
    step: number;
    options: Options;
  },
): number[] {
  const { axes, logAlpha, moments, multipliers, multiplierMoments } = state;
  return axes.map(({ type }, a) => {
    const term = lagrangian(logAlpha[a], targets[a], multipliers[a]);
    logAlpha[a] = logAlpha[a].map((values, l) => {
      const gradient = gradients[l][type]!.map((g, i) => g * slopes[a][l][i] + term.slopes[l][i]);
      return stepValues(values, gradient, moments[a][l], { rule: RULE, rate: factor * options.maskRate, step });
    });
    const { linear, quadratic } = multipliers[a];
    const ascent = Float32Array.of(-term.multipliers.linear, -term.multipliers.quadratic);
    const [up1, up2] = stepValues(Float32Array.of(linear, quadratic), ascent, multiplierMoments[a], {
      rule: RULE,
      rate: factor * options.multiplierRate,
      step,
    });
    multipliers[a] = { linear: up1, quadratic: up2 };
    return term.gap;
  });
}

/** Drops the masks with the smallest log-alpha down to the target shape; the others keep their soft value. */
function finish(context: MethodContext<Options>, run: TrainingRun, { axes, logAlpha }: State): Promise<PruneResult> {
  const { model: { config }, target } = context;
  const gone = logAlpha.map((axis, a) =>
    axis.map((values, l) => {
      const count = removedUnits(config.layers[l], target.uniform[l], axes)[a];
      return new Set(smallestInSegments(values, count, axes[a].segments));
    })
  );
  const plan = planOfRemoved(config, axes, (a, l, unit) => gone[a][l].has(unit));
  const masks = keptOf(plan, axes, (a, l, unit) => softMask(logAlpha[a][l][unit]));
  return trainFrozen(context.learning!, run, { plan, masks, maskRate: 0 });
}

function plainState({ axes, logAlpha }: State): PlainState {
  return { axes, layers: logAlpha[0].length };
}

function packState({ axes, logAlpha, moments, multipliers, multiplierMoments }: State): Map<string, HostTensor> {
  const arrays = new Map<string, HostTensor>();
  const put = (name: string, data: Float32Array) => arrays.set(`state/${name}`, { shape: [data.length], data });
  axes.forEach(({ type }: { type: UnitType }, a) => {
    put(`${type}/multipliers`, Float32Array.of(multipliers[a].linear, multipliers[a].quadratic));
    put(`${type}/first`, multiplierMoments[a].first!);
    put(`${type}/second`, multiplierMoments[a].second!);
    logAlpha[a].forEach((values, l) => {
      put(`${type}/${l}/log-alpha`, values);
      put(`${type}/${l}/first`, moments[a][l].first!);
      put(`${type}/${l}/second`, moments[a][l].second!);
    });
  });
  return arrays;
}

function unpackState({ axes, layers }: PlainState, arrays: Map<string, HostTensor>): State {
  const read = (name: string) => arrays.get(`state/${name}`)!.data;
  const each = <T>(make: (prefix: string) => T) =>
    axes.map(({ type }) => Array.from({ length: layers }, (_, l) => make(`${type}/${l}`)));
  return {
    axes,
    logAlpha: each((prefix) => read(`${prefix}/log-alpha`)),
    moments: each((prefix) => ({ first: read(`${prefix}/first`), second: read(`${prefix}/second`) })),
    multipliers: axes.map(({ type }) => {
      const [linear, quadratic] = read(`${type}/multipliers`);
      return { linear, quadratic };
    }),
    multiplierMoments: axes.map(({ type }) => ({ first: read(`${type}/first`), second: read(`${type}/second`) })),
  };
}
