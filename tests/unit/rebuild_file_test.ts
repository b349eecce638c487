import { assert, assertEquals, assertThrows } from "@std/assert";
import { join } from "node:path";
import { openRebuild, storeRebuild } from "../../benchmarks/records/kept_weights.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { readTensorFile, writeTensorFile } from "../../core/formats/safetensors.ts";
import type { StoredRebuild } from "../../core/schema/schema.ts";
import type { HostTensor } from "../../models/config.ts";
import { totalParameters } from "../../models/count.ts";
import { densePlan, plannedConfig, type PrunePlan } from "../../models/plan.ts";
import type { Rebuild } from "../../models/training/rebuild.ts";
import { PLANS } from "../support/export_fixture.ts";
import { adaptersOf, REBUILD, REBUILT, REBUILT_FROM, waves } from "../support/rebuild_fixture.ts";
import { toyConfig } from "../support/toy.ts";
import { folderTest, withFolder } from "../support/weights_fixture.ts";

folderTest("openRebuild() gives what storeRebuild() kept", (out) => {
  const rebuild = storeRebuild(out, REBUILT, REBUILD);
  assertEquals(rebuild.stages, [{ compensated: true, scale: 2 }]);
  assertEquals(openRebuild(out, { rebuild, plan: PLANS.uniform }, REBUILT_FROM), REBUILD);

  const kept: Rebuild = {
    plan: PLANS.uniform,
    windows: [],
    replaced: { "model.norm.weight": waves(REBUILT_FROM.width) },
    trained: { ...adaptersOf(plannedConfig(REBUILT_FROM, PLANS.uniform), 3), masks: [{}, {}] },
  };
  const stored = storeRebuild(out, REBUILT, kept);
  assertEquals(openRebuild(out, { rebuild: stored, plan: PLANS.uniform }, REBUILT_FROM), kept);
});

folderTest("openRebuild() refuses a file that is missing, damaged, or of another model, in one sentence", (out) => {
  const rebuild = storeRebuild(out, REBUILT, REBUILD);
  const record = { rebuild, plan: PLANS.uniform };
  const path = join(out, "weights", rebuild.file);
  const refused = (
    problem: string,
    given: { rebuild: StoredRebuild; plan: PrunePlan } = record,
    dense = REBUILT_FROM,
  ) => {
    const { message } = assertThrows(() => openRebuild(out, given, dense), FileFormatError);
    assert(message.includes(problem) && !message.includes("\n"), message);
  };
  refused("The plan must have 3 layers", record, {
    ...REBUILT_FROM,
    layers: [...REBUILT_FROM.layers, at(REBUILT_FROM.layers, 0)],
  });
  refused('tensor "trained/lora.0.query.down" has [32,2], not [16,2]', record, { ...REBUILT_FROM, width: 16 });
  refused("token ids below 299", record, { ...REBUILT_FROM, vocabSize: 299 });
  refused("does not belong to it", { ...record, rebuild: { ...rebuild, stages: [{ compensated: true }] } });
  refused("windows must be there", { ...record, rebuild: { ...rebuild, stages: [{ compensated: false, scale: 2 }] } });

  const tensors = readTensorFile(path);
  const rewritten = (change: (tensors: Map<string, HostTensor>) => void): StoredRebuild => {
    const changed = new Map(tensors);
    change(changed);
    writeTensorFile(path, changed);
    return { ...rebuild, sha256: sha256OfFiles([path]) };
  };
  const without = rewritten((tensors) => tensors.delete("trained/lora.1.down.up"));
  refused("the adapter of model.layers.1.mlp.down_proj.weight is half there", { ...record, rebuild: without });
  const infinite = rewritten((tensors) => {
    tensors.set("masks/1/ffn", { shape: [7], data: new Float32Array(7).fill(NaN) });
  });
  refused('tensor "masks/1/ffn" holds values that are not finite', { ...record, rebuild: infinite });
  refused("the record names");
  Deno.removeSync(path);
  assertThrows(() => openRebuild(out, record, REBUILT_FROM), UsageError, rebuild.file);
});

Deno.test("at rank 8 a model of SmolLM2-135M's widths is kept in 6 % of its f32 weights", async () => {
  const dense = toyConfig({
    vocabSize: 49_152,
    width: 576,
    headSize: 64,
    layers: Array.from({ length: 30 }, () => ({ kvGroups: 3, queryHeadsPerGroup: 3, ffnChannels: 1536 })),
    tiedHead: true,
  });
  assertEquals(totalParameters(dense), 134_515_008);
  const plan = densePlan(dense);
  for (const layer of plan.layers) layer.ffnChannels = layer.ffnChannels.filter((i) => i % 2 === 0);
  const config = plannedConfig(dense, plan);
  const masks = config.layers.map(({ ffnChannels }) => ({ ffn: waves(ffnChannels).data }));
  const windows = Array.from({ length: 128 }, () => new Int32Array(128).fill(49_151));
  await withFolder((out) => {
    const trained = { ...adaptersOf(config, 8), masks };
    const { sizeBytes } = storeRebuild(out, REBUILT, { plan, replaced: {}, windows, trained });
    assert(sizeBytes <= 0.06 * 4 * totalParameters(config), `${sizeBytes} bytes`);
  });
});
