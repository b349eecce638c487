import * as tf from "@tensorflow/tfjs";
import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { NumericError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { toySource } from "../support/toy.ts";
import { compensate, gramMatrices, gramName, leastSquaresGain } from "../../models/training/least_squares.ts";
import { windowBatch } from "../../models/training/batches.ts";
import {
  createOptimizer,
  exportOptimizer,
  importOptimizer,
  type Optimizer,
  stepParameters,
} from "../../models/training/optimizer.ts";
import { recoverModel } from "../../models/training/recover.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { learningOptions, QUIET, toyWindows } from "../support/method_context.ts";
import { freed, logitsOf, lossOf, onDevice } from "../support/device_models.ts";

testOnEngines("stepParameters() leads to the minimum; its state can be restored", async () => {
  const goal = [1, -2, 3];
  const start = () => tf.tidy(() => tf.variable(tf.zeros([3])));
  const run = async (x: tf.Variable, optimizer: Optimizer, steps: number) => {
    for (let i = 0; i < steps; i++) {
      const values = await x.data();
      await stepParameters(optimizer, { x: Float32Array.from(goal, (wanted, i) => at<number>(values, i) - wanted) });
    }
    return await x.data() as Float32Array;
  };
  const schedule = { totalSteps: 240 } as const;
  const group = (x: tf.Variable) => ({ name: "all", rule: {}, learningRate: 0.1, schedule, parameters: { x } });
  const x = start();
  const optimizer = createOptimizer({ groups: [group(x)], clipNorm: 1 });
  const half = (await run(x, optimizer, 120)).slice();
  const state = exportOptimizer(optimizer);
  const end = (await run(x, optimizer, 120)).slice();
  assertClose(end, goal, { atol: 0.05, rtol: 0 });

  const again = tf.tidy(() => tf.variable(tf.tensor1d(half)));
  const resumed = createOptimizer({ groups: [group(again)], clipNorm: 1 });
  importOptimizer(resumed, state);
  assertEquals([...await run(again, resumed, 120)], [...end]);
  tf.dispose([x, again]);
});

testOnEngines("stepParameters() clips by the global norm and refuses missing and not finite gradients", async () => {
  const zero = () => tf.tidy(() => tf.variable(tf.zeros([1])));
  const parameters = { a: zero(), b: zero() };
  // With these moments a step of AdamW is the gradient itself.
  const rule = { betas: [0, 0] as [number, number], epsilon: 1e6 };
  const group = { name: "all", rule, learningRate: 1e6, parameters };
  const optimizer = createOptimizer({ groups: [group], clipNorm: 1 });
  const gradients = { a: Float32Array.of(3), b: Float32Array.of(4), bad: Float32Array.of(NaN) };
  assertAlmostEquals(await stepParameters(optimizer, { a: gradients.a, b: gradients.b }), 5, 1e-5);
  assertClose([at(await parameters.a.data(), 0), at(await parameters.b.data(), 0)], [-0.6, -0.8]);
  await assertRejects(() => stepParameters(optimizer, { a: gradients.a }), RangeError, `"b" has no gradient`);
  await assertRejects(() => stepParameters(optimizer, { a: gradients.bad, b: gradients.b }), NumericError, "NaN");
  assertClose([at(await parameters.a.data(), 0)], [-0.6]);
  assertEquals(optimizer.step, 1);
  tf.dispose(Object.values(parameters));
});

testOnEngines("recoverModel() lowers the loss of a pruned model, whose logits then need no adapters", async () => {
  using dense = await onDevice(toySource({ seed: 2 }));
  const layer = { kvGroups: [0, 1, 3], queryHeads: [0, 1, 3], ffnChannels: [0, 2, 4, 6, 8] };
  const plan = { layers: [layer, layer] };
  using model = freed(await pruneModel(dense, plan));
  const options = learningOptions({ steps: 12, batch: 2, tokens: 8, rank: 4, alpha: 8, learningRate: 0.02 });
  const { report } = await recoverModel({
    base: model,
    teacher: dense,
    options,
    // The same windows in every step, so that the loss must fall.
    windows: Array.from({ length: 24 }, (_, i) => at(toyWindows(2, 8), i % 2)),
    rng: createRng(0, "adapters"),
    key: "test",
    ...QUIET,
  });
  assertEquals([report.stage, report.steps, report.tokens], ["recovery", 12, 12 * 16]);
  const losses = report.curve.map(({ loss }) => loss);
  assert(losses.at(-1)! < 0.9 * at(losses, 0), `${losses[0]} to ${losses.at(-1)}`);
  assertEquals(at(model.layers, 0).query.lora, undefined);
  assert(await lossOf(model, toyWindows(2, 8)) < at(report.curve, 0).crossEntropy);
});

testOnEngines("leastSquaresGain() solves the regularised normal equations", async () => {
  const rng = createRng(3, "gram");
  const [n, outputs, samples] = [9, 4, 30];
  const kept = [0, 2, 3, 5, 8];
  const removed = [1, 4, 6, 7];
  const a = Array.from({ length: samples }, () => Array.from({ length: n }, () => rng.normal()));
  a.forEach((row) => row[1] = 0.5 * at(row, 0) - at(row, 2) + 0.1 * at(row, 1));
  const matrix = (rows: number, columns: number, value: (i: number, j: number) => number) =>
    Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => value(i, j)));
  const total = (values: number[]) => values.reduce((sum, value) => sum + value, 0);
  const gram = matrix(n, n, (i, j) => total(a.map((row) => at(row, i) * at(row, j))) / samples);
  const w = matrix(n, outputs, () => rng.normal());
  const weight = tf.tensor2d(w);
  const { gain, residual } = await leastSquaresGain(weight, Float32Array.from(gram.flat()), { kept, lambda: 0.01 });
  weight.dispose();
  const ridge = 0.01 * gram.reduce((sum, row, i) => sum + at(row, i), 0) / n;
  // (G_KK + ridge I) gain must be G_KR W_R.
  const damped = (i: number, j: number) => at(at(gram, at(kept, i)), at(kept, j)) + (i === j ? ridge : 0);
  const left = matrix(5, outputs, (i, o) => total(kept.map((_, j) => damped(i, j) * at(gain, j * outputs + o))));
  const right = matrix(5, outputs, (i, o) => total(removed.map((r) => at(at(gram, at(kept, i)), r) * at(at(w, r), o))));
  assertClose(left.flat(), right.flat(), { atol: 1e-4, rtol: 1e-4 });
  assertEquals(residual, 0);
});

testOnEngines("leastSquaresGain() says how much of a system it left unsolved", async () => {
  // Hilbert's matrix, whose condition is beyond f32.
  const n = 60;
  const gram = Float32Array.from({ length: n * n }, (_, i) => 1 / (Math.floor(i / n) + i % n + 1));
  const weight = tf.tensor2d(Array.from({ length: n }, (_, i) => [(-1) ** i]));
  const kept = Array.from({ length: n / 2 }, (_, i) => i);
  const { residual } = await leastSquaresGain(weight, gram, { kept, lambda: 0 });
  weight.dispose();
  assert(residual > 1e-5, `a residual of ${residual}`);
});

testOnEngines("compensate() brings the pruned model's output nearer to the dense one's", async () => {
  using dense = await onDevice(toySource({ seed: 6 }));
  const ffnChannels = Array.from({ length: 14 }, (_, i) => i);
  const layer = { kvGroups: [0, 1, 2], queryHeads: [0, 1, 2], ffnChannels };
  const plan = { layers: [layer, layer] };
  const windows = toyWindows(24, 16);
  const gram = await gramMatrices(dense, windows, QUIET);
  const replaced = await compensate(dense, plan, { gram, ...QUIET });
  assertEquals(Object.keys(replaced).length, 4);
  const expected = await logitsOf(dense, windowBatch(toyWindows(2, 9)));
  const distance = async (model: DecoderModel) => {
    const values = await logitsOf(model, windowBatch(toyWindows(2, 9)));
    disposeModel(model);
    return Math.hypot(...values.map((x, i) => x - at(expected, i)));
  };
  const plain = await distance(await pruneModel(dense, plan));
  const better = await distance(await pruneModel(dense, plan, replaced));
  assert(better < 0.9 * plain, `${plain} without, ${better} with compensation`);
  // A massive activation of channel 20, which goes, in layer 0: that map stays as it is.
  const { shape: [inputs = 0], data } = gram[gramName(0, "down")]!;
  data[20 * (inputs + 1)] = 1e6;
  const kept = await compensate(dense, plan, { gram, ...QUIET });
  const name = "model.layers.0.mlp.down_proj.weight";
  assertEquals(kept[name], await hostTensor(dense, name));
  assertEquals({ ...kept, [name]: replaced[name]! }, replaced);
});
