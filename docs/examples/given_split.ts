/** MaskPrune with a split between attention and FFN that is given, to set beside the one that it finds: a variant of a shipped
 * method in a file of its own.
 *
 * Paper: Qin et al. 2025, arXiv:2502.14008, as `methods/mask_prune/mod.ts` has it.
 *
 * Shapes: every layer keeps the given number of key/value groups with all their query heads, and as many FFN channels as
 * the budget has room for.
 *
 * Cost: that of `mask-prune`. Deviations: the split is a constant; the other options are those of the bundled model's presets.
 *
 * @module
 */
import { at, defineMethod, type Method, UsageError } from "@maskprune/bench/method";
import { z } from "zod";
import { options as ownOptions } from "../../methods/mask_prune/options.ts";
import { maskPrune } from "../../methods/mask_prune/mod.ts";
import { layerParameters } from "../../models/count.ts";

const PRESET = ownOptions.parse({
  redundancy: "full",
  course: "at-once",
  updates: "window",
  hidden: 5,
  split: "fixed",
});

/** MaskPrune at a given split. */
export const givenSplit: Method = defineMethod({
  id: "given-split",
  summary: "MaskPrune with as many key/value groups as asked for; FFN channels fill the budget",
  source: "Qin et al. 2025, arXiv:2502.14008, without its choice of widths",
  kind: "learned",
  needs: maskPrune.needs,
  options: z.strictObject({
    kvGroups: z.number().int().min(1).optional().describe("of every layer; absent: the budget's own ratio"),
  }),
  uniformLayers: () => true,
  trainsWith: (training) => maskPrune.trainsWith!(training, PRESET),
  async prune(context) {
    const { model: { config }, options, target } = context;
    const dense = at(config.layers, 0);
    const attention = { ...dense, kvGroups: options.kvGroups ?? at(target.uniform, 0).kvGroups, ffnChannels: 0 };
    const room = target.budgetParameters / config.layers.length - layerParameters(config, attention);
    const ffnChannels = Math.min(dense.ffnChannels, Math.floor(room / (3 * config.width)));
    if (ffnChannels < 1 || attention.kvGroups > dense.kvGroups) {
      throw new UsageError(
        `kvGroups=${attention.kvGroups} must be at most the model's ${dense.kvGroups} and leave FFN channels in the budget`,
      );
    }
    const uniform = config.layers.map(() => ({ ...attention, ffnChannels }));
    return await maskPrune.prune({ ...context, options: PRESET, target: { ...target, uniform } });
  },
});
