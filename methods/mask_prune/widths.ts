/** Widths, duals and budget of MaskPrune: how many units every layer loses. Plain numbers; masks are elsewhere.
 *
 * The problem (Qin et al. 2025, arXiv:2502.14008, in the minimax line of Yuan et al. 2021, "UMEC"):
 * `min over masks, widths  max over y, z >= 0  of  loss + sum y bottom_s(mask) + z (R(s) - B)`, s the units to remove per
 * layer, R(s) the fraction of the resource that stays, B the budget.
 *
 * Deviations, each needed for it to work (raw duals leave every width at 0, since y q L n dwarfs z; a plain integrator
 * overshoots): widths, costs and importance are fractions; z acts with an augmented term; one step is limited.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { keptParameters, layerMacs, layerParameters } from "../../models/count.ts";
import type { BudgetTarget } from "../../models/target.ts";
import { type LayerShape, widened, widthOf } from "../../models/units.ts";
import { narrowed, type UnitAxis } from "../_shared/learned_units.ts";
import { mean } from "../../core/util/stats.ts";
import { bottomKSlope } from "./prox.ts";

/** What the budget limits. */
export interface Resource {
  /** Cost of one layer; widths may be fractions. */
  cost(shape: LayerShape): number;
  /** Cost of the dense model's layers. */
  total: number;
  /** B: most of `total` that may stay, as a fraction. */
  budget: number;
}

/** The resource of a budget: weights, multiply-accumulates of a 64-token sequence, or what `kind` gives
 * for a layer, such as milliseconds. */
export function budgetResource(
  config: DecoderConfig,
  target: BudgetTarget,
  kind: "parameters" | "macs" | ((shape: LayerShape) => number),
): Resource {
  const cost = typeof kind === "function"
    ? kind
    : (shape: LayerShape) => kind === "macs" ? layerMacs(config, shape, 64) : layerParameters(config, shape);
  const total = config.layers.reduce((sum, shape) => sum + cost(shape), 0);
  const budget = kind === "parameters" ? target.budgetParameters / target.prunableParameters : 1 - target.sparsity;
  // Of a model that lost layers, the budget may be more than there is.
  return { cost, total, budget: Math.min(1, budget) };
}

/** Whole units removed for width s. FFN channels are rounded up. Attention units are few and coarse (rounding up would
 * take a head for any s above 0), so they are rounded to the nearest, and only when s has left the `previous` whole
 * number by more than 3/4: a head that came and went with every step would cost more than it is worth. */
export function wholeUnits(axis: UnitAxis, removed: number, previous: number): number {
  if (axis.type === "ffn") return Math.ceil(removed - 1e-9);
  return Math.abs(removed - previous) > 0.75 ? Math.round(removed) : previous;
}

/** R: fraction of the resource that layers of these shapes keep. */
export function retained({ cost, total }: Resource, shapes: readonly LayerShape[]): number {
  return shapes.reduce((sum, shape) => sum + cost(shape), 0) / total;
}

/** Fraction of the resource that goes when every layer loses all units of an axis at the price of its next unit:
 * `-n dR/ds`, one per axis, at layer shape `shape`. */
export function costShares(
  { cost, total }: Resource,
  axes: readonly UnitAxis[],
  shape: LayerShape,
  layers: number,
): number[] {
  return axes.map(({ units }, a) => {
    const one = axes.map((_, b) => a === b ? 1 : 0);
    return units * layers * (cost(shape) - cost(narrowed(shape, axes, one))) / total;
  });
}

/** B at a point of the run: 1 until `start`, then a cubic fall (Zhu and Gupta 2017, arXiv:1710.01878) to `final` at
 * `end`. All are fractions of the steps. */
export function budgetRamp({ final, start, end }: { final: number; start: number; end: number }, at: number): number {
  if (at <= start) return 1;
  if (at >= end) return final;
  return final + (1 - final) * (1 - (at - start) / (end - start)) ** 3;
}

/** Projected ascent of y, capped: `min(cap, y + rate * bottom)`, bottom a fraction of the layer's importance. */
export function dualStep(y: number, bottom: number, { rate, cap }: { rate: number; cap: number }): number {
  return Math.min(cap, y + rate * bottom);
}

/** Projected ascent of z: `max(0, z + rate (R - B))`. */
export function budgetDualStep(z: number, excess: number, rate: number): number {
  return Math.max(0, z + rate * excess);
}

/** Importance of the next unit of each axis and layer, [axis][layer]: `n` times the slope of bottom_k in the curvature
 * metric, in units of the model's mean importance per resource, so that widths of different types compare. `importance`
 * is h, [axis][layer][units segments]; `removed` are whole units. */
export function widthSlopes(
  axes: readonly UnitAxis[],
  importance: readonly (readonly ArrayLike<number>[])[],
  removed: readonly (readonly number[])[],
  shares: readonly number[],
): number[][] {
  const layers = at(importance, 0).length;
  let sum = 0;
  for (const axis of importance) for (const layer of axis) for (let i = 0; i < layer.length; i++) sum += at(layer, i);
  const scale = sum / (layers * shares.reduce((a, b) => a + b, 0));
  return axes.map(({ units, segments }, a) =>
    at(importance, a).map((h, l) => {
      let slope = 0;
      for (let s = 0; s < segments; s++) {
        const run = Array.from({ length: units }, (_, i) => at(h, s * units + i));
        slope += bottomKSlope(new Float64Array(units).fill(1), at(at(removed, a), l), run);
      }
      return units * slope / scale;
    })
  );
}

/** What one width step needs, all [axis][layer] unless said. */
export interface WidthStep {
  /** The axes. */
  axes: readonly UnitAxis[];
  /** s before the step. */
  removed: readonly (readonly number[])[];
  /** y. */
  duals: readonly (readonly number[])[];
  /** q, see {@linkcode widthSlopes}. */
  slopes: readonly (readonly number[])[];
  /** Price of the resource on each axis, see {@linkcode axisPrices}; [axis]. */
  prices: readonly number[];
  /** [axis]. */
  shares: readonly number[];
  /** Whether all layers share one width. */
  uniform: boolean;
  /** eta_s, on fractions of n. */
  rate: number;
  /** Largest change of s / n of FFN channels; attention units, which they make room for, move at most half as fast. */
  maxStep: number;
}

/** Price of the resource on each axis. FFN channels pay `max(0, z + augmented term)` and so carry the budget; attention
 * units, where there are both, pay what FFN channels are worth at the margin, `mean(y q) / share`. They are so coarse that
 * the swings of z while the budget falls would take groups that are dearer than the channels they spare. */
export function axisPrices(
  axes: readonly UnitAxis[],
  { duals, slopes, shares, price }: Pick<WidthStep, "duals" | "slopes" | "shares"> & { price: number },
): number[] {
  const ffn = axes.findIndex(({ type }) => type === "ffn");
  if (ffn < 0) return axes.map(() => price);
  const worth = mean(at(slopes, ffn).map((q, l) => at(at(duals, ffn), l) * q)) / at(shares, ffn);
  return axes.map((_, a) => a === ffn ? price : worth);
}

/** Widths after one straight-through gradient step: `s/n <- clip(s/n - eta (y q / share - price))`, between 0 and all
 * but one unit. Uniform widths move along the mean over layers. */
export function widthStep(step: WidthStep): number[][] {
  const { axes, removed, duals, slopes, prices, shares, uniform, rate, maxStep } = step;
  return axes.map(({ type, units }, a) => {
    const most = type === "ffn" ? maxStep : maxStep / 2;
    const gradients = at(slopes, a).map((q, l) => at(at(duals, a), l) * q / at(shares, a) - at(prices, a));
    const shared = mean(gradients);
    return at(removed, a).map((s, l) => {
      const move = -rate * (uniform ? shared : at(gradients, l));
      const limited = Math.max(-most, Math.min(most, move));
      return Math.max(0, Math.min(units - 1, s + units * limited));
    });
  });
}

/** Moves FFN widths that are near the budget onto it, all layers by the same amount, when the move is at most `within`
 * of n; null when none is. With one unit type and uniform widths the budget alone fixes the width; the duals only make
 * the way there. */
export function snapToBudget(
  resource: Resource,
  { config, axes, removed, whole, budget, within }: {
    config: DecoderConfig;
    axes: readonly UnitAxis[];
    removed: readonly (readonly number[])[];
    whole: readonly (readonly number[])[];
    budget: number;
    within: number;
  },
): number[][] | null {
  const ffn = axes.findIndex(({ type }) => type === "ffn");
  if (ffn < 0) return null;
  const shapes = config.layers.map((dense, l) =>
    narrowed(dense, axes, axes.map((_, a) => at(at(a === ffn ? removed : whole, a), l)))
  );
  const excess = retained(resource, shapes) - budget;
  const channel = costShares(resource, [at(axes, ffn)], at(shapes, 0), shapes.length).reduce((x, y) => x + y, 0) /
    at(axes, ffn).units;
  const move = excess / channel;
  const { units } = at(axes, ffn);
  if (Math.abs(move) > within * units) return null;
  return removed.map((axis, a) => axis.map((s) => a === ffn ? Math.max(0, Math.min(units - 1, s + move)) : s));
}

/** Widths that meet the budget, from learned ones. See {@linkcode finalShapes}. */
interface Fit {
  config: DecoderConfig;
  axes: readonly UnitAxis[];
  removed: readonly (readonly number[])[];
  resource: Resource;
  target: BudgetTarget;
}

const EPSILON = 1e-9;

function meets({ config, resource, target }: Fit, shapes: readonly LayerShape[]): boolean {
  return keptParameters(config, shapes) <= target.budgetParameters &&
    retained(resource, shapes) <= resource.budget + EPSILON;
}

/** FFN widths that can be had, ascending: multiples, and the dense width. */
function ffnWidths(dense: LayerShape, { ffnMultiple, units }: BudgetTarget): number[] {
  if (!units.includes("ffn")) return [dense.ffnChannels];
  const count = Math.floor((dense.ffnChannels - 1) / ffnMultiple);
  const widths = Array.from({ length: count }, (_, i) => (i + 1) * ffnMultiple);
  return [...widths, dense.ffnChannels];
}

/** Attention widths in the order in which they are tried: the learned ones (whole), then fewer and fewer units, the axis
 * with the largest part left first. */
function attentionRemovals(axes: readonly UnitAxis[], learned: readonly number[]): number[][] {
  const current = axes.map((axis, a) => axis.type === "ffn" ? 0 : Math.round(at(learned, a)));
  const choices = [[...current]];
  while (true) {
    const open = axes.map((axis, a) => ({ axis, a }))
      .filter(({ axis, a }) => axis.type !== "ffn" && at(current, a) < axis.units - 1)
      .sort((x, y) => at(current, x.a) / x.axis.units - at(current, y.a) / y.axis.units);
    if (open.length === 0) return choices;
    const { a } = at(open, 0);
    current[a] = at(current, a) + 1;
    choices.push([...current]);
  }
}

function uniformFit(fit: Fit): LayerShape[] | null {
  const { config, axes, removed, target } = fit;
  const dense = at(config.layers, 0);
  const widths = ffnWidths(dense, target);
  for (const attention of attentionRemovals(axes, removed.map(mean))) {
    const shape = narrowed(dense, axes, attention);
    for (let i = widths.length - 1; i >= 0; i--) {
      const shapes = config.layers.map(() => ({ ...shape, ffnChannels: at(widths, i) }));
      if (meets(fit, shapes)) return shapes;
    }
  }
  return null;
}

/** `shapes` with the attention units that still fit where every layer has all its channels: one at a time, of the axis and
 * layer (all layers together when `uniform`) that lost the largest part. */
function withAttentionThatFits(fit: Fit, shapes: LayerShape[], uniform: boolean): LayerShape[] {
  const { config, axes } = fit;
  if (shapes.some(({ ffnChannels }, l) => ffnChannels < at(config.layers, l).ffnChannels)) return shapes;
  const lostPart = ({ type, units }: UnitAxis, l: number) => 1 - widthOf(at(shapes, l), type) / units;
  const places = (uniform ? [0] : [...shapes.keys()]).flatMap((l) => axes.map((axis) => ({ axis, l })))
    .filter(({ axis, l }) => lostPart(axis, l) > 0)
    .sort((a, b) => lostPart(b.axis, b.l) - lostPart(a.axis, a.l));
  for (const { axis: { type }, l } of places) {
    const wider = shapes.map((shape, i) => uniform || i === l ? widened(shape, type, 1) : shape);
    if (meets(fit, wider)) return withAttentionThatFits(fit, wider, uniform);
  }
  return shapes;
}

/** Per-layer widths: attention rounded, FFN widths at the nearest multiple below, then the layer that is furthest from
 * its learned width moves until no more fits. */
function layerwiseFit(fit: Fit): LayerShape[] | null {
  const { config, axes, removed, target } = fit;
  const widths = ffnWidths(at(config.layers, 0), target);
  const ffn = axes.findIndex(({ type }) => type === "ffn");
  const wanted = config.layers.map((dense, l) => dense.ffnChannels - (ffn < 0 ? 0 : at(at(removed, ffn), l)));
  const index = wanted.map((width) => Math.max(0, widths.findLastIndex((candidate) => candidate <= width + EPSILON)));
  const tries = config.layers.map((_, l) => attentionRemovals(axes, removed.map((axis) => at(axis, l))));
  const depth = config.layers.map(() => 0);
  const shapes = () =>
    config.layers.map((dense, l) => ({
      ...narrowed(dense, axes, at(at(tries, l), at(depth, l))),
      ffnChannels: at(widths, at(index, l)),
    }));
  const byGap = (sign: 1 | -1) =>
    index.map((i, l) => ({ l, gap: sign * (at(wanted, l) - at(widths, i)) })).sort((a, b) => b.gap - a.gap);
  while (!meets(fit, shapes())) {
    const narrower = byGap(-1).find(({ l }) => at(index, l) > 0);
    const [nearest] = [...depth.keys()].filter((l) => at(depth, l) < at(tries, l).length - 1)
      .sort((a, b) => at(depth, a) - at(depth, b));
    if (narrower) index[narrower.l] = at(index, narrower.l) - 1;
    else if (nearest !== undefined) depth[nearest] = at(depth, nearest) + 1;
    else return null;
  }
  while (true) {
    const wider = byGap(1).find(({ l }) => {
      if (at(index, l) === widths.length - 1) return false;
      index[l] = at(index, l) + 1;
      const fits = meets(fit, shapes());
      index[l] = at(index, l) - 1;
      return fits;
    });
    if (!wider) return shapes();
    index[wider.l] = at(index, wider.l) + 1;
  }
}

/** What to say when no widths of the run's units meet the budget. */
export function unreachable(
  { options: { resource }, target: { sparsity, units } }: {
    options: { resource: string };
    target: Pick<BudgetTarget, "sparsity" | "units">;
  },
): UsageError {
  return new UsageError(
    `mask-prune: sparsity ${sparsity} in ${resource} cannot be reached with units ${units.join(", ")}: allow more ` +
      "types by --units, or whole layers by layers=true",
  );
}

/** Shapes of the pruned layers: attention widths as learned (whole units), FFN widths fill the budget to the nearest
 * multiple, and attention where every layer has all its channels. Never over the budget of parameters nor, where that
 * differs, of the resource. Null when nothing fits. */
export function finalShapes(fit: Fit, uniform: boolean): LayerShape[] | null {
  const shapes = uniform ? uniformFit(fit) : layerwiseFit(fit);
  return shapes && withAttentionThatFits(fit, shapes, uniform);
}
