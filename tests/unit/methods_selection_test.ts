import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import { globalWidths, keepBest, keepWidths, twoTierWidths } from "../../methods/_shared/selection.ts";
import { type LayerScores, scoresOfColumns, scoresOfGroups } from "../../methods/_shared/scoring.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import { keptParameters } from "../../models/count.ts";
import { plannedShapes } from "../../models/plan.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import { resolveTarget } from "../../models/target.ts";
import { unitCost } from "../support/unit_cost.ts";
import { toyConfig } from "../support/toy.ts";

/** Scores in [0, 1) for every unit. */
function randomScores(config: DecoderConfig, seed: number): LayerScores[] {
  const { uniform } = createRng(seed, "scores");
  const draw = (count: number) => Float64Array.from({ length: count }, uniform);
  return config.layers.map(({ kvGroups, queryHeadsPerGroup, ffnChannels }) => ({
    ffn: draw(ffnChannels),
    queryHeads: draw(kvGroups * queryHeadsPerGroup),
    kvGroups: draw(kvGroups),
  }));
}

const configOf = (count: number, shape: LayerShape) =>
  toyConfig({ layers: Array.from({ length: count }, () => ({ ...shape })) });
const GROUPED: LayerShape = { kvGroups: 3, queryHeadsPerGroup: 3, ffnChannels: 80 };
const UNIT_CHOICES = [["ffn"], ["ffn", "kv-groups"], ["ffn", "query-heads"], [
  "ffn",
  "query-heads",
  "kv-groups",
]] as UnitType[][];

Deno.test("keepWidths() keeps the best groups, the best heads inside each, and the best channels", () => {
  const scores: LayerScores = {
    ffn: Float64Array.of(3, 1, 2, 5),
    queryHeads: Float64Array.of(9, 1, 2, 3, 8, 7),
    kvGroups: Float64Array.of(10, 5, 15),
  };
  const { layers: [layer] } = keepWidths([scores], [{ kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 2 }]);
  assertEquals(layer, { kvGroups: [0, 2], queryHeads: [0, 4], ffnChannels: [0, 3] });
});

Deno.test("keepWidths() prefers the lower index among equal scores", () => {
  const [four, two] = [new Float64Array(4), new Float64Array(2)];
  const scores: LayerScores = { ffn: four, queryHeads: four, kvGroups: two };
  const { layers: [layer] } = keepWidths([scores], [{ kvGroups: 1, queryHeadsPerGroup: 1, ffnChannels: 2 }]);
  assertEquals(layer, { kvGroups: [0], queryHeads: [0], ffnChannels: [0, 1] });
});

Deno.test("selection refuses scores that are not numbers, with the layer and the unit", () => {
  const scores = () =>
    [0, 1].map(() => ({ ffn: new Float64Array(80), queryHeads: new Float64Array(9), kvGroups: new Float64Array(3) }));
  const target = resolveTarget(configOf(2, GROUPED), { sparsity: 0.3, units: ["ffn"] });
  const damaged = scores();
  at(damaged, 1).ffn[7] = NaN;
  const message = "Scores of FFN channels must be numbers: layer 1 has NaN for unit 7";
  assertThrows(() => keepBest(damaged, target), NumericError, message);
  assertThrows(() => globalWidths(configOf(2, GROUPED), damaged, target, { pool: "all" }), NumericError, message);
  const missing = [at(scores(), 0), { ffn: new Float64Array(80), kvGroups: new Float64Array(3) } as LayerScores];
  const problem = "Scores of query heads must be numbers: layer 1 has undefined for unit 0";
  assertThrows(() => keepBest(missing, target), NumericError, problem);
});

Deno.test("keepBest() gives a plan of exactly the target's widths", () => {
  fc.assert(fc.property(
    fc.constantFrom(...UNIT_CHOICES),
    fc.double({ min: 0, max: 0.5, noNaN: true }),
    fc.integer({ min: 0, max: 1000 }),
    (units, sparsity, seed) => {
      const config = configOf(3, GROUPED);
      const target = resolveTarget(config, { sparsity, units });
      assertEquals(plannedShapes(config, keepBest(randomScores(config, seed), target)), target.uniform);
    },
  ));
});

Deno.test("globalWidths() meets the budget at multiples of channels, and leaves less than one step of it unused", () => {
  fc.assert(fc.property(
    fc.constantFrom(...UNIT_CHOICES),
    fc.double({ min: 0, max: 0.4, noNaN: true }),
    fc.integer({ min: 0, max: 1000 }),
    fc.integer({ min: 1, max: 11 }),
    fc.constantFrom("all", "type") as fc.Arbitrary<"all" | "type">,
    (units, sparsity, seed, ffnMultiple, pool) => {
      const config = configOf(4, GROUPED);
      const target = resolveTarget(config, { sparsity, units, ffnMultiple });
      const widths = globalWidths(config, randomScores(config, seed), target, { pool });
      const slack = target.budget - keptParameters(config, widths);
      assert(slack >= 0, `budget exceeded by ${-slack}`);
      const narrowed = widths.filter(({ ffnChannels }) => ffnChannels < GROUPED.ffnChannels);
      for (const { ffnChannels } of narrowed) assertEquals(ffnChannels % ffnMultiple, 0);
      // Removed channels come back as far as they fit; a group alone may leave a gap of up to its own size.
      const [type, most] = narrowed.length > 0 ? ["ffn", ffnMultiple] as const : ["kv-groups", 1] as const;
      const step = most * unitCost(config, 0, type);
      assert(slack < step, `unused: ${slack} of a step of ${step}`);
    },
  ));
});

Deno.test("globalWidths() removes no unit above a kept one of the same type elsewhere", () => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 1000 }), (seed) => {
    const config = configOf(4, GROUPED);
    const target = resolveTarget(config, { sparsity: 0.3, units: ["ffn"] });
    const scores = randomScores(config, seed);
    const { layers } = keepWidths(scores, globalWidths(config, scores, target, { pool: "all" }));
    const kept = layers.flatMap(({ ffnChannels }, l) => ffnChannels.map((c) => at(at(scores, l).ffn, c)));
    const all = scores.flatMap(({ ffn }) => [...ffn]).sort((a, b) => b - a);
    assertEquals(kept.sort((a, b) => b - a), all.slice(0, kept.length));
  }));
});

Deno.test("globalWidths() with a pool per type takes the attention that uniform widths would take", () => {
  const config = configOf(4, { ...GROUPED, kvGroups: 4 });
  const target = resolveTarget(config, { sparsity: 0.3, units: ["ffn", "kv-groups"] });
  const widths = globalWidths(config, randomScores(config, 1), target, { pool: "type" });
  const groups = (shapes: LayerShape[]) => shapes.reduce((sum, { kvGroups }) => sum + kvGroups, 0);
  assertEquals(groups(widths), groups(target.uniform));
  assert(new Set(widths.map(({ ffnChannels }) => ffnChannels)).size > 1, "channels are not ranked across layers");
});

Deno.test("twoTierWidths() narrows the layers of its range alike and meets the budget", () => {
  fc.assert(fc.property(
    fc.constantFrom(...UNIT_CHOICES),
    fc.double({ min: 0.01, max: 0.25, noNaN: true }),
    (units, sparsity) => {
      const config = configOf(6, GROUPED);
      const target = resolveTarget(config, { sparsity, units });
      const widths = twoTierWidths(config, target, { start: 1, end: 5 });
      assertEquals([widths[0], widths[5]], [GROUPED, GROUPED]);
      const [inner, ...others] = widths.slice(1, 5);
      for (const other of others) assertEquals(other, inner);
      const slack = target.budget - keptParameters(config, widths);
      assert(slack >= 0 && slack < 4 * 3 * config.width, `unused: ${slack}`);
    },
  ));
});

Deno.test("twoTierWidths() keeps everything at sparsity 0 and refuses what its layers cannot lose", () => {
  const config = configOf(4, GROUPED);
  const units: UnitType[] = ["ffn", "kv-groups"];
  const range = { start: 1, end: 2 };
  assertEquals(twoTierWidths(config, resolveTarget(config, { sparsity: 0, units }), range), config.layers);
  const target = resolveTarget(config, { sparsity: 0.5, units });
  assertThrows(() => twoTierWidths(config, target, range), UsageError, "pruning layers 1 to 1 of 4:");
});

Deno.test("scoresOfColumns() credits a group with its own query heads", () => {
  const shape = { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 1 };
  const given = { output: [1, 1, 2, 2, 3, 3, 4, 4], down: [7], shape, headSize: 2 };
  const { queryHeads, kvGroups, ffn } = scoresOfColumns(given);
  assertEquals([[...queryHeads], [...kvGroups], [...ffn]], [[2, 4, 6, 8], [6, 14], [7]]);
  const means = scoresOfColumns({ ...given, reduction: "mean" });
  assertEquals([[...means.queryHeads], [...means.kvGroups]], [[1, 2, 3, 4], [1.5, 3.5]]);
});

Deno.test("scoresOfGroups() adds every matrix a unit takes with it", () => {
  const shape = { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 2 };
  const attention = { query: [1, 2, 3, 4], output: [10, 20, 30, 40], key: [100, 200], value: [1000, 2000] };
  const given = { ...attention, gate: [1, 2], up: [10, 20], down: [100, 200] };
  const { ffn, queryHeads, kvGroups } = scoresOfGroups(given, shape, 1);
  assertEquals([[...ffn], [...queryHeads], [...kvGroups]], [[111, 222], [11, 22, 33, 44], [1133, 2277]]);
});
