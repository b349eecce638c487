/** Scores of the input columns of the output and down projections, from calibration statistics and weights.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { DecoderModel } from "../../models/device.ts";
import type { ObservedSite } from "../../models/layers.ts";
import { at } from "../../core/util/indexing.ts";
import type { LayerStatistics } from "./calibration.ts";
import { type SiteColumns, siteWeights } from "./scoring.ts";

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
      switch (metric) {
        case "WIFN":
          return weight * Math.sqrt(at(variance, j) + at(mean, j) ** 2);
        case "WIFV":
          return at(varying, j) * weight;
        case "IFV":
          return at(varying, j);
      }
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
