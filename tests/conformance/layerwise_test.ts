/** What methods that work layer by layer must hold, on every engine that starts: the results of the whole model, with
 * one layer on the device. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../core/util/errors.ts";
import type { Method, Statistics } from "../../methods/define.ts";
import { parseOptions } from "../../methods/mod.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, disposeModel, uploadModel } from "../../models/device.ts";
import { openLayerwise } from "../../models/layerwise.ts";
import { pruneModel } from "../../models/surgery.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { testOnEngines } from "../support/engines.ts";
import { methodContext, toyWindows } from "../support/method_context.ts";
import { testedMethods } from "../support/own_methods.ts";
import { freed, logitsOf } from "../support/device_models.ts";

const { methods } = await testedMethods();

const LAYERS = Array.from({ length: 3 }, () => ({ kvGroups: 4, queryHeadsPerGroup: 2, ffnChannels: 40 }));
const source = toySource({ seed: 6, layers: LAYERS, biases: ["output"] });
const probe = { tokens: toyTokens({ count: 30 }), batch: 2, length: 15 };
/** Two batches of calibration windows, since a batch has windows of one length. */
const calibration = [...toyWindows(4, 16), ...toyWindows(3, 11)];
/** Options whose way through the layers is another than that of the defaults. */
const FURTHER: Record<string, Record<string, unknown>> = {
  flap: { structure: "UL-UM", biasCompensation: true },
  magnitude: { scope: "output", norm: "l1" },
};

/** `source` with its layers read one at a time, and the bytes on the device whenever a layer is about to be read. */
async function watched(): Promise<{ model: DecoderModel; heldBytes: number[] }> {
  const model = await openLayerwise(source);
  const heldBytes: number[] = [];
  const { readLayer } = model;
  model.readLayer = (l) => {
    heldBytes.push(tf.memory().numBytes);
    return readLayer!(l);
  };
  return { model, heldBytes };
}

async function checkVariant(method: Method, options: unknown): Promise<void> {
  const caches = [new Map<string, Statistics>(), new Map<string, Statistics>()];
  const given = { options, calibration: method.needs.calibration ? calibration : [], sparsity: 0.4 };
  const whole = await uploadModel(source);
  const expected = await method.prune(methodContext({ ...given, model: whole, cache: caches[0] }));
  const pruned = await pruneModel(whole, expected.plan, expected.replaced);
  const expectedLogits = await logitsOf(pruned, probe);
  [whole, pruned].forEach(disposeModel);

  const { model, heldBytes } = await watched();
  const restBytes = tf.memory().numBytes;
  const actual = await method.prune(methodContext({ ...given, model, cache: caches[1] }));
  assertEquals(actual, expected);
  assertEquals(caches[1], caches[0], "statistics");
  assertEquals(heldBytes, heldBytes.map(() => restBytes), "something is held besides one layer");
  assertEquals(heldBytes.length % LAYERS.length, 0);
  assert(heldBytes.length > 0 || method.id === "random", "no layer was read");
  using cut = freed(await pruneModel(model, actual.plan, actual.replaced));
  disposeModel(model);
  assertEquals(await logitsOf(cut, probe), expectedLogits);
}

for (const method of methods.filter(({ layerwise }) => layerwise)) {
  testOnEngines(`${method.id} gives the whole model's result layer by layer`, async () => {
    for (const options of [{}, ...method.id in FURTHER ? [FURTHER[method.id]] : []]) {
      await checkVariant(method, parseOptions(method, options));
    }
  });
}

testOnEngines("a model that is read layer by layer has no layers for a whole pass", async () => {
  using model = freed(await openLayerwise(source));
  assertThrows(() => tf.tidy(() => forward(model, probe)), UsageError, "leave out --layerwise");
});
