/** Products of bfloat16 on a CPU, where the processor has them. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals } from "@std/assert";
import { attention } from "../../core/engine/attention.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { FEW_ROWS, packMatrix, storedProduct } from "../../core/engine/matrix.ts";
import { linearLowRank, softmaxCrossEntropy } from "../../core/engine/ops.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { rotaryTables } from "../../models/rope.ts";
import { usualForm } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { queryHeads } from "../../models/units.ts";
import { canStep } from "../../models/decode.ts";
import { foldTrained } from "../../models/training/merge.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { product } from "../support/dense.ts";
import { assertClose, startable } from "../support/engines.ts";
import { onDevice } from "../support/device_models.ts";

const has = startable.includes("tensorflow");
const missing = has ? (await startEngine("tensorflow")).whyNotFast : "the engine tensorflow does not start";
const rng = createRng(5, "fast arithmetic");
const normal = (n: number) => Float32Array.from({ length: n }, () => rng.normal());

/** A number in bfloat16, to the nearest with ties to even: the upper half of an f32. */
function rounded(number: number): number {
  const [bits = 0] = new Uint32Array(Float32Array.of(number).buffer);
  const upper = (bits + 0x7fff + (bits >>> 16 & 1)) & 0xffff0000;
  return at(new Float32Array(Uint32Array.of(upper).buffer), 0);
}

function testFast(name: string, run: () => Promise<void>): void {
  Deno.test({
    name: missing === null ? name : `${name} (not here: ${missing})`,
    ignore: missing !== null,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      const before = tf.memory().numTensors;
      await startEngine("tensorflow", { arithmetic: "fast" });
      try {
        await run();
      } finally {
        await startEngine("tensorflow");
      }
      assertEquals(tf.memory().numTensors, before, "tensors were left on the device");
    },
  });
}

testFast("fast storedProduct() is the product of rounded factors, of whole panels and parts", async () => {
  const sizes = [[9, 1, 1], [14, 64, 64], [21, 33, 8], [40, 300, 129], [9, 70, 200], [64, 513, 64]];
  for (const [rows = 0, depth = 0, columns = 0] of sizes) {
    assert(rows > FEW_ROWS);
    const [x, w] = [normal(rows * depth), normal(depth * columns)];
    const expected = product(x.map(rounded), w.map(rounded), [rows, depth, columns]);
    const products = tf.tidy(() => {
      const given = tf.tensor2d(w, [depth, columns]);
      const [packed, turned] = [packMatrix(given), packMatrix(given, true)];
      assert(packed?.format === "BF16" && turned?.format === "BF16");
      const input = tf.tensor2d(x, [rows, depth]);
      return [storedProduct(input, packed), storedProduct(input, turned, true)];
    });
    for (const product of products) {
      assertClose(await product.data(), expected, { atol: 1e-4, rtol: 1e-4 }, `${rows} x ${depth} x ${columns}`);
    }
    tf.dispose(products);
  }
});

testFast("fast linearLowRank() and its gradients are those of its formula where nothing is rounded", async () => {
  const scale = 1.5;
  for (const [n = 0, width = 0, out = 0, rank = 0] of [[70, 40, 50, 3], [9, 64, 64, 8], [4, 16, 130, 20]]) {
    const whole = (rows: number, columns: number) => tf.tensor2d(normal(rows * columns).map(rounded), [rows, columns]);
    const results = tf.tidy(() => {
      const [x, w, down, up, slope] = [
        whole(n, width),
        whole(width, out),
        whole(width, rank),
        whole(rank, out),
        whole(n, out),
      ];
      const packed = packMatrix(w);
      assert(packed);
      const plain = (x: tf.Tensor, down: tf.Tensor, up: tf.Tensor) =>
        tf.add(tf.matMul(x, w), tf.mul(tf.matMul(tf.matMul(x, down), up), scale));
      const fused = (x: tf.Tensor, down: tf.Tensor, up: tf.Tensor) =>
        linearLowRank(x as tf.Tensor2D, packed, { down: down as tf.Tensor2D, up: up as tf.Tensor2D, scale });
      return [plain, fused].map((map) => {
        const slopes = tf.grads((x, down, up) => tf.sum(tf.mul(map(x!, down!, up!), slope)))([x, down, up]);
        return [map(x, down, up), ...slopes];
      });
    });
    const [expected, found] = await Promise.all(results.map((all) => Promise.all(all.map((t) => t.data()))));
    for (const i of [0, 1, 2, 3]) {
      assertClose(at(found!, i), at(expected!, i), { atol: 2e-4, rtol: 1e-4 }, `${n} x ${width} x ${out}: result ${i}`);
    }
    tf.dispose(results);
  }
});

testFast("fast softmaxCrossEntropy() equals double precision, and keeps NaN", async () => {
  const [n, v] = [37, 100];
  const x = normal(n * v).map((value) => 5 * value);
  x[3] = 3e4;
  x[n * v - 1] = NaN;
  const rows = Array.from({ length: n }, (_, i) => Array.from(x.subarray(i * v, (i + 1) * v)));
  const [losses, gradient] = tf.tidy(() => {
    const found = softmaxCrossEntropy(tf.tensor2d(x, [n, v]), tf.tensor1d(rows.map((_, i) => i), "int32"));
    return [found.losses, found.gradient];
  });
  const sums = rows.map((row) => row.reduce((sum, value) => sum + Math.exp(value - Math.max(...row)), 0));
  const logs = rows.map((row, i) => Math.max(...row) + Math.log(at(sums, i)));
  const found = await losses.data();
  assert(Number.isNaN(found[n - 1]), "a NaN must reach the loss");
  assertClose(found.subarray(0, n - 1), rows.slice(0, -1).map((row, i) => at(logs, i) - at(row, i)));
  const slopes = rows.slice(0, -1).flatMap((row, i) => row.map((x, j) => Math.exp(x - at(logs, i)) - Number(i === j)));
  assertClose((await gradient.data()).subarray(0, slopes.length), slopes, { atol: 1e-6, rtol: 1e-4 });
  tf.dispose([losses, gradient]);
});

/** Norm of the difference over the norm of `exact`. */
function errorOf(fast: ArrayLike<number>, exact: ArrayLike<number>): number {
  const sum = (value: (i: number) => number) => Array.from(exact).reduce((sum, _, i) => sum + value(i) ** 2, 0);
  return Math.sqrt(sum((i) => at(fast, i) - at(exact, i)) / sum((i) => at(exact, i)));
}

testFast(
  "fast attention() and its gradient are within 1 % of exact ones, for large scores, part blocks and trees",
  async () => {
    for (
      const { batch, length, size, branches } of [
        { batch: 2, length: 130, size: 64, branches: false },
        { batch: 1, length: 77, size: 18, branches: true },
        { batch: 3, length: 40, size: 256, branches: false },
      ]
    ) {
      const [n, heads] = [batch * length, 4];
      const [x, slope] = [normal(n * (heads + 4) * size).map((v) => 4 * v), normal(n * heads * size)];
      const results: ArrayLike<number>[] = [];
      for (const arithmetic of ["exact", "fast"] as const) {
        await startEngine("tensorflow", { arithmetic });
        const both = tf.tidy(() => {
          const positions = Int32Array.from({ length: n }, (_, i) => i % length);
          const layout = { batch, kvGroups: 2, queryHeadsPerGroup: 2, headSize: size, mask: null };
          const tables = rotaryTables(size, { base: 10_000 }, positions);
          const segments = tf.tensor1d(branches ? positions.map((i) => i < 20 ? 0 : i < 66 ? 1 : 2) : [], "int32");
          const attend = (packed: tf.Tensor) => attention(packed as tf.Tensor2D, { ...layout, tables, segments });
          const gradient = tf.grad((packed) => tf.sum(tf.mul(attend(packed), tf.tensor2d(slope, [n, heads * size]))));
          const packed = tf.tensor2d(x, [n, (heads + 4) * size]);
          return tf.concat1d([attend(packed), gradient(packed)].map((t) => tf.reshape(t, [-1])) as tf.Tensor1D[]);
        });
        results.push(await both.data());
        both.dispose();
      }
      const error = errorOf(at(results, 1), at(results, 0));
      assert(error > 1e-5 && error < 0.01, `heads of ${size}: the error is ${error} of the norm`);
    }
  },
);

testFast("fast arithmetic gives the loss within 0.5 % and gradients of masks within 2 % of exact ones", async () => {
  const found = [];
  for (const arithmetic of ["exact", "fast"] as const) {
    const engine = await startEngine("tensorflow", { arithmetic });
    const { source } = await openModel("tiny");
    using model = await onDevice(source, usualForm(source, engine));
    source.close();
    const masks = model.config.layers.map((layer) => ({
      queryHeads: tf.ones([queryHeads(layer)]) as tf.Tensor1D,
      ffn: tf.ones([layer.ffnChannels]) as tf.Tensor1D,
    }));
    const variables = masks.flatMap(({ queryHeads, ffn }) => [queryHeads, ffn]);
    const tokens = Int32Array.from({ length: 128 }, (_, i) => (i * 7919 + 11) % model.config.vocabSize);
    const weights = { crossEntropy: 1, distillation: 0, temperature: 1, hidden: 0 };
    const { terms, gradients } = await batchGradients({ model, masks, windows: [tokens], weights, variables });
    found.push({ loss: terms.crossEntropy, slopes: gradients.flatMap((gradient) => [...gradient]) });
    tf.dispose(variables);
    const scales = model.config.layers.map(({ ffnChannels }) => ({ ffn: new Float32Array(ffnChannels).fill(0.5) }));
    foldTrained(model, model, { masks: scales });
    assert(arithmetic === "exact" || canStep(model, 1), "all maps of a layer must be in one form, or decoding is slow");
  }
  const [exact, fast] = [at(found, 0), at(found, 1)];
  assert(Math.abs(fast.loss / exact.loss - 1) < 5e-3, `loss ${fast.loss} must be near ${exact.loss}`);
  assert(fast.loss !== exact.loss, "fast arithmetic must round");
  const error = errorOf(fast.slopes, exact.slopes);
  assert(error < 0.02, `the gradient of masks differs by ${error} of its norm`);
});
