import { assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { evenlySpaced } from "../../core/util/stats.ts";
import { layersByLoss, onDepth } from "../../methods/_shared/depth.ts";
import type { Statistics } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { expectedTensors, memorySource } from "../../models/config.ts";
import { disposeCache } from "../../models/decode.ts";
import { greedyTokens } from "../../models/generate.ts";
import { keptLayers } from "../../models/plan.ts";
import { targetFrom } from "../../models/target.ts";
import { testOnEngines } from "../support/engines.ts";
import { onDevice } from "../support/device_models.ts";
import { learningOptions, methodContext, toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";

const shape = { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 16 };
const layers = Array.from({ length: 5 }, () => ({ ...shape }));
const source = toySource({ width: 16, headSize: 4, layers, seed: 3 });
const kept = [0, 2, 4];

/** `source` as if it never had the other layers. */
function shallow() {
  const config = { ...source.config, layers: kept.map((l) => at(layers, l)) };
  const nameIn = (name: string) => name.replace(/layers\.(\d+)/, (_, l) => `layers.${at(kept, Number(l))}`);
  const tensors = [...expectedTensors(config).keys()].map((name) => [name, source.read(nameIn(name))] as const);
  return memorySource(config, new Map(tensors));
}

testOnEngines("onDepth() prunes what is left as a model that never had the layers", async () => {
  using whole = await onDevice(source);
  using small = await onDevice(shallow());
  const calibration = toyWindows(4, 12);
  for (const [id, raw] of [["wanda-sp", {}], ["flap", { biasCompensation: true }]] as const) {
    const method = getMethod(id);
    const options = parseOptions(method, raw);
    const cache = new Map<string, Statistics>();
    const context = methodContext({ model: whole, options, calibration, sparsity: 0.6, cache });
    const found = await onDepth(context, [3, 1], (inner) => method.prune(inner));
    const target = targetFrom(small.config, context.target);
    const expected = await method.prune({ ...methodContext({ model: small, options, calibration }), target });
    assertEquals(keptLayers(found.plan), kept);
    assertEquals(kept.map((l) => at(found.plan.layers, l)), expected.plan.layers);
    const names = Object.keys(expected.replaced ?? {});
    assertEquals(Object.keys(found.replaced ?? {}).length, names.length);
    for (const name of names) {
      const place = name.replace(/layers\.(\d+)/, (_, l) => `layers.${at(kept, Number(l))}`);
      assertEquals(found.replaced?.[place]?.data, expected.replaced?.[name]?.data, place);
    }
    assertEquals([...cache.keys()].every((key) => key.endsWith("without layers 1,3")), true);
  }
});

testOnEngines("layersByLoss() computes each removal once, whatever counts are asked for", async () => {
  using model = await onDevice(source);
  const said: string[] = [];
  const given = { model, options: {}, calibration: toyWindows(4, 12), report: (words: string) => said.push(words) };
  const fresh = await layersByLoss(methodContext(given), 4);
  const cache = new Map<string, Statistics>();
  for (const count of [2, 4, 3]) {
    assertEquals(await layersByLoss(methodContext({ ...given, cache }), count), fresh.slice(0, count));
  }
  assertEquals(said.length, 4 + 4);
});

testOnEngines("mask-prune removes the layers that do nothing, and reports the search", async () => {
  const all = { ffn: [...Array(16).keys()], kvGroups: [0, 1] };
  using model = await onDevice(
    toySource({ width: 16, headSize: 4, layers, seed: 3, dead: [1, 3].map((layer) => ({ layer, ...all })) }),
  );
  // Text of the model itself: nothing predicts it better.
  const written = await Promise.all([2, 3, 5, 7, 11, 13].map(async (first) => {
    const { tokens, cache } = await greedyTokens(model, Int32Array.of(first), { batch: 1, steps: 12 });
    if (cache) disposeCache(cache);
    return tokens;
  }));
  const method = getMethod("mask-prune");
  const options = learningOptions({ steps: 6, batch: 1, tokens: 12 });
  const given = {
    ...{ model, options: parseOptions(method, {}), calibration: written, learning: { options, windows: written } },
    sparsity: 0.4,
  };
  const alone = await method.prune(methodContext({ ...given, units: ["layers"] }));
  assertEquals([keptLayers(alone.plan), alone.training], [kept, []]);
  const { plan, training = [] } = await method.prune(methodContext({ ...given, units: ["ffn", "layers"] }));
  assertEquals(keptLayers(plan), kept);
  // 0, 1 and 2 layers for one step each, the better two for two more.
  assertEquals(training.map(({ stage, steps, tokens }) => [stage, steps, tokens]), [
    ["search", 3 + 2 * 2, 12 * (3 + 2 * 2)],
    ["learning", 6, 12 * 6],
  ]);
  assertEquals([evenlySpaced([...Array(10).keys()], 5), evenlySpaced([2, 3], 5)], [[0, 2, 5, 7, 9], [2, 3]]);
});
