/** Every class of failure, caused from outside: what the record says, that the sweep goes on, and what runs again. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { denoRun } from "../../core/util/deno_run.ts";
import { ifThere } from "../../core/util/paths.ts";
import { readRecords } from "../../benchmarks/records/store.ts";
import { bench, benchWith, finish, killCell, signalCell, statesOf, succeed, watch } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { ROOT } from "../../core/util/user_folder.ts";

/** Two cells, one after the other: the dense model and `random`. */
const run = (out: string, ...flags: string[]) => [
  ...["run", "--preset", "smoke", "--engine", "wasm", "--methods", "random", "--no-throughput", "--jobs", "1"],
  ...["--out", out, ...flags],
];

const failures = (out: string) =>
  readRecords(out).records.flatMap((record) => record.state === "failed" ? [record.failure] : []);

folderTest("a killed cell is out of memory, a crashed one a crash, and --retry takes those it names", async (out) => {
  // A failed check of a native library aborts.
  const signals = ["KILL", "ABRT"];
  const status = await watch(run(out), (event) => {
    if (event.event === "cell-phase" && event.phase === "loading") killCell(out, signals.shift()!);
  });
  assertEquals(status.code, 1);
  assertEquals(statesOf(out), ["out-of-memory", "crash"]);
  const [killed, crashed] = take(failures(out), 2);
  assertStringIncludes(killed.message, "run fewer cells at once");
  assertStringIncludes(crashed.message, "--retry crash");

  const kept = await finish(bench(...run(out, "--retry", "oom")));
  assertEquals(kept.code, 1, kept.stderr);
  assertStringIncludes(kept.stderr, "1 failed earlier and are retried, 1 failed earlier and are not retried");
  assertEquals(statesOf(out), ["done", "crash"]);

  await succeed(...run(out));
  assertEquals(statesOf(out), ["done", "done"]);
});

folderTest("a cell that hangs ends with a run that is killed", async (out) => {
  const [file, folder] = [join(out, "hang.ts"), join(out, "run")];
  const example = Deno.readTextFileSync(join(ROOT, "docs/examples/contribution.ts"));
  const sleep = "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);";
  const begin = "async prune(context) {";
  Deno.writeTextFileSync(file, example.replace(begin, `${begin} context.report("asleep"); ${sleep}`));
  let asleep = false;
  await watch(run(folder, "--method-file", file, "--methods", "contribution"), (event, child) => {
    if (!String(event.phase).includes("asleep")) return;
    asleep = true;
    child.kill("SIGKILL");
  });
  assert(asleep);
  const isRunning = () => signalCell(folder, "0");
  for (let tries = 0; isRunning() && tries < 100; tries++) await new Promise((resolve) => setTimeout(resolve, 100));
  assert(!isRunning(), "the cell outlived its run");
});

folderTest("--timeout ends a cell that takes longer, also behind a launcher", async (out) => {
  const programs = join(out, "bin");
  Deno.mkdirSync(programs);
  Deno.writeTextFileSync(join(programs, "deno"), `#!/bin/sh\n'${Deno.execPath()}' "$@"\nexit $?\n`, { mode: 0o755 });
  // Less than any process takes to start.
  const { code, stderr } = await finish(benchWith({ programs }, ...run(out, "--timeout", "0.05")));
  assertEquals(code, 1, stderr);
  assertEquals(statesOf(out), ["timeout", "timeout"]);
  assertStringIncludes(at(failures(out), 0).message, "stopped after 0.05 s: give a longer --timeout");
  const { code: kept } = await finish(bench(...run(out, "--retry", "none")));
  assertEquals(kept, 1);
});

folderTest("Ctrl-C before the first cell ends a run with code 130 and without a message", async (out) => {
  const programs = join(out, "bin");
  Deno.mkdirSync(programs);
  Deno.writeTextFileSync(join(programs, "deno"), "#!/bin/sh\nkill -INT $PPID\nsleep 1\nexit 1\n", { mode: 0o755 });
  const { code, stderr } = await finish(benchWith({ programs }, ...run(join(out, "run"))));
  assertEquals([code, stderr], [130, ""]);
});

folderTest("a cell whose data is gone says what to fetch", async (out) => {
  await succeed(...run(out));
  const dense = at(readRecords(out).records, 0);
  const job = join(out, "jobs/missing.json");
  const cell = { ...dense.cell, tasks: ["piqa"] };
  const told = { id: "missing", cell, out, data: out, hashes: {}, logSamples: false, commit: null, coordinated: false };
  Deno.writeTextFileSync(job, JSON.stringify(told));
  const { code, stderr } = await new Deno.Command("deno", {
    args: denoRun({ script: join(ROOT, "benchmarks/cells/run_cell.ts"), args: [job], ffi: false, write: out }),
    env: { HF_HOME: out },
    stdout: "null",
    stderr: "piped",
  }).output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
  const failure = at(failures(out), 0);
  assertEquals(failure.kind, "missing-data");
  assertStringIncludes(failure.message, "`bench fetch piqa`");
});

/** Mounts a file system of `size` on `folder`; false where this process may not. */
function mountSmall(folder: string, size: string): boolean {
  const args = ["-t", "tmpfs", "-o", `size=${size}`, "none", folder];
  return ifThere(() => new Deno.Command("mount", { args }).outputSync().success, false);
}

folderTest("a model or samples that cannot be written fail the cell where the disk is not full", async (out) => {
  const changed = ["--sparsity", "0.5", "--compensate", "least-squares"];
  for (const [place, flags] of [["weights", changed], ["lm-eval", ["--sparsity", "0", "--log-samples"]]] as const) {
    const folder = join(out, place);
    const { code } = await watch(run(folder, ...flags), ({ event }) => {
      if (event === "start") Deno.writeTextFileSync(join(folder, place), "in the way");
    });
    assertEquals([code, statesOf(folder)], [1, place === "weights" ? ["done", "error"] : ["error"]]);
    assertStringIncludes(at(failures(folder), 0).message, place);
  }
});

const PAGE = 4096;

/** Fills a disk with one file, and returns its path. */
function fill(disk: string): string {
  const filler = join(disk, "filler");
  try {
    using file = Deno.openSync(filler, { write: true, create: true });
    for (const size of [PAGE, 1]) for (;;) if (file.writeSync(new Uint8Array(size)) < size) break;
  } catch (error) {
    assertStringIncludes((error as Error).message, "No space left");
  }
  return filler;
}

/** A test on a file system of 600 KiB; none where this process may not mount one. */
function diskTest(name: string, test: (disk: string) => Promise<void>): void {
  folderTest(name, async (out) => {
    const disk = join(out, "disk");
    Deno.mkdirSync(disk);
    if (!mountSmall(disk, "600k")) return console.log("Skipped: this process may not mount a small file system");
    try {
      await test(disk);
    } finally {
      new Deno.Command("umount", { args: [disk] }).outputSync();
    }
  });
}

diskTest("a disk that is full before the first record stops the run with a message", async (disk) => {
  const filler = fill(disk);
  const { size } = Deno.statSync(filler);
  // Nothing can be written; run.json, but no job; a job, but no record.
  for (const pages of [0, 2, 3]) {
    Deno.truncateSync(filler, size - pages * PAGE);
    const { code, stderr } = await finish(bench(...run(join(disk, String(pages)), "--sparsity", "0")));
    assertEquals([code, /free some space.*\n/i.test(stderr), stderr.includes("at file:")], [1, true, false], stderr);
    Deno.removeSync(join(disk, String(pages)), { recursive: true });
  }
  Deno.removeSync(filler);
  await succeed(...run(join(disk, "0"), "--sparsity", "0"));
  assertEquals(statesOf(join(disk, "0")), ["done"]);
});

diskTest("a full disk stops the run with a message, loses no record, and the run goes on with space", async (disk) => {
  await succeed(...run(disk, "--sparsity", "0"));
  const before = readRecords(disk).records;
  const filler = fill(disk);
  const full = await finish(bench(...run(disk, "--sparsity", "0.25,0.5")));
  assertEquals(full.code, 1, full.stderr);
  assertStringIncludes(full.stderr.toLowerCase(), "free some space");
  assertEquals(readRecords(disk), { records: before, problems: [] });
  Deno.removeSync(filler);
  await succeed(...run(disk, "--sparsity", "0.25,0.5", "--retry", "disk-full"));
  assertEquals(statesOf(disk), ["done", "done", "done"]);
  assert(readRecords(disk).records.some(({ id }) => id === at(before, 0).id));
});
