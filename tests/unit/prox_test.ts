import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import fc from "fast-check";
import { smallest, smallestInSegments } from "../../methods/_shared/ranking.ts";
import { createMetric } from "../../methods/mask_prune/metric.ts";
import { bottomKSlope, weighted } from "../../methods/mask_prune/prox.ts";
import { type MaskPruneRates, type MaskState, proximalUpdate } from "../../methods/mask_prune/state.ts";

const RATES = { selection: "metric", masks: "learned", regrowth: false } as MaskPruneRates;

/** One layer with one type of unit: its masks, and what the proximal step needs to know. */
interface Given {
  v: number[];
  /** Curvature metric h, up to a factor; 1 when absent. */
  h?: number[];
  k: number;
  strength: number;
  segments?: number;
  chosen?: number[];
  cut?: number[];
}

function stateOf({ v, h, k, strength, segments = 1, chosen = [], cut = [] }: Given): MaskState {
  const flags = (ones: number[]) => Float32Array.from(v, (_, i) => ones.includes(i) ? 1 : 0);
  // h = sqrt(Fisher) Wanda, each over its median.
  const metric = createMetric(v.map(() => 1), h ?? v.map(() => 1));
  return {
    axes: [{ type: "query-heads", units: v.length / segments, segments }],
    masks: [[Float32Array.from(v)]],
    moments: [[]],
    metrics: [[metric]],
    chosen: [[flags(chosen)]],
    idle: [[flags([])]],
    cut: [[flags(cut)]],
    removed: [[k]],
    whole: [[k]],
    duals: [[strength]],
    budgetDual: 0,
    step: 0,
  };
}

/** The step as training runs it. */
function step(given: Given, rates: Partial<MaskPruneRates> = {}) {
  const state = stateOf(given);
  const { swaps, residuals } = proximalUpdate(state, { ...RATES, ...rates }, false);
  const [[x]] = state.masks as [[Float32Array]];
  const [[flags]] = state.chosen as [[Float32Array]];
  const chosen = Array.from(flags.keys()).filter((i) => flags[i] === 1);
  return { x, chosen, swaps, residual: residuals.flat()[0] ?? NaN };
}

/** Sets with k members of each of `segments` equal runs of n indices. */
function subsets(n: number, k: number, segments: number): number[][] {
  const inRun = (from: number, to: number, k: number): number[][] => {
    if (k === 0) return [[]];
    if (to - from < k) return [];
    return [...inRun(from, to - 1, k), ...inRun(from, to - 1, k - 1).map((set) => [...set, to - 1])];
  };
  const length = n / segments;
  return Array.from({ length: segments }, (_, s) => inRun(s * length, (s + 1) * length, k))
    .reduce((sets, run) => sets.flatMap((set) => run.map((more) => [...set, ...more])), [[]] as number[][]);
}

const total = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const square = (x: ArrayLike<number>, h: readonly number[]) => h.map((weight, i) => weight * (x[i] ?? NaN) ** 2);

/** Sum over the runs of the k smallest h x^2 of each. */
function bottom(x: ArrayLike<number>, { h, k, segments = 1 }: Required<Pick<Given, "h" | "k">> & Given): number {
  const terms = square(x, h);
  return Math.min(...subsets(h.length, k, segments).map((set) => total(terms.filter((_, i) => set.includes(i)))));
}

/** The proximal problem at x: `1/2 sum h (x - v)^2 + strength * bottom_k(x)`. */
function objective(x: ArrayLike<number>, given: Given): number {
  const { v, strength } = given;
  const h = given.h ?? v.map(() => 1);
  return total(square(v.map((value, i) => (x[i] ?? NaN) - value), h)) / 2 + strength * bottom(x, { ...given, h });
}

/** Least value of the proximal problem: every choice of units with its own closed-form minimiser. */
function bruteForce(given: Given): number {
  const { v, k, strength, segments = 1 } = given;
  return Math.min(
    ...subsets(v.length, k, segments).map((set) =>
      objective(v.map((value, i) => set.includes(i) ? value / (1 + 2 * strength) : value), given)
    ),
  );
}

/** Masks, metric, k, strength and runs; `least` is the smallest |mask|. */
function problems(least: number): fc.Arbitrary<Required<Omit<Given, "chosen" | "cut">>> {
  const value = fc.integer({ min: -8, max: 8 }).map((n) => Math.sign(n || 1) * (least + Math.abs(n) / 4));
  const metric = fc.integer({ min: 1, max: 9 }).map((n) => n / 3);
  const pairs = (length: number) => fc.array(fc.tuple(value, metric), { minLength: length, maxLength: length });
  return fc.record({ segments: fc.integer({ min: 1, max: 2 }), length: fc.integer({ min: 1, max: 4 }) }).chain((
    { segments, length },
  ) =>
    fc.record({
      entries: pairs(segments * length),
      k: fc.nat(length),
      strength: fc.integer({ min: 0, max: 20 }).map((n) => n / 10),
    }).map(({ entries, k, strength }) => ({
      v: entries.map(([v]) => v),
      h: entries.map(([, h]) => h),
      k,
      strength,
      segments,
    }))
  );
}

// In the metric form a mask below 1 is ranked as if it were 1, so the step is the proximal operator of masks from 1 on.
for (const [form, selection, least] of [["plain", "magnitude", 0], ["metric", "metric", 1]] as const) {
  const posed = (problem: Given): Given => form === "plain" ? { ...problem, h: undefined } : problem;

  Deno.test(`proximalUpdate() reaches the brute-force minimum, ties included, k from 0 to n (${form} form)`, () => {
    fc.assert(
      fc.property(problems(least), (problem) => {
        const given = posed(problem);
        const { x } = step(given, { selection });
        const reached = objective(x, given);
        assertAlmostEquals(reached, bruteForce(given), 1e-5 * (1 + reached));
      }),
      { numRuns: 300 },
    );
  });

  Deno.test(`proximalUpdate() has no better point nearby (${form} form)`, () => {
    const moves = fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 8, maxLength: 8 });
    fc.assert(
      fc.property(problems(least), moves, (problem, direction) => {
        const given = posed(problem);
        const { x } = step(given, { selection });
        const reached = objective(x, given);
        for (const size of [1e-3, 0.1, 1]) {
          const moved = Array.from(x, (value, i) => value + size * (direction[i] ?? 0));
          assert(objective(moved, given) >= reached - 1e-5);
        }
      }),
      { numRuns: 200 },
    );
  });

  Deno.test(`proximalUpdate() gives what is left of bottom-k as a fraction of the layer (${form} form)`, () => {
    fc.assert(fc.property(problems(least), (problem) => {
      const given = posed(problem);
      const { x, residual, chosen } = step(given, { selection });
      const h = given.h ?? given.v.map(() => 1);
      const left = total(square(x, h).filter((_, i) => chosen.includes(i)));
      assertAlmostEquals(residual, left / total(h), 1e-6);
      if (form === "plain") assertAlmostEquals(residual, bottom(x, { ...given, h }) / total(h), 1e-6);
    }));
  });
}

Deno.test("proximalUpdate() ranks a shrunk mask as if it were whole, and shrinks what it chose", () => {
  fc.assert(fc.property(problems(0), (given) => {
    const { v, h, k, strength, segments } = given;
    const { x, chosen } = step(given);
    const judged = square(v.map((value) => Math.max(Math.abs(value), 1)), h);
    const worth = (set: readonly number[]) => total(judged.filter((_, i) => set.includes(i)));
    const sets = subsets(v.length, k, segments);
    assertAlmostEquals(worth(chosen), Math.min(...sets.map(worth)), 1e-6);
    const expected = v.map((value, i) => chosen.includes(i) ? value / (1 + 2 * strength) : value);
    expected.forEach((value, i) => assertAlmostEquals(x[i] ?? NaN, value, 1e-6));
  }));
});

Deno.test("proximalUpdate() leaves everything for k = 0 and shrinks everything for k = n", () => {
  const v = [3, -1, 2];
  assertEquals(step({ v, k: 0, strength: 1 }).x, Float32Array.from(v));
  assertEquals(step({ v, k: 3, strength: 0.5 }).x, Float32Array.from([1.5, -0.5, 1]));
});

Deno.test("proximalUpdate() takes what was cut first, and starts at 1 what comes back", () => {
  const given = { v: [0.2, 1, 0.1, 1], k: 1, strength: 0.5, chosen: [0], cut: [3] };
  const masks = (rates: Partial<MaskPruneRates>) => {
    const { x, chosen, swaps } = step(given, { selection: "magnitude", ...rates });
    return { x: [...x].map((value) => Math.round(value * 10) / 10), chosen, swaps };
  };
  assertEquals(masks({}), { x: [0.2, 1, 0.1, 0.5], chosen: [3], swaps: 0 });
  assertEquals(masks({ regrowth: true }), { x: [1, 1, 0.1, 0.5], chosen: [3], swaps: 1 });
  assertEquals(masks({ masks: "hard" }), { x: [1, 1, 0.1, 0], chosen: [3], swaps: 1 });
});

Deno.test("proximalUpdate() leaves a bottom-k of 0 exactly when at least k masks are 0", () => {
  fc.assert(fc.property(problems(0), ({ v, k }) => {
    const zeros = v.filter((value) => value === 0).length;
    assertEquals(step({ v, k, strength: 0.3 }, { selection: "magnitude" }).residual === 0, zeros >= k);
  }));
});

Deno.test("bottomKSlope() is the finite difference of bottom-k to the right of a whole k", () => {
  fc.assert(fc.property(problems(0), ({ v, h, k }) => {
    if (k >= v.length) return;
    const right = bottom(v, { v, h, k: k + 1, strength: 0 }) - bottom(v, { v, h, k, strength: 0 });
    assertAlmostEquals(bottomKSlope(v, k, h), right, 1e-9);
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
