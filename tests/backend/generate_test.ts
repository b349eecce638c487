import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { NumericError } from "../../core/util/errors.ts";
import { disposeCache } from "../../models/decode.ts";
import { greedyTokens, sampleTexts } from "../../models/generate.ts";
import { referenceForward } from "../support/reference.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { testOnEngines } from "../support/engines.ts";
import { onDevice } from "../support/device_models.ts";
import { atEnd } from "../support/values.ts";

const source = toySource({
  seed: 8,
  maxPositions: 24,
  layers: [
    { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 20 },
    { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 12 },
  ],
});
testOnEngines("greedyTokens() takes the best tokens of the plain-array model", async () => {
  using model = await onDevice(source);
  const prompt = toyTokens({ count: 9 });
  const { tokens, cache } = await greedyTokens(model, prompt, { batch: 1, steps: 6 });
  disposeCache(cache!);
  const { logits } = referenceForward(source, [...prompt, ...tokens.slice(0, -1)]);
  assertEquals([...tokens], logits.slice(-6).map((scores) => scores.indexOf(Math.max(...scores))));
});

const SAMPLING = { prefix: 1, temperature: 1.5, topP: 0.95, seed: 3, steps: 12 };

testOnEngines("sampleTexts() draws by seed and stream, whatever else is in the batch", async () => {
  using model = await onDevice(source);
  const sample = async (streams: string[], seed = 3) =>
    (await sampleTexts(model, { ...SAMPLING, streams, seed })).map((ids) => ids.join());
  const [a, b, again] = await sample(["a", "b", "a"]);
  assertEquals(a, again);
  assert(a !== b, "streams of other names must differ");
  assertEquals(await sample(["b"]), [b]);
  const others = [...await sample(["b"], 5), ...await sample(["b"], 6)];
  assert(others.some((ids) => ids !== b), "another seed must draw other tokens");
});

testOnEngines("sampleTexts() stops when aborted", async () => {
  using model = await onDevice(source);
  const controller = new AbortController();
  const stopped = sampleTexts(model, { ...SAMPLING, streams: ["a"], signal: controller.signal });
  controller.abort();
  await assertRejects(() => stopped, DOMException);
});

testOnEngines("sampleTexts() refuses a model whose output is not finite", async () => {
  using model = await onDevice(source);
  const finalNorm = tf.mul(model.finalNorm, NaN) as tf.Tensor1D;
  using _end = atEnd(() => finalNorm.dispose());
  await assertRejects(() => sampleTexts({ ...model, finalNorm }, { ...SAMPLING, streams: ["a"] }), NumericError);
});
