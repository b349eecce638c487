import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { readRecords } from "../../benchmarks/records/store.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { openModel } from "../../models/load.ts";
import { familyConfig } from "../../tools/checks/small_families.ts";
import { bench, finish, sweepTest } from "../support/bench_process.ts";
import { byteLevelDefinition, writeModelFolder } from "../support/export_fixture.ts";
import { toySource } from "../support/toy.ts";

const RUN = (
  "--engine wasm --sparsity 0.4 --calibration tiny-world:4:32 --training steps=12,batch=2,tokens=32 --no-throughput " +
  "--perplexity tiny-world:a:48:4"
).split(" ");

async function succeed(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await finish(bench(...args));
  assertEquals(code, 0, stderr);
  return stdout.trim();
}

const pruned = (out: string): DoneRecord[] =>
  readRecords(out).records.filter((record): record is DoneRecord =>
    record.state === "done" && record.cell.method !== null
  );

sweepTest("a Qwen3 is cut, compensated, recovered and exported as one", async (folder) => {
  const model = join(folder, "small-qwen3");
  const config = { ...familyConfig("qwen3"), vocabSize: 300, maxPositions: 64 };
  writeModelFolder(model, toySource({ ...config, seed: 5 }), byteLevelDefinition());
  const nll: number[] = [];
  for (
    const [name, more] of [["cut", []], ["recovered", ["--compensate", "least-squares", "--recover", "lora"]]] as const
  ) {
    const out = join(folder, name);
    await succeed("run", "--model", model, "--methods", "wanda-sp", ...RUN, ...more, "--keep-weights", "--out", out);
    const [record] = pruned(out);
    assert(record);
    nll.push(record.perplexity[0]?.nllPerToken ?? NaN);
    assertEquals(record.changedWeights, name === "recovered");
    const to = await succeed("export", record.id, "--run", out, "--format", "hf");
    const { source } = await openModel(to);
    assertEquals([source.config.family, source.config.headNorms, source.config.headSize], ["qwen3", true, 16]);
    assertEquals(
      source.config.layers.map(({ ffnChannels }) => ffnChannels),
      record.size.layers.map((layer) => layer.ffnChannels),
    );
    source.close();
  }
  const [cut, recovered] = nll;
  assert(
    cut !== undefined && recovered !== undefined && recovered < cut - 0.1,
    `${recovered} must be well below ${cut}`,
  );
});
