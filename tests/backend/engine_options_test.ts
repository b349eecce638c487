import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { keepsFactors, startEngine } from "../../core/engine.ts";
import { EngineError } from "../../core/errors.ts";
import { testOnEngines } from "../support/engines.ts";

testOnEngines(
  "startEngine() refuses a device that is not there, and fast arithmetic where there is none",
  async (engine) => {
    const { name } = engine;
    const refused = (options: Parameters<typeof startEngine>[1], message: string) =>
      assertRejects(() => startEngine(name, options), EngineError, message);
    await refused({ device: "no such device" }, '"no such device"');
    if (!engine.isCuda) {
      await refused({ arithmetic: "fast" }, 'Arithmetic "fast" is CUDA\'s alone');
      await refused({ device: "cuda" }, '"cuda"');
    }
    assertEquals([engine.arithmetic, (await startEngine(name)).name], ["exact", name]);
  },
);

testOnEngines("a WebGPU adapter is found by a part of its name", async ({ device, name }) => {
  const part = name === "webgpu" ? device.slice(0, 6).toUpperCase() : "cpu";
  if (device.startsWith("cuda")) return;
  assertEquals((await startEngine(name, { device: part })).device, device);
});

/** `values` with 10 bits of mantissa, as TF32 has. */
const tf32 = (x: tf.Tensor2D): tf.Tensor2D =>
  tf.tensor2d(
    x.dataSync().map((value) => {
      const unit = 2 ** (Math.floor(Math.log2(Math.abs(value) || 1)) - 10);
      return Math.round(value / unit) * unit;
    }) as Float32Array,
    x.shape,
  );

testOnEngines("exact arithmetic keeps f32 factors, and rounding them to TF32 is noticed", async () => {
  assert(await keepsFactors((a, b) => tf.matMul(a, b)));
  assert(!await keepsFactors((a, b) => tf.matMul(tf32(a), tf32(b))));
});
