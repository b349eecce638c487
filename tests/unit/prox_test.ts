import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  bottomK,
  bottomKSlope,
  proximalStep,
  smallest,
  smallestInSegments,
  weighted,
} from "../../methods/mask_prune/prox.ts";

const value = fc.integer({ min: -8, max: 8 }).map((n) => n / 4);
const vectors = fc.array(fc.record({ v: value, h: fc.integer({ min: 1, max: 9 }).map((n) => n / 3) }), {
  minLength: 1,
  maxLength: 7,
});

/** Subsets of {0, ..., n - 1} with k members. */
function subsets(n: number, k: number): number[][] {
  if (k === 0) return [[]];
  if (n < k) return [];
  return [...subsets(n - 1, k), ...subsets(n - 1, k - 1).map((set) => [...set, n - 1])];
}

/** Value of the proximal problem at x. */
function objective(x: ArrayLike<number>, v: number[], h: number[], k: number, strength: number): number {
  const distance = v.reduce((sum, value, i) => sum + 0.5 * h[i] * (x[i] - value) ** 2, 0);
  const least = Math.min(...subsets(v.length, k).map((set) => set.reduce((sum, i) => sum + h[i] * x[i] ** 2, 0)));
  return distance + strength * least;
}

/** Least value of the proximal problem: every subset with its own closed-form minimiser. */
function bruteForce(v: number[], h: number[], k: number, strength: number): number {
  return Math.min(
    ...subsets(v.length, k).map((set) =>
      objective(v.map((value, i) => set.includes(i) ? value / (1 + 2 * strength) : value), v, h, k, strength)
    ),
  );
}

for (const form of ["plain", "metric"] as const) {
  Deno.test(`proximalStep() reaches the brute-force minimum, ties included, k from 0 to n (${form} form)`, () => {
    fc.assert(
      fc.property(vectors, fc.nat(7), fc.integer({ min: 0, max: 20 }), (entries, pick, tenths) => {
        const v = entries.map((entry) => entry.v);
        const h = entries.map((entry) => form === "plain" ? 1 : entry.h);
        const k = pick % (v.length + 1);
        const strength = tenths / 10;
        const x = proximalStep(Float32Array.from(v), k, strength, form === "plain" ? undefined : h);
        const reached = objective(x, v, h, k, strength);
        assertAlmostEquals(reached, bruteForce(v, h, k, strength), 1e-5 * (1 + reached));
      }),
      { numRuns: 300 },
    );
  });

  Deno.test(`proximalStep() has no better point nearby (${form} form)`, () => {
    const direction = fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 7, maxLength: 7 });
    fc.assert(
      fc.property(vectors, fc.nat(7), direction, (entries, pick, moves) => {
        const v = entries.map((entry) => entry.v);
        const h = entries.map((entry) => form === "plain" ? 1 : entry.h);
        const k = pick % (v.length + 1);
        const x = proximalStep(Float32Array.from(v), k, 0.7, form === "plain" ? undefined : h);
        const least = objective(x, v, h, k, 0.7);
        for (const size of [1e-3, 0.1, 1]) {
          const moved = Array.from(x, (value, i) => value + size * moves[i]);
          assert(objective(moved, v, h, k, 0.7) >= least - 1e-5);
        }
      }),
      { numRuns: 200 },
    );
  });
}

Deno.test("proximalStep() leaves everything for k = 0 and shrinks everything for k = n", () => {
  const v = Float32Array.from([3, -1, 2]);
  assertEquals(proximalStep(v, 0, 1), v);
  assertEquals(proximalStep(v, 3, 0.5), Float32Array.from([1.5, -0.5, 1]));
});

Deno.test("bottomK() is 0 exactly when at least k entries are 0", () => {
  fc.assert(fc.property(vectors, fc.nat(7), (entries, pick) => {
    const v = entries.map((entry) => entry.v);
    const k = pick % (v.length + 1);
    const zeros = v.filter((value) => value === 0).length;
    assertEquals(bottomK(v, k) === 0, zeros >= k);
  }));
});

Deno.test("bottomKSlope() is the finite difference of bottomK() to the right of a whole k", () => {
  fc.assert(fc.property(vectors, fc.nat(6), fc.constantFrom(0.25, 0.5, 1), (entries, pick, step) => {
    const v = entries.map((entry) => entry.v);
    const h = entries.map((entry) => entry.h);
    const k = pick % v.length;
    const difference = (bottomK(v, k + step, h) - bottomK(v, k, h)) / step;
    assertAlmostEquals(bottomKSlope(v, k, h), difference, 1e-9);
  }));
  assertEquals(bottomKSlope([1, -3, 2], 3), 9);
});

Deno.test("smallest() takes the k smallest, the lower index first among equals", () => {
  assertEquals(smallest([2, 1, 1, 0, 1], 3), [1, 2, 3]);
  assertEquals(smallest([2, 1], 5), [0, 1]);
  assertEquals(smallest([2, 1], 0), []);
  assertEquals(smallestInSegments([3, 1, 2, 9, 8, 7], 1, 2), [1, 5]);
  assertEquals([...weighted([2, -3], [1, 0.5])], [4, 4.5]);
});
