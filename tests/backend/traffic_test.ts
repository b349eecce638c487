/** What crosses between host and device: budgets of scoring and training. Decoding's are in step_test.ts. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import { NumericError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import { packBatches } from "../../benchmarks/evaluation/packing.ts";
import { scoringModel } from "../../models/scoring.ts";
import { fetchMoments, stepOnDevice } from "../../models/training/device_optimizer.ts";
import {
  createOptimizer,
  exportOptimizer,
  type ParameterGroup,
  stepParameters,
} from "../../models/training/optimizer.ts";
import { createStudent, disposeStudent, type HostMasks, studentStep } from "../../models/training/student.ts";
import { onDevice } from "../support/device_models.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { learningOptions, toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";
import { countTraffic } from "../support/traffic.ts";

testOnEngines("the caller of score() goes on when the batch is launched, before it is read", async () => {
  using model = await onDevice(toySource());
  const [packed] = packBatches(toyWindows(2, 20).map((ids) => ({ ids: [...ids], scored: ids.length - 1 })), 1024);
  assert(packed);
  const events: string[] = [];
  const { reads } = await countTraffic(
    async () => {
      const scores = scoringModel(model).score(packed.batch, packed.targets);
      events.push("caller");
      await scores;
    },
    (what) => events.push(what),
  );
  assertEquals(reads, 1);
  assertEquals(events.slice(events.lastIndexOf("launches") + 1), ["caller", "reads"]);
});

testOnEngines("scoring a batch reads once, however many rows go through the vocabulary", async () => {
  using model = await onDevice(toySource());
  const scoring = scoringModel(model);
  for (const count of [2, 40]) {
    const sequences = toyWindows(count, 20).map((ids) => ({ ids: [...ids], scored: ids.length - 1 }));
    const [packed] = packBatches(sequences, 1024);
    assert(packed);
    const { reads, result } = await countTraffic(() => scoring.score(packed.batch, packed.targets));
    assertEquals([reads, result.logProbs.length, result.isGreedy.length], [1, 19 * count, 19 * count]);
  }
});

const OPTIONS = learningOptions({ rank: 2, alpha: 4, steps: 6, batch: 4, tokens: 8, distillation: 0, clipNorm: 1 });

/** Three steps with masks and micro-batches, and what the last one cost. */
async function train(stepsOnDevice: boolean) {
  using base = await onDevice(toySource());
  const student = { ...createStudent(base, OPTIONS, createRng(0, "adapters")), stepsOnDevice };
  const masks = base.config.layers.map(({ ffnChannels }): HostMasks => ({
    ffn: Float32Array.from({ length: ffnChannels }, (_, i) => 1 - i / 50),
  }));
  const step = (i: number) =>
    studentStep(student, {
      windows: toyWindows(12, 8).slice(4 * i, 4 * i + 4),
      masks,
      options: { ...OPTIONS, microBatch: 2 },
    });
  await step(0);
  await step(1);
  const { result, reads, writtenValues } = await countTraffic(() => step(2));
  const parameters: Float32Array[] = [];
  for (const variable of Object.values(student.adapters.parameters)) {
    parameters.push(await variable.data() as Float32Array);
  }
  await fetchMoments(student.optimizer);
  const moments = [...exportOptimizer(student.optimizer).tensors.values()].map(({ data }) => data);
  const values = parameters.reduce((sum, { length }) => sum + length, 0);
  disposeStudent(student);
  return { result, parameters, moments, reads, writtenValues, values };
}

testOnEngines("a step on the device reads once, writes no adapter, and moves them as on the host", async (engine) => {
  const [host, device] = [await train(false), await train(true)];
  assertEquals(device.reads, 1);
  for (const what of ["parameters", "moments"] as const) {
    assertEquals(device[what].length, host[what].length);
    device[what].forEach((values, i) => assertClose(values, at(host[what], i), { atol: 1e-6, rtol: 1e-3 }, what));
  }
  assertClose([device.result.gradientNorm], [host.result.gradientNorm]);
  assertClose([device.result.terms.total], [host.result.terms.total]);
  device.result.maskGradients.forEach(({ ffn = [] }, l) =>
    assertClose(ffn, at(host.result.maskGradients, l).ffn ?? [])
  );
  // The host's way writes every adapter; what else a step writes is the same but for a few scalars.
  const saved = host.writtenValues - device.writtenValues;
  assert(saved > device.values - 100, `${saved} of ${device.values} values on ${engine.name}`);
});

testOnEngines("stepOnDevice() is AdamW with groups, schedules and clipping", async () => {
  const make = () => {
    const variable = (values: number[]) => tf.tidy(() => tf.variable(tf.tensor1d(values)));
    const [a, b, c] = [variable([1, -2]), variable([0.5]), variable([3, 4, 5])];
    const schedule = { warmupSteps: 2, totalSteps: 5, finalFraction: 0.1 };
    const groups: ParameterGroup[] = [
      { name: "scheduled", rule: {}, learningRate: 0.05, schedule, parameters: { a, b } },
      { name: "plain", rule: { betas: [0.5, 0.7] }, learningRate: 0.2, parameters: { c } },
    ];
    return { optimizer: createOptimizer({ groups, clipNorm: 2 }), variables: [a, b, c] };
  };
  const [host, device] = [make(), make()];
  for (let i = 0; i < 5; i++) {
    const gradients = { a: [i - 2, 3], b: [0.1], c: [i, -1, 0.5] };
    const arrays = Object.fromEntries(Object.entries(gradients).map(([name, g]) => [name, Float32Array.from(g)]));
    const norm = await stepParameters(host.optimizer, arrays);
    const flat = tf.tensor1d(Object.values(gradients).flat());
    stepOnDevice(device.optimizer, flat, norm);
    flat.dispose();
  }
  for (const [i, variable] of device.variables.entries()) {
    assertClose(await variable.data(), await at(host.variables, i).data());
  }
  assertEquals(device.optimizer.step, 5);
  const own = [...device.optimizer.device.values()].flatMap(({ first, second }) => [first, second]);
  tf.dispose([...host.variables, ...device.variables, ...own]);
});

testOnEngines("a step on the device refuses gradients that are not finite, and moves nothing", async () => {
  using base = await onDevice(toySource());
  const student = { ...createStudent(base, OPTIONS, createRng(0, "adapters")), stepsOnDevice: true };
  const [first] = Object.values(student.adapters.parameters);
  assert(first);
  tf.tidy(() => first.assign(tf.fill(first.shape, NaN)));
  await assertRejects(() => studentStep(student, { windows: toyWindows(2, 8), options: OPTIONS }), NumericError);
  assertEquals([student.optimizer.step, student.optimizer.device.size], [0, 0]);
  disposeStudent(student);
});
