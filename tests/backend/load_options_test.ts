/** Where the library's `load` computes: as the command line's `--engine`, `--device` and `--arithmetic`. */
import { assertEquals, assertRejects } from "@std/assert";
import { free, load } from "../../mod.ts";
import { currentEngine } from "../../core/engine/engine.ts";
import { EngineError } from "../../core/util/errors.ts";

Deno.test("load() takes the engine, the device and the arithmetic that are asked for", async () => {
  const loaded = await load("tiny", { engine: "wasm", device: "cpu", arithmetic: "exact" });
  const { name, device, arithmetic } = currentEngine();
  assertEquals([name, device, arithmetic], ["wasm", "cpu (1 thread, SIMD)", "exact"]);
  free(loaded);
});

Deno.test("load() refuses a device or an arithmetic that an engine does not have", async () => {
  for (
    const [options, reason] of [
      [{ engine: "wasm", device: "cuda" }, `runs on the CPU and not on "cuda"`],
      [{ engine: "wasm", arithmetic: "fast" }, `Engine "wasm" has no fast arithmetic`],
      [{ engine: "tensorflow", device: "tpu" }, `runs on cuda or cpu and not on "tpu"`],
    ] as const
  ) await assertRejects(() => load("tiny", options), EngineError, reason);
});
