import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import {
  expectedParameters,
  maskedParts,
  rowsOf,
  targetConfig,
  type TargetOptions,
  toModelMasks,
} from "../../methods/sheared/shape.ts";
import { keptParameters } from "../../models/count.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import { resolveTarget } from "../../models/target.ts";
import { toyConfig } from "../support/toy.ts";

/** 3 layers of 4 groups of 3 query heads and 40 channels, width 32, head size 8. */
const SHAPE = { kvGroups: 4, queryHeadsPerGroup: 3, ffnChannels: 40 };
const GROUPED = toyConfig({ layers: [SHAPE, SHAPE, SHAPE] });

function shapeOf(
  options: TargetOptions,
  { sparsity = 0.4, units = ["ffn", "kv-groups"], ffnMultiple = 1 }: {
    sparsity?: number;
    units?: UnitType[];
    ffnMultiple?: number;
  } = {},
) {
  return targetConfig(GROUPED, resolveTarget(GROUPED, { sparsity, units, ffnMultiple }), options);
}

Deno.test("targetConfig() leaves what is not named to the budget, and goes below it where the shape says so", () => {
  assertEquals(shapeOf({}).layers, resolveTarget(GROUPED, { sparsity: 0.4, units: ["ffn", "kv-groups"] }).uniform);
  const budget = 0.6 * keptParameters(GROUPED);
  const freeFfn = shapeOf({ targetHidden: 24, targetHeads: 9 });
  assertEquals([freeFfn.width, freeFfn.layers.length, at(freeFfn.layers, 0).kvGroups], [24, 3, 3]);
  const wider = freeFfn.layers.map((shape) => ({ ...shape, ffnChannels: shape.ffnChannels + 1 }));
  assertEquals([keptParameters(freeFfn) <= budget, keptParameters(freeFfn, wider) <= budget], [true, false]);
  const freeHeads = shapeOf({ targetFfn: 20 });
  assertEquals(at(freeHeads.layers, 0).ffnChannels, 20);
  assertEquals(keptParameters(freeHeads) <= budget, true);
  // Two layers of three are below the budget of 0.8 by themselves, half of the width as well.
  assertEquals(shapeOf({ targetLayers: 2 }, { sparsity: 0.2 }), { ...GROUPED, layers: [SHAPE, SHAPE] });
  assertEquals(shapeOf({ targetHidden: 16 }), { ...GROUPED, width: 16 });
});

Deno.test("targetConfig() removes groups before query heads, as units allow", () => {
  const heads = (targetHeads: number, units: UnitType[]) => {
    const { kvGroups, queryHeadsPerGroup } = at(shapeOf({ targetHeads, targetLayers: 1 }, { units }).layers, 0);
    return [kvGroups, queryHeadsPerGroup];
  };
  assertEquals(heads(6, ["kv-groups"]), [2, 3]);
  assertEquals(heads(8, ["ffn", "query-heads"]), [4, 2]);
  assertEquals(heads(6, ["query-heads", "kv-groups"]), [2, 3]);
});

Deno.test("targetConfig() refuses shapes with value, limit and a way out", () => {
  const refuses = (words: string, ...given: Parameters<typeof shapeOf>) =>
    assertThrows(() => shapeOf(...given), UsageError, words);
  refuses("targetHidden must be at most the model's 32: current 33", { targetHidden: 33 });
  refuses("targetLayers must be at most the model's 3: current 4", { targetLayers: 4 });
  refuses("targetHeads must be at most the model's 12: current 13", { targetHeads: 13 });
  refuses("targetFfn must be at most the model's 40: current 41", { targetFfn: 41 });
  refuses("targetFfn=8 needs the unit type ffn: add it to --units", { targetFfn: 8 }, { units: ["kv-groups"] });
  refuses("targetHeads=6 needs the unit type kv-groups or query-heads", { targetHeads: 6 }, {
    sparsity: 0.2,
    units: ["ffn"],
  });
  refuses("targetFfn must be a multiple of 8 (--ffn-multiple): current 12", { targetFfn: 12 }, { ffnMultiple: 8 });
  refuses("in 4 groups of 3 query heads by removing kv-groups: give 9", { targetHeads: 7 });
  const all = { targetHidden: 32, targetLayers: 3, targetHeads: 9, targetFfn: 30 };
  const kept = 3 * (3 * (2 * 3 + 2) * 8 * 32 + 3 * 30 * 32);
  const dense = 3 * (4 * (2 * 3 + 2) * 8 * 32 + 3 * 40 * 32);
  const message = `targetHidden=32,targetLayers=3,targetHeads=9,targetFfn=30 keeps ${kept} of ${dense} prunable ` +
    `parameters, sparsity 0.4 allows ${Math.floor(0.6 * dense)}: give a smaller shape, or --sparsity 0.25 or less`;
  refuses(message, all);
  assertEquals(keptParameters(shapeOf(all, { sparsity: 0.25 })), kept);
  refuses("and kv-groups cannot compensate", { targetFfn: 40 }, { sparsity: 0.7 });
});

Deno.test("maskedParts() are what units and targets name, and go over to masks of the model and back", () => {
  const target = resolveTarget(GROUPED, { sparsity: 0.4, units: ["ffn", "kv-groups"] });
  const partsOf = (options: TargetOptions) => maskedParts(GROUPED, target, options);
  assertEquals(partsOf({ targetFfn: 8 }).map(({ type }) => type), ["kv-groups", "ffn"]);
  const parts = partsOf({ targetLayers: 2, targetHidden: 16, targetHeads: 6, targetFfn: 10 });
  assertEquals(parts.map(({ type, removed, rows }) => [type, removed, rows]), [
    ["kv-groups", 2, [4, 4, 4]],
    ["ffn", 30, [40, 40, 40]],
    ["layer", 1, [3]],
    ["hidden", 16, [32]],
  ]);
  let next = 0;
  const filled = parts.map(({ type, rows }) => ({
    type,
    rows: rows.map((length) => Float32Array.from({ length }, () => next++)),
  }));
  const masks = toModelMasks(filled, 3);
  assertEquals(masks.masks!.map(({ layer }) => layer), [...at(at(filled, 2).rows, 0)].map((x) => Float32Array.of(x)));
  assertEquals(at(masks.masks!, 1)["kv-groups"], at(filled, 0).rows[1]);
  assertEquals(masks.hidden, at(filled, 3).rows[0]);
  for (const { type, rows } of filled) assertEquals(rowsOf(type, masks), rows);
});

Deno.test("expectedParameters() multiplies probabilities of layer, unit and hidden dimension", () => {
  const shape = { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 3 };
  const config = toyConfig({ width: 4, headSize: 2, layers: [shape, shape] });
  const row = (...values: number[]) => Float32Array.from(values);
  const open = {
    masks: [
      { "kv-groups": row(0.5, 1), "query-heads": row(1, 0.25, 1, 1), "ffn": row(1, 0.5, 0), "layer": row(0.5) },
      { "kv-groups": row(1, 1), "query-heads": row(1, 0, 0.5, 0.5), "ffn": row(0.25, 0.25, 0.25), "layer": row(1) },
    ],
    hidden: row(1, 0.5, 0.5, 0),
  };
  // Heads 0.5, 0.125, 1, 1 and groups 0.5, 1; then heads 1, 0, 0.5, 0.5 and both groups. Two maps each, head size 2.
  const first = 0.5 * (2 * 2 * (2.625 + 1.5) + 3 * 1.5);
  const second = 1 * (2 * 2 * (2 + 2) + 3 * 0.75);
  assertAlmostEquals(expectedParameters(config, open), (first + second) * 2, 1e-12);
  assertEquals(expectedParameters(config, { masks: [{}, {}] }), keptParameters(config));
});
