/** The order in which units are removed at the least cost: greedy removal by optimal brain surgeon. The inverse Gram
 * matrix is updated after each removal, so that a unit that others can replace goes before one that nothing replaces.
 *
 * With A the damped second moment of a map's inputs, removing the columns u of a unit while the columns that are left
 * make up for them costs `tr(E_uu ([A^-1]_uu)^-1)`, E = W S W^T (W [in, out]). S = I is the squared error of the
 * block's output (ZipLM: Kurtic, Frantar and Alistarh 2023, arXiv:2302.04089, eq. 2; SlimGPT: Ling et al. 2024,
 * arXiv:2412.18110). S the second moment of the loss's gradient there weighs each direction by its effect on the loss
 * (K-FAC). After each removal A^-1 is that of what is left.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { matMul2d } from "../../core/engine/ops.ts";
import { at } from "../../core/util/indexing.ts";
import type { MethodContext } from "../define.ts";
import { eachLayerFactors, type MapFactors, type RemovalError } from "./curvature.ts";
import { type DampedInverse, diagonalBlocks, invert, invertSmall, removeFromInverse, submatrix } from "./inverse.ts";
import type { LayerScores } from "./scoring.ts";
import { rememberLayers } from "./stored.ts";

/** Added to A's diagonal, as a fraction of its mean: calibration data determine no more. */
const DAMPING = 1e-2;

/** FFN channels that go before the inverse is updated (SlimGPT removes up to 1024 at once, ZipLM one). */
const CHANNELS_AT_ONCE = 16;

/** Units from the first to go to the last, and the cost of each when it goes. */
export interface RemovalOrder {
  /** [units]. */
  order: Int32Array;
  /** [units], in the order of removal. */
  cost: Float64Array;
  /** Times that rounding made an inverse indefinite, so that more was added to A's diagonal. */
  raises: number;
}

/** How {@linkcode removalOrder} goes through the units. */
export interface RemovalSteps {
  /** Columns of A that a unit has, in a row. */
  size: number;
  /** The cheapest units that go in each round. */
  atOnce?: number;
  /** Equal runs of units, of each of which the cheapest goes in a round. */
  segments?: number;
  /** Name of the units in errors. */
  what?: string;
}

/** Removes units until none is left.
 * @throws {NumericError} when A has an entry that is not a number. */
export async function removalOrder(
  factors: MapFactors,
  { size, atOnce = 1, segments = 1, what = "units" }: RemovalSteps,
): Promise<RemovalOrder> {
  const { a } = factors;
  const inputs = a.shape[0];
  const units = inputs / size;
  const energy = await unitEnergies(factors, size);
  const diagonal = await diagonalBlocks(a, 1);
  const name = `second moment of the inputs of ${what}`;
  // A floor keeps units that never fire from making the matrix singular.
  const ridge = Math.max(DAMPING * diagonal.reduce((x, y) => x + y, 0) / inputs, 1e-20);
  const columnsOf = (places: readonly number[]) =>
    places.flatMap((place) => Array.from({ length: size }, (_, k) => place * size + k));
  let current: DampedInverse = await invert(a, ridge, name);
  let left = Array.from({ length: units }, (_, unit) => unit);
  let raises = current.raises;
  /** Takes the inverse of what is left anew, with more on the diagonal. */
  const dampMore = async () => {
    current.inverse.dispose();
    const rest = submatrix(a, columnsOf(left));
    try {
      current = await invert(rest, 10 * current.ridge, name);
      raises += 1 + current.raises;
    } finally {
      rest.dispose();
    }
  };
  const order: number[] = [];
  const cost: number[] = [];
  try {
    while (left.length > 0) {
      const costs = removalCosts(await diagonalBlocks(current.inverse, size), energy, size, left);
      if (!costs) {
        await dampMore();
        continue;
      }
      const going = cheapest(left, costs, segments === 1 ? atOnce : 1, units / segments);
      for (const place of going) {
        order.push(at(left, place));
        cost.push(at(costs, place));
      }
      const gone = new Set(going);
      const stay = Array.from(left.keys()).filter((place) => !gone.has(place));
      left = stay.map((place) => at(left, place));
      if (stay.length === 0) break;
      const ascending = [...going].sort((x, y) => x - y);
      const inverse = await removeFromInverse(current.inverse, columnsOf(ascending), columnsOf(stay));
      if (!inverse) {
        await dampMore();
        continue;
      }
      current.inverse.dispose();
      current = { ...current, inverse };
    }
  } finally {
    current.inverse.dispose();
  }
  return { order: Int32Array.from(order), cost: Float64Array.from(cost), raises };
}

/** E_uu of every unit: [units, size, size]. */
async function unitEnergies({ weight, slopes }: MapFactors, size: number): Promise<Float32Array> {
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

/** `tr(E_uu ([A^-1]_uu)^-1)` of each unit that is left, from the diagonal blocks of A^-1; null when one is
 * indefinite. */
function removalCosts(
  blocks: Float32Array,
  energy: Float32Array,
  size: number,
  left: readonly number[],
): number[] | null {
  const area = size * size;
  const costs: number[] = [];
  for (const [place, unit] of left.entries()) {
    const own = energy.subarray(unit * area, (unit + 1) * area);
    if (size === 1) {
      const block = at(blocks, place);
      if (!(block > 0)) return null;
      costs.push(at(own, 0) / block);
      continue;
    }
    const inner = invertSmall(blocks.subarray(place * area, (place + 1) * area), size);
    if (!inner) return null;
    costs.push(inner.reduce((sum, value, i) => sum + value * at(own, i), 0));
  }
  return costs;
}

/** The three orders of one layer. */
export type LayerOrders = Record<keyof LayerScores, RemovalOrder>;

/** The removal orders of every layer, the same for all methods and levels of a run. Cost: O(F^3) for A^-1 and as much
 * for its updates, layer by layer; two matrices [F, F] are on the device at once. */
export async function removalOrders(context: MethodContext<unknown>, error: RemovalError): Promise<LayerOrders[]> {
  const { config: { layers, headSize } } = context.model;
  const stored = await rememberLayers(
    context,
    `removal orders, ${error} error`,
    () =>
      eachLayerFactors(context, error, async ({ output, down }, l) => {
        context.report(`removal order, layer ${l + 1} of ${layers.length}`);
        const { kvGroups: groups, queryHeadsPerGroup: perGroup } = at(layers, l);
        const what = (noun: string) => `${noun} of layer ${l}`;
        const ffn = await removalOrder(down, { size: 1, atOnce: CHANNELS_AT_ONCE, what: what("FFN channels") });
        const segments = perGroup === 1 ? 1 : groups;
        const queryHeads = await removalOrder(output, { size: headSize, segments, what: what("query heads") });
        // A group of one head is that head.
        const kvGroups = perGroup === 1
          ? queryHeads
          : await removalOrder(output, { size: headSize * perGroup, what: what("key/value groups") });
        return {
          "ffn.order": ffn.order,
          "ffn.cost": ffn.cost,
          "ffn.raises": [ffn.raises],
          "queryHeads.order": queryHeads.order,
          "queryHeads.cost": queryHeads.cost,
          "queryHeads.raises": [queryHeads.raises],
          "kvGroups.order": kvGroups.order,
          "kvGroups.cost": kvGroups.cost,
          // Counted once.
          "kvGroups.raises": [perGroup === 1 ? 0 : kvGroups.raises],
        };
      }),
  );
  return stored.map((own) => {
    const read = (type: keyof LayerScores): RemovalOrder => ({
      order: Int32Array.from(own[`${type}.order`]),
      cost: own[`${type}.cost`],
      raises: at(own[`${type}.raises`], 0),
    });
    return { ffn: read("ffn"), queryHeads: read("queryHeads"), kvGroups: read("kvGroups") };
  });
}

/** Scores whose ranking is the order of removal: the place at which a unit goes. */
export function orderScores({ ffn, queryHeads, kvGroups }: LayerOrders): LayerScores {
  const places = ({ order }: RemovalOrder) => {
    const scores = new Float64Array(order.length);
    for (const [place, unit] of order.entries()) scores[unit] = place;
    return scores;
  };
  return { ffn: places(ffn), queryHeads: places(queryHeads), kvGroups: places(kvGroups) };
}
