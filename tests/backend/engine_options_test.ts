import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { keepsFactors, startEngine } from "../../core/engine/engine.ts";
import { EngineError } from "../../core/util/errors.ts";
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
