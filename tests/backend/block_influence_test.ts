import { assert, assertEquals, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { keptParameters } from "../../models/count.ts";
import { keptLayers, plannedConfig } from "../../models/plan.ts";
import { resolveTarget } from "../../models/target.ts";
import { trainingSchema } from "../../core/schema/schema.ts";
import { testOnEngines } from "../support/engines.ts";
import { methodContext } from "../support/method_context.ts";
import { type Matrix, referenceForward } from "../support/reference.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { onDevice } from "../support/device_models.ts";

const method = getMethod("block-influence");
const options = parseOptions(method, {});
const shape = { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 16 };
const source = toySource({
  width: 8,
  headSize: 4,
  vocabSize: 13,
  layers: Array.from({ length: 5 }, () => ({ ...shape })),
  seed: 11,
});
// Long windows weigh more: the mean is over tokens.
const windows = [9, 4].map((count, seed) => toyTokens({ count, vocabSize: 13, seed }));

/** `1 - E[cos(x_l, x_l+1)]` of every layer, token by token. */
function referenceInfluence(): number[] {
  const sums = source.config.layers.map(() => 0);
  let tokens = 0;
  for (const window of windows) {
    const states: Matrix[] = [];
    referenceForward(source, window, { each: (state) => states.push(state) });
    tokens += window.length;
    for (const l of sums.keys()) {
      for (const [t, x] of at(states, l).entries()) {
        const y = at(at(states, l + 1), t);
        const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * at(b, i), 0);
        sums[l] = at(sums, l) + 1 - dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y));
      }
    }
  }
  return sums.map((sum) => sum / tokens);
}

testOnEngines("block-influence removes the layers of least influence, computed token by token", async () => {
  const influence = referenceInfluence();
  const ranked = [...influence.keys()].sort((x, y) => at(influence, x) - at(influence, y));
  using model = await onDevice(source);
  for (const [sparsity, layers] of [[0.2, 1], [0.35, 2], [0.6, 3], [0.7, 4]] as const) {
    const context = methodContext({ model, options, calibration: windows, units: ["ffn", "kv-groups"], sparsity });
    const { plan } = await method.prune(context);
    assertEquals(keptLayers(plan), ranked.slice(layers).sort((x, y) => x - y), `${sparsity}`);
    assert(keptParameters(plannedConfig(model.config, plan)) <= context.target.budget);
  }
});

Deno.test("block-influence refuses a level that takes every layer, before anything runs", () => {
  const { config } = source;
  const run = { training: trainingSchema.parse({}) };
  const reachable = resolveTarget(config, { sparsity: 0.5, units: ["ffn", "kv-groups"] });
  const all = reachable.budget / 0.5;
  const target = (sparsity: number) => ({ ...reachable, sparsity, budget: Math.floor((1 - sparsity) * all) });
  method.check?.(config, target(0.79), options, run);
  assertThrows(() => method.check?.(config, target(0.81), options, run), UsageError, "use at most 0.80");
  // 11 of 12 layers are 0.9166… of them.
  const deep = { ...config, layers: Array.from({ length: 12 }, () => ({ ...shape })) };
  const most = keptParameters(deep);
  const of = (sparsity: number) => ({ ...target(sparsity), budget: Math.floor((1 - sparsity) * most) });
  assertThrows(() => method.check?.(deep, of(0.92), options, run), UsageError, "use at most 0.91");
  method.check?.(deep, of(0.91), options, run);
});
