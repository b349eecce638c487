import { assertAlmostEquals, assertEquals } from "@std/assert";
import type { DecoderConfig, LinearName } from "../../models/config.ts";
import { expectedTensors } from "../../models/config.ts";
import { keptParameters, layerMacs, layerParameters, modelSize } from "../../models/count.ts";
import { plannedConfig } from "../../models/plan.ts";
import { LLAMA_7B, toyConfig } from "../support/toy.ts";

/** LLaMA-7B, its FFN and heads pruned in the layers where `pruned` says so. */
function llama7b(pruned = (_layer: number) => false, kept = { heads: 32, channels: 11008 }): DecoderConfig {
  const narrow = { kvGroups: kept.heads, queryHeadsPerGroup: 1, ffnChannels: kept.channels };
  return { ...LLAMA_7B, layers: LLAMA_7B.layers.map((shape, l) => pruned(l) ? narrow : shape) };
}

// Published: LLM-Pruner (arXiv:2305.11627), table 3; the two-tier shapes are those of its scripts.
Deno.test("modelSize() gives the published parameters and MACs of LLaMA-7B", () => {
  const size = modelSize(llama7b());
  assertEquals(size.parameters, 6_738_415_616);
  assertEquals(size.macs64, 424_021_065_728);
  assertEquals(size.weightBytes, 4 * 6_738_415_616);
  assertEquals(size.kvBytesPerToken, 32 * 2 * 4096 * 4);
  assertEquals([size.sparsityOfModel, size.sparsityOfPrunable], [0, 0]);
  assertEquals([size.layerwiseUniform, size.plainLlama], [true, true]);
});

Deno.test("modelSize() gives the published parameters and MACs of LLaMA-7B pruned by 20 and 50 %", () => {
  const size = modelSize(llama7b((l) => l >= 4 && l < 30, { heads: 24, channels: 8256 }), llama7b());
  assertEquals([size.parameters, (size.macs64 / 1e9).toFixed(2)], [5_422_977_024, "339.60"]);
  assertEquals([size.layerwiseUniform, size.plainLlama], [false, false]);
  assertAlmostEquals(size.sparsityOfModel, 1 - 5_422_977_024 / 6_738_415_616, 1e-12);
  const half = modelSize(llama7b((l) => l >= 3 && l < 31, { heads: 13, channels: 4403 }), llama7b());
  assertEquals([half.parameters, (half.macs64 / 1e9).toFixed(2)], [3_350_188_032, "206.59"]);
});

// Published: Sheared LLaMA (arXiv:2310.06694), shapes of section 3; parameters by arithmetic from them.
Deno.test("modelSize() gives the parameters of Sheared LLaMA's shapes, hidden size and layers removed", () => {
  const range = (n: number) => Array.from({ length: n }, (_, i) => i);
  const shapes = [
    { width: 2560, layers: 32, heads: 20, channels: 6912, parameters: 2_701_560_320, prunable: 2_537_553_920 },
    { width: 2048, layers: 24, heads: 16, channels: 5504, parameters: 1_345_423_360, prunable: 1_214_251_008 },
    { width: 1024, layers: 24, heads: 8, channels: 2816, parameters: 373_867_520, prunable: 308_281_344 },
  ];
  for (const { width, layers, heads, channels, parameters, prunable } of shapes) {
    const kept = { kvGroups: range(heads), queryHeads: range(heads), ffnChannels: range(channels) };
    const gone = { kvGroups: [], queryHeads: [], ffnChannels: [] };
    const dense = llama7b();
    const plan = { layers: range(32).map((l) => l < 32 - layers ? gone : kept), hidden: range(width) };
    const size = modelSize(plannedConfig(dense, plan), dense);
    assertEquals([size.parameters, size.prunableParameters], [parameters, prunable]);
    assertEquals(size.weightBytes, 4 * parameters);
    assertEquals(size.kvBytesPerToken, layers * 2 * heads * 128 * 4);
    assertEquals(size.layers.length, layers);
    assertEquals(size.hidden, { kept: width, of: 4096 });
    assertEquals([size.layerwiseUniform, size.plainLlama], [true, true]);
    assertAlmostEquals(size.sparsityOfPrunable, 1 - prunable / 6_476_005_376, 1e-12);
    assertAlmostEquals(size.sparsityOfModel, 1 - parameters / 6_738_415_616, 1e-12);
    // Maps, attention of 64 tokens, rotation, activation and norms of each layer, then the final norm and the logits.
    const layer = 64 * prunable / layers + heads * (2 * 64 * 64 * 128 + 64 * 64) + 4 * 64 * heads * 128 +
      64 * channels + 4 * 64 * width;
    assertEquals(size.macs64, layers * layer + 2 * 64 * width + 64 * width * 32000);
  }
  assertEquals("hidden" in modelSize(llama7b()), false);
});

Deno.test("modelSize() counts what the checkpoint holds, biases and untied heads included", () => {
  for (const biases of [[], ["output", "down"], ["query", "key", "value"]] as LinearName[][]) {
    for (const tiedHead of [true, false]) {
      const config = toyConfig({
        biases,
        tiedHead,
        layers: [
          { kvGroups: 2, queryHeadsPerGroup: 3, ffnChannels: 20 },
          { kvGroups: 3, queryHeadsPerGroup: 1, ffnChannels: 7 },
        ],
      });
      const sizes = [...expectedTensors(config)].map(([name, shape]) => ({
        name,
        size: shape.reduce((a, b) => a * b),
      }));
      const sum = (of: RegExp) =>
        sizes.filter(({ name }) => of.test(name)).reduce((total, { size }) => total + size, 0);
      const { parameters, prunableParameters, kvBytesPerToken } = modelSize(config);
      assertEquals(parameters, sum(/./));
      assertEquals(prunableParameters, sum(/_proj\.weight$/));
      assertEquals(kvBytesPerToken, 2 * (2 + 3) * 8 * 4);
    }
  }
});

Deno.test("modelSize() calls a model plain only without biases that the dense one lacks", () => {
  const dense = toyConfig({ biases: ["query"] });
  assertEquals(modelSize(dense).plainLlama, true);
  assertEquals(modelSize({ ...dense, biases: ["query", "output"] }, dense).plainLlama, false);
});

Deno.test("layerMacs() counts the products of one layer, with grouped keys and values", () => {
  const config = toyConfig();
  const shape = { kvGroups: 2, queryHeadsPerGroup: 3, ffnChannels: 20 };
  const [d, k, h, g, f, q] = [32, 8, 6, 2, 20, 5];
  const projections = q * d * k * (h + g + g + h);
  const scores = h * (q * q * k + q * q * k + q * q);
  const rest = 4 * q * h * k + 3 * q * d * f + q * f + 4 * q * d;
  assertEquals(layerMacs(config, shape, q), projections + scores + rest);
  assertEquals(layerParameters(config, shape), (h + g + g + h) * k * d + 3 * d * f);
});

Deno.test("keptParameters() takes the shapes it is given", () => {
  const config = toyConfig();
  const shapes = config.layers.map((shape) => ({ ...shape, ffnChannels: shape.ffnChannels - 2 }));
  assertEquals(keptParameters(config) - keptParameters(config, shapes), 2 * 2 * 3 * 32);
});
