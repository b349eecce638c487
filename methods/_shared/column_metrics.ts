/** Scores of the input columns of the output and down projections, from calibration statistics and weights.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { DecoderModel, ObservedSite } from "../../models/decoder.ts";
import type { Statistics } from "../define.ts";
import { inputStatisticNames } from "./calibration.ts";
import { siteWeights } from "./scoring.ts";

/** Metrics of a column j of W `[out, in]` with input x_j:
 * `WIFN` mean_i |W_ij| sqrt(mean x_j^2); `IFV` var x_j; `WIFV` var x_j sum_i W_ij^2. */
export const COLUMN_METRICS = ["WIFV", "WIFN", "IFV"] as const;
/** One of {@linkcode COLUMN_METRICS}. */
export type ColumnMetric = (typeof COLUMN_METRICS)[number];

/** f64 [H K] and [F] of one layer. */
export type LayerColumns = Record<ObservedSite, Float64Array>;

/** Column scores of every layer; `statistics` are those of `inputStatistics`. */
export async function columnScores(
  model: DecoderModel,
  statistics: Statistics,
  metric: ColumnMetric,
): Promise<LayerColumns[]> {
  const weights = await siteWeights(
    model,
    (weight) => metric === "WIFN" ? tf.mean(tf.abs(weight), 1) : tf.sum(tf.square(weight), 1),
  );
  return model.config.layers.map((_, l) => {
    const columns = (site: ObservedSite) => {
      const mean = statistics[inputStatisticNames.mean(l, site)].data;
      const variance = statistics[inputStatisticNames.variance(l, site)].data;
      const weight = weights[l][site];
      return Float64Array.from(variance, (v, j) => {
        switch (metric) {
          case "WIFN":
            return weight[j] * Math.sqrt(v + mean[j] * mean[j]);
          case "WIFV":
            return v * weight[j];
          case "IFV":
            return v;
        }
      });
    };
    return { output: columns("output"), down: columns("down") };
  });
}
