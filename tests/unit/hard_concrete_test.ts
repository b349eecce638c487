import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import {
  clampLogAlpha,
  expectedSparsity,
  HARD_CONCRETE,
  lagrangian,
  openProbability,
  sampleMasks,
  softMask,
} from "../../methods/sheared/hard_concrete.ts";

// Table of the distribution, by arithmetic from the constants of the authors' code.
const table: [logAlpha: number, open: number, soft: number][] = [
  [5, 0.9986, 0.9975],
  [4.6052, 0.9980, 0.9960],
  [2, 0.973, 0.917],
  [0, 0.832, 0.5],
  [-2, 0.401, 0.083],
  [-4.6052, 0.0471, 0.0040],
];

Deno.test("openProbability() and softMask() have the values of the authors' constants", () => {
  for (const [a, open, soft] of table) {
    assertAlmostEquals(openProbability(a), open, 6e-4);
    assertAlmostEquals(softMask(a), soft, 6e-4);
  }
});

Deno.test("sampleMasks() is open, and fully open, as often as the distribution says", () => {
  const count = 20_000;
  const fullyOpen = new Map([[2, 0.6], [0, 0.168], [-2, 0.026]]);
  const means = new Map([[2, 0.857], [0, 0.499], [-2, 0.143]]);
  for (const [a, open] of table.filter(([a]) => fullyOpen.has(a))) {
    const { masks } = sampleMasks(new Float32Array(count).fill(a), createRng(1, "samples"));
    const share = (test: (mask: number) => boolean) => masks.filter(test).length / count;
    assertAlmostEquals(share((mask) => mask > 0), open, 0.012);
    assertAlmostEquals(share((mask) => mask === 1), fullyOpen.get(a)!, 0.012);
    assertAlmostEquals(masks.reduce((sum, mask) => sum + mask, 0) / count, means.get(a)!, 0.012);
  }
});

Deno.test("sampleMasks() gives the slope of the mask in log-alpha", () => {
  fc.assert(fc.property(fc.double({ min: -4, max: 4, noNaN: true }), fc.nat(500), (a, seed) => {
    const sampled = (value: number) => sampleMasks(Float32Array.of(value), createRng(seed, "slope"));
    const step = 2e-3;
    const { masks, slopes } = sampled(a);
    const [mask, slope] = [at(masks, 0), at(slopes, 0)];
    const difference = (at(sampled(a + step).masks, 0) - at(sampled(a - step).masks, 0)) / (2 * step);
    // At the edge of the cut the difference straddles it.
    if (mask > 0.01 && mask < 0.99) assertAlmostEquals(difference, slope, 2e-3);
    if (mask === 0 || mask === 1) assertEquals(slope, 0);
  }));
});

Deno.test("lagrangian() has the value of its formula and slopes that finite differences confirm", () => {
  const rng = createRng(2, "rows");
  const rows = [0, 1].map(() => Float32Array.from({ length: 5 }, () => 3 * rng.normal()));
  const multipliers = { linear: -1.5, quadratic: 4 };
  const target = 0.3;
  const result = lagrangian(rows, target, multipliers);
  const gaps = rows.map((row) => expectedSparsity(row) - target);
  const value = (l1: number, l2: number) => gaps.reduce((sum, gap) => sum + (l1 * gap + l2 * gap * gap) / 2, 0);
  assertAlmostEquals(result.value, value(-1.5, 4), 1e-9);
  assertAlmostEquals(result.multipliers.linear, value(-0.5, 4) - value(-1.5, 4), 1e-9);
  assertAlmostEquals(result.multipliers.quadratic, value(-1.5, 5) - value(-1.5, 4), 1e-9);
  assertAlmostEquals(result.gap, Math.max(...gaps.map(Math.abs)), 1e-12);
  rows.forEach((row, l) =>
    row.forEach((a, i) => {
      const step = 1 / 256;
      const moved = (by: number) => {
        const copy = rows.map((other) => other.slice());
        at(copy, l)[i] = a + by;
        return lagrangian(copy, target, multipliers).value;
      };
      assertAlmostEquals(at(at(result.slopes, l), i), (moved(step) - moved(-step)) / (2 * step), 1e-4);
    })
  );
});

Deno.test("clampLogAlpha() ties the first log-alphas at the upper bound", () => {
  const rng = createRng(0, "log-alpha");
  const { initialMean, initialDeviation, most, least } = HARD_CONCRETE;
  const first = Float32Array.from({ length: 50 }, () => initialMean + initialDeviation * rng.normal());
  const clamped = clampLogAlpha(first);
  assert(clamped.every((a) => a === clamped[0]));
  assertAlmostEquals(at(clamped, 0), most, 1e-6);
  assertAlmostEquals(at(clampLogAlpha(Float32Array.of(-9)), 0), least, 1e-6);
});
