import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { NumericError } from "../../core/util/errors.ts";
import { generateTokens } from "../../models/generate.ts";
import { referenceForward } from "../support/reference.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { testOnEngines } from "../support/engines.ts";
import { onDevice } from "../support/device_models.ts";

const source = toySource({
  seed: 8,
  maxPositions: 24,
  layers: [
    { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 20 },
    { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 12 },
  ],
});
/** Prompts of three lengths, two of them equal. */
const prompts = [5, 2, 5, 9].map((count, seed) => [...toyTokens({ count, seed })]);

/** The most probable last tokens of `ids`, each after all before it, by the plain-array model. */
const bestTokens = (ids: number[], count: number): number[] =>
  referenceForward(source, ids.slice(0, -1)).logits.slice(-count).map((scores) => scores.indexOf(Math.max(...scores)));

testOnEngines("generateTokens() takes the best tokens of the plain-array model", async () => {
  using model = await onDevice(source);
  const generated = await generateTokens(model, prompts, { maxTokens: 6 });
  generated.forEach((ids, i) => assertEquals(ids, bestTokens([...at(prompts, i), ...ids], 6)));
});

testOnEngines("generateTokens() draws the same tokens from a seed whatever else is in the batch", async () => {
  using model = await onDevice(source);
  const draw = (given: number[][], seed: number) =>
    generateTokens(model, given, { maxTokens: 8, temperature: 1.5, topP: 0.95, seed });
  const prompt = at(prompts, 2);
  const alone = await draw([prompt], 4);
  assertEquals(alone, [at(await draw(prompts, 4), 2)]);
  const others = await Promise.all([5, 6, 7].map((seed) => draw([prompt], seed)));
  assert(others.some((ids) => `${ids}` !== `${alone}`), "another seed must draw other tokens");
});

testOnEngines("generateTokens() stops when aborted", async () => {
  using model = await onDevice(source);
  const controller = new AbortController();
  const stopped = generateTokens(model, prompts, { maxTokens: 6, signal: controller.signal });
  controller.abort();
  await assertRejects(() => stopped, DOMException);
});

testOnEngines("generateTokens() uses the last position and refuses one more", async () => {
  using model = await onDevice(source);
  const prompt = [...toyTokens({ count: 24 })];
  const next = at(at(await generateTokens(model, [prompt], { maxTokens: 1 }), 0), 0);
  assertEquals([next], bestTokens([...prompt, next], 1));
  await assertRejects(() => generateTokens(model, [prompt], { maxTokens: 2 }), RangeError, "at most 25");
  await assertRejects(() => generateTokens(model, [[]], { maxTokens: 2 }), RangeError, "must have a token");
});

testOnEngines("generateTokens() refuses a model whose output is not finite", async () => {
  using model = await onDevice(source);
  const finalNorm = tf.mul(model.finalNorm, NaN) as tf.Tensor1D;
  try {
    await assertRejects(() => generateTokens({ ...model, finalNorm }, prompts, { maxTokens: 2 }), NumericError);
  } finally {
    finalNorm.dispose();
  }
});

testOnEngines("generateTokens() continues equal prompts by their streams, whatever else is in the batch", async () => {
  using model = await onDevice(source);
  const sample = async (streams: string[]) => {
    const options = { maxTokens: 12, temperature: 1, topP: 0.95, seed: 3, streams };
    const rows = await generateTokens(model, streams.map(() => [1]), options);
    return rows.map((ids) => ids.join());
  };
  const [a, b, again] = await sample(["a", "b", "a"]);
  assertEquals(a, again);
  assert(a !== b, "streams of other names must differ");
  assertEquals(await sample(["b"]), [b]);
});
