/** Contribution: a unit is worth the energy it adds to the residual stream.
 *
 * Paper: An et al. 2023, arXiv:2312.11983 (FLAP), section 3.2: its WIFV without the centring, so that a channel that is
 * large and constant counts too.
 *
 * Shapes: for each input column j of the output and down projections W `[out, in]`, e_j = sum_i W_ij^2 mean(x_j^2) over
 * calibration tokens, the mean squared norm of what the column adds: [L][H K] and [L][F]. A head's score is the sum over
 * its K columns, a key/value group's the sum over its heads.
 *
 * Cost: one forward pass over calibration. Deviations from the paper: the mean is not subtracted, no bias makes up for
 * what is removed, and every layer has the same width.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { z } from "zod";
import {
  at,
  defineMethod,
  entry,
  inputStatisticNames,
  inputStatistics,
  keepBest,
  type Method,
  scoresOfColumns,
  siteWeights,
} from "@maskprune/bench/method";

/** Removes the units that add the least energy. */
export const contribution: Method = defineMethod({
  id: "contribution",
  summary: "Removes the units that add the least energy to the residual stream, the same number in every layer",
  source: "after An et al. 2023, arXiv:2312.11983, section 3.2",
  kind: "one-shot",
  needs: { calibration: true },
  layerwise: true,
  options: z.strictObject({
    root: z.boolean().default(false).describe(
      "score by the root of the energy, which ranks heads by their sum of roots",
    ),
  }),
  uniformLayers: () => true,
  async prune(context) {
    const { model, target, options: { root } } = context;
    const { layers, headSize } = model.config;
    const statistics = await inputStatistics(context);
    // [in] per site: the sum of squares of each column of W.
    const squares = await siteWeights(model, (weight) => tf.sum(tf.square(weight), 1));
    const energy = (layer: number, site: "output" | "down") => {
      const { data: mean } = entry(statistics, inputStatisticNames.mean(layer, site));
      const { data: variance } = entry(statistics, inputStatisticNames.variance(layer, site));
      const values = Float64Array.from(at(squares, layer)[site], (w, j) => w * (at(variance, j) + at(mean, j) ** 2));
      return root ? values.map(Math.sqrt) : values;
    };
    const scores = layers.map((shape, l) =>
      scoresOfColumns({ output: energy(l, "output"), down: energy(l, "down"), shape, headSize })
    );
    return { plan: keepBest(scores, target) };
  },
});
