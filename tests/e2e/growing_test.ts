import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { askedRecords, readRunFile } from "../../benchmarks/records/run_file.ts";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import type { DoneRecord } from "../../core/schema.ts";
import { bench, finish, killCell, sweepTest, watch } from "../support/bench_process.ts";

const PRUNED = (
  "--methods wanda-sp,mask-prune --sparsity 0.5 --recover lora --training steps=4,batch=1,tokens=32 --engine wasm " +
  "--calibration tiny-world:4:32 --no-keep-weights --no-throughput"
).split(" ");
const FIRST = ["--perplexity", "tiny-world:a:64:4", "--tasks", "tiny-facts", "--limit", "6"];
const BOTH = ["--perplexity", "tiny-world:a:64:4,tiny-world:b:32:4", "--tasks", "tiny-facts,tiny-agreement"];

async function succeed(...args: string[]): Promise<string> {
  const { code, stderr } = await finish(bench(...args));
  assertEquals(code, 0, stderr);
  return stderr;
}

const done = (out: string) =>
  askedRecords(out).records.filter((record): record is DoneRecord => record.state === "done");
/** Everything that was measured, without times. */
const scores = (out: string) =>
  done(out).map(({ id, plan, perplexity, tasks }) => ({
    id,
    plan,
    nll: perplexity.map(({ windowNll }) => windowNll),
    outcomes: tasks.map(({ task, outcomes }) => [task, outcomes]),
  }));
const log = (out: string) =>
  [...Deno.readDirSync(runPaths(out).logs)].map(({ name }) => Deno.readTextFileSync(join(runPaths(out).logs, name)))
    .join("");

sweepTest(
  "bench eval gives recovered cells what a run gives that asked from the start, without a step of training",
  async (out) => {
    const [grown, whole] = [join(out, "grown"), join(out, "whole")];
    await succeed("run", ...PRUNED, ...FIRST, "--out", grown);
    assertStringIncludes(log(grown), "step 4 of 4");
    await succeed("eval", grown, "--tasks", "tiny-agreement", "--perplexity", "tiny-world:b:32:4");
    assert(!/step \d+ of 4,/.test(log(grown)), log(grown));
    await succeed("run", ...PRUNED, ...BOTH, "--limit", "6", "--out", whole);
    assertEquals(scores(grown), scores(whole));

    const again = await succeed("eval", grown, "--tasks", "tiny-agreement");
    assertStringIncludes(again, "3 finished already");

    // What is no longer asked for stays in the records and leaves the report.
    const fewer = await succeed("run", ...PRUNED, ...FIRST, "--out", grown, "--methods", "wanda-sp");
    assertStringIncludes(fewer, "1 record of another cell stays");
    assertEquals(done(grown).map(({ tasks }) => tasks.map(({ task }) => task)), [["tiny-facts"], ["tiny-facts"]]);
    assertEquals(readRecords(grown).records.length, 3);
    for (const record of readRecords(grown).records) {
      assertEquals(record.state === "done" && record.tasks.map(({ task }) => task), ["tiny-facts", "tiny-agreement"]);
    }
  },
);

sweepTest("a cell that is killed in the middle of bench eval keeps what was measured before", async (out) => {
  await succeed("run", ...PRUNED, ...FIRST, "--methods", "random", "--recover", "none", "--out", out);
  const before = readRecords(out).records;
  let killed = 0;
  const { code } = await watch(["eval", out, "--tasks", "tiny-agreement"], ({ event, phase }) => {
    if (event !== "cell-phase" || !String(phase).startsWith("tiny-agreement") || killed > 0) return;
    killed++;
    killCell(out, "KILL");
  });
  assertEquals([code, killed], [1, 1]);
  const [dense] = readRecords(out).records;
  assertEquals(dense, before[0]);
  assertEquals(readRunFile(out)?.config.tasks, ["tiny-facts", "tiny-agreement"]);
  await succeed("eval", out, "--tasks", "tiny-agreement");
  assertEquals(done(out).map(({ tasks }) => tasks.length), [2, 2]);
});
