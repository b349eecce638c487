/** Sheared LLaMA's own shape through the command line: pruned, measured, exported and read again. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import { openStoredWeights } from "../../benchmarks/records/kept_weights.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { openModel } from "../../models/load.ts";
import type { WeightSource } from "../../models/config.ts";
import { succeed } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { logitsOf, onDevice } from "../support/device_models.ts";

const SHAPE = "sheared:targetHidden=96,targetLayers=3,targetHeads=6,targetFfn=256";
const FLAGS = [
  ..."--engine wasm --no-throughput --tasks tiny-facts --limit 5 --calibration tiny-world:4:32".split(" "),
  ..."--training steps=20,batch=1,tokens=16 --compensate least-squares".split(" "),
];

/** Logits of a few tokens. */
async function sourceLogits(source: WeightSource): Promise<Float32Array> {
  using model = await onDevice(source);
  return await logitsOf(model, Int32Array.from({ length: 12 }, (_, i) => 37 * i % source.config.vocabSize));
}

folderTest("bench run prunes the bundled model to a shape of Sheared LLaMA's kind, and exports it", async (out) => {
  await succeed("run", "--methods", SHAPE, "--sparsity", "0.6", ...FLAGS, "--keep-weights", "--out", out);
  const { records } = readRecords(out);
  const record = records.find(({ cell }) => cell.method !== null)!;
  assert(record.state === "done" && record.storedWeights);
  const { size, plan } = record;
  assertEquals(size.layers, Array(3).fill({ kvGroups: 6, queryHeadsPerGroup: 1, ffnChannels: 256 }));
  assertEquals([size.hidden, plan.hidden!.length, plan.layers.length], [{ kept: 96, of: 128 }, 96, 4]);
  // 4 maps of 96 x 96 and 3 of 96 x 256; besides them the tied embedding and 7 norms.
  assertEquals(size.prunableParameters, 3 * (4 * 96 * 96 + 3 * 96 * 256));
  assertEquals(size.parameters, size.prunableParameters + 96 * (1792 + 7));
  const report = Deno.readTextFileSync(join(runPaths(out).report, "comparison.md"));
  const label = "sheared, target hidden 96, target layers 3, target heads 6, target ffn 256";
  assertStringIncludes(
    report,
    `At target 60 %, models have 3 of 4 layers and a hidden size of 96 instead of 128 (${label}).`,
  );

  await succeed("validate", out);
  const to = join(out, "exported");
  await succeed("export", "sheared", "--run", out, "--format", "hf", "--to", to);
  await startEngine("wasm");
  const { source: dense } = await openModel("tiny");
  const stored = openStoredWeights(out, { ...record, storedWeights: record.storedWeights }, dense);
  const { source } = await openModel(to);
  assertEquals([source.config.width, source.config.headSize, source.config.layers], [96, 16, size.layers]);
  assertEquals(await sourceLogits(source), await sourceLogits(stored));
  for (const each of [source, stored, dense]) each.close();
});
