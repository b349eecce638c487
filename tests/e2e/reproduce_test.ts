/** A cell run again from its record. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { at } from "../../core/indexing.ts";
import { compareRecords } from "../../benchmarks/commands/reproduce.ts";
import { readRecords, recordPath } from "../../benchmarks/records/store.ts";
import { bench, finish, sweepTest } from "../support/bench_process.ts";
import { known } from "../support/values.ts";

sweepTest("bench reproduce gives the same plan and the same numbers on wasm", async (out) => {
  const flags = ["--preset", "smoke", "--engine", "wasm", "--no-throughput", "--methods", "wanda-sp", "--out", out];
  const run = await finish(bench("run", ...flags));
  assertEquals(run.code, 0, run.stderr);
  const record = at(readRecords(out).records, 1);
  assert(record.state === "done");
  const { code, stdout, stderr } = await finish(bench("reproduce", recordPath(out, record)));
  assertEquals(code, 0, stdout + stderr);
  assertStringIncludes(stdout, "same, bit for bit: weights, plan, size, perplexity tiny-world, tiny-facts");

  const other = structuredClone(record);
  at(other.plan.layers, 0).ffnChannels[0] = at(at(other.plan.layers, 0).ffnChannels, 0) + 1;
  at(other.perplexity, 0).windowNll[0] = at(at(other.perplexity, 0).windowNll, 0) + 1e-6;
  other.environment.cpu = "another";
  at(other.tasks, 0).outcomes.acc = known(at(record.tasks, 0).outcomes.acc).replace(
    /^./,
    (first) => first === "1" ? "0" : "1",
  );
  const { same, differs, environment } = compareRecords(record, other);
  assertEquals(same, ["weights", "size"]);
  assertEquals(differs.map((line) => line.split(":")[0]), ["plan", "perplexity tiny-world", "tiny-facts"]);
  assertStringIncludes(at(differs, 1), "by up to 1.0e-6 nats");
  assertEquals(environment, [`cpu: ${record.environment.cpu}, now another`]);
});
