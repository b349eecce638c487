/** The order in which units are removed at the least cost: greedy removal by optimal brain surgeon. Replaceable units are
 * removed first.
 *
 * With A the damped second moment of a map's inputs, removing the columns u of a unit while the remaining columns
 * compensate costs `tr(E_uu ([A^-1]_uu)^-1)`, E = W S W^T (W [in, out]). S = I is the squared error of the block's
 * output (ZipLM: Kurtic, Frantar and Alistarh 2023, arXiv:2302.04089, eq. 2; SlimGPT: Ling et al. 2024,
 * arXiv:2412.18110). With S the second moment of the loss's gradient at that output, each direction is weighted by its
 * effect on the loss (K-FAC). After each removal, A^-1 and W are updated to the remaining columns, as in ZipLM.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { matMul2d, readFlat } from "../../core/engine/ops.ts";
import { at, entry } from "../../core/util/indexing.ts";
import type { DecoderModel } from "../../models/device.ts";
import type { ObservedSite } from "../../models/layers.ts";
import { gramMatrices, gramName } from "../../models/training/least_squares.ts";
import type { MethodContext } from "../define.ts";
import type { LayerScores } from "../_shared/scoring.ts";
import { rememberLayers } from "../_shared/calibration.ts";
import { slopeFactors } from "./curvature.ts";
import { type DampedInverse, diagonalBlocks, invert, invertSmall, removeFromInverse, submatrix } from "./inverse.ts";

/** What the cost of a removal is measured in: the block's output, or the loss. */
export type RemovalError = "plain" | "kfac";

/** A map's weight, [in, out], and its factors: A, [in, in], and S, [out, out], or null for the identity. */
export interface MapFactors {
  a: tf.Tensor2D;
  weight: tf.Tensor2D;
  slopes: tf.Tensor2D | null;
}

/** Added to A's diagonal, as a fraction of its mean: calibration data determine no more. */
const DAMPING = 1e-2;

/** FFN channels that go before the inverse is updated (SlimGPT removes up to 1024 at once, ZipLM one). */
const CHANNELS_AT_ONCE = 16;

/** Units in the order of removal, and the cost of each removal. */
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
  const { a, weight, slopes } = factors;
  const inputs = a.shape[0];
  const units = inputs / size;
  const diagonal = await diagonalBlocks(a, 1);
  const name = `second moment of the inputs of ${what}`;
  // A floor keeps units that never fire from making the matrix singular.
  const ridge = Math.max(DAMPING * diagonal.reduce((x, y) => x + y, 0) / inputs, 1e-20);
  const columnsOf = (places: readonly number[]) =>
    places.flatMap((place) => Array.from({ length: size }, (_, k) => place * size + k));
  let current: DampedInverse = await invert(a, ridge, name);
  // W, and W S where S is not the identity.
  let weights = [tf.clone(weight), ...slopes ? [matMul2d(weight, slopes)] : []];
  let left = Array.from({ length: units }, (_, unit) => unit);
  let raises = current.raises;
  /** Recomputes the inverse of the remaining columns with a larger diagonal. */
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
  const [order, cost]: [number[], number[]] = [[], []];
  try {
    while (left.length > 0) {
      const costs = removalCosts(await diagonalBlocks(current.inverse, size), await unitEnergies(weights, size), size);
      if (!costs) {
        await dampMore();
        continue;
      }
      const going = cheapest(left, costs, segments === 1 ? atOnce : 1, units / segments);
      order.push(...going.map((place) => at(left, place)));
      cost.push(...going.map((place) => at(costs, place)));
      const gone = new Set(going);
      const stay = Array.from(left.keys()).filter((place) => !gone.has(place));
      left = stay.map((place) => at(left, place));
      if (stay.length === 0) break;
      const ascending = [...going].sort((x, y) => x - y);
      const places = { removed: columnsOf(ascending), kept: columnsOf(stay) };
      const rest = await removeFromInverse(current.inverse, weights, places);
      // Without an inverse, nothing makes up for these columns.
      const next = rest?.weights ?? weights.map((own) => tf.gather(own, places.kept));
      tf.dispose(weights);
      weights = next;
      if (rest) {
        current.inverse.dispose();
        current = { ...current, inverse: rest.inverse };
      } else await dampMore();
    }
  } finally {
    tf.dispose([current.inverse, ...weights]);
  }
  return { order: Int32Array.from(order), cost: Float64Array.from(cost), raises };
}

/** E_uu of every unit, from W and W S: [units, size, size]. */
async function unitEnergies(weights: tf.Tensor2D[], size: number): Promise<Float32Array> {
  const weight = at(weights, 0);
  const weighted = weights[1] ?? weight;
  const [inputs, outputs] = weight.shape;
  const energies = tf.tidy(() => {
    if (size === 1) return tf.sum(tf.mul(weighted, weight), 1);
    const rows = (m: tf.Tensor, u: number) => tf.slice(m as tf.Tensor2D, [u * size, 0], [size, outputs]);
    return tf.stack(
      Array.from({ length: inputs / size }, (_, u) => matMul2d(rows(weighted, u), rows(weight, u), false, true)),
    );
  });
  return at(await readFlat([energies], "squared errors of removals"), 0);
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

/** `tr(E_uu ([A^-1]_uu)^-1)` of each unit that is left, from the diagonal blocks of A^-1 and E; null when one is
 * indefinite. */
function removalCosts(blocks: Float32Array, energies: Float32Array, size: number): number[] | null {
  const area = size * size;
  const costs: number[] = [];
  for (let place = 0; place < blocks.length / area; place++) {
    const own = energies.subarray(place * area, (place + 1) * area);
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

/** Scores of one layer whose ranking is the order of removal: the place at which a unit is removed. */
export interface RemovalScores extends LayerScores {
  /** See {@linkcode RemovalOrder}; one number. */
  raises: Float64Array;
}

function placesOf({ order }: RemovalOrder): Float64Array {
  const places = new Float64Array(order.length);
  for (const [place, unit] of order.entries()) places[unit] = place;
  return places;
}

/** The removal scores of one layer's units that one map reads, from A of its inputs, [in, in], and S of its outputs, [D, D].
 * The others of that layer are empty. */
export async function mapScores(
  { config, layers }: DecoderModel,
  l: number,
  site: ObservedSite,
  { gram, slopes }: { gram: Float32Array; slopes?: Float32Array | undefined },
): Promise<RemovalScores> {
  const { headSize, width } = config;
  const { kvGroups: groups, queryHeadsPerGroup: perGroup } = at(config.layers, l);
  const inputs = Math.sqrt(gram.length);
  const factors: MapFactors = {
    a: tf.tensor2d(gram, [inputs, inputs]),
    weight: denseMatrix(at(layers, l)[site].weight),
    slopes: slopes ? tf.tensor2d(slopes, [width, width]) : null,
  };
  const order = (noun: string, steps: RemovalSteps) =>
    removalOrder(factors, { ...steps, what: `${noun} of layer ${l}` });
  const none = new Float64Array();
  try {
    if (site === "down") {
      const ffn = await order("FFN channels", { size: 1, atOnce: CHANNELS_AT_ONCE });
      return { ffn: placesOf(ffn), queryHeads: none, kvGroups: none, raises: Float64Array.of(ffn.raises) };
    }
    const heads = await order("query heads", { size: headSize, segments: perGroup === 1 ? 1 : groups });
    // A group of one head is that head.
    const kvGroups = perGroup === 1 ? heads : await order("key/value groups", { size: headSize * perGroup });
    const raises = heads.raises + (kvGroups === heads ? 0 : kvGroups.raises);
    const [headPlaces, groupPlaces] = [placesOf(heads), placesOf(kvGroups)];
    return { ffn: none, queryHeads: headPlaces, kvGroups: groupPlaces, raises: Float64Array.of(raises) };
  } finally {
    tf.dispose([factors.a, factors.weight, ...factors.slopes ? [factors.slopes] : []]);
  }
}

/** The removal scores of every layer on statistics of the dense model, the same for all levels of a run. A is the Gram
 * matrix that least-squares compensation uses too. Cost: O(F^3) for A^-1 and as much for its updates, layer by layer; two
 * matrices [F, F] are on the device at once, and 4 F^2 + 4 (H K)^2 bytes a layer in host memory and in the cache (552 MB
 * for a 7 B model). */
export function removalScores(context: MethodContext<unknown>, error: RemovalError): Promise<RemovalScores[]> {
  const { model, calibration, report, signal, remember } = context;
  return rememberLayers(context, `removal scores, ${error} error`, async () => {
    const gram = await remember("gram matrices", () => gramMatrices(model, calibration, { report, signal }), true);
    const slopes = error === "kfac" ? await slopeFactors(context) : null;
    const scores: RemovalScores[] = [];
    for (const l of model.config.layers.keys()) {
      await giveWay(signal);
      report(`removal order, layer ${l + 1} of ${model.config.layers.length}`);
      const scoresOf = (site: ObservedSite) =>
        mapScores(model, l, site, { gram: entry(gram, gramName(l, site)).data, slopes: slopes?.[l]?.[site] });
      const { raises, ...attention } = await scoresOf("output");
      const { ffn, raises: ofFfn } = await scoresOf("down");
      scores.push({ ...attention, ffn, raises: raises.map((count) => count + at(ofFfn, 0)) });
    }
    return scores;
  });
}
