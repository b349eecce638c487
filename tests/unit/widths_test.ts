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
  const target = resolveTarget(config, { sparsity: 0.3, units: ["ffn"] });
  const course = Array.from({ length: 100 }, (_, i) => budgetAt(target, i / 99));
  assertEquals([at(course, 0), course.at(-1)], [1, target.budget / target.whole]);
  course.slice(1).forEach((budget, i) => assert(budget <= at(course, i) && budget >= 0.7 - 1e-3));
});

Deno.test("removedAt() is the width in whole units, rounded up", () => {
  const axes = unitAxes(config, ["ffn", "kv-groups"]);
  assertEquals(axes.map((axis) => removedAt({ s: [0.01, 0.5], z: 0 }, axes, axis)), [1, 20]);
});

Deno.test("stepWidths() takes units that cost less than the budget's price, within bounds, and z ascends on the excess", () => {
  const number = fc.double({ min: 0, max: 3, noNaN: true });
  const share = fc.double({ min: 0, max: 0.97, noNaN: true });
  const axes = unitAxes(config, ["ffn"]);
  const cost = 1 - keptParameters(config, layers.map((shape) => widened(shape, "ffn", -40))) / keptParameters(config);
  const target = resolveTarget(config, { sparsity: 0.3, units: ["ffn"] });
  fc.assert(fc.property(number, share, number, share, (price, s, z, done) => {
    const next = stepWidths({ s: [s], z }, { config, target, axes, prices: [price], done });
    const excess = 1 - s * cost - budgetAt(target, done);
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
        const slack = target.budget - keptParameters(config, shapes);
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
