import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { NumericError } from "../../core/util/errors.ts";
import fc from "fast-check";
import { smallestInSegments } from "../../methods/_shared/learned_units.ts";
import { bottomShare, bottomSlope, shrink } from "../../methods/mask_prune/widths.ts";

/** Masks v, how many of each of `segments` equal runs are in the bottom, and the multiplier y. */
interface Given {
  v: number[];
  s: number;
  y: number;
  segments?: number;
}

/** The proximal step as training takes it. */
function step({ v, s, y, segments = 1 }: Given): { x: Float32Array; closed: number[] } {
  const closed = smallestInSegments(v.map(Math.abs), s, segments);
  return { x: shrink(Float32Array.from(v), closed, y), closed };
}

/** Sets with `s` members of each of `segments` equal runs of n indices. */
function subsets(n: number, s: number, segments: number): number[][] {
  const inRun = (from: number, to: number, k: number): number[][] => {
    if (k === 0) return [[]];
    if (to - from < k) return [];
    return [...inRun(from, to - 1, k), ...inRun(from, to - 1, k - 1).map((set) => [...set, to - 1])];
  };
  const length = n / segments;
  return Array.from({ length: segments }, (_, i) => inRun(i * length, (i + 1) * length, s))
    .reduce((sets, run) => sets.flatMap((set) => run.map((more) => [...set, ...more])), [[]] as number[][]);
}

const total = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

/** bottom_s: the least sum of squares that s entries of every run have. */
function bottom(x: ArrayLike<number>, { v, s, segments = 1 }: Given): number {
  return Math.min(...subsets(v.length, s, segments).map((set) => total(set.map((i) => (x[i] ?? NaN) ** 2))));
}

/** The proximal problem at x: `1/2 |x - v|^2 + y bottom_s(x)`. */
const objective = (x: ArrayLike<number>, given: Given): number =>
  total(given.v.map((value, i) => ((x[i] ?? NaN) - value) ** 2)) / 2 + given.y * bottom(x, given);

/** Least value of the proximal problem: every choice of units with its own closed-form minimiser. */
const bruteForce = (given: Given): number =>
  Math.min(
    ...subsets(given.v.length, given.s, given.segments ?? 1).map((set) =>
      objective(given.v.map((value, i) => set.includes(i) ? value / (1 + 2 * given.y) : value), given)
    ),
  );

const problems: fc.Arbitrary<Required<Given>> = fc
  .record({ segments: fc.integer({ min: 1, max: 2 }), length: fc.integer({ min: 1, max: 4 }) })
  .chain(({ segments, length }) =>
    fc.record({
      segments: fc.constant(segments),
      v: fc.array(fc.integer({ min: -8, max: 8 }).map((n) => n / 4), {
        minLength: segments * length,
        maxLength: segments * length,
      }),
      s: fc.nat(length),
      y: fc.integer({ min: 0, max: 20 }).map((n) => n / 10),
    })
  );

Deno.test("shrink() of the smallest reaches the brute-force minimum of the proximal problem, ties and s = 0, n too", () => {
  fc.assert(
    fc.property(problems, (given) => {
      const reached = objective(step(given).x, given);
      assertAlmostEquals(reached, bruteForce(given), 1e-5 * (1 + reached));
    }),
    { numRuns: 300 },
  );
  const v = [3, -1, 2];
  assertEquals(step({ v, s: 0, y: 1 }).x, Float32Array.from(v));
  assertEquals(step({ v, s: 3, y: 0.5 }).x, Float32Array.from([1.5, -0.5, 1]));
});

Deno.test("bottomShare() is bottom_s over the sum of squares, 0 exactly when s masks or more are 0", () => {
  fc.assert(fc.property(problems, (given) => {
    const { v, s, segments } = given;
    const share = bottomShare(v, smallestInSegments(v.map(Math.abs), s, segments));
    const all = total(v.map((m) => m * m));
    assertAlmostEquals(share, all === 0 ? 0 : bottom(v, given) / all, 1e-9);
    if (segments === 1) assertEquals(share === 0, v.filter((m) => m === 0).length >= s);
  }));
});

Deno.test("bottomSlope() is the finite difference of bottom_s to the right of a whole s", () => {
  fc.assert(fc.property(problems, ({ v, s, y }) => {
    if (s >= v.length) return;
    assertAlmostEquals(bottomSlope(v, s), bottom(v, { v, s: s + 1, y }) - bottom(v, { v, s, y }), 1e-9);
  }));
  assertEquals(bottomSlope([1, -3, 2], 3), 9);
});

Deno.test("smallestInSegments() takes the k smallest, the lower index first among equals, and refuses NaN", () => {
  assertEquals(smallestInSegments([2, 1, 1, 0, 1], 3, 1), [1, 2, 3]);
  assertEquals(smallestInSegments([2, 1], 5, 1), [0, 1]);
  assertEquals(smallestInSegments([2, 1], 0, 1), []);
  const message = "Ranks of FFN channels of layer 3 must be numbers: current NaN for unit 1";
  assertThrows(() => smallestInSegments([2, NaN], 1, 1, "FFN channels of layer 3"), NumericError, message);
  assertEquals(smallestInSegments([3, 1, 2, 9, 8, 7], 1, 2), [1, 5]);
});
