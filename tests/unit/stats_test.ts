import fc from "fast-check";
import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { holmLevels, mcnemarTest, sampleSd, signFlipTest, standardError, studentT95 } from "../../core/util/stats.ts";

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

Deno.test("mcnemarTest() gives the binomial test at one half", () => {
  // 2 (C(10,0) + C(10,1)) / 2^10
  assertAlmostEquals(mcnemarTest(9, 1, 100).p, 22 / 1024, 1e-12);
  assertAlmostEquals(mcnemarTest(0, 5, 100).p, 2 / 32, 1e-12);
  assertEquals(mcnemarTest(4, 4, 100).p, 1);
  assertEquals(mcnemarTest(0, 0, 100).p, 1);
});

Deno.test("mcnemarTest() is symmetric, at most 1, and falls as the split grows more uneven", () => {
  const count = fc.integer({ min: 0, max: 400 });
  fc.assert(fc.property(count, count, (a, b) => {
    const p = mcnemarTest(a, b, 100).p;
    assert(p > 0 && p <= 1);
    assertEquals(p, mcnemarTest(b, a, 100).p);
    if (a <= b && a > 0) assert(mcnemarTest(a - 1, b + 1, 100).p <= p + 1e-12);
  }));
});

const holm = (pValues: number[]) => holmLevels(pValues, 0.05).map(({ p }) => p);

Deno.test("holmLevels() adjusts in order of size and never falls", () => {
  // 4 x 0.005, 3 x 0.01, 2 x 0.03, then not below the one before.
  assertEquals(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
  assertEquals(holm([0.6, 0.7]), [1, 1]);
  assertEquals(holm([]), []);
});

Deno.test("signFlipTest() agrees with the exact sign test where all differences are equal", () => {
  const b = Array.from({ length: 10 }, () => 0);
  const a = b.map((_, i) => i === 0 ? -1 : 1);
  assertAlmostEquals(signFlipTest(a, b, { seed: 0, resamples: 40_000 }).p, mcnemarTest(9, 1, 100).p, 0.003);
  assertEquals(signFlipTest(a, a, { seed: 0 }).p, 1);
  assertThrows(() => signFlipTest([1], [1, 2], { seed: 0 }), RangeError, "current 1 and 2");
  assertThrows(() => signFlipTest([], [], { seed: 0 }), RangeError, "at least one pair");
});

Deno.test("signFlipTest() gives the interval of all patterns by brute force", () => {
  const values = [0.4, -0.1, 0.9, 0.3, 0.7, 0.2, -0.3, 0.6];
  const patterns = Array.from({ length: 256 }, (_, bits) => values.map((_, i) => (bits >> i) & 1 ? 1 : -1));
  const total = (shift: number, signs: number[]) =>
    values.reduce((sum, value, i) => sum + at(signs, i) * (value - shift), 0);
  const p = (shift: number) => {
    const observed = Math.abs(total(shift, values.map(() => 1)));
    return patterns.filter((signs) => Math.abs(total(shift, signs)) >= observed - 1e-9).length / 256;
  };
  const grid = Array.from({ length: 4001 }, (_, i) => -1 + i / 2000).filter((shift) => p(shift) >= 0.1);
  const zero = values.map(() => 0);
  const { mean: centre, p: own, isFloor, interval } = signFlipTest(values, zero, { seed: 1 });
  assertAlmostEquals(centre, 2.7 / 8, 1e-12);
  assertAlmostEquals(own, p(0), 1e-12);
  assertEquals(isFloor, false);
  const { low, high } = interval(0.1);
  assertAlmostEquals(low, at(grid, 0), 0.02);
  assertAlmostEquals(high, grid.at(-1)!, 0.02);
});

Deno.test("signFlipTest() draws 100,000 patterns where they are more, and says where none is as extreme", () => {
  const lead = Array.from({ length: 40 }, (_, i) => 1 + 0.01 * i);
  const zero = lead.map(() => 0);
  const least = signFlipTest(lead, zero, { seed: 0 });
  assertEquals([least.p, least.isFloor], [1 / 100_001, true]);
  // A sum of signs: the exact p value is the two-sided binomial tail.
  const wins = zero.map((_, i) => i < 27 ? 1 : -1);
  const common = signFlipTest(wins, zero, { seed: 0 });
  assertAlmostEquals(common.p, mcnemarTest(27, 13, 100).p, 0.002);
  assertEquals(common.isFloor, false);
});

Deno.test("a paired test's interval leaves out 0 exactly where its p value is below the level", () => {
  const value = fc.double({ min: -1, max: 2, noNaN: true });
  fc.assert(
    fc.property(
      fc.array(value, { minLength: 2, maxLength: 30 }),
      fc.double({ min: 0.01, max: 0.5 }),
      (values, alpha) => {
        const test = signFlipTest(values, values.map(() => 0), { seed: 3, resamples: 400 });
        fc.pre(Math.abs(test.p - alpha) > 1e-6 && new Set(values).size > 1);
        const { low, high } = test.interval(alpha);
        assertEquals(low > 0 || high < 0, test.p < alpha, `p ${test.p}, level ${alpha}: ${low} to ${high}`);
        assert(low <= test.mean && test.mean <= high);
      },
    ),
    { numRuns: 60 },
  );
  fc.assert(
    fc.property(fc.nat(40), fc.nat(40), fc.double({ min: 0.001, max: 0.5 }), (wins, losses, alpha) => {
      const test = mcnemarTest(wins, losses, 100);
      fc.pre(Math.abs(test.p - alpha) > 1e-6);
      const { low, high } = test.interval(alpha);
      assertEquals(low > 0 || high < 0, test.p < alpha);
      assert(low <= test.mean + 1e-9 && test.mean <= high + 1e-9);
    }),
  );
});

Deno.test("mcnemarTest() has Clopper and Pearson's interval of the discordant pairs", () => {
  // 8 of 10: 0.44390 to 0.97479: P(at least 8) and P(at most 8) are 2.5 % there.
  const { mean: centre, interval } = mcnemarTest(8, 2, 10);
  assertAlmostEquals(centre, 0.6, 1e-12);
  const { low, high } = interval(0.05);
  assertAlmostEquals((low + 1) / 2, 0.4439045, 1e-6);
  assertAlmostEquals((high + 1) / 2, 0.9747893, 1e-6);
  // No discordant pair of ten: a share of 1 - 0.05^(1/10) is the largest that 5 % of such samples would hide.
  const none = mcnemarTest(0, 0, 10).interval(0.05);
  assertAlmostEquals((1 - none.high) ** 10, 0.05, 1e-12);
  assertEquals(none.low, -none.high);
});

Deno.test("holmLevels() gives each test a level that its raw p value is compared with", () => {
  const p = fc.array(fc.double({ min: 0, max: 0.2, noNaN: true }), { maxLength: 12 });
  fc.assert(fc.property(p, (raw) => {
    for (const [i, { p, alpha }] of holmLevels(raw, 0.05).entries()) {
      fc.pre(raw.every((own) => Math.abs(own - alpha) > 1e-9));
      assertEquals(at(raw, i) < alpha, p < 0.05);
    }
  }));
});

Deno.test("studentT95() gives the published quantiles of Student's t", () => {
  // Table of the t distribution, two-sided 5 %.
  const published = { 1: 12.706, 2: 4.303, 4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 20: 2.086, 30: 2.042, 120: 1.98 };
  for (const [df, t] of Object.entries(published)) assertAlmostEquals(studentT95(Number(df)), t, 0.003, df);
});
