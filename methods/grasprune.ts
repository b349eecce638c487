/** GRASPrune: with the weights frozen, learns which units to remove under the budget; then learns scales of kept units.
 *
 * Paper: Wang et al. 2026, arXiv:2604.19398; constants from the authors' code (ZiY-Wang/GRASPrune 073dae0).
 *
 * Shapes: a score s of each unit, f32 [F], [G] or [H] per layer, 0 at first. One step, with tau = 1.5:
 *   1. project: the units of highest p = sigmoid(s / tau) that the budget holds are open, gate 1; the others closed, 0
 *   2. dL/ds = dL/dgate p (1 - p) / tau, straight through the projection, for open and closed units
 *   3. s <- Adam(s, dL/ds), at a constant rate
 * After `freeze` of the steps, the closed units are cut out. The remaining steps train what the run's `recover` says:
 * `scales` is the paper's second stage, whose factors are folded into the weights.
 *
 * A unit without effect keeps its score of 0. Units that increase the loss at a gate of 1 are removed before it.
 *
 * Cost: `steps` forward and backward passes, up to the freeze without gradients of weights, adapters and scales (the
 * authors: 4 x 512 sequences of 512 tokens, then 512).
 *
 * Deviations: the default gives every layer the same widths, with the attention of the budget's uniform shape;
 * `uniform=false` is the paper's one ranking over all layers and types. That ranking leaves a unit of each type in every
 * layer within the budget, where the authors add it; the last channels fill what groups leave. Query heads have gates where
 * the run prunes them. Gates multiply the outputs of heads, where the authors' multiply keys and values, which differs in
 * the gradient alone. The loss is the run's. Scales are the run's: of channels and query heads, not bounded to [0.5, 1.5].
 *
 * @module
 */
import { z } from "zod";
import { at, lookUp } from "../core/util/indexing.ts";
import type { DecoderConfig, HostTensor } from "../models/config.ts";
import { densePlan, type PrunePlan } from "../models/plan.ts";
import type { BudgetTarget } from "../models/target.ts";
import { unitCount, UNITS } from "../models/units.ts";
import { createMoments, type Moments, stepValues } from "../models/training/optimizer.ts";
import { type FoundRun, keepSnapshot, nextStep, noteStep, type TrainingRun } from "../models/training/run.ts";
import type { HostMasks } from "../models/training/student.ts";
import { freezeStep, learn, type Structure } from "./_shared/learned_run.ts";
import { unitAxes, type UnitAxis } from "./_shared/learned_units.ts";
import { layerScores } from "./_shared/scoring.ts";
import { globalWidths, keepWidths } from "./_shared/selection.ts";
import { defineMethod, type Method, type MethodContext } from "./define.ts";

const options = z.strictObject({
  uniform: z.boolean().default(true).describe("one width for all layers; false: one ranking over layers and types"),
  gateRate: z.number().positive().default(0.01).describe("Adam's learning rate of the scores"),
  freeze: z.number().gt(0).max(1).default(0.8).describe(
    "fraction of the steps that learn the choice; the others train",
  ),
});
type Options = z.infer<typeof options>;

/** Learns gates by a projected straight-through estimator. */
export const grasprune: Method<typeof options> = defineMethod({
  id: "grasprune",
  version: 2,
  summary: "Learns gates that meet the budget at every step, with the weights frozen",
  source: "Wang et al. 2026, arXiv:2604.19398",
  display: { order: 11, colour: "#7A4FBF" },
  kind: "learned",
  needs: { calibration: false, seed: false },
  options,
  uniformLayers: ({ uniform }) => uniform,
  variants: [{ uniform: false }],
  async prune(context) {
    if (context.target.sparsity === 0) return { plan: densePlan(context.model.config) };
    return await learn(context as MethodContext<unknown>, "grasprune", (run, found) => fit(context, run, found));
  },
});

/** Temperature of the sigmoid. */
const TAU = 1.5;

const RULE = { betas: [0.9, 0.99] as [number, number] };

/** Scores of one unit type in one layer. */
interface Gates {
  layer: number;
  axis: UnitAxis;
  scores: Float32Array;
  moments: Moments;
}

/** Learns scores until the freeze; the last projection is the choice. */
async function fit(
  { options, model: { config }, target }: MethodContext<Options>,
  run: TrainingRun,
  found: FoundRun | null,
): Promise<Structure> {
  const all = config.layers.flatMap((shape, layer) =>
    unitAxes(config, target.units).map((axis): Gates => {
      const count = unitCount(shape, axis.type);
      return { layer, axis, scores: new Float32Array(count), moments: createMoments(count) };
    })
  );
  if (found) {
    found.restore();
    for (const [name, { data }] of arraysOf(all)) data.set(lookUp(found.arrays, name).data);
  }
  const freeze = freezeStep(run, options.freeze);
  while (run.step < freeze) {
    const step = run.step;
    const plan = project(config, target, all, options.uniform);
    const masks = config.layers.map((): HostMasks => ({}));
    for (const { layer, axis: { type }, scores } of all) {
      const { kvGroups, [UNITS[type].plan]: kept } = at(plan.layers, layer);
      const open = new Set(kept);
      const groupOf = (head: number) => Math.floor(head / at(config.layers, layer).queryHeadsPerGroup);
      // A closed group gets its gradient through its heads.
      const isFree = (unit: number) => type === "query-heads" && !kvGroups.includes(groupOf(unit));
      at(masks, layer)[type] = scores.map((_, unit) => Number(open.has(unit) || isFree(unit)));
    }
    const result = await nextStep(run, { masks, frozen: true });
    for (const own of all) {
      const slopes = throughSigmoid(at(result.maskGradients, own.layer)[own.axis.type]!, own.scores);
      own.scores = stepValues(own.scores, slopes, own.moments, { rule: RULE, rate: options.gateRate, step });
    }
    noteStep(run, result, { budget: target.budget / target.whole });
    await keepSnapshot(run, () => ({ values: null, arrays: arraysOf(all) }));
  }
  return { plan: project(config, target, all, options.uniform) };
}

/** dL/ds from dL/dgate. */
function throughSigmoid(gradient: Float32Array, scores: Float32Array): Float32Array {
  return gradient.map((slope, i) => {
    const p = 1 / (1 + Math.exp(-at(scores, i) / TAU));
    return slope * p * (1 - p) / TAU;
  });
}

/** The units of highest score that the budget holds. */
function project(config: DecoderConfig, target: BudgetTarget, all: readonly Gates[], uniform: boolean): PrunePlan {
  const scores = config.layers.map((shape) => layerScores((type) => new Float64Array(unitCount(shape, type))));
  for (const own of all) at(scores, own.layer)[UNITS[own.axis.type].mask].set(own.scores);
  return keepWidths(scores, uniform ? target.uniform : globalWidths(config, scores, target, { pool: "all" }));
}

/** What a snapshot keeps: the arrays themselves, by name. */
function arraysOf(all: readonly Gates[]): Map<string, HostTensor> {
  return new Map(
    all.flatMap(({ layer, axis: { type }, scores, moments: { first, second } }) =>
      Object.entries({ scores, first, second }).map(([what, data]): [string, HostTensor] => [
        `gates/${layer}/${type}/${what}`,
        { shape: [data.length], data },
      ])
    ),
  );
}
