/** Whole sweeps through the command line, on the bundled model: finished, killed, stopped, continued. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { take } from "../support/values.ts";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import { processFiles } from "../../benchmarks/sweep/executor.ts";
import type { CellRecord } from "../../core/schema/schema.ts";
import { bench, finish, succeed, watch } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";

/** Cells of the preset `smoke`: dense and two methods. */
const CELLS = 3;
const RUN = ["run", "--preset", "smoke", "--out"];

/** Starts the smoke sweep, sends `signal` at the first event that `when` accepts, and waits for the end. */
async function interrupted(
  out: string,
  signal: Deno.Signal,
  when: (event: Record<string, unknown>) => boolean,
): Promise<Deno.CommandStatus> {
  let sent = false;
  const status = await watch([...RUN, out], (event, child) => {
    if (sent || !when(event)) return;
    sent = true;
    child.kill(signal);
  });
  assert(sent, "the run ended before the signal");
  return status;
}

const phase = (text: string) => (event: Record<string, unknown>) =>
  event.event === "cell-phase" && event.phase === text;
/** What the timing of a finished cell does not change. */
function scored(record: CellRecord): unknown {
  if (record.state === "failed") return record;
  const { cell: { throughput: _asked, ...cell }, throughput: _timed, timings: _split, ...rest } = record;
  const { loadS: _load, throughputS: _throughput, ...timings } = record.timings;
  return { ...rest, cell, timings, startedAt: "", seconds: 0 };
}
const cellDone = (event: Record<string, unknown>) => event.event === "cell-done";

/** The folder holds every cell once, finished, and no file that is none of ours. */
function assertComplete(out: string): CellRecord[] {
  const { records, problems } = readRecords(out);
  assertEquals(problems, []);
  assertEquals(records.map(({ state }) => state), Array(CELLS).fill("done"));
  assertEquals(new Set(records.map(({ id }) => id)).size, CELLS);
  assertEquals([...Deno.readDirSync(runPaths(out).records)].length, CELLS, "files in the records folder");
  return records;
}

/** The run goes on to its end, with the records that it had before. */
async function assertGoesOn(out: string, before: CellRecord[]): Promise<void> {
  await succeed(...RUN, out);
  const after = assertComplete(out);
  for (const record of before) assertEquals(after.filter(({ id }) => id === record.id).map(scored), [scored(record)]);
}

folderTest("bench run measures every cell, writes the report, and has nothing to do the second time", async (out) => {
  const first = await succeed(...RUN, out);
  assertStringIncludes(first.stderr, `${CELLS} cells done, 0 failed`);
  const records = assertComplete(out);
  for (const record of records) {
    assert(record.state === "done");
    assert(record.size.prunableParameters <= (1 - record.cell.sparsity) * record.denseSize.prunableParameters);
    assertEquals(record.throughput.map(({ samplesMs }) => samplesMs.length), [2, 2]);
  }
  assert([...Deno.readDirSync(runPaths(out).report)].length > 0);

  const second = await succeed(...RUN, out);
  assertStringIncludes(second.stderr, `${CELLS} finished earlier`);
  assertEquals(assertComplete(out), records);
  assertEquals(second.stdout, first.stdout);
});

for (const signal of ["SIGKILL", "SIGINT"] as const) {
  folderTest(
    `bench run goes on after ${signal} without losing or repeating a cell, and none has failed`,
    async (out) => {
      for (const moment of signal === "SIGKILL" ? ["loading", "tiny-facts"] : []) {
        await interrupted(out, signal, phase(moment));
      }
      const status = await interrupted(out, signal, cellDone);
      if (signal === "SIGINT") assertEquals([status.code, status.signal], [130, null]);
      const before = readRecords(out).records;
      assert(before.length >= 1 && before.length < CELLS, `${before.length} records before the signal`);
      assertEquals(before.filter(({ state }) => state === "failed"), []);
      await assertGoesOn(out, before);
    },
  );
}

folderTest("throughput comes last, equal shapes share it, and Ctrl-C before it loses nothing", async (out) => {
  const events: string[] = [];
  let sent = false;
  const status = await watch([...RUN, out], (event, child) => {
    events.push(String(event.event));
    if (event.event !== "cell-phase" || event.phase !== "throughput" || sent) return;
    sent = true;
    child.kill("SIGINT");
  });
  assertEquals([status.code, sent], [130, true]);
  // Both methods leave one shape, so that two models are timed, after the last cell.
  assertEquals(events.slice(0, events.indexOf("timing")).filter((event) => event === "cell-done").length, CELLS);
  const before = assertComplete(out);
  assertEquals(before.map((record) => record.state === "done" && record.throughput.length), [0, 0, 0]);

  const { stderr } = await succeed(...RUN, out);
  assertStringIncludes(stderr, `${CELLS} finished earlier`);
  assertStringIncludes(stderr, "timing  2 models, one at a time");
  const after = assertComplete(out);
  assertEquals(after.map(scored), before.map(scored));
  const timed = after.map((record) => {
    assert(record.state === "done");
    const { environment: { engine, library, device, cpu } } = record;
    const { throughput, timings: { loadS, pruneS, learnS, evaluateS, throughputS, waitS }, seconds } = record;
    assert(throughputS !== null && waitS !== null);
    assert(loadS + pruneS + learnS + evaluateS + throughputS + waitS <= seconds);
    return { id: record.id, throughput, throughputS, machine: { engine, library, device, cpu } };
  });
  assertMatch(Deno.readTextFileSync(processFiles(out, at(after, 0)).log), / tiny-facts\n[^]* throughput\n/);
  const [dense, random, wanda] = take(timed, 3);
  for (const { throughput, throughputS, machine } of [dense, random]) {
    assert(throughputS > 0);
    // Timing has all threads, which the device's name may say; cells share them.
    for (const one of throughput) assertEquals({ ...one.machine, device: machine.device }, machine);
    const found = throughput.map((one) => [one.sharedFrom, one.samplesMs.length, one.denseSamplesMs?.length]);
    assertEquals(found, [[undefined, 2, 2], [undefined, 2, 2]]);
  }
  assertEquals(wanda.throughput, random.throughput.map((result) => ({ ...result, sharedFrom: random.id })));
  assertEquals(wanda.throughputS, 0);
});

folderTest("bench run records a cell that cannot be done, does the others, and tries again", async (out) => {
  // A rate that no training survives.
  const training = ["--recover", "lora", "--training", "steps=3,learningRate=1e30,clipNorm=1e30"];
  const what = ["--methods", "random,mask-prune", "--sparsity", "0.5", ...training];
  const flags = [...RUN, out, ...what];
  for (const retried of ["", ", 2 failed earlier and are retried"]) {
    const { code, stderr } = await finish(bench(...flags));
    assertEquals(code, 1, stderr);
    assertStringIncludes(stderr, `${retried}, 2 at once`);
    const states = readRecords(out).records.map((record) => [
      record.cell.method?.id,
      record.state === "failed" ? record.failure.kind : record.state,
    ]);
    assertEquals(states, [[undefined, "done"], ["mask-prune", "numeric"], ["random", "numeric"]]);
  }
});

folderTest("bench run sets an unreadable record aside and measures its cell again", async (out) => {
  await succeed(...RUN, out);
  const record = at(assertComplete(out), 0);
  const path = join(runPaths(out).records, `dense-${record.id}.json.gz`);
  Deno.writeFileSync(path, Deno.readFileSync(path).subarray(0, 100));
  const { stderr } = await succeed(...RUN, out);
  assertStringIncludes(stderr, `kept as ${path}.bad`);
  assertEquals(readRecords(out).records.length, CELLS);
  assertEquals(Deno.readFileSync(`${path}.bad`).length, 100);
});
