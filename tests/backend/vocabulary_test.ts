/** Models whose embedding and output projection are over the engine's limit for one tensor, against the same unsplit. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import type { Engine } from "../../core/engine/engine.ts";
import { type DecoderConfig, expectedTensors, tensorNames } from "../../models/config.ts";
import { greedyTokens } from "../../models/generate.ts";
import { disposeCache } from "../../models/decode.ts";
import { forward, targetLogProbs } from "../../models/decoder.ts";
import { type DecoderModel, disposeModel, uploadModel } from "../../models/device.ts";
import { logits } from "../../models/vocabulary.ts";
import { densePlan } from "../../models/plan.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { nextTokens, windowBatch } from "../../models/training/batches.ts";
import { teacherTargets } from "../../models/training/teacher.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { toyWindows } from "../support/method_context.ts";
import { onDevice } from "../support/device_models.ts";
import { countTraffic } from "../support/traffic.ts";

/** The largest linear map of the toy model, 32 x 32; the vocabulary of 61 x 32 takes 7808 bytes. */
const LIMIT_BYTES = 4096;
const VARIANTS: Record<string, Partial<DecoderConfig>> = { "a tied head": {}, "an untied head": { tiedHead: false } };

/** Uploads each variant twice: as it is, and in parts. */
async function bothWays(
  engine: Engine,
  run: (whole: DecoderModel, split: DecoderModel, variant: string) => Promise<void>,
): Promise<void> {
  for (const [variant, config] of Object.entries(VARIANTS)) {
    const source = toySource({ ...config, seed: 4 });
    using whole = await onDevice(source);
    engine.maxTensorBytes = LIMIT_BYTES;
    using split = await onDevice(source);
    assertEquals([whole, split].map(({ embedding }) => embedding.map(({ shape }) => shape[0])), [[61], [31, 30]]);
    assertEquals(split.head?.map(({ shape }) => shape), config.tiedHead === false ? [[32, 31], [32, 30]] : undefined);
    await run(whole, split, variant);
    engine.maxTensorBytes = Infinity;
  }
}

testOnEngines("a split vocabulary gives the logits and log-probabilities of the whole one", async (engine) => {
  await bothWays(engine, async (whole, split, variant) => {
    const batch = windowBatch([Int32Array.from({ length: 61 }, (_, i) => 7 * i % 61), toyTokens({ count: 61 })]);
    const outputs = [];
    for (const model of [whole, split]) {
      const hidden = forward(model, batch);
      const scores = logits(model, hidden);
      const { logProbs, isGreedy } = await targetLogProbs(model, hidden, batch.tokens, 50);
      const [states, values] = [await hidden.data(), await scores.data()];
      tf.dispose([hidden, scores]);
      outputs.push({ states, values, logProbs, isGreedy });
    }
    const [expected, actual] = take(outputs, 2);
    assertEquals(actual.states, expected.states, "rows of the embedding are copied");
    assertClose(actual.values, expected.values, {}, `logits with ${variant}`);
    assertClose(actual.logProbs, expected.logProbs, {}, `log-probabilities with ${variant}`);
    assertEquals(actual.isGreedy, expected.isGreedy);
  });
});

testOnEngines("decoding with a split vocabulary reads once, and gives the ids of the whole one", async (engine) => {
  await bothWays(engine, async (whole, split) => {
    const prompt = Int32Array.of(3, 60, 30, 31);
    const decode = (model: DecoderModel) =>
      countTraffic(async () => {
        const { tokens, cache } = await greedyTokens(model, prompt, { batch: 2, steps: 12 });
        if (cache) disposeCache(cache);
        return tokens;
      });
    const [expected, actual] = [await decode(whole), await decode(split)];
    assertEquals(actual.result, expected.result);
    assert(new Set(actual.result.map((id) => Number(id > 30))).size === 2, "only one part was read");
    assertEquals(actual.reads, 1);
  });
});

testOnEngines("a split vocabulary gives the loss and the gradients of the whole one", async (engine) => {
  await bothWays(engine, async (whole, split, variant) => {
    const windows = toyWindows(2, 9);
    const results = [];
    for (const model of [whole, split]) {
      const targets = [];
      for (const window of windows) {
        targets.push(await teacherTargets(whole, windowBatch([window]), { topK: 5, temperature: 1 }));
      }
      const mask = tf.tensor1d(Float32Array.from({ length: 24 }, (_, j) => 0.5 + j / 24));
      const weights = { crossEntropy: 0.5, distillation: 0.5, temperature: 1, hidden: 0 };
      const masks = [{ ffn: mask }, {}];
      results.push(await batchGradients({ model, masks, windows, targets, weights, variables: [mask] }));
      mask.dispose();
    }
    const [expected, actual] = take(results, 2);
    assert(Math.hypot(...at(expected.gradients, 0)) > 1e-4, "the gradient is zero");
    assert(nextTokens(windowBatch(windows)).some((id) => id > 31), "no target lies in the second part");
    const [slope, wanted] = [at(actual.gradients, 0), at(expected.gradients, 0)];
    assertClose(slope, wanted, { atol: 1e-6, rtol: 1e-3 }, `gradient with ${variant}`);
    assertClose([actual.terms.total], [expected.terms.total], {}, `loss with ${variant}`);
  });
});

testOnEngines("a split vocabulary is read back, pruned and replaced as one tensor", async (engine) => {
  await bothWays(engine, async (_, split) => {
    const source = toySource({ ...split.config, seed: 4 });
    const other = toySource({ ...split.config, seed: 5 });
    const expected = expectedTensors(split.config);
    for (const name of [tensorNames.embedding, tensorNames.head].filter((name) => expected.has(name))) {
      assertEquals(await hostTensor(split, name), source.read(name));
      const pruned = await pruneModel(split, densePlan(split.config));
      assertEquals(await hostTensor(pruned, name), source.read(name));
      const replaced = await pruneModel(split, densePlan(split.config), { [name]: other.read(name) });
      assertEquals(replaced.embedding.length, 2);
      assertEquals(await hostTensor(replaced, name), other.read(name));
      [pruned, replaced].forEach(disposeModel);
    }
  });
});

testOnEngines("a linear map over the limit is refused with its name", async (engine) => {
  engine.maxTensorBytes = LIMIT_BYTES - 1;
  const before = tf.engine().startScope();
  const message = '"model.layers.0.self_attn.q_proj.weight" takes 4096 bytes: this device holds at most 4095';
  await assertRejects(() => uploadModel(toySource()), RangeError, message);
  tf.engine().endScope(before);
});
