/** Sheared-style pruning: hard-concrete masks, pulled to a target shape by Lagrange multipliers while the model learns.
 *
 * Paper: Xia, Gao, Zeng and Chen 2024, "Sheared LLaMA", arXiv:2310.06694, section 3.1; constants from the authors' code
 * (princeton-nlp/LLM-Shearing b87218b).
 *
 * Shapes: log-alpha f32 [F] and [G] (or [H]) per layer, and [L] and [D] for the whole model where the options name a
 * target of layers and hidden size; one pair of multipliers for each, shared by all layers, which makes the layers
 * equally wide. The target shape is that of the budget, the same for all methods, unless options name another.
 *
 * One step:
 * 1. draw masks z from the hard-concrete distribution of log-alpha; the gradient moves what the run trains
 * 2. log-alpha descends by Adam: gradient to z by the chain rule, plus the gradient of the Lagrangian
 * 3. lambda1, lambda2 go up by Adam on `lambda1 (s - t) + lambda2 (s - t)^2`, s the expected sparsity, t the target
 * The target rises over the first part of the steps. Then the units with the smallest log-alpha are cut out, and the
 * remaining steps train what is left. The deterministic masks of kept units are folded in if the run trains scales.
 *
 * Cost: `steps` forward and backward passes. Deviations: the run's `recover` says what trains besides masks, with the
 * loss shared by all methods (the authors train all weights on cross entropy); layers and hidden size have masks only
 * where options name a target, as all methods of a comparison keep depth and width; the mask of the hidden size is
 * not folded into the output projection besides the final norm, which would count it twice; masks of heads sit on
 * key/value groups where there are groups; warm-ups scale with the steps; log-alphas are not clipped with the
 * weights; batches are not loaded dynamically (section 3.2). The authors' rate of the multipliers is 1 and their
 * target rises over a fifth of 3200 steps: in a hundred steps or fewer the multipliers then close three masks where
 * one was asked for, so the defaults here are 0.1 and 0.5.
 *
 * @module
 */
import { z } from "zod";
import { UsageError } from "../../core/util/errors.ts";
import { at, lookUp } from "../../core/util/indexing.ts";
import { keptParameters } from "../../models/count.ts";
import type { DecoderConfig, HostTensor } from "../../models/config.ts";
import { densePlan, keptLayers } from "../../models/plan.ts";
import { UNITS } from "../../models/units.ts";
import { createMoments, type Moments, scheduleFactor, stepValues } from "../../models/training/optimizer.ts";
import { type FoundRun, keepSnapshot, nextStep, noteStep, type TrainingRun } from "../../models/training/run.ts";
import { freezeStep, learn, type Structure } from "../_shared/learned_run.ts";
import { planOfGates, smallestInSegments } from "../_shared/learned_units.ts";
import { clampLogAlpha, HARD_CONCRETE, lagrangian, openProbability, sampleMasks, softMask } from "./hard_concrete.ts";
import {
  expectedParameters,
  type MaskedPart,
  maskedParts,
  rowsOf,
  targetConfig,
  targetWords,
  toModelMasks,
} from "./shape.ts";
import { defineMethod, type Method, type MethodContext } from "../define.ts";

const count = z.number().int().positive().optional();

const options = z.strictObject({
  targetHidden: count.describe("target hidden size; absent: unchanged"),
  targetLayers: count.describe("target number of layers; absent: unchanged"),
  targetHeads: count.describe("target query heads per layer; absent: as many as the budget allows"),
  targetFfn: count.describe("target FFN channels per layer; absent: as many as the budget allows"),
  pruneSteps: z.number().gt(0).max(1).default(0.5).describe(
    "fraction of the steps that learn masks; the rest trains the pruned model",
  ),
  maskRate: z.number().positive().default(1).describe("Adam's peak rate of log-alphas"),
  multiplierRate: z.number().positive().default(0.1).describe("Adam's peak rate of the multipliers (gradient ascent)"),
  warmup: z.number().min(0).max(1).default(0.5).describe("fraction of the pruning steps over which the target rises"),
});
type Options = z.infer<typeof options>;

/** Learns hard-concrete masks under Lagrange multipliers towards the budget's shape. */
export const sheared: Method<typeof options> = defineMethod({
  id: "sheared",
  version: 2,
  summary: "Learns hard-concrete masks; Lagrange multipliers enforce the budget or a given shape",
  source: "Xia et al. 2024, arXiv:2310.06694, section 3.1",
  display: { order: 10, colour: "#CC79A7" },
  kind: "learned",
  needs: { calibration: false },
  options,
  uniformLayers: () => true,
  ownTarget: (options) => targetWords(options) !== "",
  check(config, target, options, { training }) {
    targetConfig(config, target, options);
    refuseHiddenLoss(options, training?.hidden ?? 0);
  },
  async prune(context) {
    if (context.target.sparsity === 0) return { plan: densePlan(context.model.config) };
    return await learn(context as MethodContext<unknown>, "sheared", (run, found) => fit(context, run, found));
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

/** Adam of log-alphas and multipliers. */
const RULE = { betas: [0.9, 0.95] as [number, number] };

interface Row {
  logAlpha: Float32Array;
  moments: Moments;
}

/** Masks of one type with their multipliers. */
interface Granularity extends Omit<MaskedPart, "rows"> {
  /** One for each layer, or one of the whole model. */
  rows: Row[];
  /** lambda1 and lambda2. */
  multipliers: Float32Array;
  moments: Moments;
}

function createGranularities({ model: { config }, target, options, rng }: MethodContext<Options>): Granularity[] {
  const draws = rng("log-alpha");
  const { initialMean, initialDeviation } = HARD_CONCRETE;
  return maskedParts(config, target, options).map((part) => ({
    ...part,
    rows: part.rows.map((length) => ({
      logAlpha: Float32Array.from({ length }, () => initialMean + initialDeviation * draws.normal()),
      moments: createMoments(length),
    })),
    multipliers: new Float32Array(2),
    moments: createMoments(2),
  }));
}

/** Learns masks towards the target shape, and which units, layers and hidden dimensions have it. */
async function fit(context: MethodContext<Options>, run: TrainingRun, found: FoundRun | null): Promise<Structure> {
  const { options, model: { config }, target } = context;
  const parts = createGranularities(context);
  if (found) {
    found.restore();
    for (const [name, { data }] of arraysOf(parts)) data.set(lookUp(found.arrays, name).data);
  }
  const steps = freezeStep(run, options.pruneSteps);
  const schedule = { warmupSteps: Math.round(0.1 * steps), totalSteps: steps, finalFraction: 0.1 };
  const layers = config.layers.length;
  while (run.step < steps) {
    const step = run.step;
    clampAll(parts);
    const noise = context.rng(`noise ${step}`);
    const drawn = parts.map(({ type, rows }) => ({ type, draws: rows.map((row) => sampleMasks(row.logAlpha, noise)) }));
    const masks = toModelMasks(drawn.map(({ type, draws }) => ({ type, rows: draws.map((d) => d.masks) })), layers);
    const result = await nextStep(run, masks);
    const gradients = { masks: result.maskGradients, hidden: result.hiddenGradient };
    const rise = Math.min(1, (step + 1) / Math.max(1, options.warmup * steps));
    const factor = scheduleFactor(schedule, step);
    const gaps = parts.map((part, p) => {
      const { rows, multipliers } = part;
      const [linear, quadratic] = [at(multipliers, 0), at(multipliers, 1)];
      const goal = rise * part.removed / part.units;
      const term = lagrangian(rows.map(({ logAlpha }) => logAlpha), goal, { linear, quadratic });
      const ofMasks = rowsOf(part.type, gradients);
      rows.forEach((row, l) => {
        const [slope, pull] = [at(at(drawn, p).draws, l).slopes, at(term.slopes, l)];
        const gradient = at(ofMasks, l).map((g, i) => g * at(slope, i) + at(pull, i));
        const rate = factor * options.maskRate;
        row.logAlpha = stepValues(row.logAlpha, gradient, row.moments, { rule: RULE, rate, step });
      });
      const ascent = Float32Array.of(-term.multipliers.linear, -term.multipliers.quadratic);
      const rate = factor * options.multiplierRate;
      part.multipliers = stepValues(multipliers, ascent, part.moments, { rule: RULE, rate, step });
      return term.gap;
    });
    noteStep(run, result, {
      budget: 1 - rise * (1 - target.budget / target.whole),
      retained: expectedParameters(config, openMasks(parts, layers)) / keptParameters(config),
      removed: Object.fromEntries(parts.map((part) => [part.type, part.units * expectedSparsityOf(part)])),
      duals: Object.fromEntries(
        parts.flatMap(({ type, multipliers }) => [...multipliers].map((value, i) => [`lambda${i + 1} ${type}`, value])),
      ),
      residual: Math.max(...gaps),
    });
    await keepSnapshot(run, () => ({ values: null, arrays: arraysOf(parts) }));
  }
  clampAll(parts);
  return structureOf(config, parts);
}

function clampAll(parts: readonly Granularity[]): void {
  for (const { rows } of parts) for (const row of rows) row.logAlpha = clampLogAlpha(row.logAlpha);
}

const openMasks = (parts: readonly Granularity[], layers: number) =>
  toModelMasks(
    parts.map(({ type, rows }) => ({
      type,
      rows: rows.map(({ logAlpha }) => clampLogAlpha(logAlpha).map(openProbability)),
    })),
    layers,
  );

const expectedSparsityOf = ({ rows }: Granularity): number =>
  lagrangian(rows.map(({ logAlpha }) => clampLogAlpha(logAlpha)), 0, { linear: 0, quadratic: 0 }).multipliers.linear;

/** Drops the masks with the smallest log-alpha down to the target shape; the others keep their soft value. */
function structureOf(config: DecoderConfig, parts: readonly Granularity[]): Structure {
  const finals = parts.map(({ type, rows, removed, segments }) => ({
    type,
    rows: rows.map(({ logAlpha }, row) => {
      const values = logAlpha.map(softMask);
      const what = `masks of ${type}, row ${row}`;
      for (const unit of smallestInSegments(logAlpha, removed, segments, what)) values[unit] = 0;
      return values;
    }),
  }));
  const { masks = [], hidden } = toModelMasks(finals, config.layers.length);
  const plan = planOfGates(config, masks);
  masks.forEach(({ layer }, l) => {
    if (layer?.[0] === 0) plan.layers[l] = { kvGroups: [], queryHeads: [], ffnChannels: [] };
  });
  if (hidden?.includes(0)) plan.hidden = [...hidden.keys()].filter((i) => hidden[i] !== 0);
  const kept = keptLayers(plan).map((l) => {
    const values = { ...at(masks, l) };
    for (const { type } of parts) {
      if (type === "layer" || type === "hidden") continue;
      values[type] = Float32Array.from(at(plan.layers, l)[UNITS[type].plan], (unit) => at(values[type]!, unit));
    }
    return values;
  });
  return { plan, masks: kept, ...hidden && { hidden: hidden.filter((value) => value !== 0) } };
}

/** What a snapshot keeps: the arrays themselves, by name. */
function arraysOf(parts: readonly Granularity[]): Map<string, HostTensor> {
  const arrays = new Map<string, HostTensor>();
  const put = (place: string, own: Record<string, Float32Array>, { first, second }: Moments) => {
    for (const [name, data] of Object.entries({ ...own, first, second })) {
      arrays.set(`state/${place}/${name}`, { shape: [data.length], data });
    }
  };
  for (const { type, rows, multipliers, moments } of parts) {
    put(type, { multipliers }, moments);
    rows.forEach(({ logAlpha, moments }, l) => put(`${type}/${l}`, { "log-alpha": logAlpha }, moments));
  }
  return arrays;
}
