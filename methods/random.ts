/** Random pruning: the lower bound for every other method.
 *
 * Paper: the "Random" rows of Ma et al. 2023, arXiv:2305.11627 (LLM-Pruner), table 1. Shapes: one uniform score in [0,
 * 1) per unit, ffn [L][F], query heads [L][H], key/value groups [L][G]; higher is kept. Cost: none. Deviations from the
 * authors' code: one number per unit, where it draws one per row and sums them. Either way all choices of the units of
 * a layer are equally likely. Every layer has the same width unless `keepFirst` and `keepLast` leave some whole, as in
 * the paper's tables.
 *
 * @module
 */
import { z } from "zod";
import { queryHeads } from "../models/units.ts";
import { defineMethod, type Method } from "./define.ts";
import { keepWidths, keptLayers, prunesAllLayers, rangeWidths } from "./_shared/selection.ts";

/** Removes units at random. The draw does not depend on the sparsity: units removed at a low level are also removed at
 * a higher one. */
export const random: Method = defineMethod({
  id: "random",
  version: 1,
  summary: "Removes units at random, the same number in every layer",
  source: "Ma et al. 2023, arXiv:2305.11627, table 1 (Random)",
  display: { order: 1, colour: "#8C6D31" },
  kind: "one-shot",
  needs: { calibration: false },
  layerwise: true,
  options: z.strictObject(keptLayers),
  uniformLayers: prunesAllLayers,
  check: rangeWidths,
  prune({ model, target, rng, options }) {
    const draw = (count: number, stream: string) => {
      const { uniform } = rng(stream);
      return Float64Array.from({ length: count }, uniform);
    };
    const scores = model.config.layers.map((shape, l) => ({
      ffn: draw(shape.ffnChannels, `ffn ${l}`),
      queryHeads: draw(queryHeads(shape), `query heads ${l}`),
      kvGroups: draw(shape.kvGroups, `key/value groups ${l}`),
    }));
    return Promise.resolve({ plan: keepWidths(scores, rangeWidths(model.config, target, options)) });
  },
});
