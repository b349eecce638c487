/** `sheared` with its own target shape: layers and hidden size learned with heads and channels, on every engine. */
import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { type EngineName } from "../../core/schema/schema.ts";
import type { PruneResult } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import type { LayerShape } from "../../models/units.ts";
import { keptParameters } from "../../models/count.ts";
import type { DecoderModel } from "../../models/device.ts";
import { isRemoved, keptLayers } from "../../models/plan.ts";
import { resolveTarget } from "../../models/target.ts";
import { testOnEngines } from "../support/engines.ts";
import { type ContextOptions, learningOptions, methodContext, modelOf, toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";
import { freed, onDevice } from "../support/device_models.ts";

/** Software WebGPU and plain JavaScript take many times as long. */
const SLOW: readonly EngineName[] = ["webgpu", "cpu"];
const SHAPE: LayerShape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 24 };
const LAYERS = [SHAPE, SHAPE, SHAPE];
const TARGET = { targetHidden: 24, targetLayers: 2, targetHeads: 3, targetFfn: 12 };
const STEPS = 24;
const training = learningOptions({ steps: STEPS, batch: 2, tokens: 12, rank: 2, alpha: 4, teacherTokens: 8 });
const windows = toyWindows(2 * STEPS, 12);
const method = getMethod("sheared");

function prune(
  model: DecoderModel,
  options: Record<string, unknown>,
  given: Partial<ContextOptions<unknown>> = {},
): Promise<PruneResult> {
  const learning = { options: training, windows, ...given.learning };
  return method.prune(
    methodContext({ model, sparsity: 0.5, ...given, learning, options: parseOptions(method, options) }),
  );
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

testOnEngines("sheared: removes exactly the planted layer and the planted hidden dimensions", async () => {
  const deadHidden = range(8).map((i) => 4 * i + 1);
  const dead = [{ layer: 1, ffn: range(24), kvGroups: range(4) }];
  using model = await onDevice(toySource({ seed: 5, layers: LAYERS, dead, deadHidden }));
  // The dense model is not trained, so that only agreement with it tells what counts.
  const options = { ...training, steps: 60, crossEntropy: 0, distillation: 1 };
  const { plan, training: reports } = await prune(model, { targetHidden: 24, targetLayers: 2 }, {
    learning: { options, windows: toyWindows(120, 12) },
  });
  assertEquals(keptLayers(plan), [0, 2]);
  assertEquals(range(32).filter((i) => !plan.hidden!.includes(i)), deadHidden);
  // What is expected to stay falls from all to the shape; log-alphas are bounded, so that neither is met exactly.
  const curve = at(reports!, 0).curve;
  assert(at(curve, 0).retained! > 0.98 && Math.abs(at(curve, 29).retained! - 0.5) < 0.05, `${at(curve, 29).retained}`);
  assertEquals(curve.at(-1)!.removed, { "layer": 1, "hidden": 8 });
  assertEquals(Object.keys(at(curve, 0).duals!).filter((name) => /layer|hidden/.test(name)).length, 4);
});

testOnEngines("sheared: prunes to the shape, within the budget", async () => {
  const variants: [Record<string, unknown>, Parameters<typeof toySource>[0]][] = [
    [{ ...TARGET }, {}],
    [{ ...TARGET }, { tiedHead: false, biases: ["query", "output", "down"] }],
    [{ targetHidden: 20 }, {}],
    [{ targetLayers: 1, targetHidden: 32 }, { tiedHead: false }],
  ];
  for (const [options, toy] of variants) {
    using model = await onDevice(toySource({ ...toy, layers: LAYERS }));
    const result = await prune(model, options);
    const { plan } = result;
    const { targetHidden = 32, targetLayers = 3 } = options;
    using small = freed(await modelOf(model, result));
    const { width, layers } = small.config;
    assertEquals([width, layers.length], [targetHidden, targetLayers]);
    if (options.targetFfn) assertEquals(layers[0], { kvGroups: 3, queryHeadsPerGroup: 1, ffnChannels: 12 });
    assertEquals(plan.hidden === undefined, targetHidden === 32);
    assertEquals(plan.layers.filter(isRemoved).length, 3 - Number(targetLayers));
    const { budget } = resolveTarget(model.config, { sparsity: 0.5, units: ["ffn", "kv-groups"] });
    assert(keptParameters(small.config) <= budget);
  }
}, { except: SLOW });
