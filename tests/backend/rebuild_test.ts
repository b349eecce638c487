/** What a run keeps of a cell makes its model again: the same bits on wasm, the same log-likelihoods on the native engine. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { keptModel } from "../../benchmarks/cells/rebuild.ts";
import { measureCell } from "../../benchmarks/cells/measure.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { writeRecord } from "../../benchmarks/records/store.ts";
import { at } from "../../core/util/indexing.ts";
import { type DoneRecord, runConfigSchema, SCHEMA_VERSION } from "../../core/schema/schema.ts";
import { expectedTensors } from "../../models/config.ts";
import { disposeModel, uploadModel } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { hostTensor } from "../../models/surgery.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { withFolder } from "../support/weights_fixture.ts";

const COMMON = {
  calibration: { corpus: "tiny-world", sequences: 3, tokens: 24 },
  training: { steps: 4, batch: 1, tokens: 16, rank: 2, teacherTokens: 8 },
  perplexity: [{ corpus: "tiny-world", windowTokens: 32, maxWindows: 2 }],
};
/** Everything that may change weights: adapters, kept masks of units, layers and hidden dimensions, added biases, least
 * squares. */
const WAYS: Record<string, Record<string, unknown>> = {
  "biases and recovery": {
    methods: [{ id: "flap", options: { biasCompensation: true } }],
    sparsity: [0.4],
    recover: "lora",
  },
  "least squares": {
    methods: [{ id: "wanda-sp" }],
    sparsity: [0.1],
    units: ["kv-groups"],
    compensate: "least-squares",
  },
  "least squares in turn": {
    methods: [{ id: "wanda-sp", options: { statistics: "dense" } }],
    sparsity: [0.1],
    units: ["kv-groups"],
    compensate: "least-squares-in-turn",
  },
  "scales alone": { methods: [{ id: "mask-prune" }], sparsity: [0.4], recover: "scales" },
  "scales of a recovery": { methods: [{ id: "wanda-sp" }], sparsity: [0.4], recover: "scales" },
  "least squares where nothing else changes weights": {
    methods: [{ id: "mask-prune" }],
    sparsity: [0.1],
    units: ["kv-groups"],
    compensate: "least-squares",
  },
  "least squares, adapters and scales": {
    methods: [{ id: "mask-prune" }],
    sparsity: [0.3],
    recover: "lora",
    compensate: "least-squares",
  },
  "masks of layers and hidden dimensions": {
    methods: [{ id: "sheared", options: { targetHidden: 96, targetLayers: 3, targetHeads: 6, targetFfn: 256 } }],
    sparsity: [0.6],
    recover: "lora",
  },
};

/** The record of the last cell of a run, which keeps its merged weights beside what makes them again. */
async function recordOf(out: string, engine: string, way: Record<string, unknown>): Promise<DoneRecord> {
  const config = runConfigSchema.parse({ engine, out, ...COMMON, ...way });
  const { cells } = await prepareRun(config, () => {});
  const named = at(cells, cells.length - 1);
  const measured = await measureCell({ ...named, out, commit: null, keepWeights: true }, {});
  const head = { schemaVersion: SCHEMA_VERSION, startedAt: new Date().toISOString(), seconds: 1 } as const;
  const record: DoneRecord = { ...head, ...named, state: "done", ...measured };
  writeRecord(out, record);
  return record;
}

testOnEngines("what a run keeps makes every model again", async (engine) => {
  for (const [name, way] of Object.entries(WAYS)) {
    await withFolder(async (out) => {
      tf.engine().startScope();
      const record = await recordOf(out, engine.name, way);
      const { rebuild, storedWeights, ...rest } = record;
      assert(rebuild && storedWeights, name);
      // Nothing else of the run's folder is needed.
      Deno.removeSync(join(out, "cache"), { recursive: true });
      const { source } = await openModel("tiny");
      const dense = await uploadModel(source);
      const models = [
        await keptModel(out, { ...rest, storedWeights }, { dense, source }),
        await keptModel(out, { ...rest, rebuild }, { dense, source }),
      ];
      const [original, made] = [at(models, 0), at(models, 1)];
      assertEquals(made.config, original.config, name);
      const length = 24;
      const batch = { tokens: Int32Array.from({ length }, (_, i) => 37 * i % 1792), batch: 1, length };
      const targets = { rows: Int32Array.from({ length }, (_, i) => i), ids: batch.tokens };
      const scores = await Promise.all(models.map((model) => scoringModel(model).score(batch, targets)));
      const [wanted, got] = scores.map(({ logProbs }) => logProbs);
      assert(wanted && got);
      assertClose(got, wanted, { atol: engine.name === "wasm" ? 0 : 1e-5, rtol: 0 }, name);
      if (engine.name === "wasm") {
        for (const tensor of expectedTensors(original.config).keys()) {
          const [again, first] = [await hostTensor(made, tensor), await hostTensor(original, tensor)];
          assertClose(again.data, first.data, { atol: 0, rtol: 0 }, `${name} ${tensor}`);
        }
      }
      for (const each of [...models, dense]) disposeModel(each);
      source.close();
      tf.engine().endScope();
    });
  }
}, { except: ["webgpu", "cpu"] });

testOnEngines("a method that trains and the recovery of another share the teacher's targets", async ({ name }) => {
  await withFolder(async (out) => {
    tf.engine().startScope();
    for (const way of ["biases and recovery", "scales alone"]) await recordOf(out, name, WAYS[way]!);
    const kept = [...Deno.readDirSync(join(out, "cache"))].filter((file) => file.name.endsWith(".safetensors"));
    const texts = kept.map((file) => Deno.readTextFileSync(join(out, "cache", file.name)));
    assertEquals(texts.filter((text) => text.includes('"key":"teacher')).length, 1);
    tf.engine().endScope();
  });
}, { except: ["webgpu", "cpu"] });
