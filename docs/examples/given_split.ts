/** MaskPrune with a split between attention and FFN that is given, to set beside the one that it finds: a variant of a
 * shipped method in a file of its own.
 *
 * Paper: Qin et al. 2025, arXiv:2502.14008, as `methods/mask_prune/mod.ts` has it.
 *
 * Shapes: every layer keeps the given number of key/value groups with all their query heads, and as many FFN channels as
 * the budget has room for.
 *
 * Cost: that of `mask-prune`. Deviations: the split is a constant; the other options are what `mask-prune` decides on the
 * bundled model.
 *
 * @module
 */
import { at, defineMethod, type Method, UsageError } from "@maskprune/bench/method";
import { z } from "zod";
import { removedUnits, unitAxes } from "../../methods/_shared/learned_units.ts";
import { maskPrune } from "../../methods/mask_prune/mod.ts";
import { options as ownOptions } from "../../methods/mask_prune/options.ts";
import { budgetResource, finalShapes } from "../../methods/mask_prune/widths.ts";

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
    const axes = unitAxes(config, target.units);
    const kvGroups = options.kvGroups ?? at(target.uniform, 0).kvGroups;
    const removed = removedUnits(dense, { ...dense, kvGroups }, axes).map((count) => config.layers.map(() => count));
    const resource = budgetResource(config, target, "parameters");
    const uniform = kvGroups > dense.kvGroups ? null : finalShapes({ config, axes, removed, resource, target }, true);
    // A split that the budget does not allow comes back as another one.
    if (!uniform || at(uniform, 0).kvGroups !== kvGroups) {
      throw new UsageError(
        `kvGroups=${kvGroups} must be at most the model's ${dense.kvGroups} and leave FFN channels in the budget`,
      );
    }
    return await maskPrune.prune({ ...context, options: PRESET, target: { ...target, uniform } });
  },
});
