/** From numbers per weight or per activation column to one score per unit. How many units stay is not decided here.
 *
 * Shape legend: H query heads, G key/value groups, R = H / G, K head size, F FFN channels, D width.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at, entry } from "../../core/util/indexing.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { type DecoderConfig, LINEAR_NAMES, type LinearName, writesResidual } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import type { DecoderModel } from "../../models/device.ts";
import type { ObservedSite } from "../../models/layers.ts";
import { eachLayer } from "../../models/layerwise.ts";
import { readFlat } from "../../core/engine/ops.ts";

/** What messages about bad values name. */
const WEIGHTS = "weights of the model";

/** Scores of one layer's units; higher is kept. */
export interface LayerScores {
  /** [F]. */
  ffn: Float64Array;
  /** [H]. */
  queryHeads: Float64Array;
  /** [G]: a key/value head together with its query heads. */
  kvGroups: Float64Array;
}

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

/** Slot scores of every layer from the weights alone: `score` maps a weight `[in, out]` elementwise. */
export async function weightSlots(
  model: DecoderModel,
  score: (weight: tf.Tensor2D) => tf.Tensor,
): Promise<SlotScores[]> {
  const values = await eachLayer(
    model,
    (layer) =>
      readFlat(
        LINEAR_NAMES.map((name) => tf.tidy(() => slotSums(name, score(denseMatrix(layer[name].weight))))),
        WEIGHTS,
      ),
  );
  return values.map((own) =>
    Object.fromEntries(LINEAR_NAMES.map((name, i) => [name, own[i]])) as Record<LinearName, Float32Array>
  );
}

/** One number per input column of the output and down projections: [H K] and [F]. */
export type SiteColumns = Record<ObservedSite, Float32Array>;

/** Per layer, what `reduce` makes of the output and down weights: `[in, out]` -> [in]. */
export async function siteWeights(
  model: DecoderModel,
  reduce: (weight: tf.Tensor2D) => tf.Tensor,
): Promise<SiteColumns[]> {
  const values = await eachLayer(
    model,
    (layer) =>
      readFlat([layer.output, layer.down].map(({ weight }) => tf.tidy(() => reduce(denseMatrix(weight)))), WEIGHTS),
  );
  return values.map((own) => ({ output: at(own, 0), down: at(own, 1) }));
}

/** Names of stored scores: f32 [F], [H], [G]. */
const storedName = (estimator: string, layer: number, unit: keyof LayerScores) => `${estimator}.${layer}.${unit}`;
const STORED_UNITS = ["ffn", "queryHeads", "kvGroups"] as const;

/** Scores of one layer as named arrays, for `MethodContext.remember`. */
export function packScores(
  estimator: string,
  layer: number,
  scores: LayerScores,
): Record<string, { shape: number[]; data: Float32Array }> {
  return Object.fromEntries(STORED_UNITS.map((unit) => [storedName(estimator, layer, unit), {
    shape: [scores[unit].length],
    data: Float32Array.from(scores[unit]),
  }]));
}

/** The scores of all layers out of {@linkcode packScores}. */
export function unpackScores(
  estimator: string,
  config: DecoderConfig,
  statistics: Record<string, { data: Float32Array }>,
): LayerScores[] {
  return config.layers.map((_, l) =>
    Object.fromEntries(
      STORED_UNITS.map((unit) => [unit, Float64Array.from(entry(statistics, storedName(estimator, l, unit)).data)]),
    ) as unknown as LayerScores
  );
}
