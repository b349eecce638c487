/** Devices: one GPU for each cell, devices that are not there, and a set-up for CUDA without it. */
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { join } from "node:path";
import { localExecutor } from "../../benchmarks/sweep/local_executor.ts";
import { resolveConfig } from "../../benchmarks/configuration/resolve.ts";
import { checkGpus } from "../../benchmarks/configuration/checks.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { CellRecord } from "../../core/schema/schema.ts";
import { finish } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { ROOT } from "../../core/util/user_folder.ts";

folderTest("cells at once have a GPU each, which their records name", async (out) => {
  const values = { methods: [{ id: "random" }], sparsity: [0.2, 0.3, 0.4], engine: "wasm", jobs: 2, out };
  const config = resolveConfig([{ values, where: () => "test" }]);
  const run = { ...await prepareRun(config, () => {}), gpus: ["GPU-a", "GPU-b"] };
  const never = new AbortController().signal;
  const records: CellRecord[] = [];
  await localExecutor.run(run.cells, {
    run,
    commit: null,
    queueSignal: never,
    signal: never,
    started: () => {},
    phase: () => {},
    note: () => {},
    ended: (_named, record) => records.push(record),
  });
  const used = records.map((record) => record.state === "done" && record.environment.visibleDevices);
  assertEquals(records.length, 4);
  assertEquals(new Set(used), new Set(["GPU-a", "GPU-b"]));
});

Deno.test("checkGpus() wants a GPU for every cell at once", () => {
  checkGpus(1, 0);
  checkGpus(2, 2);
  assertThrows(() => checkGpus(4, 2), UsageError, "--jobs 4 needs a GPU for each cell, but there are 2: give --jobs 2");
  assertThrows(() => checkGpus(2, 0), UsageError, "nvidia-smi does not list any");
});

Deno.test("setup:tensorflow --cuda without a GPU says what is missing, before it runs or writes anything", async () => {
  const child = new Deno.Command("deno", {
    // No right to run or write: whatever was set up is as it was.
    args: ["run", "--no-prompt", "--allow-read", "--allow-env", "--allow-sys", "--allow-ffi"].concat(
      [join(ROOT, "tools/setup/setup_tensorflow.ts"), "--cuda"],
    ),
    // Hides the GPUs of a machine that has some.
    env: { CUDA_VISIBLE_DEVICES: "-1" },
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const { code, stderr } = await finish(child);
  assertEquals(code, 2);
  assertMatch(stderr, /cannot be set up for CUDA here: (no NVIDIA driver is installed|the NVIDIA driver .*-1)/);
  assert(stderr.includes("nothing was changed"));
});
