import { assert, assertMatch } from "@std/assert";
import { peakMemory, residentMemoryBytes } from "../../benchmarks/cells/memory.ts";

Deno.test("peakMemory() keeps a peak that has passed, and names what it measures", () => {
  const sizeBytes = 200_000_000;
  const before = residentMemoryBytes();
  assert(new Uint8Array(sizeBytes).fill(1)[sizeBytes - 1] === 1);
  const { bytes, measure } = peakMemory();
  assert(bytes >= before + 0.9 * sizeBytes, `peak ${bytes} after ${before} and an array of ${sizeBytes} bytes`);
  assertMatch(measure, /^(peak )?resident set/);
});
