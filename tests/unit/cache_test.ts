import { assertEquals } from "@std/assert";
import { join } from "node:path";
import { type CacheScope, createCache } from "../../benchmarks/cells/cache.ts";
import type { Statistics } from "../../methods/define.ts";
import { folderTest } from "../support/weights_fixture.ts";

const SCOPE: CacheScope = { weights: "aa", engine: "wasm", seed: 0, calibration: [Int32Array.of(1, 2, 3)] };
const STATISTICS: Statistics = {
  "layer 0": { shape: [2, 2], data: Float32Array.of(1, -2.5, 3e-8, 4) },
  scale: { shape: [1], data: Float32Array.of(7) },
};

/** Gives the statistics, and counts how often. */
function counting() {
  const compute = () => {
    compute.calls++;
    return Promise.resolve(STATISTICS);
  };
  compute.calls = 0;
  return compute;
}

folderTest("createCache() computes statistics once and gives the same values from disk", async (folder) => {
  const compute = counting();
  for (let i = 0; i < 2; i++) assertEquals(await createCache(folder, SCOPE)("norms", compute), STATISTICS);
  assertEquals(compute.calls, 1);
});

folderTest("createCache() computes anew when anything differs that statistics depend on", async (folder) => {
  const compute = counting();
  const scopes: Partial<CacheScope>[] = [
    {},
    { weights: "bb" },
    { engine: "cpu" },
    { arithmetic: "fast" },
    { form: "stored" },
    { seed: 1 },
    { calibration: [Int32Array.of(1, 2, 4)] },
    { calibration: [Int32Array.of(1, 2), Int32Array.of(3)] },
    { methodFile: "cc" },
    { methodFile: "dd" },
    { methodVersion: 2 },
  ];
  for (const scope of scopes) await createCache(folder, { ...SCOPE, ...scope })("norms", compute);
  await createCache(folder, { ...SCOPE, methodFile: undefined })("norms", compute);
  await createCache(folder, SCOPE)("variances", compute);
  for (const methodVersion of [3, 4]) await createCache(folder, { ...SCOPE, methodVersion })("norms", compute, true);
  assertEquals(compute.calls, scopes.length + 1);
});

folderTest("createCache() lets one of those who ask at the same time compute", async (folder) => {
  const compute = counting();
  const slow = async () => {
    await new Promise((resolve) => setTimeout(resolve, 20));
    return await compute();
  };
  const results = await Promise.all([1, 2, 3].map(() => createCache(folder, SCOPE)("norms", slow)));
  assertEquals(results, [STATISTICS, STATISTICS, STATISTICS]);
  assertEquals(compute.calls, 1);
});

folderTest("createCache() replaces what is damaged, and keeps nothing of a failure", async (folder) => {
  const compute = counting();
  const remember = createCache(folder, SCOPE);
  const failing = () => Promise.reject(new RangeError("no"));
  assertEquals(await remember("norms", failing).catch((error) => error.message), "no");
  await remember("norms", compute);
  const name = [...Deno.readDirSync(folder)].find((entry) => entry.name.endsWith(".safetensors"))!.name;
  Deno.truncateSync(join(folder, name), 20);
  assertEquals(await remember("norms", compute), STATISTICS);
  assertEquals(compute.calls, 2);
});
