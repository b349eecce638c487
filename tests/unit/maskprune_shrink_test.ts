import { assert, assertEquals, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { unitAxes } from "../../methods/_shared/learned_units.ts";
import { createMetric } from "../../methods/mask_prune/metric.ts";
import { markIdle, narrowMasks, widenGradients, workingPlan } from "../../methods/mask_prune/shrink.ts";
import { createMaskState, layerMasks, leastRemoved, type MaskPruneRates } from "../../methods/mask_prune/state.ts";
import { keptParameters } from "../../models/count.ts";
import { composePlans, densePlan, plannedShapes, relativePlan } from "../../models/plan.ts";
import { toyConfig } from "../support/toy.ts";

const config = toyConfig();
const axes = unitAxes(config, ["ffn", "kv-groups"]);

function state() {
  const metrics = axes.map(({ units }) =>
    config.layers.map(() => createMetric(new Float32Array(units).fill(1), new Float32Array(units).fill(1)))
  );
  return createMaskState(config, axes, metrics, { dualStart: 0 } as MaskPruneRates);
}

Deno.test("markIdle() cuts channels that were long in the bottom, within the limit, and only then", () => {
  const ffn = axes.findIndex(({ type }) => type === "ffn");
  const learned = state();
  for (const unit of [2, 5, 7, 11]) at(at(learned.idle, ffn), 1)[unit] = 4;
  assertEquals(markIdle(learned, { window: 5, most: 9 }), false);
  assertEquals(markIdle(learned, { window: 4, most: 3 }), true);
  const plan = workingPlan(config, learned);
  assertEquals(plannedShapes(config, plan).map(({ ffnChannels }) => ffnChannels), [24, 21]);
  assertEquals([2, 5, 7, 11].map((unit) => at(plan.layers, 1).ffnChannels.includes(unit)), [false, false, false, true]);
  assertEquals([leastRemoved(learned, ffn, 0, true), leastRemoved(learned, ffn, 0, false)], [3, 0]);
  assert(keptParameters(config, plannedShapes(config, plan)) < keptParameters(config));
  assertEquals(markIdle(learned, { window: 4, most: 3 }), false);

  const masks = layerMasks(learned);
  const narrow = narrowMasks(masks, plan);
  assertEquals(narrow.map(({ ffn }) => ffn!.length), [24, 21]);
  const wide = widenGradients(narrow, plan, config);
  assertEquals(wide.map(({ ffn }) => ffn), masks.map(({ ffn }) => ffn));
});

Deno.test("relativePlan() is the inverse of composePlans()", () => {
  const outer = densePlan(config);
  at(outer.layers, 0).ffnChannels = [1, 4, 6, 9];
  const inner = densePlan({ ...config, layers: plannedShapes(config, outer) });
  at(inner.layers, 0).ffnChannels = [0, 3];
  at(inner.layers, 1).kvGroups = at(inner.layers, 1).queryHeads = [1, 2];
  assertEquals(relativePlan(outer, composePlans(outer, inner)), inner);
  assertThrows(() => relativePlan(outer, densePlan(config)), RangeError, "Unit 0 was cut before");
});
