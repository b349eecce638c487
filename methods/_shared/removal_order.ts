/** The order in which units can go at the least cost: greedy removal by optimal brain surgeon with the inverse Gram matrix
 * updated, so that a unit that others can stand in for goes before one that nothing replaces.
 *
 * With A the damped second moment of a map's inputs, removing the columns u of a unit and letting the columns that are left
 * make up for them costs `tr(E_uu ([A^-1]_uu)^-1)`, E = W S W^T (W [in, out]): S = I is the squared error of the block's
 * output (ZipLM: Kurtic, Frantar and Alistarh 2023, arXiv:2302.04089, eq. 2; SlimGPT: Ling et al. 2024,
 * arXiv:2412.18110); S the second moment of the loss's gradient there weighs each direction by what the loss feels (K-FAC).
 * After each removal A^-1 is that of what is left.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { matMul2d } from "../../core/engine/ops.ts";
import type { LayerShape } from "../../models/units.ts";
import type { ObservedSite } from "../../models/layers.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { curvatureNames, factorMatrix, inputFactors, slopeFactors } from "./curvature.ts";
import { diagonalBlocks, invert, invertSmall, removeFromInverse } from "./inverse.ts";
import type { LayerScores } from "./scoring.ts";

/** What the cost of a removal is measured in: the block's output, or the loss. */
export type RemovalError = "plain" | "kfac";

/** Added to A's diagonal, as a fraction of its mean: calibration data determine no more. */
const DAMPING = 1e-2;

/** FFN channels that go before the inverse is updated (SlimGPT removes up to 1024 at once, ZipLM one). */
const CHANNELS_AT_ONCE = 16;

/** Units from the first to go to the last, and what each costs when it goes. */
export interface RemovalOrder {
  /** [units]. */
  order: Int32Array;
  /** [units], in the order of removal. */
  cost: Float64Array;
}

/** Removes units until none is left.
 *
 * a [in, in], weight [in, out], slopes [out, out] or null for S = I. A unit is `size` columns of `a` in a row. In each
 * round the `atOnce` cheapest units go, or, with `segments`, the cheapest of each of so many equal runs of units. */
export async function removalOrder(
  { a, weight, slopes, size, atOnce = 1, segments = 1 }: {
    a: tf.Tensor2D;
    weight: tf.Tensor2D;
    slopes: tf.Tensor2D | null;
    size: number;
    atOnce?: number;
    segments?: number;
  },
): Promise<RemovalOrder> {
  const inputs = a.shape[0];
  const units = inputs / size;
  const energy = await unitEnergies(weight, slopes, size);
  const diagonal = await diagonalBlocks(a, 1);
  // A floor keeps units that never fire from making the matrix singular.
  const ridge = Math.max(DAMPING * diagonal.reduce((x, y) => x + y, 0) / inputs, 1e-20);
  let inverse = await invert(a, ridge);
  let left = Array.from({ length: units }, (_, unit) => unit);
  const order: number[] = [];
  const cost: number[] = [];
  try {
    while (left.length > 0) {
      const blocks = await diagonalBlocks(inverse, size);
      const costs = left.map((unit, i) => removalCost(blocks, energy, { size, place: i, unit }));
      const going = cheapest(left, costs, segments === 1 ? atOnce : 1, units / segments);
      for (const place of going) {
        order.push(at(left, place));
        cost.push(at(costs, place));
      }
      const gone = new Set(going);
      const stay = Array.from(left.keys()).filter((place) => !gone.has(place));
      if (stay.length > 0) {
        const columns = (places: number[]) =>
          places.flatMap((place) => Array.from({ length: size }, (_, k) => place * size + k));
        inverse = await removeFromInverse(inverse, columns([...going].sort((x, y) => x - y)), columns(stay));
      }
      left = stay.map((place) => at(left, place));
    }
  } finally {
    inverse.dispose();
  }
  return { order: Int32Array.from(order), cost: Float64Array.from(cost) };
}

/** Places of the `count` lowest costs in each run of `run` units, lowest first; among equals the first. */
function cheapest(left: readonly number[], costs: readonly number[], count: number, run: number): number[] {
  const ranked = Array.from(left.keys()).sort((x, y) => at(costs, x) - at(costs, y) || x - y);
  const taken = new Map<number, number>();
  return ranked.filter((place) => {
    const segment = Math.floor(at(left, place) / run);
    const before = taken.get(segment) ?? 0;
    taken.set(segment, before + 1);
    return before < count;
  });
}

/** E_uu of every unit: [units, size, size]. */
export async function unitEnergies(
  weight: tf.Tensor2D,
  slopes: tf.Tensor2D | null,
  size: number,
): Promise<Float32Array> {
  const [inputs, outputs] = weight.shape;
  const energies = tf.tidy(() => {
    const weighted = slopes ? matMul2d(weight, slopes) : weight;
    if (size === 1) return tf.sum(tf.mul(weighted, weight), 1);
    const rows = (m: tf.Tensor, u: number) => tf.slice(m as tf.Tensor2D, [u * size, 0], [size, outputs]);
    return tf.stack(
      Array.from({ length: inputs / size }, (_, u) => matMul2d(rows(weighted, u), rows(weight, u), false, true)),
    );
  });
  try {
    return await energies.data() as Float32Array;
  } finally {
    energies.dispose();
  }
}

/** `tr(E_uu ([A^-1]_uu)^-1)` of the unit at one place of what is left. */
function removalCost(
  blocks: Float32Array,
  energy: Float32Array,
  { size, place, unit }: { size: number; place: number; unit: number },
): number {
  const area = size * size;
  if (size === 1) return at(energy, unit) / at(blocks, place);
  const inner = invertSmall(blocks.subarray(place * area, (place + 1) * area), size);
  const own = energy.subarray(unit * area, (unit + 1) * area);
  return inner.reduce((sum, value, i) => sum + value * at(own, i), 0);
}

/** The three orders of one layer. */
export type LayerOrders = Record<keyof LayerScores, RemovalOrder>;

const TYPES = ["ffn", "queryHeads", "kvGroups"] as const;
const orderName = (layer: number, type: keyof LayerScores, what: keyof RemovalOrder) => `${layer}.${type}.${what}`;

/** The removal orders of every layer, the same for all methods and levels of a run. Cost: O(F^3) for A^-1 and as much for
 * its updates, layer by layer; two matrices [F, F] are on the device at once. */
export async function removalOrders(context: MethodContext<unknown>, error: RemovalError): Promise<LayerOrders[]> {
  const { model: { config }, report, signal } = context;
  const stored = await context.remember(`removal orders, ${error} error`, async () => {
    const a = await inputFactors(context);
    const s = error === "kfac" ? await slopeFactors(context) : null;
    const statistics: Statistics = {};
    for (const [l, shape] of config.layers.entries()) {
      await giveWay(signal);
      report(`removal order, layer ${l + 1} of ${config.layers.length}`);
      const orders = await layerOrders(context, { layer: l, shape, a, s });
      for (const type of TYPES) {
        for (const what of ["order", "cost"] as const) {
          const data = Float32Array.from(orders[type][what]);
          statistics[orderName(l, type, what)] = { shape: [data.length], data };
        }
      }
    }
    return statistics;
  });
  return config.layers.map((_, l) => {
    const read = (type: keyof LayerScores): RemovalOrder => ({
      order: Int32Array.from(stored[orderName(l, type, "order")]?.data ?? []),
      cost: Float64Array.from(stored[orderName(l, type, "cost")]?.data ?? []),
    });
    return { ffn: read("ffn"), queryHeads: read("queryHeads"), kvGroups: read("kvGroups") };
  });
}

async function layerOrders(
  { model }: MethodContext<unknown>,
  { layer, shape, a, s }: { layer: number; shape: LayerShape; a: Statistics; s: Statistics | null },
): Promise<LayerOrders> {
  const { headSize } = model.config;
  const weights = at(model.layers, layer);
  const given = (site: ObservedSite) => ({
    a: factorMatrix(a, curvatureNames.inputs(layer, site)),
    slopes: s && factorMatrix(s, curvatureNames.slopes(layer, site)),
  });
  const [output, down] = [given("output"), given("down")];
  const [outputWeight, downWeight] = [denseMatrix(weights.output.weight), denseMatrix(weights.down.weight)];
  try {
    const heads = { ...output, weight: outputWeight };
    const isMultiHead = shape.queryHeadsPerGroup === 1;
    const byHead = await removalOrder({ ...heads, size: headSize, segments: isMultiHead ? 1 : shape.kvGroups });
    return {
      ffn: await removalOrder({ ...down, weight: downWeight, size: 1, atOnce: CHANNELS_AT_ONCE }),
      queryHeads: byHead,
      // A group of one head is that head.
      kvGroups: isMultiHead ? byHead : await removalOrder({ ...heads, size: headSize * shape.queryHeadsPerGroup }),
    };
  } finally {
    tf.dispose([
      outputWeight,
      downWeight,
      output.a,
      down.a,
      ...output.slopes ? [output.slopes] : [],
      ...down.slopes ? [down.slopes] : [],
    ]);
  }
}

/** Scores whose ranking is the order of removal: the place at which a unit goes. */
export function orderScores(orders: readonly LayerOrders[]): LayerScores[] {
  const places = ({ order }: RemovalOrder) => {
    const scores = new Float64Array(order.length);
    for (const [place, unit] of order.entries()) scores[unit] = place;
    return scores;
  };
  return orders.map(({ ffn, queryHeads, kvGroups }) => ({
    ffn: places(ffn),
    queryHeads: places(queryHeads),
    kvGroups: places(kvGroups),
  }));
}
