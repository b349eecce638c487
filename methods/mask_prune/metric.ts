/** The curvature metric h of MaskPrune's masks: what removing a unit would cost, from calibration and from what training
 * sees.
 *
 * Masks start at 1 and move little, so their sizes say next to nothing at first; the constraint needs a metric. Judged
 * alone, a unit has F, the sum over calibration sequences of (dL/dm)^2 at m = 1, and the structured Wanda score; training
 * adds the squared gradients g^2 of its batches. Everything is divided by the layer's median before it is combined: g^2 is
 * near 1e-8, and layers differ by orders of magnitude.
 *
 * With redundancy h is the cost of the unit at its turn when units go one after the other by optimal brain surgeon in the
 * loss's own metric (`_shared/removal_order.ts`, K-FAC): a unit that others can stand in for is cheap, even if it is
 * large. Training corrects it: h is multiplied by a power of what the unit's running Fisher has become over what it was.
 * That order takes it that the others do stand in at once, so it is the better one where much goes or weights are corrected
 * for it; in between, h is a geometric mean of the two.
 *
 * @module
 */
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { queryHeads, UNITS } from "../../models/units.ts";
import type { DecoderConfig, HostTensor } from "../../models/config.ts";
import type { DecoderModel } from "../../models/device.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { type HostMasks, uploadMasks } from "../../models/training/student.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { inputStatistics, type LayerStatistics } from "../_shared/calibration.ts";
import { type RemovalOrder, removalOrders } from "../_shared/removal_order.ts";
import { columnScores } from "../_shared/column_metrics.ts";
import { CROSS_ENTROPY } from "../_shared/loss_slope.ts";
import { median } from "../../core/util/stats.ts";
import type { UnitAxis } from "../_shared/learned_units.ts";
import { scoresOfColumns } from "../_shared/scoring.ts";
import * as tf from "@tensorflow/tfjs";

/** Weight of the prior in the running Fisher: as many steps as it counts for. */
const PRIOR_STEPS = 16;

/** Steps whose squared gradients set the scale of the prior. */
const SCALE_STEPS = 8;

/** Relative rise that keeps the order of removal among equal costs, and survives f32. */
const TIE = 1e-6;

/** Least Fisher at the start, over the layer's median, that a change is measured against. */
const LEAST_PRIOR = 1e-2;

/** Power of the change of a unit's running Fisher in the cost of its removal. */
const ONLINE_POWER = 0.25;

/** Importance of the units of one layer and type. */
export interface UnitMetric {
  /** F over the layer's median: [units]. */
  prior: Float32Array;
  /** Median of F: turns the running Fisher back into one that compares between layers and types. */
  scale: number;
  /** Wanda score over the layer's median: [units]. */
  wanda: Float32Array;
  /** Cost of removing the unit at its turn over the layer's median, never falling along the order: [units]; empty
   * without redundancy. */
  removal: Float32Array;
  /** How much of h is the cost of removal, in [0, 1]; the rest is the unit judged alone. */
  redundancy: number;
  /** Sum of g^2 over the steps so far: [units]. */
  squares: Float32Array;
  /** g0: median over units of the mean g^2 of the first steps. */
  base: number;
  /** Steps so far. */
  count: number;
}

/** Median of the positive values, so that units that do nothing do not make it 0; 1 when there are none. */
function positiveMedian(values: ArrayLike<number>): number {
  const positive = Array.from(values).filter((value) => value > 0);
  return positive.length === 0 ? 1 : median(positive);
}

/** A metric from calibration alone. `fisher` and `wanda` are [units]; with `removal` it knows redundancy. */
export function createMetric(
  fisher: ArrayLike<number>,
  wanda: ArrayLike<number>,
  removal?: RemovalOrder,
): UnitMetric {
  // Rounded to f32, as snapshots keep it.
  const scale = Math.fround(positiveMedian(fisher));
  const wandaScale = positiveMedian(wanda);
  return {
    prior: Float32Array.from(fisher, (f) => f / scale),
    scale,
    wanda: Float32Array.from(wanda, (w) => w / wandaScale),
    removal: removal ? removalMetric(removal) : new Float32Array(),
    redundancy: removal ? 1 : 0,
    squares: new Float32Array(fisher.length),
    base: 0,
    count: 0,
  };
}

/** Costs by unit over their median. What went later must not look cheaper than what went before it: the cost of a unit
 * may fall when its rivals are gone, but the order is what was found best; equal costs rise by a hair. */
function removalMetric({ order, cost }: RemovalOrder): Float32Array {
  const metric = new Float32Array(order.length);
  const scale = positiveMedian(cost);
  let most = 0;
  for (const [place, unit] of order.entries()) {
    most = Math.max(most * (1 + TIE), (cost[place] ?? 0) / scale);
    metric[unit] = most;
  }
  return metric;
}

/** Adds a step's mask gradients. */
export function observeGradient(metric: UnitMetric, gradient: Float32Array): void {
  metric.count++;
  for (const [i, g] of gradient.entries()) metric.squares[i] = at(metric.squares, i) + g * g;
  if (metric.count <= SCALE_STEPS) metric.base = Math.fround(positiveMedian(metric.squares) / metric.count);
}

/** Running Fisher over the layer's median: `(16 F / med(F) g0 + sum g^2) / (16 + i) / g0`; [units]. */
export function runningFisher({ prior, squares, base, count }: UnitMetric): Float64Array {
  if (count === 0 || base === 0) return Float64Array.from(prior);
  return Float64Array.from(
    prior,
    (p, i) => (PRIOR_STEPS * p + at(squares, i) / base) / (PRIOR_STEPS + count),
  );
}

/** h of the sparsity term: `removal^r (fisher / fisher at the start)^(r/4) (fisher^(1/2) wanda)^(1-r)`, r the metric's
 * `redundancy`. Without any its order is that of the best static ranking of single units found, `fisher^(1/4) wanda^(1/2)`;
 * [units]. */
export function selectionMetric(metric: UnitMetric): Float64Array {
  const { prior, removal, wanda, redundancy, count } = metric;
  const fisher = runningFisher(metric);
  const change = (i: number) => count === 0 ? 1 : at(fisher, i) / Math.max(at(prior, i), LEAST_PRIOR);
  return fisher.map((value, i) => {
    const alone = redundancy === 1 ? 1 : (Math.sqrt(value) * at(wanda, i)) ** (1 - redundancy);
    return redundancy === 0 ? alone : alone * (at(removal, i) * change(i) ** ONLINE_POWER) ** redundancy;
  });
}

/** Loss that removing each unit costs, to second order and up to one factor for the whole model: what widths of
 * different layers and types are compared by; [units]. */
export function importance(metric: UnitMetric): Float64Array {
  return runningFisher(metric).map((fisher) => fisher * metric.scale);
}

const fisherName = (layer: number, site: "ffn" | "queryHeads" | "kvGroups") => `${layer}.${site}.fisher`;

/** Sum over calibration sequences of the squared gradient of each sequence's mean loss to the masks, at 1: f32 [F], [H]
 * and [G] of every layer. Cost: one backward pass per sequence, without weight gradients. */
function maskFisher(context: MethodContext<unknown>): Promise<Statistics> {
  return context.remember("mask-fisher", async () => {
    const { model, calibration, report, signal } = context;
    const { layers } = model.config;
    const sums = layers.map((shape) => ({
      ffn: new Float32Array(shape.ffnChannels),
      queryHeads: new Float32Array(queryHeads(shape)),
      kvGroups: new Float32Array(shape.kvGroups),
    }));
    const ones = layers.map((shape): HostMasks => ({
      "ffn": new Float32Array(shape.ffnChannels).fill(1),
      "query-heads": new Float32Array(queryHeads(shape)).fill(1),
    }));
    const masks = uploadMasks(ones);
    try {
      for (const [i, window] of calibration.entries()) {
        await giveWay(signal);
        report(`mask gradients, sequence ${i + 1} of ${calibration.length}`);
        const { gradients } = await batchGradients({
          model,
          masks,
          windows: [window],
          weights: CROSS_ENTROPY,
          variables: masks.flatMap((layer) => [layer.ffn!, layer.queryHeads!]),
        });
        layers.forEach((shape, l) => {
          const [ffn, heads] = [at(gradients, 2 * l), at(gradients, 2 * l + 1)];
          const own = at(sums, l);
          for (const [u, g] of ffn.entries()) own.ffn[u] = at(own.ffn, u) + g * g;
          for (const [u, g] of heads.entries()) own.queryHeads[u] = at(own.queryHeads, u) + g * g;
          // A group's mask multiplies all of its heads, so its gradient is their sum.
          for (let g = 0; g < shape.kvGroups; g++) {
            const r = shape.queryHeadsPerGroup;
            const slope = heads.subarray(g * r, (g + 1) * r).reduce((a, b) => a + b, 0);
            own.kvGroups[g] = at(own.kvGroups, g) + slope * slope;
          }
        });
      }
    } finally {
      tf.dispose(masks.flatMap((layer) => Object.values(layer) as tf.Tensor[]));
    }
    return Object.fromEntries(
      sums.flatMap((layer, l) =>
        Object.entries(layer).map(([site, data]): [string, HostTensor] => [
          fisherName(l, site as keyof typeof layer),
          { shape: [data.length], data },
        ])
      ),
    );
  });
}

/** Metrics of all axes and layers from calibration, with redundancy or without: [axis][layer]. */
export async function calibratedMetrics(
  context: MethodContext<unknown>,
  axes: readonly UnitAxis[],
  redundancy: boolean,
): Promise<UnitMetric[][]> {
  const { model } = context;
  const fisher = await maskFisher(context);
  const wanda = await wandaScores(model, model.config, await inputStatistics(context));
  const orders = redundancy ? await removalOrders(context, "kfac") : null;
  return axes.map(({ type }) =>
    model.config.layers.map((_, l) =>
      createMetric(
        fisher[fisherName(l, UNITS[type].mask)]?.data ?? [],
        at(wanda, l)[UNITS[type].mask],
        orders?.[l]?.[UNITS[type].mask],
      )
    )
  );
}

async function wandaScores(
  model: DecoderModel,
  { layers, headSize }: DecoderConfig,
  statistics: readonly LayerStatistics[],
) {
  const columns = await columnScores(model, statistics, "WIFN");
  return layers.map((shape, l) => scoresOfColumns({ ...at(columns, l), shape, headSize }));
}

/** Arrays of a metric for a snapshot, by name. */
export function packMetric(metric: UnitMetric): Record<string, Float32Array> {
  const { prior, wanda, removal, squares, scale, base, count, redundancy } = metric;
  return { prior, wanda, removal, squares, scalars: Float32Array.of(scale, base, count, redundancy) };
}

/** The metric out of {@linkcode packMetric}. */
export function unpackMetric(read: (name: string) => Float32Array): UnitMetric {
  const [scale = 1, base = 0, count = 0, redundancy = 0] = read("scalars");
  const arrays = { prior: read("prior"), wanda: read("wanda"), removal: read("removal"), squares: read("squares") };
  return { ...arrays, scale, base, count, redundancy };
}
