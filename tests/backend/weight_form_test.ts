import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { weightBytes } from "../../benchmarks/cells/cell_cost.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { writeRunFile } from "../../benchmarks/records/run_file.ts";
import { EngineError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { PackedMatrix } from "../../core/engine/matrix.ts";
import { createRng } from "../../core/util/rng.ts";
import { runConfigSchema } from "../../core/schema/schema.ts";
import { listMethods, parseOptions } from "../../methods/mod.ts";
import {
  type DecoderConfig,
  type HostTensor,
  LINEAR_NAMES,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import { totalParameters } from "../../models/count.ts";
import { disposeCache } from "../../models/decode.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, disposeModel, modelBytes, uploadModel } from "../../models/device.ts";
import { greedyTokens } from "../../models/generate.ts";
import { eachLayer, openLayerwise } from "../../models/layerwise.ts";
import { scoringModel } from "../../models/scoring.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { compensate, gramMatrices } from "../../models/training/least_squares.ts";
import { recoverModel } from "../../models/training/recover.ts";
import { assertClose, testOnEngines, testOwnOperations } from "../support/engines.ts";
import { learningOptions, methodContext, QUIET, toyWindows } from "../support/method_context.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { asStored, tempFolder } from "../support/weights_fixture.ts";
import { freed, onDevice } from "../support/device_models.ts";
import { take } from "../support/values.ts";

/** The toy with every number rounded to what `form` holds. */
function roundedSource(form: "F16" | "BF16", tiedHead: boolean, shape: Partial<DecoderConfig> = {}): WeightSource {
  const source = toySource({ tiedHead, seed: 9, biases: ["query"], ...shape });
  return {
    ...source,
    read: (name) => {
      const { shape, data } = source.read(name);
      return { shape, data: asStored(form, data) };
    },
  };
}

const PLAN = {
  layers: [0, 1].map(() => ({ kvGroups: [0, 2, 3], queryHeads: [0, 2, 3], ffnChannels: [0, 1, 4, 5, 9, 11, 20] })),
  hidden: Array.from({ length: 31 }, (_, i) => i),
};

/** Log-probabilities of the next tokens of a text. */
async function scores(model: DecoderModel): Promise<Float32Array> {
  const tokens = toyTokens({ count: 41, seed: 6 });
  const rows = Int32Array.from({ length: 40 }, (_, i) => i);
  const { logProbs } = await scoringModel(model)
    .score({ tokens: tokens.slice(0, 40), batch: 1, length: 40 }, { rows, ids: tokens.slice(1) });
  return logProbs;
}

async function greedyIds(model: DecoderModel): Promise<Int32Array> {
  const { tokens, cache } = await greedyTokens(model, Int32Array.of(1, 2, 3, 4, 5, 6), { batch: 2, steps: 20 });
  disposeCache(cache!);
  return tokens;
}

const matrices = (model: DecoderModel) => [
  ...model.embedding,
  ...model.head ?? [],
  ...model.layers.flatMap((layer) => LINEAR_NAMES.map((name) => layer[name].weight)),
];

testOnEngines("weights as stored give the log-likelihoods, generations and prunings of f32 weights", async (engine) => {
  if (!engine.decoderOps) {
    await assertRejects(() => uploadModel(toySource(), "stored"), EngineError, "holds only f32 weights");
    return;
  }
  for (const [form, tiedHead] of [["BF16", true], ["F16", false]] as const) {
    const source = roundedSource(form, tiedHead);
    const [plain, stored] = [await uploadModel(source), await uploadModel(source, "stored")];
    assertEquals(modelBytes(plain), 4 * totalParameters(source.config));
    // Rows of an odd length end in half of an unused word.
    const rounding = modelBytes(stored) - weightBytes(source.config, "stored");
    assert(rounding >= 0 && rounding < 0.03 * modelBytes(stored), `${rounding} bytes`);
    for (const weight of matrices(stored)) assert(weight instanceof PackedMatrix && weight.format === form);
    assertClose(await scores(stored), await scores(plain), { atol: 1e-5, rtol: 0 });
    assertEquals(await greedyIds(stored), await greedyIds(plain));
    for (const name of [tensorNames.embedding, tensorNames.weight(1, "down"), tensorNames.finalNorm]) {
      assertEquals(await hostTensor(stored, name), source.read(name));
    }
    const [cut, storedCut] = [await pruneModel(plain, PLAN), await pruneModel(stored, PLAN)];
    for (const weight of matrices(storedCut)) assert(weight instanceof PackedMatrix && weight.format === form);
    assertClose(await scores(storedCut), await scores(cut), { atol: 1e-5, rtol: 0 });
    [plain, stored, cut, storedCut].forEach(disposeModel);
  }
});

testOwnOperations("layers that are read one at a time are in 16 bits too", async () => {
  using model = freed(await openLayerwise(roundedSource("BF16", true), "stored"));
  const packed = await eachLayer(model, (layer) => layer.up.weight instanceof PackedMatrix);
  assertEquals(packed, [true, true]);
});

testOwnOperations("adapters learn on weights as stored as on f32 weights, and are folded into f32", async () => {
  const source = roundedSource("BF16", true);
  const options = learningOptions({ steps: 6, batch: 2, tokens: 8, rank: 4, alpha: 8, learningRate: 0.02 });
  const trained: Float32Array[] = [];
  const windows = Array.from({ length: 12 }, (_, i) => at(toyWindows(2, 8), i % 2));
  for (const weights of ["f32", "stored"] as const) {
    using teacher = await onDevice(source, weights);
    using base = freed(await pruneModel(teacher, PLAN));
    await recoverModel({ base, teacher, options, windows, rng: createRng(0, "adapters"), key: "test", ...QUIET });
    trained.push(await scores(base));
    assert(base.layers.every((layer) => layer.up.weight instanceof tf.Tensor));
  }
  const [plain, stored] = take(trained, 2);
  assertClose(stored, plain, { atol: 1e-3, rtol: 0 });
});

testOwnOperations("matrices that 16 bits do not hold stay in f32", async () => {
  using model = await onDevice(toySource({ seed: 2 }), "stored");
  for (const weight of matrices(model)) assert(weight instanceof tf.Tensor);
  const hidden = forward(model, { tokens: Int32Array.of(1, 2), batch: 1, length: 2 });
  assertEquals(hidden.shape, [2, 32]);
  hidden.dispose();
});

/** Wide enough for methods that leave the first or last layers whole. */
const DEEP = { layers: Array.from({ length: 6 }, () => ({ kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 96 })) };

testOwnOperations("every method chooses the same units of weights as stored, layer by layer too", async () => {
  const source = roundedSource("BF16", true, DEEP);
  const learning = {
    options: learningOptions({ steps: 6, batch: 1, tokens: 16, rank: 2, alpha: 4 }),
    windows: toyWindows(6, 16),
  };
  const given = { calibration: toyWindows(6, 16), learning };
  for (const method of listMethods()) {
    const options = parseOptions(method, {});
    const plans: Record<string, PrunePlan> = {};
    for (const form of ["f32", "stored", ...method.layerwise ? ["stored, by layers"] as const : []] as const) {
      const weights = form === "f32" ? form : "stored";
      using model = freed(await (form === "stored, by layers" ? openLayerwise : uploadModel)(source, weights));
      plans[form] = (await method.prune(methodContext({ ...given, model, options }))).plan;
    }
    for (const plan of Object.values(plans)) assertEquals(plan, plans.f32, method.id);
  }
});

testOwnOperations("least squares corrects weights as stored like f32 weights", async () => {
  const source = roundedSource("F16", false);
  const corrected: Record<string, HostTensor>[] = [];
  for (const weights of ["f32", "stored"] as const) {
    using model = await onDevice(source, weights);
    const gram = await gramMatrices(model, toyWindows(4, 16), QUIET);
    corrected.push(await compensate(model, PLAN, { gram, ...QUIET }));
  }
  const [plain, stored] = take(corrected, 2);
  assertEquals(Object.keys(stored), Object.keys(plain));
  for (const [name, { data }] of Object.entries(plain)) {
    assertClose(stored[name]?.data ?? [], data, { atol: 1e-4, rtol: 1e-3 }, name);
  }
});

testOnEngines("a run holds 16-bit files as stored where the engine can, and goes on as it began", async (engine) => {
  using temp = tempFolder();
  const out = temp.path;
  const prepare = (values: Record<string, unknown> = {}) =>
    prepareRun(
      runConfigSchema.parse({ engine: engine.name, methods: [{ id: "random" }], sparsity: [0.25], out, ...values }),
      () => {},
    );
  const run = await prepare();
  const usual = engine.decoderOps ? "stored" : "f32";
  assertEquals([run.config.weights, at(run.cells, 1).cell.weights ?? "f32"], [usual, usual]);
  // Trained weights are f32: a model with both forms would decode slowly.
  assertEquals((await prepare({ recover: "scales" })).config.weights, "f32");
  assertEquals(at((await prepare({ weights: "f32" })).cells, 1).cell.weights, undefined);
  if (!engine.decoderOps) {
    await assertRejects(() => prepare({ weights: "stored" }), UsageError, "holds only f32 weights");
    return;
  }
  // A folder of an earlier version, which knew f32 alone, does not say so.
  writeRunFile({ ...run, config: { ...run.config, weights: undefined } });
  assertEquals((await prepare()).config.weights, "f32");
  writeRunFile(run);
  assertEquals((await prepare()).config.weights, "stored");
}, { except: ["webgpu", "cpu"] });
