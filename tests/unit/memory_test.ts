import { assert, assertMatch } from "@std/assert";
import { hostMemory } from "../../core/engine/device_memory.ts";

Deno.test("hostMemory keeps a peak that has passed, and names what it measures", () => {
  const sizeBytes = 200_000_000;
  const before = hostMemory.usedBytes();
  assert(new Uint8Array(sizeBytes).fill(1)[sizeBytes - 1] === 1);
  const { bytes, measure } = hostMemory.peak();
  assert(bytes >= before + 0.9 * sizeBytes, `peak ${bytes} after ${before} and an array of ${sizeBytes} bytes`);
  assertMatch(measure, /^(peak )?resident set/);
});
