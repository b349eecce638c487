import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import { resolveTarget } from "../../models/target.ts";
import { toyConfig } from "../support/toy.ts";
import { narrowed, planOfRemoved, removedUnits, unitAxes, type UnitAxis } from "../../methods/_shared/learned_units.ts";
import {
  axisPrices,
  budgetDualStep,
  budgetRamp,
  budgetResource,
  costShares,
  dualStep,
  finalShapes,
  retained,
  snapToBudget,
  wholeUnits,
  widthSlopes,
  widthStep,
} from "../../methods/mask_prune/widths.ts";
import { keptParameters } from "../../models/count.ts";
import { plannedShapes } from "../../models/plan.ts";
import { unitCost } from "../support/unit_cost.ts";

const layers = Array.from({ length: 3 }, () => ({ kvGroups: 4, queryHeadsPerGroup: 2, ffnChannels: 40 }));
const config = toyConfig({ layers });
const dense = at(layers, 0);
const unitChoices: UnitType[][] = [["ffn"], ["kv-groups"], ["ffn", "kv-groups"], ["ffn", "query-heads"], [
  "ffn",
  "query-heads",
  "kv-groups",
]];

Deno.test("budgetRamp() falls from 1 to the budget and never rises", () => {
  const ramp = { final: 0.6, start: 0.1, end: 0.5 };
  assertEquals(budgetRamp(ramp, 0.05), 1);
  assertAlmostEquals(budgetRamp(ramp, 0.3), 0.6 + 0.4 / 8, 1e-12);
  assertEquals(budgetRamp(ramp, 0.5), 0.6);
  assertEquals(budgetRamp(ramp, 1), 0.6);
  let previous = 1;
  for (let at = 0; at <= 1; at += 0.01) {
    const budget = budgetRamp(ramp, at);
    assert(budget <= previous && budget >= 0.6);
    previous = budget;
  }
});

Deno.test("dualStep() and budgetDualStep() ascend on the constraint and stay in their range", () => {
  assertEquals(dualStep(0.5, 0.1, { rate: 8, cap: 5 }), 1.3);
  assertEquals(dualStep(4.9, 0.1, { rate: 8, cap: 5 }), 5);
  assertEquals(dualStep(1, 0, { rate: 8, cap: 5 }), 1);
  assertAlmostEquals(budgetDualStep(1, 0.1, 5), 1.5, 1e-12);
  assertEquals(budgetDualStep(0.2, -0.1, 5), 0);
});

Deno.test("costShares() is -n dR/ds of the retained resource", () => {
  for (const units of unitChoices) {
    const target = resolveTarget(config, { sparsity: 0.3, units });
    for (const kind of ["parameters", "macs"] as const) {
      const resource = budgetResource(config, target, kind);
      const axes = unitAxes(config, units);
      const shares = costShares(resource, axes, dense, layers.length);
      axes.forEach(({ units: n }, a) => {
        const step = 1e-3;
        const moved = layers.map((shape) => narrowed(shape, axes, axes.map((_, b) => a === b ? step : 0)));
        // Widths act on attention as a product of groups and heads, so the difference is taken at a small step.
        const slope = n * (retained(resource, layers) - retained(resource, moved)) / step;
        assertAlmostEquals(at(shares, a), slope, 1e-9 + 1e-9 * slope);
      });
    }
  }
});

const axisFfn: UnitAxis = { type: "ffn", units: 40, segments: 1 };
const axisHeads: UnitAxis = { type: "query-heads", units: 2, segments: 4 };

Deno.test("wholeUnits() rounds channels up, and moves attention units only when s has left the last by 3/4", () => {
  assertEquals(wholeUnits(axisFfn, 3.01, 0), 4);
  assertEquals(wholeUnits(axisFfn, 3, 9), 3);
  assertEquals(wholeUnits(axisHeads, 0.7, 0), 0);
  assertEquals(wholeUnits(axisHeads, 0.8, 0), 1);
  assertEquals(wholeUnits(axisHeads, 0.3, 1), 1);
  assertEquals(wholeUnits(axisHeads, 0.2, 1), 0);
});

Deno.test("widthSlopes() takes the next unit in every segment, in units of the mean importance per resource", () => {
  const importance = [[Float64Array.from([5, 1, 3, 2])], [Float64Array.from([1, 4, 9, 6, 2, 7, 8, 8])]];
  const axes: UnitAxis[] = [{ type: "ffn", units: 4, segments: 1 }, axisHeads];
  const shares = [0.6, 0.4];
  const slopes = widthSlopes(axes, importance, [[2], [0]], shares);
  const scale = 11 + 45;
  assertAlmostEquals(at(at(slopes, 0), 0), 4 * 3 / scale, 1e-12);
  assertAlmostEquals(at(at(slopes, 1), 0), 2 * (1 + 6 + 2 + 8) / scale, 1e-12);
});

Deno.test("widthStep() stays between nothing and all but one unit, at its speed limit, and together when uniform", () => {
  const number = fc.double({ min: 0, max: 5, noNaN: true });
  fc.assert(fc.property(
    fc.array(number, { minLength: 3, maxLength: 3 }),
    fc.array(fc.double({ min: 0, max: 39, noNaN: true }), { minLength: 3, maxLength: 3 }),
    number,
    fc.boolean(),
    (slopes, start, price, uniform) => {
      const removed = [uniform ? start.map(() => at(start, 0)) : start];
      const shares = [0.7];
      const step = { axes: [axisFfn], removed, duals: [[1, 1, 1]], slopes: [slopes], shares, uniform };
      const next = at(widthStep({ ...step, prices: [price], rate: 0.1, maxStep: 0.05 }), 0);
      next.forEach((s, l) => {
        assert(s >= 0 && s <= 39);
        assert(Math.abs(s - at(at(removed, 0), l)) <= 0.05 * 40 + 1e-9);
        if (uniform) assertEquals(s, next[0]);
        const worth = uniform ? slopes.reduce((a, b) => a + b, 0) / 3 : at(slopes, l);
        // A unit that costs less than the price of what it frees goes, a dearer one comes back.
        if (worth / 0.7 < price) assert(s >= at(at(removed, 0), l));
        if (worth / 0.7 > price) assert(s <= at(at(removed, 0), l));
      });
    },
  ));
});

Deno.test("axisPrices() lets attention units pay what channels are worth, and the price where there are no channels", () => {
  const given = { duals: [[2, 4], [1, 1]], slopes: [[0.3, 0.1], [9, 9]], shares: [0.5, 0.2], price: 7 };
  assertEquals(axisPrices([axisFfn, axisHeads], given), [7, (0.6 + 0.4) / 2 / 0.5]);
  assertEquals(axisPrices([axisHeads], { ...given, duals: [[1]], slopes: [[9]] }), [7]);
});

Deno.test("snapToBudget() puts channels on the budget when they are near it, and leaves them when not", () => {
  const units: UnitType[] = ["ffn", "kv-groups"];
  const target = resolveTarget(config, { sparsity: 0.3, units });
  const resource = budgetResource(config, target, "parameters");
  const axes = unitAxes(config, units);
  const whole = axes.map((axis) => layers.map(() => axis.type === "ffn" ? 0 : 1));
  const shapesFor = (removed: number[][]) =>
    layers.map((shape, l) => narrowed(shape, axes, removed.map((a) => at(a, l))));
  const without = (s: number) => axes.map((axis) => layers.map(() => axis.type === "ffn" ? s : 1));
  const given = { config, axes, whole, budget: resource.budget };
  const snapped = snapToBudget(resource, { ...given, removed: without(5), within: 1 })!;
  assertAlmostEquals(retained(resource, shapesFor(snapped)), resource.budget, 1e-9);
  assertEquals(snapToBudget(resource, { ...given, removed: without(39), within: 0.01 }), null);
});

Deno.test("finalShapes() meets the budget, and one more unit per layer would not fit", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...unitChoices),
      fc.integer({ min: 5, max: 33 }),
      fc.constantFrom(1, 4),
      fc.boolean(),
      fc.nat(1000),
      (units, percent, ffnMultiple, uniform, seed) => {
        const target = resolveTarget(config, { sparsity: percent / 100, units, ffnMultiple });
        const resource = budgetResource(config, target, "parameters");
        const axes = unitAxes(config, units);
        const rng = createRng(seed, "widths");
        const removed = axes.map(({ type, units: n }) => {
          const shared = rng.uniform() * (n - 1);
          return layers.map(() => {
            const s = uniform ? shared : rng.uniform() * (n - 1);
            return type === "ffn" ? s : Math.round(s);
          });
        });
        const shapes = finalShapes({ config, axes, removed, resource, target }, uniform)!;
        const slack = target.budgetParameters - keptParameters(config, shapes);
        assert(slack >= 0, `over the budget by ${-slack}`);
        if (uniform) shapes.forEach((shape) => assertEquals(shape, shapes[0]));
        for (const { ffnChannels } of shapes) {
          assert(ffnChannels % ffnMultiple === 0 || ffnChannels === dense.ffnChannels);
        }
        // Room for another step of channels is left only where a layer has all of them.
        if (units.includes("ffn") && shapes.some(({ ffnChannels }) => ffnChannels < dense.ffnChannels)) {
          const step = 3 * config.width * ffnMultiple * (uniform ? layers.length : 1);
          assert(slack < step, `${slack} parameters are unused: must be less than ${step}`);
        }
      },
    ),
    { numRuns: 200 },
  );
});

Deno.test("finalShapes() without channels takes no more attention than the budget asks for, from all layers alike", () => {
  const deep = { ...config, layers: Array.from({ length: 8 }, () => ({ ...dense, kvGroups: 8 })) };
  const units: UnitType[] = ["kv-groups"];
  const axes = unitAxes(deep, units);
  const groups = (percent: number, learned: number[], uniform: boolean) => {
    const target = resolveTarget(deep, { sparsity: percent / 100, units });
    const resource = budgetResource(deep, target, "parameters");
    const shapes = finalShapes({ config: deep, axes, removed: [learned], resource, target }, uniform)!;
    const slack = target.budgetParameters - keptParameters(deep, shapes);
    const unit = unitCost(deep, 0, "kv-groups").parameters * (uniform ? 8 : 1);
    assert(slack >= 0 && slack < unit, `${slack} of a unit of ${unit}`);
    return shapes.map(({ kvGroups }) => kvGroups);
  };
  const even = groups(10, [2, 2, 2, 2, 2, 2, 2, 2], false);
  assert(Math.max(...even) - Math.min(...even) <= 1, `${even}`);
  const apart = groups(20, [6, 6, 6, 6, 1, 1, 1, 1], false);
  assert(Math.max(...apart.slice(0, 4)) <= Math.min(...apart.slice(4)), `${apart}`);
  const shared = groups(10, [6, 6, 6, 6, 6, 6, 6, 6], true);
  assertEquals(new Set(shared).size, 1);
});

Deno.test("removedUnits() undoes narrowed(), and planOfRemoved() gives a valid plan of that shape", () => {
  const units: UnitType[] = ["ffn", "query-heads", "kv-groups"];
  const axes = unitAxes(config, units);
  const counts = axes.map(({ type }) => type === "ffn" ? 7 : 1);
  const shape = narrowed(dense, axes, counts);
  assertEquals(removedUnits(dense, shape, axes), counts);
  const plan = planOfRemoved(config, axes, (a, _, unit) => {
    if (at(axes, a).type === "query-heads") return unit % 2 === 1;
    return unit < at(counts, a);
  });
  assertEquals(plannedShapes(config, plan), layers.map(() => shape));
});
