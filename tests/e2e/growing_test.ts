import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { readRunFile } from "../../benchmarks/records/run_file.ts";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { doneCells as done, killCell, refused, scoresOf, succeed, watch } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";

const PRUNED = (
  "--methods wanda-sp,mask-prune --sparsity 0.5 --recover lora --training steps=4,batch=1,tokens=32 --engine wasm " +
  "--calibration tiny-world:4:32 --no-throughput"
).split(" ");
const FIRST = ["--perplexity", "tiny-world:a:64:4", "--tasks", "tiny-facts", "--limit", "6"];
const BOTH = ["--perplexity", "tiny-world:a:64:4,tiny-world:b:32:4", "--tasks", "tiny-facts,tiny-agreement"];

/** Everything that was measured, without times. */
const scores = (out: string) => done(out).map((record) => [record.id, record.plan, scoresOf(record)]);
const log = (out: string) =>
  [...Deno.readDirSync(runPaths(out).logs)].map(({ name }) => Deno.readTextFileSync(join(runPaths(out).logs, name)))
    .join("");

folderTest("bench eval of recovered cells equals a run that asked from the start, without training", async (out) => {
  const [grown, whole] = [join(out, "grown"), join(out, "whole")];
  await succeed("run", ...PRUNED, ...FIRST, "--out", grown);
  assertStringIncludes(log(grown), "step 4 of 4");
  // What makes the models again lies beside the records.
  Deno.removeSync(runPaths(grown).cache, { recursive: true });
  await succeed("eval", grown, "--tasks", "tiny-agreement", "--perplexity", "tiny-world:b:32:4");
  assert(!/step \d+ of 4,/.test(log(grown)), log(grown));
  await succeed("run", ...PRUNED, ...BOTH, "--limit", "6", "--out", whole);
  assertEquals(scores(grown), scores(whole));

  const again = await succeed("eval", grown, "--tasks", "tiny-agreement", "--perplexity", "tiny-world:b:32:4");
  assertStringIncludes(again.stderr, "3 finished earlier");
  const { tasks, perplexity } = readRunFile(grown)!.config;
  assertEquals([tasks, perplexity.length], [["tiny-facts", "tiny-agreement"], 2]);

  // What is no longer asked for stays in the records and leaves the report.
  const fewer = await succeed("run", ...PRUNED, ...FIRST, "--out", grown, "--methods", "wanda-sp", "--json");
  const notes = fewer.stderr.trim().split("\n").map((line) => JSON.parse(line)).filter(({ event }) => event === "note");
  assertEquals(notes.filter(({ message }) => message.startsWith("1 record belongs to a cell")).length, 1);
  assertEquals(done(grown).map(({ tasks }) => tasks.map(({ task }) => task)), [["tiny-facts"], ["tiny-facts"]]);
  assertEquals(readRecords(grown).records.length, 3);
  for (const record of readRecords(grown).records) {
    assertEquals(record.state === "done" && record.tasks.map(({ task }) => task), ["tiny-facts", "tiny-agreement"]);
  }
});

folderTest("bench eval --limit holds for added tasks; replacing earlier results takes --remeasure", async (root) => {
  const [out, other] = [join(root, "grown"), join(root, "other")];
  const run = "run --model tiny --methods random --sparsity 0.5 --engine wasm --no-throughput".split(" ");
  await succeed(...run, "--tasks", "tiny-facts", "--limit", "6", "--out", out);
  const before = done(out).map(({ tasks }) => tasks);
  const counts = () => done(out).map(({ tasks }) => tasks.map(({ samples: { effective } }) => effective));
  const grow = ["eval", out, "--tasks", "tiny-agreement", "--limit", "4"];
  await succeed(...grow);
  assertEquals([counts(), done(out).map(({ tasks }) => tasks.slice(0, 1))], [[[6, 4], [6, 4]], before]);
  const report = Deno.readTextFileSync(join(runPaths(out).report, "comparison.md"));
  assertStringIncludes(report, "the first 6 (tiny-facts); the first 4 (tiny-agreement)");
  assertStringIncludes((await succeed(...grow)).stderr, "2 finished earlier");
  // The window length of a repeated choice is the default, which the run's file says in full.
  for (const _ of [0, 1]) await succeed("eval", out, "--perplexity", "tiny-world:c::2");
  assertEquals(readRunFile(out)!.config.perplexity.length, 1);

  // The same task with another limit is another result: it is neither replaced in silence nor paired.
  const all = [...grow.slice(0, -1), "all"];
  await refused("--limit differs from the run's for tiny-agreement, which would be scored again", ...all);
  const scored = "eval --perplexity tiny-world:a:64 --limit all".split(" ");
  await refused("for tiny-facts, tiny-agreement, which", ...scored, out);
  assertEquals(counts(), [[6, 4], [6, 4]]);
  await succeed(...run, "--sparsity", "0", "--tasks", "tiny-facts,tiny-agreement", "--limit", "6", "--out", other);
  const compared = (await succeed("compare", out, other)).stdout;
  assertMatch(compared, /\| tiny-facts acc, n=6/);
  assert(!/\| tiny-agreement acc/.test(compared), compared);
  await succeed(...all.with(-1, "8"), "--remeasure");
  assertEquals(counts(), [[6, 8], [6, 8]]);
  assertEquals(readRunFile(out)?.config.limit, { "tiny-facts": 6, "tiny-agreement": 8 });
});

folderTest("a cell that is killed in the middle of bench eval keeps what was measured before", async (out) => {
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

folderTest("cells without merged weights are exported as those with them, which may be stored later", async (out) => {
  const [small, whole] = [join(out, "small"), join(out, "whole")];
  for (const [folder, ...flags] of [[small], [whole, "--keep-weights"]] as const) {
    await succeed("run", ...PRUNED, "--tasks", "tiny-facts", "--limit", "2", ...flags, "--out", folder);
    Deno.removeSync(runPaths(folder).cache, { recursive: true });
  }
  const changed = done(small).filter(({ changedWeights }) => changedWeights);
  assertEquals(changed.map(({ cell }) => cell.method?.id), ["mask-prune", "wanda-sp"]);
  for (const { rebuild, storedWeights } of changed) assert(rebuild && !storedWeights);
  const names = [...Deno.readDirSync(runPaths(small).weights)].map(({ name }) => name);
  assertEquals(names.filter((name) => !name.endsWith(".rebuild.safetensors")), []);
  assertStringIncludes((await succeed("validate", small)).stdout, "2 sound files of weights, 0 damaged files");

  for (const { id, cell } of changed) {
    const files: string[] = [];
    for (const folder of [small, whole]) {
      const to = join(out, `${id} of ${folder === small}`);
      await succeed("export", id, "--run", folder, "--format", "hf", "--to", to);
      files.push(sha256OfFiles([join(to, "model.safetensors")]));
    }
    assertEquals(files[0], files[1], cell.method?.id);
  }

  // Merged weights may be stored later, and are those that were measured.
  await succeed("eval", small, "--keep-weights");
  for (const [i, { storedWeights }] of done(small).entries()) {
    assertEquals(storedWeights, done(whole)[i]?.storedWeights);
  }
});
