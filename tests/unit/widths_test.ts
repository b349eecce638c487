import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import { planOfGates, removedUnits, unitAxes } from "../../methods/_shared/learned_units.ts";
import { budgetAt, filledShapes, removedAt, stepWidths } from "../../methods/mask_prune/widths.ts";
import { keptParameters } from "../../models/count.ts";
import { plannedShapes } from "../../models/plan.ts";
import { resolveTarget } from "../../models/target.ts";
import type { HostMasks } from "../../models/training/student.ts";
import { widened } from "../../models/units.ts";
import { toyConfig } from "../support/toy.ts";

const layers = Array.from({ length: 3 }, () => ({ kvGroups: 4, queryHeadsPerGroup: 2, ffnChannels: 40 }));
const config = toyConfig({ layers });
const dense = at(layers, 0);
const ALL: UnitType[] = ["ffn", "query-heads", "kv-groups"];
const unitChoices: UnitType[][] = [["ffn"], ["kv-groups"], ["ffn", "kv-groups"], ["ffn", "query-heads"], ALL];

Deno.test("budgetAt() falls from 1 to the budget and never rises", () => {
  assertEquals([0, 1, 3].map((done) => budgetAt(0.6, done)), [1, 0.6, 0.6]);
  assertAlmostEquals(budgetAt(0.6, 0.5), 0.6 + 0.4 / 8, 1e-12);
  const course = Array.from({ length: 100 }, (_, i) => budgetAt(0.6, i / 90));
  course.slice(1).forEach((budget, i) => assert(budget <= at(course, i) && budget >= 0.6));
});

Deno.test("removedAt() goes from none to the units of the goal, rounded up", () => {
  const goal = { ...dense, ffnChannels: 10, kvGroups: 3 };
  const [groups, ffn] = unitAxes(config, ["ffn", "kv-groups"]);
  assert(groups && ffn);
  assertEquals([0, 0.01, 0.5, 1].map((part) => removedAt(dense, goal, ffn, part)), [0, 1, 15, 30]);
  assertEquals([0, 0.01, 1].map((part) => removedAt(dense, goal, groups, part)), [0, 1, 1]);
});

Deno.test("stepWidths() takes units that cost less than the budget's price, within bounds, and z ascends on the excess", () => {
  const number = fc.double({ min: 0, max: 3, noNaN: true });
  const share = fc.double({ min: 0, max: 0.97, noNaN: true });
  const axes = unitAxes(config, ["ffn"]);
  const cost = 1 - keptParameters(config, layers.map((shape) => widened(shape, "ffn", -40))) / keptParameters(config);
  fc.assert(fc.property(number, share, number, share, (price, s, z, budget) => {
    const next = stepWidths({ s: [s], z }, { config, axes, prices: [price], budget });
    const excess = 1 - s * cost - budget;
    assertAlmostEquals(next.z, Math.max(0, z + 5 * excess), 1e-9);
    const width = at(next.s, 0);
    assert(width >= 0 && width <= 1 - 1 / 40 && Math.abs(width - Math.min(s, 1 - 1 / 40)) <= 0.05 + 1e-9);
    const gain = Math.max(0, z + 20 * excess) * cost;
    if (gain > price) assert(width >= s);
    if (gain < price) assert(width <= s);
  }));
});

Deno.test("filledShapes() meets the budget with the attention that was learned, or at the budget's own ratio", () => {
  const part = fc.double({ min: 0, max: 0.75, noNaN: true });
  fc.assert(
    fc.property(
      fc.constantFrom(...unitChoices),
      fc.integer({ min: 5, max: 33 }),
      fc.constantFrom(1, 4),
      fc.array(part, { minLength: 3, maxLength: 3 }),
      (units, percent, ffnMultiple, s) => {
        const target = resolveTarget(config, { sparsity: percent / 100, units, ffnMultiple });
        const axes = unitAxes(config, units);
        const shapes = filledShapes(config, target, axes, { s, z: 0 });
        const slack = target.budgetParameters - keptParameters(config, shapes);
        assert(slack >= 0, `over the budget by ${-slack}`);
        shapes.forEach((shape) => assertEquals(shape, shapes[0]));
        const { ffnChannels } = at(shapes, 0);
        assert(ffnChannels % ffnMultiple === 0 || ffnChannels === dense.ffnChannels);
        // Room for more channels is left only where all are there.
        if (ffnChannels < dense.ffnChannels) assert(slack < 3 * config.width * ffnMultiple * layers.length, `${slack}`);
      },
    ),
    { numRuns: 200 },
  );
});

Deno.test("planOfGates() keeps what is open, and no query head of a closed group", () => {
  const gates = layers.map((): HostMasks => ({
    "ffn": Float32Array.from({ length: 40 }, (_, i) => i < 7 ? 0 : 1),
    "query-heads": Float32Array.from({ length: 8 }, (_, i) => i % 2),
    "kv-groups": Float32Array.of(0, 1, 1, 1),
  }));
  const shapes = plannedShapes(config, planOfGates(config, gates));
  assertEquals(shapes, layers.map(() => ({ kvGroups: 3, queryHeadsPerGroup: 1, ffnChannels: 33 })));
  assertEquals(ALL.map((type) => removedUnits(dense, at(shapes, 0), type)), [7, 1, 1]);
  const found = planOfGates(config, layers.map(() => ({}))).layers.map(({ queryHeads }) => queryHeads.length);
  assertEquals(found, [8, 8, 8]);
});
