/** Models that were pruned elsewhere, beside a run's: an export of the run itself stands for one, whose numbers are known. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { runPaths } from "../../benchmarks/records/store.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { doneCells as done, refused, scoresOf, succeed } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";

folderTest("bench eval --model puts a model pruned elsewhere beside a run, or its dense model", async (out) => {
  const [run, alone, folder] = [join(out, "run"), join(out, "alone"), join(out, "elsewhere")];
  const measured = ["--perplexity", "tiny-world:a:64:2", "--tasks", "tiny-facts", "--limit", "4", "--no-throughput"];
  const made = ["--methods", "magnitude", "--sparsity", "0.3", "--engine", "wasm"];
  await succeed("run", ...made, ...measured, "--out", run);
  await succeed("export", "magnitude", "--run", run, "--format", "hf", "--dtype", "f32", "--to", folder);

  await succeed("eval", "--model", folder, "--dense", "tiny", "--label", "found", "--out", run);
  const [dense, found, own] = done(run);
  assert(dense && found && own);
  assertEquals([found, own].map(({ cell }) => cell.method?.id), ["found", "magnitude"]);
  assertEquals(scoresOf(found), scoresOf(own));
  assertEquals([found.size, found.denseSize], [own.size, own.denseSize]);
  assertEquals(found.cell.sparsity, 0.3);
  const report = Deno.readTextFileSync(join(runPaths(run).report, "comparison.md"));
  assertStringIncludes(report, "| found |");
  assertStringIncludes(report, "elsewhere, sha256 ");

  // Further measurements reach it as any cell, and it can be exported.
  assertStringIncludes((await succeed("eval", run, "--tasks", "tiny-agreement")).stderr, "3 cells done");
  assertEquals(done(run).map(({ tasks }) => tasks.length), [2, 2, 2]);
  const again = join(out, "again");
  await succeed("export", "found", "--run", run, "--format", "hf", "--to", again);
  const [first, second] = [folder, again].map((each) => sha256OfFiles([join(each, "model.safetensors")]));
  assertEquals(first, second);

  const there = ["--model", folder, "--dense", "tiny", "--out", alone];
  await succeed("eval", ...there, "--label", "found", ...measured, "--engine", "wasm");
  assertEquals(done(alone).map(({ cell }) => cell.method?.id), [undefined, "found"]);
  assertEquals(done(alone).map(scoresOf), [scoresOf(dense), scoresOf(own)]);

  // It is timed as the others are.
  const timed = join(out, "timed.yaml");
  const values = {
    ...{ model: "tiny", engine: "wasm", methods: [], sparsity: 0, tasks: "tiny-facts", limit: 4 },
    checkpoints: { label: "found", model: folder },
    throughput: { prefillTokens: 8, decodeTokens: 2, repeats: 2 },
  };
  Deno.writeTextFileSync(timed, JSON.stringify(values));
  await succeed("run", "--config", timed, "--out", alone);
  const actual = done(alone).flatMap(({ throughput }) => throughput.map(({ name }) => name));
  assertEquals(actual, ["pp8", "tg2", "pp8", "tg2"]);

  await refused('label "found" is taken', "eval", ...there.with(1, "tiny"), "--label", "found");
  await refused("No dense model given", "eval", "--model", folder, "--label", "found", "--out", join(out, "x"));
});
