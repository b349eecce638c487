import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "node:path";
import { listCudaDevices, NVIDIA_SMI, parseCudaDevices, visibleDevices } from "../../core/engine/cuda.ts";
import { adapterMemory, cudaMemory, hostMemory, memoryWords } from "../../core/engine/device_memory.ts";
import { classifyError } from "../../core/schema/failure.ts";
import { denoRun } from "../../core/util/deno_run.ts";
import { EngineError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { finish } from "../support/bench_process.ts";
import { tempFolder } from "../support/weights_fixture.ts";

const TWO = "0, GPU-aaaa-1, NVIDIA H100 80GB HBM3, 81559, 81042, 517\n1, GPU-bbbb-2, NVIDIA A10, 23028, 22000, 1028\n";

Deno.test("parseCudaDevices() reads nvidia-smi's lines in bytes, and refuses others", () => {
  const mebibyte = 2 ** 20;
  const [first, second] = parseCudaDevices(TWO);
  const memory = { totalBytes: 81559 * mebibyte, freeBytes: 81042 * mebibyte, usedBytes: 517 * mebibyte };
  assertEquals(first, { uuid: "GPU-aaaa-1", index: 0, name: "NVIDIA H100 80GB HBM3", ...memory });
  assertEquals([second?.uuid, second?.index, second?.freeBytes], ["GPU-bbbb-2", 1, 22000 * mebibyte]);
  assertThrows(() => parseCudaDevices("No devices were found\n"), EngineError, "No devices were found");
  assertThrows(() => parseCudaDevices("0, GPU-a, A10, [N/A], 1, 1\n"), EngineError, "which is not index, uuid");
});

Deno.test("visibleDevices() follows CUDA_VISIBLE_DEVICES: order, numbers, short names, and the end at an unknown one", () => {
  const devices = parseCudaDevices(TWO);
  const seen = (visible: string | undefined) => visibleDevices(devices, visible).map(({ index }) => index);
  assertEquals(seen(undefined), [0, 1]);
  assertEquals([seen("1,0"), seen("1"), seen("GPU-bbbb"), seen("GPU-aaaa-1,1")], [[1, 0], [1], [1], [0, 1]]);
  assertEquals([seen(""), seen("-1"), seen("0,7,1"), seen("0,0,1")], [[], [], [0], [0]]);
});

/** Runs tests/support/gpu_program.ts with the rights of a cell, beside an `nvidia-smi` that is `program`. */
async function looks(program: string, env: Record<string, string> = {}) {
  using temp = tempFolder();
  const folder = temp.path;
  Deno.writeTextFileSync(join(folder, NVIDIA_SMI), `#!/bin/sh\n${program}`, { mode: 0o755 });
  const script = join(import.meta.dirname!, "../support/gpu_program.ts");
  return await finish(new Deno.Command("deno", {
    args: denoRun({ script, args: [], ffi: false, program: NVIDIA_SMI }),
    env: { ...env, FOLDER: folder, PATH: `${folder}:${Deno.env.get("PATH")}` },
    stdout: "piped",
    stderr: "piped",
  }).spawn());
}

/** Each look finds 2 GiB less, down to nothing; another program held 1000 MiB before. */
const SHRINKING = `
n=$(cat "$FOLDER/n" 2>/dev/null || echo 0); echo $((n + 1)) >"$FOLDER/n"
taken=$((1000 + 2048 * n)); [ $taken -gt 9192 ] && taken=9192
echo "3, GPU-cccc-3, Test GPU, 9192, $((9192 - taken)), $taken"
`;

Deno.test("a cell's batches and peak follow the GPU's memory as nvidia-smi tells of it", async () => {
  const { code, stdout, stderr } = await looks(SHRINKING, { CUDA_VISIBLE_DEVICES: "GPU-cccc" });
  assertEquals(code, 0, stderr);
  const gibibyte = 2 ** 30;
  const given = JSON.parse(stdout);
  assertEquals(given.gpus, ["GPU-cccc-3"]);
  // Free: 8 GiB at first, then 2 less at every question, of which each look asks three.
  assertEquals(given.looks.map((look: { freeBytes: number }) => look.freeBytes / gibibyte), [6, 0, 0]);
  assertEquals(given.looks.map((look: { usedBytes: number }) => look.usedBytes / gibibyte), [4, 8, 8]);
  // A token takes a MiB here, and a batch a quarter of what is free: 2 GiB, then nothing.
  assertEquals(given.looks.map((look: { batchTokens: number }) => look.batchTokens), [512, 32, 32]);
  assertEquals([given.peak.bytes, given.place], [8 * gibibyte, "the GPU (Test GPU)"]);
  assertMatch(given.peak.measure, /^GPU memory .*nvidia-smi/);
});

Deno.test("nvidia-smi that fails, and one that may not be run, are errors with their reason", async () => {
  const { code, stderr } = await looks('echo "NVIDIA-SMI has failed because of the driver" >&2; exit 9\n');
  assertEquals(code, 1);
  assertStringIncludes(stderr, "EngineError: nvidia-smi failed: NVIDIA-SMI has failed because");
  // Tests have no right to run it, as `bench` itself has none.
  assertThrows(() => listCudaDevices(), EngineError, "nvidia-smi cannot be run");
});

Deno.test("cudaMemory() keeps its last look when nvidia-smi fails later", () => {
  const device = at(parseCudaDevices(TWO), 0);
  const answers = [{ ...device, usedBytes: device.usedBytes + 100 }];
  const memory = cudaMemory(device, () => {
    const next = answers.shift();
    if (!next) throw new EngineError("nvidia-smi failed");
    return next;
  });
  assertEquals([memory.usedBytes(), memory.peak().bytes], [100, 100]);
});

Deno.test("adapterMemory() lets a batch have the largest buffer at most", () => {
  const memory = adapterMemory("test adapter", 2 ** 20, () => 5);
  assertEquals([memory.totalBytes(), memory.freeBytes()], [2 ** 22, 2 ** 22]);
  assertEquals(adapterMemory("x", 2 ** 60, () => 5).freeBytes() <= hostMemory.totalBytes(), true);
  assertEquals(memory.peak().bytes, 5);
});

Deno.test("what runs out of memory on a GPU is told how much the GPU has", () => {
  const device = at(parseCudaDevices("0, GPU-a, Test GPU, 2048, 1024, 1024\n"), 0);
  const words = memoryWords(cudaMemory(device, () => device));
  const { kind, message } = classifyError(new Error("OOM when allocating tensor with shape[9]"), { memory: words });
  assertEquals(kind, "out-of-memory");
  assertStringIncludes(message, "memory is full (the GPU (Test GPU): 1.0 of 2.0 GiB free): run fewer cells");
});

Deno.test("hostMemory keeps a peak that has passed, and names what it measures", () => {
  const sizeBytes = 200_000_000;
  const before = hostMemory.usedBytes();
  assert(new Uint8Array(sizeBytes).fill(1)[sizeBytes - 1] === 1);
  const { bytes, measure } = hostMemory.peak();
  assert(bytes >= before + 0.9 * sizeBytes, `peak ${bytes} after ${before} and an array of ${sizeBytes} bytes`);
  assertMatch(measure, /^(peak )?resident set/);
});
