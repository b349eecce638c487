import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import { keptParameters, layerParameters } from "../../models/count.ts";
import { UNIT_TYPES, type UnitType } from "../../core/schema/schema.ts";
import { resolveTarget } from "../../models/target.ts";
import { LLAMA_7B, toyConfig } from "../support/toy.ts";

function uniformConfig(shape: LayerShape, layers: number, sizes: Partial<DecoderConfig> = {}): DecoderConfig {
  return toyConfig({ ...sizes, layers: Array.from({ length: layers }, () => ({ ...shape })) });
}

const smol = uniformConfig({ kvGroups: 3, queryHeadsPerGroup: 3, ffnChannels: 1536 }, 30, { width: 576, headSize: 64 });
const uneven = toyConfig({
  layers: [[2, 1, 7], [1, 2, 5]].map(([kvGroups = 0, queryHeadsPerGroup = 0, ffnChannels = 0]) => ({
    kvGroups,
    queryHeadsPerGroup,
    ffnChannels,
  })),
});

Deno.test("resolveTarget() removes attention units at the ratio and fills up with FFN channels", () => {
  const asked = { sparsity: 0.2, units: ["ffn", "kv-groups"] } as const;
  const { uniform, budget, whole } = resolveTarget(LLAMA_7B, asked);
  assertEquals(whole, 32 * (4 * 4096 ** 2 + 3 * 4096 * 11008));
  assertEquals(budget, Math.floor(0.8 * whole));
  // 6 of 32 heads (floor of 6.4) go; a channel costs 3 x 4096 weights.
  const room = budget / 32 - 4 * 4096 * 26 * 128;
  const expected = { kvGroups: 26, queryHeadsPerGroup: 1, ffnChannels: Math.floor(room / (3 * 4096)) };
  assertEquals(uniform, Array.from({ length: 32 }, () => expected));
});

Deno.test("resolveTarget() with attention alone takes the largest that fits", () => {
  // Attention is a quarter of the weights of this shape, so 0.1 of them are 0.4 of attention: 2 of 4 groups.
  const config = uniformConfig({ kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 128 }, 2);
  assertEquals(layerParameters(config, at(config.layers, 0)), 4 * 32 * 32 + 3 * 32 * 128);
  const { uniform } = resolveTarget(config, { sparsity: 0.1, units: ["kv-groups"] });
  assertEquals(uniform[0], { kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 128 });
  const heads = resolveTarget(smol, { sparsity: 0.05, units: ["query-heads"] });
  assertEquals(heads.uniform[0], { kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 1536 });
});

Deno.test("resolveTarget() removes groups first and query heads for what is left of the ratio", () => {
  const config = uniformConfig({ kvGroups: 4, queryHeadsPerGroup: 4, ffnChannels: 64 }, 2);
  const widthsAt = (sparsity: number) => {
    const { uniform } = resolveTarget(config, { sparsity, units: ["ffn", "kv-groups", "query-heads"] });
    return [at(uniform, 0).kvGroups, at(uniform, 0).queryHeadsPerGroup];
  };
  // 0.2 of 4 groups is none, 0.2 of 16 heads is 3: not one from each of 4 groups.
  assertEquals(widthsAt(0.2), [4, 4]);
  // 0.5 of 4 groups leaves 2 with 4 heads each.
  assertEquals(widthsAt(0.5), [2, 4]);
  // 0.7 of 4 groups leaves 2; 16 - 11 heads need 3 in each.
  assertEquals(widthsAt(0.7), [2, 3]);
});

Deno.test("resolveTarget() removes more attention when FFN channels cannot make up the rest", () => {
  // Attention is 0.8 of the weights, and 0.25 of 2 groups round down to none: but 0.75 of the weights do not hold both
  // groups and a channel.
  const config = uniformConfig({ kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 10 }, 1, { headSize: 15 });
  assertEquals(layerParameters(config, at(config.layers, 0)), 4 * 32 * 30 + 3 * 32 * 10);
  assertEquals(at(resolveTarget(config, { sparsity: 0.17, units: ["ffn", "kv-groups"] }).uniform, 0).kvGroups, 2);
  assertEquals(at(resolveTarget(config, { sparsity: 0.25, units: ["ffn", "kv-groups"] }).uniform, 0).kvGroups, 1);
});

Deno.test("resolveTarget() at sparsity 0 keeps every width, whatever the model", () => {
  const target = resolveTarget(uneven, { sparsity: 0, units: ["ffn"], ffnMultiple: 4 });
  assertEquals([target.uniform, target.budget], [uneven.layers, keptParameters(uneven)]);
});

Deno.test("resolveTarget() meets the budget, and one more channel a layer would exceed it", () => {
  fc.assert(fc.property(
    fc.record({ kvGroups: fc.integer({ min: 1, max: 6 }), queryHeadsPerGroup: fc.integer({ min: 1, max: 4 }) }),
    fc.integer({ min: 1, max: 60 }),
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 95 }),
    fc.subarray([...UNIT_TYPES], { minLength: 1 }),
    fc.integer({ min: 1, max: 8 }),
    (attention, ffnChannels, layers, percent, units, ffnMultiple) => {
      const dense = { ...attention, ffnChannels };
      const config = uniformConfig(dense, layers, { width: 24, headSize: 6 });
      const asked = { sparsity: percent / 100, units, ffnMultiple };
      const smallest = layerParameters(config, {
        kvGroups: units.includes("kv-groups") ? 1 : dense.kvGroups,
        queryHeadsPerGroup: units.includes("query-heads") ? 1 : dense.queryHeadsPerGroup,
        ffnChannels: units.includes("ffn") ? Math.min(ffnMultiple, ffnChannels) : ffnChannels,
      });
      if (smallest * layers * 100 > (100 - percent) * keptParameters(config)) {
        assertThrows(() => resolveTarget(config, asked), UsageError, `Sparsity ${asked.sparsity} cannot be reached`);
        return;
      }
      const { uniform, budget, whole } = resolveTarget(config, asked);
      const shape = at(uniform, 0);
      const size = (s: LayerShape) => layers * layerParameters(config, s);
      assert(Math.abs(budget - (100 - percent) * whole / 100) < 1);
      assert(size(shape) <= budget, `${size(shape)} > ${budget}`);
      assertEquals(uniform, Array.from({ length: layers }, () => shape));
      for (const unit of UNIT_TYPES) checkWidth(unit, shape, dense, units);
      if (units.includes("ffn")) {
        assert(shape.ffnChannels % ffnMultiple === 0 || shape.ffnChannels === ffnChannels);
        const wider = { ...shape, ffnChannels: Math.min(shape.ffnChannels + ffnMultiple, ffnChannels) };
        if (wider.ffnChannels > shape.ffnChannels && wider.ffnChannels % ffnMultiple === 0) {
          assert(size(wider) > budget, "a wider FFN would fit as well");
        }
      }
    },
  ));
});

/** A unit type that may not be touched keeps its width; one that may keeps at least one unit. */
function checkWidth(unit: UnitType, shape: LayerShape, dense: LayerShape, units: readonly UnitType[]): void {
  const width = { "ffn": "ffnChannels", "kv-groups": "kvGroups", "query-heads": "queryHeadsPerGroup" } as const;
  const [kept, all] = [shape[width[unit]], dense[width[unit]]];
  if (units.includes(unit)) assert(kept >= 1 && kept <= all, `${kept} of ${all} ${unit}`);
  else assertEquals(kept, all);
}

Deno.test("resolveTarget() names the largest sparsity that can be reached", () => {
  // MHA has one query head in each group, which stays.
  const none = "Sparsity 0.1 cannot be reached with units query-heads on this model: the largest is 0";
  assertThrows(() => resolveTarget(LLAMA_7B, { sparsity: 0.1, units: ["query-heads"] }), UsageError, none);
  // Without attention units, 885 of 2304 blocks of weights stay, and one block of 32 channels.
  const asked = { sparsity: 0.9, units: ["ffn"], ffnMultiple: 32 } as const;
  const error = assertThrows(() => resolveTarget(smol, asked), UsageError, "at FFN multiple 32");
  const largest = Number(error.message.match(/largest is ([\d.]+)/)![1]);
  const exact = 3 * 576 * (1536 - 32) / (576 * 24 * 64 + 3 * 576 * 1536);
  assert(largest <= exact && largest > exact - 0.001, `${largest} of ${exact}`);
  assertEquals(at(resolveTarget(smol, { ...asked, sparsity: largest }).uniform, 0).ffnChannels, 32);
});

Deno.test("resolveTarget() refuses wrong values and models that are pruned already", () => {
  const refuses = (config: DecoderConfig, asked: Parameters<typeof resolveTarget>[1], words: string) =>
    assertThrows(() => resolveTarget(config, asked), UsageError, words);
  for (const sparsity of [-0.1, 1, NaN]) refuses(smol, { sparsity, units: ["ffn"] }, `current ${sparsity}`);
  refuses(smol, { sparsity: 0.2, units: [] }, "ffn, query-heads, kv-groups");
  for (const ffnMultiple of [0, 1.5]) {
    refuses(smol, { sparsity: 0.2, units: ["ffn"], ffnMultiple }, `current ${ffnMultiple}`);
  }
  refuses(uneven, { sparsity: 0.2, units: ["ffn"] }, "2x1+7, 1x2+5");
});
