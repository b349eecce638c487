import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { densePlan, plannedConfig, plannedShapes, type PrunePlan } from "../../models/plan.ts";
import type { LayerPlan } from "../../models/units.ts";
import { toyConfig } from "../support/toy.ts";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";

const config = toyConfig({
  layers: [
    { kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 5 },
    { kvGroups: 2, queryHeadsPerGroup: 3, ffnChannels: 4 },
  ],
});

Deno.test("densePlan() keeps every unit", () => {
  const plan = densePlan(config);
  assertEquals(plan.layers[1], { kvGroups: [0, 1], queryHeads: [0, 1, 2, 3, 4, 5], ffnChannels: [0, 1, 2, 3] });
  assertEquals(plannedShapes(config, plan), config.layers);
});

Deno.test("plannedShapes() gives the widths that a plan leaves", () => {
  const layers: LayerPlan[] = [
    { kvGroups: [0, 2], queryHeads: [1, 4], ffnChannels: [0, 3, 4] },
    { kvGroups: [1], queryHeads: [3, 5], ffnChannels: [2] },
  ];
  assertEquals(plannedShapes(config, { layers }), [
    { kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 3 },
    { kvGroups: 1, queryHeadsPerGroup: 2, ffnChannels: 1 },
  ]);
});

Deno.test("plannedShapes() counts what any valid plan keeps", () => {
  const subset = (n: number, minLength = 1, maxLength = n) =>
    fc.subarray(Array.from({ length: n }, (_, i) => i), { minLength, maxLength });
  fc.assert(fc.property(subset(3), fc.integer({ min: 1, max: 2 }), subset(5), (kvGroups, perGroup, ffnChannels) => {
    const queryHeads = kvGroups.flatMap((g) => perGroup === 2 ? [2 * g, 2 * g + 1] : [2 * g + g % 2]);
    const plan = { layers: [{ kvGroups, queryHeads, ffnChannels }, at(densePlan(config).layers, 1)] };
    assertEquals(plannedShapes(config, plan)[0], {
      kvGroups: kvGroups.length,
      queryHeadsPerGroup: perGroup,
      ffnChannels: ffnChannels.length,
    });
  }));
});

Deno.test("plannedShapes() refuses plans that do not fit, naming layer and value", () => {
  const refuses = (change: Partial<LayerPlan>, words: string) => {
    const [first, second] = take(densePlan(config).layers, 2);
    assertThrows(() => plannedShapes(config, { layers: [first, { ...second, ...change }] }), RangeError, words);
  };
  refuses({ ffnChannels: [] }, "at least one of the FFN channels of layer 1");
  refuses({ ffnChannels: [0, 4] }, "FFN channels of layer 1 must be integers in [0, 4): current 4");
  refuses({ ffnChannels: [-1] }, "current -1");
  refuses({ ffnChannels: [0.5] }, "current 0.5");
  refuses({ ffnChannels: [NaN] }, "current NaN");
  refuses({ ffnChannels: [1, 1] }, "must ascend without repeats: current 1, 1");
  refuses({ ffnChannels: [2, 1] }, "must ascend without repeats: current 2, 1");
  refuses({ kvGroups: [0] }, "Query head 3 of layer 1 is kept but its key/value group 1 is not");
  refuses({ queryHeads: [0, 1, 2, 3] }, "same number of query heads");
  refuses({ queryHeads: [0, 1, 2] }, "same number of query heads");
  assertThrows(() => plannedShapes(config, { layers: [] }), RangeError, "must have 2 layers: current 0");
});

const GONE: LayerPlan = { kvGroups: [], queryHeads: [], ffnChannels: [] };

Deno.test("plannedConfig() leaves out layers that keep nothing, and hidden dimensions", () => {
  const [first, second] = take(densePlan(config).layers, 2);
  const planned = plannedConfig(config, { layers: [GONE, second], hidden: [0, 3, 31] });
  assertEquals(planned, { ...config, width: 3, layers: [config.layers[1]] });
  assertEquals(plannedConfig(config, { layers: [first, GONE] }), { ...config, layers: [config.layers[0]] });
  const refuses = (plan: PrunePlan, words: string) =>
    assertThrows(() => plannedConfig(config, plan), RangeError, words);
  refuses({ layers: [GONE, GONE] }, "at least one layer: current 0");
  refuses({ layers: [first, second], hidden: [] }, "at least one of the hidden dimensions: current 0");
  refuses({ layers: [first, second], hidden: [1, 32] }, "hidden dimensions must be integers in [0, 32): current 32");
  refuses({ layers: [first, second], hidden: [2, 2] }, "must ascend without repeats: current 2, 2");
  refuses({ layers: [first, { ...second, ffnChannels: [] }] }, "at least one of the FFN channels of layer 1");
});
