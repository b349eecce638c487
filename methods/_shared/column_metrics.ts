/** Scores of the input columns of the output and down projections, from calibration statistics and weights.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { DecoderModel } from "../../models/device.ts";
import type { ObservedSite } from "../../models/layers.ts";
import type { Statistics } from "../define.ts";
import { at } from "../../core/util/indexing.ts";
import { inputStatisticNames, statisticOf } from "./calibration.ts";
import { type SiteColumns, siteWeights } from "./scoring.ts";

/** Metrics of a column j of W `[out, in]` with input x_j:
 * `WIFN` mean_i |W_ij| sqrt(mean x_j^2); `IFV` var x_j; `WIFV` var x_j sum_i W_ij^2, with the variance or what FLAP's code
 * has in its place. */
export const COLUMN_METRICS = ["WIFV", "WIFN", "IFV"] as const;
/** One of {@linkcode COLUMN_METRICS}. */
export type ColumnMetric = (typeof COLUMN_METRICS)[number];

/** f64 [H K] and [F] of one layer. */
export type LayerColumns = Record<ObservedSite, Float64Array>;

/** Of every layer, what `metric` takes of each column's weights: mean_i |W_ij| for WIFN, sum_i W_ij^2 for the others. */
export function columnWeights(model: DecoderModel, metric: ColumnMetric): Promise<SiteColumns[]> {
  return siteWeights(
    model,
    (weight) => metric === "WIFN" ? tf.mean(tf.abs(weight), 1) : tf.sum(tf.square(weight), 1),
  );
}

/** How {@linkcode columnScores} and {@linkcode scoresOfLayer} measure how much a column varies. */
export type Spread = "variance" | "fluctuation";

/** Column scores of layer `l`, from its weights by site and its statistics. */
export function scoresOfLayer(
  l: number,
  weights: SiteColumns,
  statistics: Statistics,
  metric: ColumnMetric,
  spread: Spread = "variance",
): LayerColumns {
  const columns = (site: ObservedSite) => {
    const read = (name: keyof typeof inputStatisticNames) => statisticOf(statistics, name, l, site);
    const weight = weights[site];
    switch (metric) {
      case "WIFN": {
        const [mean, variance] = [read("mean"), read("variance")];
        return Float64Array.from(weight, (w, j) => w * Math.sqrt(at(variance, j) + at(mean, j) ** 2));
      }
      case "WIFV": {
        const varying = read(spread);
        return Float64Array.from(weight, (w, j) => at(varying, j) * w);
      }
      case "IFV":
        return Float64Array.from(read(spread));
    }
  };
  return { output: columns("output"), down: columns("down") };
}

/** Column scores of every layer; `statistics` are those of `inputStatistics`. */
export async function columnScores(
  model: DecoderModel,
  statistics: Statistics,
  metric: ColumnMetric,
  spread?: Spread,
): Promise<LayerColumns[]> {
  const weights = await columnWeights(model, metric);
  return weights.map((own, l) => scoresOfLayer(l, own, statistics, metric, spread));
}
