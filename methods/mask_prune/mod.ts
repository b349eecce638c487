/** MaskPrune: learns which units to remove, the same number in every layer, while the model trains.
 *
 * Paper: Qin, Tan, Zhang, Cai and Wang 2025, arXiv:2502.14008; the minimax form after Yuan et al. 2021, "UMEC".
 *
 *     min over masks m, theta, widths s   max over y, z >= 0   of
 *         Loss(m, theta) + sum_l,t y[l,t] bottom_s(m[l,t]) + z (R(s) - B)
 *
 * Shapes: m[l,t] f32 [F], [H] or [G]. s[t] units are removed in every layer; theta: the parameters that the run's
 * `recover` trains; R(s): the kept fraction of the parameters; B: the budget, which may fall along a ramp. One step of
 * `fit()`:
 *
 *   1. close the s units of lowest rank in every layer; the others are open
 *   2. theta <- AdamW(theta, dLoss/dtheta), in `nextStep()`; g is the gradient to every gate, open or closed
 *   3. m moves against the momentum of g, straight through the gates
 *   4. m <- prox(m): the s units of lowest rank are divided by 1 + 2 y
 *   5. y <- y + eta_y bottom_s(m)
 *   6. s and z: with `variant: paper` a step of their own (`widths.ts`); else s is the width at which R(s) = B
 *
 * After the last step the s units of lowest rank are cut out. If the run compensates, theta is constant until the
 * freeze: then units are removed, least squares correct the maps, and the remaining steps train the rest (`learn()`).
 *
 * `variant: choice`: m = exp(a), a the scores that are learned. Gates are 0 and 1, the rank is a, which starts from
 * calibration data (`importance.ts`). `variant: paper`: m starts at 1 and is the gate itself; |m| is the rank, which
 * from a cold start chooses nearly at random. With `recover: none` the masks' values are dropped. The paper's constants
 * are not public.
 *
 * Cost: `steps` forward and backward passes and one more per calibration sequence. Deviations: `variant: choice`;
 * widths and duals are normalised; the loss is the run's; m moves by momentum over the layer's root mean square
 * gradient, because Adam would move unimportant units as far as important ones; g is clipped where it closes a unit.
 *
 * @module
 */
import { z } from "zod";
import { at, lookUp } from "../../core/util/indexing.ts";
import { mean } from "../../core/util/stats.ts";
import type { DecoderConfig, HostTensor } from "../../models/config.ts";
import { densePlan } from "../../models/plan.ts";
import { type LayerShape, UNITS } from "../../models/units.ts";
import { scheduleFactor } from "../../models/training/optimizer.ts";
import { type FoundRun, keepSnapshot, nextStep, noteStep, type TrainingRun } from "../../models/training/run.ts";
import type { HostMasks } from "../../models/training/student.ts";
import { onDepth } from "../_shared/depth.ts";
import { freezeStep, learn, type Structure } from "../_shared/learned_run.ts";
import { planOfGates, removedUnits, smallestInSegments, unitAxes, type UnitAxis } from "../_shared/learned_units.ts";
import { globalWidths } from "../_shared/selection.ts";
import { defineMethod, type Method, type MethodContext } from "../define.ts";
import { type Importance, unitImportance } from "./importance.ts";
import { chooseDepth } from "./structure.ts";
import {
  bottomShare,
  bottomSlope,
  budgetAt,
  fallen,
  filledShapes,
  removedAt,
  shrink,
  stepWidths,
  type Widths,
} from "./widths.ts";

const positive = z.number().positive();

/** The defaults were chosen on validation text of the bundled model and of SmolLM2-135M. */
const options = z.strictObject({
  variant: z.enum(["choice", "paper"]).default("choice").describe(
    "choice: learned scores rank the units; paper: mask values rank the units, and widths are learned",
  ),
  uniform: z.boolean().default(true).describe("one width for all layers; false: a width for each layer"),
  scoreRate: positive.default(0.1).describe("peak rate of the scores, which start at mean 0 and deviation 1"),
  maskRate: positive.default(0.005).describe("peak rate of the masks (variant=paper), which start at 1"),
  ramp: z.number().min(0).max(1).default(0.4).describe(
    "fraction of the steps over which the budget falls; 0: all units are removed before the first step",
  ),
  freeze: z.number().gt(0).max(1).default(0.4).describe(
    "with --compensate: fraction of the steps after which the choice is fixed and least squares are applied",
  ),
  dualStart: z.number().min(0).default(0).describe("initial multiplier y of the sparsity penalty"),
  dualRate: z.number().min(0).default(0.1).describe("ascent rate of y"),
});
type Options = z.infer<typeof options>;

/** Learns which units to remove, with one width for all layers. */
export const maskPrune: Method<typeof options> = defineMethod({
  id: "mask-prune",
  version: 7,
  summary: "Learns masks under a sparsity penalty and the budget, one width for all layers",
  source: "Qin et al. 2025, arXiv:2502.14008; minimax form after Yuan et al. 2021, UMEC",
  display: { order: 12, colour: "#D55E00" },
  kind: "learned",
  needs: { calibration: true },
  ownDepth: true,
  options,
  uniformLayers: ({ uniform }) => uniform,
  variants: [{ uniform: false }, { variant: "paper" }],
  async prune(context) {
    if (context.target.sparsity === 0) return { plan: densePlan(context.model.config) };
    const { options, report } = context;
    report(Object.entries(options).map(([name, value]) => `${name}=${value}`).join(", "));
    const { removed, searched } = await chooseDepth(context as MethodContext<unknown>);
    const result = await onDepth(
      context,
      removed,
      async (inner) =>
        // Whole layers alone met the budget.
        unitAxes(inner.model.config, inner.target.units).length === 0
          ? { plan: densePlan(inner.model.config) }
          : await learn(inner as MethodContext<unknown>, "mask-prune", (run, found) => fit(inner, run, found)),
    );
    return { ...result, training: [...searched, ...result.training ?? []] };
  },
});

/** Masks of one unit type in one layer. */
interface UnitMasks {
  layer: number;
  axis: UnitAxis;
  /** Scores a, or the masks m of the paper's variant: [units]. */
  values: Float32Array;
  /** Running mean of the gradient: [units]. */
  momentum: Float32Array;
  /** Running mean of the mean square gradient. */
  square: number;
  /** Multiplier of the sparsity penalty. */
  y: number;
  /** The s units of lowest rank. */
  closed: number[];
}

/** Masks of scores; in f32, exp has finite values and logarithms up to here. */
const masksOf = (scores: Float32Array) => scores.map((score) => Math.exp(Math.max(-80, Math.min(80, score))));

/** What differs between the variants. */
const VARIANTS = {
  choice: {
    start: (scores: Float64Array) => Float32Array.from(scores),
    rank: (scores: Float32Array) => scores,
    masks: masksOf,
    gates: (own: UnitMasks) => openUnits(own),
    prox: (scores: Float32Array, closed: number[], y: number) => shrink(masksOf(scores), closed, y).map(Math.log),
  },
  paper: {
    start: ({ length }: Float64Array) => new Float32Array(length).fill(1),
    rank: (masks: Float32Array) => masks.map(Math.abs),
    masks: (masks: Float32Array) => masks,
    gates: ({ values }: UnitMasks) => values,
    prox: shrink,
  },
};

/** 1 for open units, 0 for closed ones. */
function openUnits({ values, closed }: UnitMasks): Float32Array {
  const gates = new Float32Array(values.length).fill(1);
  for (const unit of closed) gates[unit] = 0;
  return gates;
}

/** Decays of momentum and mean square; root mean squares that a gradient may have towards closing. Unclipped, one batch
 * closes a unit that the model depends on. Closing gains little and can cost much, so what opens is not clipped. */
const [MOMENTUM, SQUARE, LARGEST] = [0.9, 0.99, 3];

/** Moves the masks against the momentum of their gradient, over the root mean square gradient of the layer. */
function stepMasks(own: UnitMasks, gradient: Float32Array, { rate, step }: { rate: number; step: number }): void {
  const meanSquare = (values: Float32Array) => values.reduce((sum, g) => sum + g * g, 0) / values.length;
  const largest = LARGEST * Math.sqrt(meanSquare(gradient));
  const square = meanSquare(gradient.map((g) => Math.min(largest, Math.abs(g))));
  // Rounded as snapshots keep it.
  own.square = Math.fround(SQUARE * own.square + (1 - SQUARE) * square);
  const size = Math.sqrt(own.square / (1 - SQUARE ** (step + 1))) * (1 - MOMENTUM ** (step + 1));
  own.momentum = own.momentum.map((m, i) => MOMENTUM * m + (1 - MOMENTUM) * Math.min(largest, at(gradient, i)));
  own.values = own.values.map((value, i) => value - rate * at(own.momentum, i) / Math.max(size, 1e-30));
}

/** Learns masks until the freeze; then the units of lowest rank go. */
async function fit(context: MethodContext<Options>, run: TrainingRun, found: FoundRun | null): Promise<Structure> {
  const { options, model: { config }, target, learning } = context;
  const { rank, masks, gates, prox } = VARIANTS[options.variant];
  const axes = unitAxes(config, target.units);
  const importance = await unitImportance(context as MethodContext<unknown>);
  const all = createMasks(context, axes, importance);
  const learnsWidths = options.variant === "paper" && options.uniform;
  // Uneven: units of all layers in one ranking by the loss that removing them costs.
  const goal = options.uniform
    ? target.uniform
    : globalWidths(config, importance.map(({ fisher }) => fisher), target, { pool: "type" });
  const close = (own: UnitMasks, s: number) => own.closed = smallestInSegments(rank(own.values), s, own.axis.segments);
  let widths: Widths = { s: axes.map(() => 0), z: 0 };
  if (found) {
    found.restore();
    widths = found.values as Widths;
    unpack(all, found.arrays);
  }
  // Least squares would undo what trains before them.
  const frozen = learning?.compensate !== undefined;
  const freeze = freezeStep(run, frozen ? options.freeze : 1);
  const ramp = Math.max(1, options.ramp * run.given.options.steps);
  const peak = options.variant === "paper" ? options.maskRate : options.scoreRate;

  while (run.step < freeze) {
    const step = run.step;
    const done = (step + 1) / ramp;
    const rate = peak * scheduleFactor({ totalSteps: freeze, finalFraction: 0.1 }, step);
    for (const own of all) {
      close(own, learnsWidths ? removedAt(widths, axes, own.axis) : removedOf(config, goal, own, fallen(done)));
    }
    const result = await nextStep(run, { masks: layersOf(config, all, gates), frozen });
    const before = all.map(({ closed }) => new Set(closed));
    for (const own of all) {
      stepMasks(own, at(result.maskGradients, own.layer)[own.axis.type]!, { rate, step });
      close(own, own.closed.length / own.axis.segments);
      own.values = prox(own.values, own.closed, own.y);
      own.y = Math.fround(own.y + options.dualRate * bottomShare(masks(own.values), own.closed));
    }
    if (learnsWidths) {
      const prices = axes.map((axis) => mean(all.filter((own) => own.axis === axis).map(priceOf)));
      widths = stepWidths(widths, { config, target, axes, prices, done });
    }
    noteStep(run, result, {
      ...notesOf(axes, all, masks),
      budget: budgetAt(target, done),
      swaps: all.reduce((sum, { closed }, i) => sum + closed.filter((unit) => !at(before, i).has(unit)).length, 0),
    });
    await keepSnapshot(run, () => ({ values: widths, arrays: pack(all) }));
  }

  const shapes = learnsWidths ? filledShapes(config, target, axes, widths) : goal;
  for (const own of all) close(own, removedOf(config, shapes, own, 1));
  context.signal.throwIfAborted();
  return structureOf(config, all, options.variant === "paper");
}

/** New masks of every layer and axis. */
function createMasks(
  { options: { variant, dualStart }, model: { config } }: MethodContext<Options>,
  axes: readonly UnitAxis[],
  importance: readonly Importance[],
): UnitMasks[] {
  return config.layers.flatMap((_, layer) =>
    axes.map((axis): UnitMasks => {
      const values = VARIANTS[variant].start(at(importance, layer).scores[UNITS[axis.type].mask]);
      return { layer, axis, values, momentum: new Float32Array(values.length), square: 0, y: dualStart, closed: [] };
    })
  );
}

/** Units of each segment that go at the part `done` of the way to the shapes of the goal. */
const removedOf = (
  { layers }: DecoderConfig,
  goal: readonly LayerShape[],
  { layer, axis }: UnitMasks,
  done: number,
): number => Math.ceil(done * removedUnits(at(layers, layer), at(goal, layer), axis.type) - 1e-9);

/** Values of every layer's masks. */
function layersOf(
  { layers }: DecoderConfig,
  all: readonly UnitMasks[],
  values: (own: UnitMasks) => Float32Array,
): HostMasks[] {
  const masks = layers.map((): HostMasks => ({}));
  for (const own of all) at(masks, own.layer)[own.axis.type] = values(own);
  return masks;
}

/** y times the slope of bottom_s in the width, as a fraction of the mean m^2. */
function priceOf({ values, y, closed }: UnitMasks): number {
  const squares = values.reduce((sum, m) => sum + m * m, 0);
  return y * bottomSlope(values, closed.length) * values.length / Math.max(squares, 1e-30);
}

/** The row of a step in the training's curve. */
function notesOf(axes: readonly UnitAxis[], all: readonly UnitMasks[], masks: (values: Float32Array) => Float32Array) {
  const means = (of: (own: UnitMasks) => number) =>
    axes.map((axis) => mean(all.filter((own) => own.axis === axis).map(of)));
  const [removed, duals] = [means(({ closed, axis }) => closed.length / axis.segments), means(({ y }) => y)];
  return {
    removed: Object.fromEntries(axes.map(({ type }, a) => [type, at(removed, a)])),
    duals: Object.fromEntries(axes.map(({ type }, a) => [`y ${type}`, at(duals, a)])),
    residual: Math.max(...all.map(({ values, closed }) => bottomShare(masks(values), closed))),
  };
}

/** What stays; with `values`, their masks stay as factors. */
function structureOf(config: DecoderConfig, all: readonly UnitMasks[], hasValues: boolean): Structure {
  const kept = layersOf(config, all, openUnits);
  const plan = planOfGates(config, kept);
  if (!hasValues) return { plan };
  const masks = layersOf(
    config,
    all,
    ({ layer, axis: { type }, values }) =>
      Float32Array.from(at(plan.layers, layer)[UNITS[type].plan], (unit) => at(values, unit)),
  );
  return { plan, masks };
}

function pack(all: readonly UnitMasks[]): Map<string, HostTensor> {
  const arrays = new Map<string, HostTensor>();
  for (const { layer, axis: { type }, values, momentum, square, y } of all) {
    for (const [what, data] of Object.entries({ values, momentum, scalars: Float32Array.of(square, y) })) {
      arrays.set(`masks/${layer}/${type}/${what}`, { shape: [data.length], data });
    }
  }
  return arrays;
}

function unpack(all: readonly UnitMasks[], arrays: Map<string, HostTensor>): void {
  for (const own of all) {
    const read = (what: string) => lookUp(arrays, `masks/${own.layer}/${own.axis.type}/${what}`).data;
    own.values = read("values");
    own.momentum = read("momentum");
    [own.square = 0, own.y = 0] = read("scalars");
  }
}
