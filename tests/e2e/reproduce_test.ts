/** A cell run again from its record. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { compareRecords } from "../../benchmarks/commands/reproduce.ts";
import { readRecords, recordPath, writeRecord } from "../../benchmarks/records/store.ts";
import { bench, benchWith, finish, succeed } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { known } from "../support/values.ts";

folderTest("bench reproduce gives the same plan and the same numbers on wasm", async (out) => {
  const flags = ["--preset", "smoke", "--engine", "wasm", "--no-throughput", "--methods", "wanda-sp", "--out", out];
  await succeed("run", ...flags);
  const record = at(readRecords(out).records, 1);
  assert(record.state === "done");
  const { stdout } = await succeed("reproduce", recordPath(out, record));
  assertStringIncludes(stdout, "same, bit for bit: dense weights, plan, size, perplexity tiny-world, tiny-facts");

  assertEquals(at(record.perplexity, 0).batchTokens, 512);

  // Batches of other sizes than would be chosen are repeated as well.
  const small = structuredClone(record);
  for (const result of [...small.perplexity, ...small.tasks]) result.batchTokens = 64;
  writeRecord(out, small);
  const again = await finish(bench("reproduce", recordPath(out, record)));
  assertStringIncludes(again.stdout, "same, bit for bit: dense weights, plan, size");

  const other = structuredClone(record);
  at(other.plan.layers, 0).ffnChannels[0] = at(at(other.plan.layers, 0).ffnChannels, 0) + 1;
  at(other.perplexity, 0).windowNll[0] = at(at(other.perplexity, 0).windowNll, 0) + 1e-6;
  other.environment.cpu = "another";
  at(other.tasks, 0).outcomes.acc = known(at(record.tasks, 0).outcomes.acc).replace(
    /^./,
    (first) => first === "1" ? "0" : "1",
  );
  // A task without answers is compared by its metrics.
  const [rolling, changed] = [structuredClone(record), structuredClone(record)];
  for (const [one, value] of [[rolling, 30], [changed, 20]] as const) {
    at(one.tasks, 0).outcomes = {};
    at(one.tasks, 0).metrics = { word_perplexity: { value, stderr: null, higherIsBetter: false } };
  }
  assertEquals(compareRecords(rolling, changed).differs, ["tiny-facts: word_perplexity 30, now 20"]);
  assertEquals(compareRecords(rolling, rolling).differs, []);

  const { same, differs, environment } = compareRecords(record, other);
  assertEquals(same, ["dense weights", "size"]);
  assertEquals(differs.map((line) => line.split(":")[0]), ["plan", "perplexity tiny-world", "tiny-facts"]);
  assertStringIncludes(at(differs, 1), "by up to 1.0e-6 nats");
  assertEquals(environment, [`cpu: ${record.environment.cpu}, now another`]);
});

folderTest("bench reproduce leaves no temporary folder at Ctrl-C", async (root) => {
  const [out, temporary] = [join(root, "run"), join(root, "temporary")];
  Deno.mkdirSync(temporary);
  const flags = "--methods random --sparsity 0 --engine wasm --no-throughput --tasks tiny-facts --limit 6 --out";
  await succeed("run", ...flags.split(" "), out);
  const child = benchWith({ temporary }, "reproduce", recordPath(out, at(readRecords(out).records, 0)));
  let made = 0;
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    if (made > 0 || !text.includes("loading")) continue;
    made = [...Deno.readDirSync(temporary)].length;
    child.kill("SIGINT");
  }
  await child.stdout.cancel();
  assertEquals([(await child.status).code, made, [...Deno.readDirSync(temporary)].length], [130, 1, 0]);
});

folderTest("bench reproduce compares a cell that was measured further by what its cell asks for", async (out) => {
  const flags = "--methods random --sparsity 0.5 --engine wasm --no-throughput --perplexity tiny-world:a:64:4".split(
    " ",
  );
  for (const [tasks, limit] of [["tiny-facts,tiny-agreement", "6"], ["tiny-agreement,tiny-facts", "4"]] as const) {
    await succeed("run", ...flags, "--tasks", tasks, "--limit", limit, "--out", out);
  }
  const record = at(readRecords(out).records, 1);
  assertEquals(record.state === "done" && record.tasks.length, 4);
  const { stdout } = await succeed("reproduce", recordPath(out, record));
  const same = "same, bit for bit: dense weights, plan, size, perplexity tiny-world, tiny-agreement, tiny-facts";
  assertStringIncludes(stdout, same);
});
