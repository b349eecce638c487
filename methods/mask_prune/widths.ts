/** Widths of MaskPrune: how many units every layer loses, and the multiplier of the budget. Plain numbers.
 *
 * Paper: Qin et al. 2025, arXiv:2502.14008, in the minimax line of Yuan et al. 2021, "UMEC". Deviations, without which
 * learned widths stay at 0 or overshoot: widths and costs are fractions, z acts with an augmented term, steps are limited.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { keptParameters, layerParameters } from "../../models/count.ts";
import { type BudgetTarget, targetFrom } from "../../models/target.ts";
import { type LayerShape, widened, widthOf } from "../../models/units.ts";
import type { UnitAxis } from "../_shared/learned_units.ts";

/** B at `done` of the ramp, in [0, 1]: a cubic fall from 1 to `final` (Zhu and Gupta 2017, arXiv:1710.01878). */
export function budgetAt(final: number, done: number): number {
  return final + (1 - final) * (1 - Math.min(1, done)) ** 3;
}

/** Units that go on the axis of `type` when the budget has fallen by `part` of its way from the dense shape to the goal. */
export function removedAt(dense: LayerShape, goal: LayerShape, { type }: UnitAxis, part: number): number {
  return Math.max(0, Math.ceil(part * (widthOf(dense, type) - widthOf(goal, type)) - 1e-9));
}

/** Widths that are learned, shared by all layers. */
export interface Widths {
  /** Of each axis: s as a fraction of its units. */
  s: number[];
  /** Multiplier of the budget. */
  z: number;
}

/** Rates of s and z, weight of the augmented term, most change of a width in a step. */
const [WIDTH_RATE, BUDGET_RATE, AUGMENTED, MOST_CHANGE] = [0.05, 5, 20, 0.05];

/** R of uniform layers: the fraction of the prunable parameters that stays. */
const retained = (config: DecoderConfig, shape: LayerShape): number =>
  layerParameters(config, shape) / layerParameters(config, at(config.layers, 0));

/** One step on the widths, straight through their rounding, and of the budget's multiplier: `s <- s - eta (p - z c)`,
 * `z <- max(0, z + eta (R(s) - B))`. Of each axis, p is y times the slope of bottom_s, mean over layers, and c the fraction
 * of the parameters that go with all its units. */
export function stepWidths(
  { s, z }: Widths,
  { config, axes, prices, budget }: {
    config: DecoderConfig;
    axes: readonly UnitAxis[];
    prices: readonly number[];
    budget: number;
  },
): Widths {
  const dense = at(config.layers, 0);
  const shape = axes.reduce((left, { type, units }, a) => widened(left, type, -at(s, a) * units), dense);
  const excess = retained(config, shape) - budget;
  const price = Math.max(0, z + AUGMENTED * excess);
  return {
    s: s.map((width, a) => {
      const { type, units } = at(axes, a);
      const share = 1 - retained(config, widened(dense, type, -units));
      const move = WIDTH_RATE * (price * share - at(prices, a));
      const limited = Math.max(-MOST_CHANGE, Math.min(MOST_CHANGE, move));
      return Math.max(0, Math.min(1 - 1 / units, width + limited));
    }),
    z: Math.max(0, z + BUDGET_RATE * excess),
  };
}

/** Uniform shapes with the attention that the widths leave, in whole units, whose FFN channels fill the budget; those of
 * the budget's own ratio where channels cannot make up for the attention. */
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
  if (!target.units.includes("ffn") || keptParameters(narrower) <= target.budgetParameters) return target.uniform;
  try {
    return targetFrom(narrower, { ...target, units: ["ffn"] }).uniform;
  } catch (error) {
    if (error instanceof UsageError) return target.uniform;
    throw error;
  }
}
