import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { currentEngine, keepsFactors, startEngine } from "../../core/engine/engine.ts";
import { runConfigSchema } from "../../core/schema/schema.ts";
import { EngineError, UsageError } from "../../core/util/errors.ts";
import { free, load } from "../../mod.ts";
import { testOnEngines } from "../support/engines.ts";

testOnEngines("startEngine() refuses missing devices, and fast arithmetic where there is none", async (engine) => {
  const { name } = engine;
  const refused = (options: Parameters<typeof startEngine>[1], message: string) =>
    assertRejects(() => startEngine(name, options), EngineError, message);
  await refused({ device: "no such device" }, '"no such device"');
  if (engine.whyNotFast !== null) await refused({ arithmetic: "fast" }, `no fast arithmetic: ${engine.whyNotFast}`);
  if (!engine.isCuda) {
    await refused({ device: "cuda" }, '"cuda"');
  }
  assertEquals([engine.arithmetic, (await startEngine(name)).name], ["exact", name]);
});

testOnEngines("a WebGPU adapter is found by a part of its name", async ({ device, name }) => {
  const part = name === "webgpu" ? device.slice(0, 6).toUpperCase() : "cpu";
  if (device.startsWith("cuda")) return;
  assertEquals((await startEngine(name, { device: part })).device, device);
});

testOnEngines("exact arithmetic keeps f32 factors, and rounding them to TF32 is noticed", async () => {
  assert(await keepsFactors((a, b) => tf.matMul(a, b)));
  // The matrix of 1 + 2^-12 as 10 bits of mantissa hold it.
  assert(!await keepsFactors((a, b) => tf.matMul(tf.ones(a.shape) as tf.Tensor2D, b)));
});

Deno.test("load() takes the engine, the device and the arithmetic that are asked for", async () => {
  const loaded = await load("tiny", { engine: "wasm", device: "cpu", arithmetic: "exact" });
  const { name, device, arithmetic } = currentEngine();
  assertEquals([name, device, arithmetic], ["wasm", "cpu (1 thread, SIMD)", "exact"]);
  free(loaded);
});

Deno.test("load() refuses a device or an arithmetic that an engine does not have", async () => {
  const cases = [
    [{ engine: "wasm", device: "cuda" }, `runs only on the CPU, not on "cuda"`],
    [{ engine: "wasm", arithmetic: "fast" }, `Engine "wasm" has no fast arithmetic`],
    [{ engine: "tensorflow", device: "tpu" }, `runs on cuda or cpu, not on "tpu"`],
  ] as const;
  for (const [options, reason] of cases) await assertRejects(() => load("tiny", options), EngineError, reason);
});

const planLayerwise = (values: Record<string, unknown>) =>
  prepareRun(
    runConfigSchema.parse({ engine: "wasm", sparsity: [0.25], out: "unused", layerwise: true, ...values }),
    () => {},
  );

Deno.test("--layerwise is refused where all layers are needed", async () => {
  for (const id of ["llm-pruner", "mask-prune", "sheared"]) {
    const message = `method ${id} needs all`;
    await assertRejects(() => planLayerwise({ methods: [{ id: "flap" }, { id }] }), UsageError, message);
  }
  const methods = [{ id: "flap" }];
  await assertRejects(() => planLayerwise({ methods, recover: "lora" }), UsageError, "--recover lora needs all");
  const problem = "--compensate least-squares";
  await assertRejects(() => planLayerwise({ methods, compensate: "least-squares" }), UsageError, problem);
});
