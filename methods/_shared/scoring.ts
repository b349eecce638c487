/** From numbers per weight or per activation column to one score per unit.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { LINEAR_NAMES, type LinearName, writesResidual, WRITING_NAMES } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import type { DecoderModel } from "../../models/device.ts";
import type { ObservedSite } from "../../models/layers.ts";
import { eachLayer } from "../../models/layerwise.ts";
import { readFlat } from "../../core/engine/ops.ts";
import type { LayerStatistics } from "./calibration.ts";

/** Scores of one layer's units; higher is kept. */
export interface LayerScores {
  /** [F]. */
  ffn: Float64Array;
  /** [H]. */
  queryHeads: Float64Array;
  /** [G]: a key/value head together with its query heads. */
  kvGroups: Float64Array;
}

/** Scores of one layer from those of each type. */
export const layerScores = (make: (type: UnitType) => Float64Array): LayerScores => ({
  ffn: make("ffn"),
  queryHeads: make("query-heads"),
  kvGroups: make("kv-groups"),
});

/** How the columns of a head become its score. */
export type HeadReduction = "sum" | "mean";

/** Reduces runs of `size` values: [n size] -> [n]. */
export function reduceRuns(values: ArrayLike<number>, size: number, reduction: HeadReduction = "sum"): Float64Array {
  const reduced = Float64Array.from({ length: values.length / size }, (_, run) => {
    let sum = 0;
    for (let i = run * size; i < (run + 1) * size; i++) sum += at(values, i);
    return sum;
  });
  return reduction === "sum" ? reduced : reduced.map((sum) => sum / size);
}

/** Scores from one number per input column of the output projection [H K] and of the down projection [F]. */
export function scoresOfColumns(
  { output, down, shape, headSize, reduction = "sum" }: {
    output: ArrayLike<number>;
    down: ArrayLike<number>;
    shape: LayerShape;
    headSize: number;
    reduction?: HeadReduction;
  },
): LayerScores {
  const queryHeads = reduceRuns(output, headSize, reduction);
  return {
    ffn: Float64Array.from(down),
    queryHeads,
    kvGroups: reduceRuns(queryHeads, shape.queryHeadsPerGroup, reduction),
  };
}

/** Slot scores of the seven linear maps of a layer: a slot is an output feature of query, key, value, gate and up
 * ([H K], [G K], [G K], [F], [F]) and an input feature of output and down ([H K], [F]). */
export type SlotScores = Record<LinearName, ArrayLike<number>>;

/** Scores of dependency groups: the slot scores of every matrix a unit takes with it, summed.
 *
 * A query head owns slots of query and output; a key/value group owns its query heads and slots of key and value. In
 * multi-head attention (R = 1) that is the head of LLM-Pruner: query, key, value and output. */
export function scoresOfGroups(slots: SlotScores, shape: LayerShape, headSize: number): LayerScores {
  const add = (first: ArrayLike<number>, ...others: ArrayLike<number>[]) =>
    Float64Array.from(first, (value, i) => others.reduce((sum, part) => sum + at(part, i), value));
  const queryHeads = reduceRuns(add(slots.query, slots.output), headSize);
  return {
    ffn: add(slots.gate, slots.up, slots.down),
    queryHeads,
    kvGroups: add(
      reduceRuns(queryHeads, shape.queryHeadsPerGroup),
      reduceRuns(slots.key, headSize),
      reduceRuns(slots.value, headSize),
    ),
  };
}

/** Sum over the other axis of each slot: [in, out] -> [in] for output and down, [out] for the others. */
export function slotSums(name: LinearName, x: tf.Tensor): tf.Tensor1D {
  return tf.sum(x, writesResidual(name) ? 1 : 0);
}

/** Per layer and linear map of `names`, what `reduce` makes of the weight `[in, out]`. */
async function layerWeights<Name extends LinearName>(
  model: DecoderModel,
  names: readonly Name[],
  reduce: (weight: tf.Tensor2D, name: Name) => tf.Tensor,
): Promise<Record<Name, Float32Array>[]> {
  return await eachLayer(model, async (layer) => {
    const reduced = names.map((name) => tf.tidy(() => reduce(denseMatrix(layer[name].weight), name)));
    const values = await readFlat(reduced, "weights of the model");
    return Object.fromEntries(names.map((name, i) => [name, values[i]])) as Record<Name, Float32Array>;
  });
}

/** Slot scores of every layer from the weights alone: `score` maps a weight `[in, out]` elementwise. */
export function weightSlots(model: DecoderModel, score: (weight: tf.Tensor2D) => tf.Tensor): Promise<SlotScores[]> {
  return layerWeights(model, LINEAR_NAMES, (weight, name) => slotSums(name, score(weight)));
}

/** One number per input column of the output and down projections: [H K] and [F]. */
export type SiteColumns = Record<ObservedSite, Float32Array>;

/** Per layer, what `reduce` makes of the output and down weights: `[in, out]` -> [in]. */
export function siteWeights(model: DecoderModel, reduce: (weight: tf.Tensor2D) => tf.Tensor): Promise<SiteColumns[]> {
  return layerWeights(model, WRITING_NAMES, reduce);
}

/** Metrics of a column j of a checkpoint's W `[out, in]` with input x_j: `WIFN` mean_i |W_ij| sqrt(mean x_j^2); `IFV`
 * var x_j; `WIFV` var x_j sum_i W_ij^2, with the variance, or FLAP's fluctuation in its place. */
export const COLUMN_METRICS = ["WIFV", "WIFN", "IFV"] as const;
/** One of {@linkcode COLUMN_METRICS}. */
export type ColumnMetric = (typeof COLUMN_METRICS)[number];

/** f64 [H K] and [F] of one layer. */
export type LayerColumns = Record<ObservedSite, Float64Array>;

/** Of every layer, the factor of `metric` that comes from each column's weights: mean_i |W_ij| for WIFN, sum_i W_ij^2
 * for the others. */
export function columnWeights(model: DecoderModel, metric: ColumnMetric): Promise<SiteColumns[]> {
  return siteWeights(model, (weight) => metric === "WIFN" ? tf.mean(tf.abs(weight), 1) : tf.sum(tf.square(weight), 1));
}

/** What measures how much a column varies; see {@linkcode SiteStatistics}. */
export type Spread = "variance" | "fluctuation";

/** Column scores of one layer, from its {@linkcode columnWeights} and its statistics. */
export function scoresOfLayer(
  weights: SiteColumns,
  statistics: LayerStatistics,
  metric: ColumnMetric,
  spread: Spread = "variance",
): LayerColumns {
  const columns = (site: ObservedSite) => {
    const { mean, variance, [spread]: varying } = statistics[site];
    return Float64Array.from(weights[site], (weight, j) => {
      if (metric === "WIFN") return weight * Math.sqrt(at(variance, j) + at(mean, j) ** 2);
      return at(varying, j) * (metric === "WIFV" ? weight : 1);
    });
  };
  return { output: columns("output"), down: columns("down") };
}

/** Column scores of every layer; `statistics` are those of `inputStatistics`. */
export async function columnScores(
  model: DecoderModel,
  statistics: readonly LayerStatistics[],
  metric: ColumnMetric,
  spread?: Spread,
): Promise<LayerColumns[]> {
  const weights = await columnWeights(model, metric);
  return statistics.map((own, l) => scoresOfLayer(at(weights, l), own, metric, spread));
}
