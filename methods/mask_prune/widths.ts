/** Learned widths of MaskPrune: the number of units that every layer loses, the multiplier of the budget, and the
 * sparsity term with its proximal operator.
 *
 * bottom_s(m) is the sum of the s smallest m^2 (squared bottom-(s,2) norm): exactly 0 when at least s entries are 0.
 *
 * Paper: Qin et al. 2025, arXiv:2502.14008, in the minimax line of Yuan et al. 2021, "UMEC" (ICLR 2021). Deviations, without which
 * learned widths stay at 0 or overshoot: widths and costs are fractions, z acts with an augmented term, steps are
 * limited.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { costOf, type Resource } from "../../models/resource.ts";
import { type BudgetTarget, targetFrom } from "../../models/target.ts";
import { type LayerShape, widened } from "../../models/units.ts";
import type { UnitAxis } from "../_shared/learned_units.ts";

/** Widths that are learned, shared by all layers. */
export interface Widths {
  /** Of each axis: s as a fraction of its units. */
  s: number[];
  /** Multiplier of the budget. */
  z: number;
}

/** Part of its way that the budget has fallen at `done` of the ramp: cubic (Zhu and Gupta 2017, arXiv:1710.01878). */
export const fallen = (done: number): number => 1 - (1 - Math.min(1, done)) ** 3;

/** B at `done` of the ramp: it falls from 1 to the target's. */
export function budgetAt({ budget, whole }: BudgetTarget, done: number): number {
  return 1 - fallen(done) * (1 - budget / whole);
}

/** Whole units of each segment that go at the present width. */
export function removedAt({ s }: Widths, axes: readonly UnitAxis[], axis: UnitAxis): number {
  return Math.ceil(at(s, axes.indexOf(axis)) * axis.units - 1e-9);
}

/** Rates of s and z, weight of the augmented term, most change of a width in a step. */
const [WIDTH_RATE, BUDGET_RATE, AUGMENTED, MOST_CHANGE] = [0.05, 5, 20, 0.05];

/** R of uniform layers: the fraction of the resource that stays. */
const retained = ({ ofLayer }: Resource, config: DecoderConfig, shape: LayerShape): number =>
  ofLayer(config, shape) / ofLayer(config, at(config.layers, 0));

/** One step on the widths, straight through their rounding, and of the budget's multiplier: `s <- s - eta (p - z c)`,
 * `z <- max(0, z + eta (R(s) - B))`. Of each axis, p is y times the slope of bottom_s, mean over layers, and c the
 * fraction of the resource that goes with all its units; `done` is the part of the ramp that is over. */
export function stepWidths(
  { s, z }: Widths,
  { config, target, axes, prices, done }: {
    config: DecoderConfig;
    target: BudgetTarget;
    axes: readonly UnitAxis[];
    prices: readonly number[];
    done: number;
  },
): Widths {
  const dense = at(config.layers, 0);
  const shape = axes.reduce((left, { type, units }, a) => widened(left, type, -at(s, a) * units), dense);
  const excess = retained(target.resource, config, shape) - budgetAt(target, done);
  const price = Math.max(0, z + AUGMENTED * excess);
  return {
    s: s.map((width, a) => {
      const { type, units } = at(axes, a);
      const share = 1 - retained(target.resource, config, widened(dense, type, -units));
      const move = WIDTH_RATE * (price * share - at(prices, a));
      const limited = Math.max(-MOST_CHANGE, Math.min(MOST_CHANGE, move));
      return Math.max(0, Math.min(1 - 1 / units, width + limited));
    }),
    z: Math.max(0, z + BUDGET_RATE * excess),
  };
}

/** Uniform shapes with the attention units that the widths keep; FFN channels fill the budget. If channels cannot
 * compensate for the attention, the shapes of the budget's own ratio. */
export function filledShapes(
  config: DecoderConfig,
  target: BudgetTarget,
  axes: readonly UnitAxis[],
  { s }: Widths,
): LayerShape[] {
  const left = axes.reduce(
    (shape, { type, units }, a) => type === "ffn" ? shape : widened(shape, type, -Math.round(at(s, a) * units)),
    at(config.layers, 0),
  );
  const narrower = { ...config, layers: config.layers.map(() => left) };
  if (!target.units.includes("ffn") || costOf(target.resource, narrower) <= target.budget) return target.uniform;
  try {
    return targetFrom(narrower, { ...target, units: ["ffn"] }).uniform;
  } catch (error) {
    if (error instanceof UsageError) return target.uniform;
    throw error;
  }
}

/** Sum of m^2 over the units `closed`, as a fraction of the sum over all; 0 where all are 0. */
export function bottomShare(values: ArrayLike<number>, closed: Iterable<number>): number {
  let [bottom, all] = [0, 0];
  for (const unit of closed) bottom += at(values, unit) ** 2;
  for (let i = 0; i < values.length; i++) all += at(values, i) ** 2;
  return all === 0 ? 0 : bottom / all;
}

/** Slope of bottom_s at a whole s, to the right: the (s + 1)-th smallest m^2, the largest when there is none. */
export function bottomSlope(values: ArrayLike<number>, s: number): number {
  const squares = Float64Array.from(values, (m) => m * m).sort();
  return at(squares, Math.min(s, squares.length - 1));
}

/** The proximal step of `y bottom_s` for the `closed` s entries: they are divided by `1 + 2 y`. A new array. */
export function shrink(values: Float32Array, closed: Iterable<number>, y: number): Float32Array {
  const result = values.slice();
  for (const unit of closed) result[unit] = at(values, unit) / (1 + 2 * y);
  return result;
}
