/** Contribution: scores a unit by the energy that it adds to the residual stream.
 *
 * Paper: An et al. 2023, arXiv:2312.11983 (FLAP), section 3.2: WIFV without the centring, so that large constant
 * channels count too.
 *
 * Shapes: for each input column j of the output and down projections, with weight W `[in, out]`, the score is `sum_i
 * W_ji^2 mean(x_j^2)` over calibration tokens: [L][H K] and [L][F]. A head's score is the sum over its K columns.
 *
 * Cost: one forward pass over calibration. Deviations from the paper: the mean is not subtracted, no bias replaces
 * removed units, and every layer has the same width.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { z } from "zod";
import { at, defineMethod, inputStatistics, keepBest, scoresOfColumns, siteWeights } from "@maskprune/bench/method";
import type { Method, ObservedSite } from "@maskprune/bench/method";

/** Removes the units that add the least energy. */
export const contribution: Method = defineMethod({
  id: "contribution",
  version: 1,
  summary: "Removes the units that add the least energy to the residual stream, the same number in every layer",
  source: "after An et al. 2023, arXiv:2312.11983, section 3.2",
  kind: "one-shot",
  needs: { calibration: true },
  layerwise: true,
  options: z.strictObject({}),
  uniformLayers: () => true,
  async prune(context) {
    const { model, target } = context;
    const statistics = await inputStatistics(context);
    // Weights are [in, out]: the sum over axis 1 leaves one number per input column.
    const squares = await siteWeights(model, (weight) => tf.sum(tf.square(weight), 1));
    const scores = model.config.layers.map((shape, l) => {
      const energy = (site: ObservedSite) => {
        const { mean, variance } = at(statistics, l)[site];
        return at(squares, l)[site].map((square, j) => square * (at(variance, j) + at(mean, j) ** 2));
      };
      return scoresOfColumns({
        output: energy("output"),
        down: energy("down"),
        shape,
        headSize: model.config.headSize,
      });
    });
    return { plan: keepBest(scores, target) };
  },
});
