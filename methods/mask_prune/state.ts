/** The masks, widths and duals of MaskPrune, and the steps that move them.
 *
 * All arrays are [axis][layer]; a mask is f32 [units].
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig, HostTensor } from "../../models/config.ts";
import { plannedShapes, type PrunePlan } from "../../models/plan.ts";
import type { LayerPlan } from "../../models/units.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import { createMoments, type Moments, stepValues } from "../../models/training/optimizer.ts";
import type { HostMasks } from "../../models/training/student.ts";
import { importance, observeGradient, packMetric, selectionMetric, type UnitMetric, unpackMetric } from "./metric.ts";
import { MASK_RULE } from "../_shared/learned_run.ts";
import { maskLength, narrowed, removedUnits, type UnitAxis } from "../_shared/learned_units.ts";
import { mean } from "../../core/util/stats.ts";
import { smallestInSegments } from "../_shared/ranking.ts";
import { shrink } from "./prox.ts";
import {
  axisPrices,
  budgetDualStep,
  costShares,
  dualStep,
  type Resource,
  retained,
  snapToBudget,
  wholeUnits,
  widthSlopes,
  widthStep,
} from "./widths.ts";

/** Step sizes and limits; see the options of the method. */
export interface MaskPruneRates {
  /** `metric`: bottom-k in the curvature metric. `magnitude`: in |m| alone, as the paper writes it. */
  selection: "metric" | "magnitude";
  /** Whether all layers share one width. */
  uniform: boolean;
  /** `learned`: masks are real numbers. `hard`: 0 or 1, only the selection is learned. */
  masks: "learned" | "hard";
  /** Whether a unit that leaves the bottom k starts again at 1. */
  regrowth: boolean;
  /** Rate of the masks. */
  maskRate: number;
  /** eta_y and the bounds of y. */
  dualRate: number;
  dualStart: number;
  dualCap: number;
  /** eta_z, and the weight of the augmented term. */
  budgetRate: number;
  augmented: number;
  /** eta_s on fractions, and the largest move of one step. */
  widthRate: number;
  maxWidthStep: number;
  /** Fraction of n within which FFN widths are put on the budget. */
  snap: number;
}

/** State of the minimax problem. */
export interface MaskState {
  axes: UnitAxis[];
  masks: Float32Array[][];
  moments: Moments[][];
  metrics: UnitMetric[][];
  /** Units in the bottom k: 1, else 0. */
  chosen: Float32Array[][];
  /** Steps for which a unit has been in the bottom k without a break. */
  idle: Float32Array[][];
  /** Units that were cut from the working model and cannot come back: 1, else 0. */
  cut: Float32Array[][];
  /** s, and the whole units it stands for. */
  removed: number[][];
  whole: number[][];
  /** y. */
  duals: number[][];
  /** z. */
  budgetDual: number;
  /** Steps done. */
  step: number;
}

/** All masks 1, nothing removed, z 0. */
export function createMaskState(
  config: DecoderConfig,
  axes: UnitAxis[],
  metrics: UnitMetric[][],
  { dualStart }: MaskPruneRates,
): MaskState {
  const each = <T>(make: (length: number) => T) =>
    axes.map((axis) => config.layers.map((shape) => make(maskLength(axis, shape))));
  return {
    axes,
    metrics,
    masks: each((length) => new Float32Array(length).fill(1)),
    moments: each((length) => createMoments(length)),
    chosen: each((length) => new Float32Array(length)),
    idle: each((length) => new Float32Array(length)),
    cut: each((length) => new Float32Array(length)),
    removed: each(() => 0),
    whole: each(() => 0),
    duals: each(() => dualStart),
    budgetDual: 0,
    step: 0,
  };
}

/** The masks as the student takes them, per layer. */
export function layerMasks({ axes, masks }: MaskState): HostMasks[] {
  return at(masks, 0).map((_, l) =>
    Object.fromEntries(axes.map(({ type }, a) => [type, at(at(masks, a), l)])) as HostMasks
  );
}

/** Step 1 of an iteration for the masks: the metric sees the gradients, and learned masks follow them. */
export function gradientStep(state: MaskState, gradients: readonly HostMasks[], rates: MaskPruneRates): void {
  const { axes, masks, moments, metrics, step } = state;
  axes.forEach(({ type }, a) => {
    gradients.forEach((layer, l) => {
      const gradient = layer[type];
      if (!gradient) throw new RangeError(`The masks of ${type} have no gradient`);
      observeGradient(at(at(metrics, a), l), gradient);
      if (rates.masks === "hard") return;
      at(masks, a)[l] = stepValues(at(at(masks, a), l), gradient, at(at(moments, a), l), {
        rule: MASK_RULE,
        rate: rates.maskRate,
        step,
      });
    });
  });
}

/** What units are ranked by, lowest first: |m| alone, or sqrt(h) max(|m|, 1), so that a unit that was shrunk is judged
 * by its importance and can come back. Units that were cut come first. */
function ranking(state: MaskState, a: number, l: number, byMagnitude: boolean): ArrayLike<number> {
  const mask = at(at(state.masks, a), l);
  const cut = at(at(state.cut, a), l);
  if (byMagnitude) return mask.map((m, i) => at(cut, i) ? -1 : Math.abs(m));
  const h = selectionMetric(at(at(state.metrics, a), l));
  return h.map((value, i) => at(cut, i) ? -1 : Math.sqrt(value) * Math.max(Math.abs(at(mask, i)), 1));
}

/** Step 2: the proximal step. The k lowest units of every layer shrink by `1 / (1 + 2 y)`, or go to 0 at once when masks
 * are hard; units that left the bottom k start again at 1. `settle` ranks by |m|, so that the choice comes to rest.
 * Gives the number of units that came back, and the largest bottom-k of a layer as a fraction of its importance. */
export function proximalUpdate(
  state: MaskState,
  rates: MaskPruneRates,
  settle: boolean,
): { swaps: number; residuals: number[][] } {
  const { axes, masks, chosen, whole, duals } = state;
  const byMagnitude = rates.masks === "learned" && (settle || rates.selection === "magnitude");
  let swaps = 0;
  const residuals = axes.map(({ segments }, a) =>
    at(masks, a).map((_, l) => {
      const bottom = smallestInSegments(ranking(state, a, l, byMagnitude), at(at(whole, a), l), segments);
      const now = new Float32Array(at(at(chosen, a), l).length);
      for (const i of bottom) now[i] = 1;
      const back = Array.from(now.keys()).filter((i) => at(at(at(chosen, a), l), i) === 1 && now[i] === 0);
      if (rates.regrowth || rates.masks === "hard") {
        for (const i of back) at(at(masks, a), l)[i] = 1;
        swaps += back.length;
      }
      at(chosen, a)[l] = now;
      at(state.idle, a)[l] = at(at(state.idle, a), l).map((steps, i) => now[i] ? steps + 1 : 0);
      if (rates.masks === "hard") { for (const i of bottom) at(at(masks, a), l)[i] = 0; }
      else at(masks, a)[l] = shrink(at(at(masks, a), l), bottom, at(at(duals, a), l));
      return residual(state, a, l, bottom, rates);
    })
  );
  return { swaps, residuals };
}

/** Puts everything that `plan` does not keep into the bottom sets at once; its widths are the state's from then on. */
export function removePlan(state: MaskState, config: DecoderConfig, plan: PrunePlan): void {
  const shapes = plannedShapes(config, plan);
  for (const [a, { type }] of state.axes.entries()) {
    for (const [l, layer] of plan.layers.entries()) {
      const kept = new Set(keptOfType(layer, type));
      const chosen = at(at(state.chosen, a), l);
      const mask = at(at(state.masks, a), l);
      for (const unit of chosen.keys()) {
        chosen[unit] = kept.has(unit) ? 0 : 1;
        if (!kept.has(unit)) mask[unit] = 0;
      }
      const count = at(removedUnits(at(config.layers, l), at(shapes, l), state.axes), a);
      at(state.whole, a)[l] = count;
      at(state.removed, a)[l] = count;
    }
  }
}

/** Gives the FFN masks that stay the values [kept channels] of each layer. */
export function setFfnMasks(state: MaskState, plan: PrunePlan, values: readonly Float32Array[]): void {
  const a = state.axes.findIndex(({ type }) => type === "ffn");
  for (const [l, { ffnChannels }] of plan.layers.entries()) {
    const mask = at(at(state.masks, a), l);
    for (const [i, unit] of ffnChannels.entries()) mask[unit] = at(at(values, l), i);
  }
}

const keptOfType = ({ kvGroups, queryHeads, ffnChannels }: LayerPlan, type: UnitType): number[] =>
  ({ "ffn": ffnChannels, "kv-groups": kvGroups, "query-heads": queryHeads })[type];

/** bottom_k over the layer's whole importance: sum of h m^2 over `bottom`, divided by the sum of h. */
function residual(state: MaskState, a: number, l: number, bottom: number[], { selection }: MaskPruneRates): number {
  const mask = at(at(state.masks, a), l);
  const h = selection === "metric"
    ? selectionMetric(at(at(state.metrics, a), l))
    : new Float64Array(mask.length).fill(1);
  const all = h.reduce((x, y) => x + y, 0);
  return all === 0 ? 0 : bottom.reduce((sum, i) => sum + at(h, i) * at(mask, i) * at(mask, i), 0) / all;
}

/** Budget of one step. */
export interface BudgetStep {
  config: DecoderConfig;
  resource: Resource;
  /** B now. */
  budget: number;
  /** Whether the ramp has ended, so that widths near the budget are put on it. */
  arrived: boolean;
}

/** R for the whole units removed now. */
export function retainedNow({ axes, whole }: MaskState, { config, resource }: BudgetStep): number {
  return retained(
    resource,
    config.layers.map((dense, l) => narrowed(dense, axes, whole.map((axis) => at(axis, l)))),
  );
}

/** Steps 3 and 4: widths, then duals, from the values before. */
export function updateWidths(
  state: MaskState,
  residuals: readonly (readonly number[])[],
  step: BudgetStep,
  rates: MaskPruneRates,
): void {
  const { axes, removed, whole, duals, metrics } = state;
  const { config, resource, budget, arrived } = step;
  const shape = narrowed(at(config.layers, 0), axes, whole.map((axis) => Math.round(mean(axis))));
  const shares = costShares(resource, axes, shape, config.layers.length);
  const weights = metrics.map((axis) =>
    axis.map((metric) =>
      rates.selection === "metric" ? importance(metric) : new Float64Array(metric.prior.length).fill(1)
    )
  );
  const slopes = widthSlopes(axes, weights, whole, shares);
  const excess = retainedNow(state, step) - budget;
  const price = Math.max(0, state.budgetDual + rates.augmented * excess);
  const { uniform, widthRate: rate, maxWidthStep: maxStep } = rates;
  const prices = axisPrices(axes, { duals, slopes, shares, price });
  let next = widthStep({ axes, removed, duals, slopes, prices, shares, uniform, rate, maxStep });
  // An integrator that runs while the widths are at their speed limit would overshoot later.
  const limited = next.some((axis, a) =>
    at(axes, a).type === "ffn" &&
    axis.some((s, l) => Math.abs(s - at(at(removed, a), l)) >= maxStep * at(axes, a).units - 1e-9)
  );
  if (excess < 0 || !limited) state.budgetDual = budgetDualStep(state.budgetDual, excess, rates.budgetRate);
  const snapped = arrived
    ? snapToBudget(resource, { config, axes, removed: next, whole, budget, within: rates.snap })
    : null;
  if (snapped) {
    next = snapped;
    // On the budget, z is what FFN channels are worth.
    const ffn = axes.findIndex(({ type }) => type === "ffn");
    state.budgetDual = mean(at(slopes, ffn).map((q, l) => at(at(duals, ffn), l) * q)) / at(shares, ffn);
  }
  // What was cut stays away.
  next = next.map((axis, a) => axis.map((s, l) => Math.max(s, leastRemoved(state, a, l, uniform))));
  state.whole = axes.map((axis, a) => at(next, a).map((s, l) => wholeUnits(axis, s, at(at(whole, a), l))));
  // An attention unit that came or went starts a new count, so that FFN channels settle before the next one moves.
  state.removed = next.map((axis, a) =>
    axis.map((s, l) =>
      at(axes, a).type !== "ffn" && at(at(state.whole, a), l) !== at(at(whole, a), l) ? at(at(state.whole, a), l) : s
    )
  );
  state.duals = duals.map((axis, a) =>
    axis.map((y, l) => dualStep(y, at(at(residuals, a), l), { rate: rates.dualRate, cap: rates.dualCap }))
  );
}

/** Units of an axis that have been cut, in layer `l` or in the layer that lost most. */
export function leastRemoved({ cut }: MaskState, a: number, l: number, uniform: boolean): number {
  const counts = (uniform ? at(cut, a) : [at(at(cut, a), l)]).map((layer) => layer.reduce((sum, one) => sum + one, 0));
  return Math.max(...counts);
}

/** Arrays of the state for a snapshot; the rest is {@linkcode plainState}. */
export function packState(state: MaskState): Map<string, HostTensor> {
  const arrays = new Map<string, HostTensor>();
  state.axes.forEach(({ type }, a) =>
    at(state.masks, a).forEach((mask, l) => {
      const { first, second } = at(at(state.moments, a), l);
      const all = {
        mask,
        first,
        second,
        chosen: at(at(state.chosen, a), l),
        idle: at(at(state.idle, a), l),
        cut: at(at(state.cut, a), l),
        ...packMetric(at(at(state.metrics, a), l)),
      };
      for (const [name, data] of Object.entries(all)) {
        arrays.set(`state/${type}/${l}/${name}`, { shape: [data.length], data });
      }
    })
  );
  return arrays;
}

/** What of the state survives JSON. */
export type PlainState = Pick<MaskState, "axes" | "removed" | "whole" | "duals" | "budgetDual" | "step">;

/** The plain part of a state. */
export function plainState({ axes, removed, whole, duals, budgetDual, step }: MaskState): PlainState {
  return { axes, removed, whole, duals, budgetDual, step };
}

/** The state out of a snapshot. */
export function unpackState(plain: PlainState, arrays: Map<string, HostTensor>): MaskState {
  const each = <T>(make: (read: (name: string) => Float32Array) => T) =>
    plain.axes.map(({ type }, a) =>
      at(plain.removed, a).map((_, l) =>
        make((name) => {
          const found = arrays.get(`state/${type}/${l}/${name}`);
          if (!found) throw new RangeError(`The snapshot has no array ${name} of ${type} in layer ${l}`);
          return found.data;
        })
      )
    );
  return {
    ...plain,
    masks: each((read) => read("mask")),
    moments: each((read) => ({ first: read("first"), second: read("second") })),
    chosen: each((read) => read("chosen")),
    idle: each((read) => read("idle")),
    cut: each((read) => read("cut")),
    metrics: each(unpackMetric),
  };
}
