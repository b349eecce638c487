import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { z } from "zod";
import { checkBudget, runMethod } from "../../benchmarks/pipeline/method_result.ts";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { defineMethod, type Method, type PruneResult } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import type { DecoderModel } from "../../models/device.ts";
import { densePlan, plannedConfig, type PrunePlan } from "../../models/plan.ts";
import { resolveTarget } from "../../models/target.ts";
import { at } from "../../core/util/indexing.ts";
import { methodContext } from "../support/method_context.ts";
import { toyConfig } from "../support/toy.ts";

const dense = toyConfig({
  layers: Array.from({ length: 3 }, () => ({ kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 40 })),
});

/** A method of someone who writes JavaScript. */
function careless(prune: () => unknown, more: Partial<Method> = {}): Method {
  return defineMethod({
    id: "careless",
    version: 1,
    summary: "returns what the test says",
    source: "this work",
    kind: "one-shot",
    needs: { calibration: false },
    options: z.strictObject({}),
    uniformLayers: () => false,
    prune: () => Promise.try(prune) as Promise<PruneResult>,
    ...more,
  });
}

/** No weight is looked at here. */
const model = { config: dense } as DecoderModel;
const run = (prune: () => unknown) => runMethod(careless(prune), methodContext({ model, options: {} }));

Deno.test("runMethod() names the method and the layer of what is undefined or does not fit", async () => {
  const whole = densePlan(dense);
  const layer = at(whole.layers, 0);
  const cases: [returned: unknown, message: string][] = [
    [undefined, "plan must be an object: missing"],
    [{}, "plan must be an object: missing"],
    [{ plan: {} }, "plan.layers must be a list: missing"],
    [{ plan: { layers: [layer, undefined, layer] } }, "plan.layers[1] must be an object: missing"],
    [{ plan: { layers: [{ ...layer, ffnChannels: undefined }] } }, "layers[0].ffnChannels must be a list: missing"],
    [{ plan: { layers: [layer, { ...layer, ffnChannels: [0, NaN] }] } }, "layers[1].ffnChannels[1] must be a number"],
    [{ plan: { layers: [layer, { ...layer, ffnChannels: [0.5] }, layer] } }, "channels of layer 1 must be integers"],
    [{ plan: { layers: [layer] } }, "returned a plan that does not fit the model"],
    [{ plan: whole, replaced: { "a.weight": undefined } }, "replaced.a.weight must be an object: missing"],
  ];
  for (const [returned, message] of cases) {
    const { message: said } = await assertRejects(() => run(() => returned), UsageError, message);
    assertStringIncludes(said, 'Method "careless" returned');
  }
  const data = Float32Array.of(1, NaN);
  await assertRejects(
    () => run(() => ({ plan: whole, replaced: { "model.layers.1.mlp.down_proj.bias": { shape: [2], data } } })),
    NumericError,
    'Method "careless" returned tensor "model.layers.1.mlp.down_proj.bias" with values that are not finite: value 1 is NaN',
  );
  assertEquals((await run(() => ({ plan: whole }))).plan, whole);
});

Deno.test("runMethod() puts the method's name before what it throws, and keeps the class", async () => {
  const message = 'Method "careless": Cannot read properties of undefined';
  await assertRejects(() => run(() => (undefined as unknown as number[]).length), TypeError, message);
  await assertRejects(() => run(() => Promise.reject(undefined)), Error, 'Method "careless" threw undefined');
  const aborted = new DOMException("stopped", "AbortError");
  await assertRejects(() => run(() => Promise.reject(aborted)), DOMException, "stopped");
});

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

function check(plan: PrunePlan, sparsity: number, { method = careless(() => null), options = {} as unknown } = {}) {
  const target = resolveTarget(dense, { sparsity, units: ["ffn", "kv-groups"] });
  checkBudget(method, options, { dense, left: plannedConfig(dense, plan), plan, target });
}

/** Every layer with `channels` FFN channels. */
const narrowed = (channels: number): PrunePlan => ({
  layers: densePlan(dense).layers.map((layer) => ({ ...layer, ffnChannels: range(channels) })),
});

Deno.test("checkBudget() takes a plan that fills the budget to one unit, and refuses one that removed more or less", () => {
  const { uniform } = resolveTarget(dense, { sparsity: 0.3, units: ["ffn"] });
  const { ffnChannels } = at(uniform, 0);
  check(narrowed(ffnChannels), 0.3);
  const message = 'Method "careless" removed 31.9 % of the prunable parameters at sparsity 0.3';
  assertThrows(() => check(narrowed(ffnChannels - 1), 0.3), UsageError, message);
  assertThrows(() => check(narrowed(ffnChannels + 1), 0.3), UsageError, 'Method "careless" left');
});

Deno.test("checkBudget() counts whole layers by the layer", () => {
  const without = (gone: number[]): PrunePlan => ({
    layers: densePlan(dense).layers.map((layer, l) =>
      gone.includes(l) ? { kvGroups: [], queryHeads: [], ffnChannels: [] } : layer
    ),
  });
  check(without([1]), 0.2);
  assertThrows(() => check(without([1, 2]), 0.2), UsageError, "removed 66.7 %");
});

Deno.test("checkBudget() lets a method with a target of its own remove more", () => {
  const plan = narrowed(4);
  const sheared = getMethod("sheared");
  assertThrows(() => check(plan, 0.3, { method: sheared, options: parseOptions(sheared, {}) }), UsageError, "sheared");
  check(plan, 0.3, { method: sheared, options: parseOptions(sheared, { targetFfn: 4 }) });
});
