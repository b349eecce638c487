/** MaskPrune with a split between attention and FFN that is given: a variant of a shipped method in a file of its
 * own.
 *
 * Paper: Qin et al. 2025, arXiv:2502.14008, as `methods/mask_prune/mod.ts` has it.
 *
 * Shapes: every layer keeps the given number of key/value groups with all their query heads, and as many FFN
 * channels as the budget has room for.
 *
 * Cost: that of `mask-prune`. Deviations: the split is a constant.
 *
 * @module
 */
import { at, defineMethod, type Method, UsageError } from "@maskprune/bench/method";
import { z } from "zod";
import { maskPrune } from "../../methods/mask_prune/mod.ts";
import { costOf } from "../../models/resource.ts";
import { targetFrom } from "../../models/target.ts";

/** MaskPrune at a given split. */
export const givenSplit: Method = defineMethod({
  id: "given-split",
  version: 1,
  summary: "MaskPrune with as many key/value groups as asked for; FFN channels fill the budget",
  source: "Qin et al. 2025, arXiv:2502.14008, without its choice of widths",
  kind: "learned",
  needs: maskPrune.needs,
  options: z.strictObject({
    kvGroups: z.number().int().min(1).optional().describe("of every layer; absent: the budget's own ratio"),
  }),
  uniformLayers: () => true,
  async prune(context) {
    const { model: { config }, options, target } = context;
    const dense = at(config.layers, 0);
    const kvGroups = options.kvGroups ?? at(target.uniform, 0).kvGroups;
    const narrower = { ...config, layers: config.layers.map((shape) => ({ ...shape, kvGroups })) };
    if (kvGroups > dense.kvGroups) {
      throw new UsageError(`kvGroups must be at most the model's ${dense.kvGroups}: current ${kvGroups}`);
    }
    const { uniform } = costOf(target.resource, narrower) <= target.budget
      ? { uniform: narrower.layers }
      : targetFrom(narrower, { ...target, units: ["ffn"] });
    return await maskPrune.prune({
      ...context,
      options: maskPrune.options.parse({}),
      target: { ...target, uniform },
    });
  },
});
