import fc from "fast-check";
import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { createRng } from "../../core/rng.ts";
import {
  bootstrapInterval,
  holm,
  mcnemarExact,
  mean,
  pairedDifference,
  pairedPermutation,
  sampleSd,
  standardError,
} from "../../core/stats.ts";

const scores = (right: number, n: number) => Array.from({ length: n }, (_, i) => i < right ? 1 : 0);

Deno.test("standardError() gives lm-evaluation-harness's values for 0/1 scores", () => {
  assertAlmostEquals(standardError([1, 0, 1])!, 0.33333333333333337, 1e-15);
  assertAlmostEquals(standardError(scores(5724, 10042))!, 0.00494, 5e-6);
  assertEquals(standardError([1]), null);
});

Deno.test("sampleSd() divides by n - 1", () => {
  assertAlmostEquals(sampleSd([2, 4, 4, 4, 5, 5, 7, 9]), Math.sqrt(32 / 7), 1e-12);
  assert(Number.isNaN(sampleSd([3])));
});

Deno.test("mcnemarExact() gives the binomial test at one half", () => {
  // 2 (C(10,0) + C(10,1)) / 2^10
  assertAlmostEquals(mcnemarExact(9, 1), 22 / 1024, 1e-12);
  assertAlmostEquals(mcnemarExact(0, 5), 2 / 32, 1e-12);
  assertEquals(mcnemarExact(4, 4), 1);
  assertEquals(mcnemarExact(0, 0), 1);
});

Deno.test("mcnemarExact() is symmetric, at most 1, and falls as the split grows more uneven", () => {
  const count = fc.integer({ min: 0, max: 400 });
  fc.assert(fc.property(count, count, (a, b) => {
    const p = mcnemarExact(a, b);
    assert(p > 0 && p <= 1);
    assertEquals(p, mcnemarExact(b, a));
    if (a <= b && a > 0) assert(mcnemarExact(a - 1, b + 1) <= p + 1e-12);
  }));
});

Deno.test("holm() adjusts in order of size and never falls", () => {
  // 4 x 0.005, 3 x 0.01, 2 x 0.03, then not below the one before.
  assertEquals(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
  assertEquals(holm([0.6, 0.7]), [1, 1]);
  assertEquals(holm([]), []);
});

Deno.test("bootstrapInterval() covers the mean of normal draws about as often as it says", () => {
  const rng = createRng(7, "coverage");
  let covered = 0;
  for (let trial = 0; trial < 200; trial++) {
    const values = Array.from({ length: 40 }, () => rng.normal());
    const { low, high } = bootstrapInterval(values, { seed: trial, resamples: 400 });
    if (low <= 0 && high >= 0) covered++;
  }
  // 95 % nominal; a percentile interval at n = 40 covers about 93 %.
  assert(covered >= 178 && covered <= 199, `covered ${covered} of 200`);
});

Deno.test("bootstrapInterval() depends on the seed alone and moves with the values", () => {
  const values = [3, 1, 4, 1, 5, 9, 2, 6];
  const interval = bootstrapInterval(values, { seed: 1 });
  assertEquals(bootstrapInterval(values, { seed: 1 }), interval);
  const moved = bootstrapInterval(values.map((x) => x + 10), { seed: 1 });
  assertAlmostEquals(moved.low, interval.low + 10, 1e-9);
  assertAlmostEquals(moved.mean, mean(values) + 10, 1e-9);
  assertThrows(() => bootstrapInterval([], { seed: 0 }), RangeError, "at least one value");
});

Deno.test("pairedDifference() is certain of a shift and not of noise", () => {
  const rng = createRng(3, "pairs");
  const b = Array.from({ length: 100 }, () => rng.normal());
  const shifted = b.map((x) => x + 0.5 + 0.1 * rng.normal());
  const clear = pairedDifference(shifted, b, { seed: 0 });
  assertAlmostEquals(clear.mean, 0.5, 0.05);
  assert(clear.low > 0.4 && clear.high < 0.6 && clear.p < 0.001);
  const noise = b.map((x, i) => x + (i % 2 ? 0.1 : -0.1));
  assert(pairedDifference(noise, b, { seed: 0 }).p > 0.5);
  assertEquals(pairedDifference(b, b, { seed: 0 }).p, 1);
  assertThrows(() => pairedDifference([1], [1, 2], { seed: 0 }), RangeError, "current 1 and 2");
});

Deno.test("pairedPermutation() agrees with the exact sign test where all differences are equal", () => {
  // 9 of 10 differences positive: the permutation distribution is binomial, as in McNemar's test.
  const a = [...scores(9, 9), 0];
  const b = [...scores(0, 9), 1];
  assertAlmostEquals(pairedPermutation(a, b, { seed: 0, resamples: 40_000 }), mcnemarExact(9, 1), 0.003);
  assertEquals(pairedPermutation(a, a, { seed: 0 }), 1);
});
