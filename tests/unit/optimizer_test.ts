import { assertAlmostEquals, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { createMoments, globalNorm, scheduleFactor, stepValues } from "../../models/training/optimizer.ts";

Deno.test("scheduleFactor() rises over the warm-up and ends at the final fraction", () => {
  const cosine = { warmupSteps: 4, totalSteps: 20, finalFraction: 0.1 };
  assertEquals([0, 1, 2, 3].map((step) => scheduleFactor(cosine, step)), [0.25, 0.5, 0.75, 1]);
  assertAlmostEquals(scheduleFactor(cosine, 4), 1, 1e-12);
  assertAlmostEquals(scheduleFactor(cosine, 19), 0.1, 1e-12);
  assertAlmostEquals(scheduleFactor(cosine, 500), 0.1, 1e-12);
  assertAlmostEquals(scheduleFactor({ totalSteps: 11 }, 5), 0.5, 1e-12);
});

/** Three steps by the formulas of the paper, one value, in f64. */
function adamByHand(value: number, gradients: number[], rate: number): number {
  let [x, m, v] = [value, 0, 0];
  gradients.forEach((g, i) => {
    m = 0.9 * m + 0.1 * g;
    v = 0.99 * v + 0.01 * g * g;
    const [mHat, vHat] = [m / (1 - 0.9 ** (i + 1)), v / (1 - 0.99 ** (i + 1))];
    x = x - rate * mHat / (Math.sqrt(vHat) + 1e-8);
  });
  return x;
}

Deno.test("stepValues() follows the paper", () => {
  const gradients = [[0.5, -2, 0], [1, 1, 0.001], [-0.2, 3, 0]];
  const moments = createMoments(3);
  let values = Float32Array.of(1, -1, 0.5);
  gradients.forEach((gradient, step) => {
    const options = { rule: { betas: [0.9, 0.99] as [number, number] }, rate: 0.05, step };
    values = new Float32Array(stepValues(values, Float32Array.from(gradient), moments, options));
  });
  [1, -1, 0.5].forEach((start, i) => {
    assertAlmostEquals(at(values, i), adamByHand(start, gradients.map((g) => at(g, i)), 0.05), 2e-6);
  });
});

Deno.test("stepValues() scales the gradient first", () => {
  const step = (gradient: number, gradientScale: number) =>
    stepValues(Float32Array.of(1), Float32Array.of(gradient), createMoments(1), {
      rule: { epsilon: 1 },
      rate: 0.25,
      step: 0,
      gradientScale,
    });
  assertEquals(step(4, 0.5), step(2, 1));
});

Deno.test("globalNorm() is the norm of all values together", () => {
  assertAlmostEquals(globalNorm([Float32Array.of(3), Float32Array.of(0, 4)]), 5, 1e-12);
});
