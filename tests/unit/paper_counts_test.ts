/** Heads, channels and parameters of every published LLaMA-7B row, from the presets and the model's configuration alone. */
import { assertEquals } from "@std/assert";
import { presetPath } from "../../benchmarks/commands/ls.ts";
import { resolveConfig, yamlSource } from "../../benchmarks/configuration/resolve.ts";
import { at } from "../../core/util/indexing.ts";
import type { RunConfig } from "../../core/schema/schema.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { type KeptLayers, layerRange, twoTierWidths } from "../../methods/_shared/selection.ts";
import { targetConfig } from "../../methods/sheared/shape.ts";
import type { LayerShape } from "../../models/units.ts";
import { keptParameters, modelSize } from "../../models/count.ts";
import { type BudgetTarget, resolveTarget } from "../../models/target.ts";
import { publishedRows } from "../../reports/paper/published.ts";
import { LLAMA_7B } from "../support/toy.ts";

const preset = (name: string): RunConfig =>
  resolveConfig([yamlSource(Deno.readTextFileSync(presetPath(`paper/${name}`)), name)]);

const targetOf = ({ units }: RunConfig, sparsity: number): BudgetTarget => resolveTarget(LLAMA_7B, { sparsity, units });

/** Parameters of the whole model with these layers. */
const parametersWith = (layers: LayerShape[]): number => modelSize({ ...LLAMA_7B, layers }).parameters;

const words = ({ kvGroups, queryHeadsPerGroup, ffnChannels }: LayerShape) =>
  `${kvGroups * queryHeadsPerGroup} + ${ffnChannels}`;

const LLM_PRUNER = [
  { table: "llm-pruner-20", pruned: [4, 30], shape: "24 + 8256", parameters: 5_422_977_024 },
  { table: "llm-pruner-50", pruned: [3, 31], shape: "13 + 4403", parameters: 3_350_188_032 },
] as const;

for (const { table, pruned: [start, end], shape, parameters } of LLM_PRUNER) {
  Deno.test(`${table}: every row keeps the authors' heads and channels, ${shape} of layers ${start} to ${end - 1}`, () => {
    const config = preset(table);
    assertEquals(config.methods.length, 5);
    const target = targetOf(config, at(config.sparsity, 0));
    for (const { id, options } of config.methods) {
      const method = getMethod(id);
      const parsed = parseOptions(method, options) as KeptLayers;
      const range = layerRange(32, parsed);
      assertEquals(range, { start, end }, id);
      const widths = twoTierWidths(LLAMA_7B, target, range);
      const expected = Array.from({ length: 32 }, (_, l) => l >= start && l < end ? shape : "32 + 11008");
      assertEquals(widths.map(words), expected, id);
      assertEquals(parametersWith(widths), parameters);
      method.check?.(LLAMA_7B, target, parsed, config);
    }
    assertEquals(new Set(publishedRows(table).map(({ sparsity }) => sparsity)), new Set([0, ...config.sparsity]));
    assertEquals([config.requestEncoding, config.limit], ["llm-pruner", undefined]);
    assertEquals(config.calibration, { corpus: "bookcorpus", sequences: 10, tokens: 64, draw: "distinct-rows" });
  });
}

Deno.test("Wanda-sp keeps int(p H) heads and int(p F) channels less, as its code does at 20, 30 and 50 %", () => {
  const config = preset("flap-wanda-sp");
  const shapes = config.sparsity.map((sparsity) => words(at(targetOf(config, sparsity).uniform, 0)));
  assertEquals(shapes, [0.2, 0.3, 0.5].map((p) => `${32 - Math.trunc(p * 32)} + ${11008 - Math.trunc(p * 11008)}`));
  assertEquals(shapes, ["26 + 8807", "23 + 7706", "16 + 5504"]);
  assertEquals(config.calibration, { corpus: "c4", sequences: 128, tokens: 128 });
});

Deno.test("FLAP leaves the asked part of the decoder's linear weights; its own rounding differs by a channel", () => {
  const config = preset("flap");
  assertEquals(config.sparsity, [0.2, 0.3, 0.5]);
  const left = config.sparsity.map((sparsity) => targetOf(config, sparsity).budget);
  const rest = modelSize(LLAMA_7B).parameters - keptParameters(LLAMA_7B);
  assertEquals(left.map((kept) => ((kept + rest) / 1e9).toFixed(3)), ["5.443", "4.796", "3.500"]);
  // UL-MM of the code, with as many heads as UL-UM: int((p (3 d F + 4 d^2) - 4 d 128 heads) / (3 d)) channels go.
  const [d, f] = [4096, 11008];
  for (const p of config.sparsity) {
    const heads = Math.trunc(p * 32);
    const channels = Math.trunc((p * (3 * d * f + 4 * d * d) - 4 * d * 128 * heads) / (3 * d));
    const [shape] = targetOf(config, p).uniform;
    assertEquals(shape && [shape.kvGroups, shape.ffnChannels], [32 - heads, 11008 - channels - (p === 0.5 ? 0 : 1)]);
  }
  assertEquals(config.calibration, { corpus: "wikitext2", sequences: 1024, tokens: 128 });
  assertEquals(config.methods.map(({ options }) => options.biasCompensation), [true]);
});

const SHEARED = [
  { name: "2.7b", layers: 32, width: 2560, shape: "20 + 6912", parameters: 2_701_560_320 },
  { name: "1.3b", layers: 24, width: 2048, shape: "16 + 5504", parameters: 1_345_423_360 },
];

for (const { name, layers, width, shape, parameters } of SHEARED) {
  Deno.test(`Sheared-LLaMA ${name} has its published shape and ${parameters} parameters`, () => {
    const config = preset(`sheared-llama-${name}`);
    const target = targetOf(config, at(config.sparsity, 0));
    const { options } = at(config.methods, 0);
    const parsed = parseOptions(getMethod("sheared"), options) as Parameters<typeof targetConfig>[2];
    const narrow = targetConfig(LLAMA_7B, target, parsed);
    assertEquals([narrow.layers.length, narrow.width], [layers, width]);
    assertEquals(new Set(narrow.layers.map(words)), new Set([shape]));
    assertEquals(modelSize(narrow).parameters, parameters);
    const { steps, batch, tokens } = config.training!;
    assertEquals(steps * batch * tokens, 3200 * 131072);
  });
}
