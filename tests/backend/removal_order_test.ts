/** Removal by optimal brain surgeon against dense references in f64 and planted problems. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { NumericError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng, type Rng } from "../../core/util/rng.ts";
import { slopeFactors } from "../../methods/obs/curvature.ts";
import { diagonalBlocks, invert, invertSmall } from "../../methods/obs/inverse.ts";
import { removalOrder } from "../../methods/obs/removal_order.ts";
import { obs } from "../../methods/obs/mod.ts";
import { forward, targetLogProbs } from "../../models/decoder.ts";
import type { DecoderModel } from "../../models/device.ts";
import { nextTokens, scoredRows, windowBatch } from "../../models/training/batches.ts";
import { identity, inverseOf, product, transposed } from "../support/dense.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { methodContext, toyWindows } from "../support/method_context.ts";
import { onDevice } from "../support/device_models.ts";
import { toySource } from "../support/toy.ts";

/** A random [rows, columns] matrix, row-major, in f64. */
const draw = (rng: Rng, rows: number, columns: number) =>
  Float64Array.from({ length: rows * columns }, () => rng.normal());

/** x^T x / rows of x [rows, n]: [n, n]. */
const second = (x: Float64Array, rows: number, n: number) =>
  product(transposed(x, [rows, n]), x, [n, rows, n]).map((value) => value / rows);

/** What it costs when the columns `gone` go for good and those left make up for them: the least of
 * `tr(S D^T A D)` over changes D of the weight with `D = -W` on `gone`, solved anew from A. */
function costOfRemoval(
  a: Float64Array,
  energy: Float64Array,
  n: number,
  { before, unit, size }: { before: number[]; unit: number; size: number },
): number {
  const columns = before.flatMap((u) => Array.from({ length: size }, (_, k) => u * size + k));
  const inverse = inverseOf(columns.flatMap((i) => columns.map((j) => at(a, i * n + j))), columns.length);
  const start = before.indexOf(unit) * size;
  const block = Array.from(
    { length: size * size },
    (_, i) => at(inverse, (start + Math.floor(i / size)) * columns.length + start + i % size),
  );
  const inner = inverseOf(block, size);
  let cost = 0;
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      cost += at(inner, i * size + j) * at(energy, (unit * size + j) * n + unit * size + i);
    }
  }
  return cost;
}

testOnEngines("invert() gives the inverse of a matrix of several blocks with a wide spectrum", async () => {
  const rng = createRng(1, "inverse");
  const n = 300;
  const x = draw(rng, 400, n).map((value, i) => value * (1 + 30 * Math.exp(-(i % n) / 8)));
  const a = second(x, 400, n);
  const device = tf.tensor2d(Float32Array.from(a), [n, n]);
  const { inverse, ridge, raises } = await invert(device, 0.1);
  assertEquals([ridge, raises], [0.1, 0]);
  const damped = a.map((value, i) => i % (n + 1) === 0 ? value + 0.1 : value);
  assertClose(product(damped, await inverse.data(), [n, n, n]), identity(n), { atol: 1e-2, rtol: 0 });
  tf.dispose([device, inverse]);
});

testOnEngines("invert() raises the ridge of a matrix that is not positive definite, and refuses NaN", async () => {
  // Eigenvalues 3 and -1: a ridge of 10 is the first of 0.1, 1, 10 that makes both positive.
  const indefinite = [1, 2, 2, 1];
  const device = tf.tensor2d(indefinite, [2, 2]);
  const { inverse, ridge, raises } = await invert(device, 0.1);
  assertEquals([ridge, raises], [10, 2]);
  assertClose(product([11, 2, 2, 11], await inverse.data(), [2, 2, 2]), identity(2));
  const broken = tf.tensor2d([1, NaN, NaN, 1], [2, 2]);
  await assertRejects(() => invert(broken, 0.1, "Gram matrix of layer 3"), NumericError, "Gram matrix of layer 3");
  tf.dispose([device, inverse, broken]);
});

Deno.test("invertSmall() gives null where a pivot is not positive or has no digit left", () => {
  for (const matrix of [[1, 2, 2, 1], [0, 0, 0, 1], [1, NaN, NaN, 1], [1, 1, 1, 1 + 1e-9]]) {
    assertEquals(invertSmall(matrix, 2), null, `${matrix}`);
  }
  const matrix = [4, 2, 1, 2, 5, 3, 1, 3, 6];
  assertClose(product(matrix, invertSmall(matrix, 3)!, [3, 3, 3]), identity(3), { atol: 1e-12, rtol: 0 });
});

testOnEngines("diagonalBlocks() reads the blocks of a matrix", async () => {
  const m = tf.tensor2d(Float32Array.from({ length: 16 }, (_, i) => i), [4, 4]);
  assertEquals(Array.from(await diagonalBlocks(m, 1)), [0, 5, 10, 15]);
  assertEquals(Array.from(await diagonalBlocks(m, 2)), [0, 1, 4, 5, 10, 11, 14, 15]);
  m.dispose();
});

testOnEngines("removalOrder() is the greedy order of a dense reference that inverts anew for every unit", async () => {
  const rng = createRng(2, "order");
  for (
    const { size, weighted } of [{ size: 1, weighted: false }, { size: 1, weighted: true }, { size: 3, weighted: true }]
  ) {
    const [n, out] = [12, 5];
    const a = second(draw(rng, 20, n), 20, n);
    const w = draw(rng, n, out);
    const s = second(draw(rng, 9, out), 9, out);
    const ws = product(w, weighted ? s : identity(out), [n, out, out]);
    const energy = product(ws, transposed(w, [n, out]), [n, out, n]);
    const ridge = 1e-2 * Array.from({ length: n }, (_, i) => at(a, i * n + i)).reduce((x, y) => x + y, 0) / n;
    const damped = a.map((value, i) => i % (n + 1) === 0 ? value + ridge : value);
    const [order, cost]: [number[], number[]] = [[], []];
    let left = Array.from({ length: n / size }, (_, i) => i);
    while (left.length > 0) {
      const costs = left.map((unit) => costOfRemoval(damped, energy, n, { before: left, unit, size }));
      const best = costs.indexOf(Math.min(...costs));
      order.push(at(left, best));
      cost.push(at(costs, best));
      left = left.filter((_, i) => i !== best);
    }
    const tensors = {
      a: tf.tensor2d(Float32Array.from(a), [n, n]),
      weight: tf.tensor2d(Float32Array.from(w), [n, out]),
      slopes: weighted ? tf.tensor2d(Float32Array.from(s), [out, out]) : null,
    };
    const found = await removalOrder(tensors, { size });
    assertEquals(Array.from(found.order), order, `size ${size}, weighted ${weighted}`);
    assertClose(found.cost, cost, { rtol: 1e-3, atol: 1e-4 });
    tf.dispose([tensors.a, tensors.weight, ...tensors.slopes ? [tensors.slopes] : []]);
  }
});

testOnEngines("removalOrder() takes one of each pair of twins before any unit that nothing replaces", async () => {
  const rng = createRng(3, "twins");
  const [rows, pairs, out] = [64, 6, 8];
  const half = draw(rng, rows, pairs);
  // Columns 0 to 5 and their copies 6 to 11; then four that stand alone, far smaller.
  const n = 2 * pairs + 4;
  const lone = draw(rng, rows, 4);
  const x = Float64Array.from({ length: rows * n }, (_, i) => {
    const [row, column] = [Math.floor(i / n), i % n];
    return column < 2 * pairs ? at(half, row * pairs + column % pairs) : 0.5 * at(lone, row * 4 + column - 2 * pairs);
  });
  const a = tf.tensor2d(Float32Array.from(second(x, rows, n)), [n, n]);
  const weight = tf.tensor2d(Float32Array.from(draw(rng, n, out)), [n, out]);
  const { order } = await removalOrder({ a, weight, slopes: null }, { size: 1 });
  const first = Array.from(order.slice(0, pairs), (unit) => unit % pairs).sort();
  assertEquals(first, [0, 1, 2, 3, 4, 5], "one of each pair must go first");
  assert(Array.from(order.slice(0, pairs)).every((unit) => unit < 2 * pairs));
  tf.dispose([a, weight]);
});

testOnEngines("removalOrder() of moments made indefinite by rounding has positive finite costs", async () => {
  // Heads of 3 columns that are nearly copies of each other: the second moment has rank 1 for each head.
  const rng = createRng(4, "copies");
  const [rows, heads, size] = [40, 4, 3];
  const n = heads * size;
  const base = draw(rng, rows, heads);
  const x = Float64Array.from(
    { length: rows * n },
    (_, i) => 1e3 * at(base, Math.floor(i / n) * heads + Math.floor(i % n / size)),
  );
  // Off the diagonal it is too large by a thousandth of the diagonal's ridge.
  const moment = second(x, rows, n).map((value, i) => i % (n + 1) === 0 ? value : value * 1.02);
  const a = tf.tensor2d(Float32Array.from(moment), [n, n]);
  const weight = tf.tensor2d(Float32Array.from(draw(rng, n, 5)), [n, 5]);
  const { order, cost, raises } = await removalOrder({ a, weight, slopes: null }, { size });
  assertEquals([...order].sort(), [0, 1, 2, 3]);
  assert(raises > 0, "the ridge was never raised, so nothing was tested");
  assert(cost.every((value) => value > 0 && Number.isFinite(value)), `${cost}`);
  tf.dispose([a, weight]);
});

testOnEngines("removalOrder() names the units whose statistics are not numbers", async () => {
  const a = tf.tensor2d([1, NaN, NaN, 1], [2, 2]);
  const weight = tf.ones([2, 2]) as tf.Tensor2D;
  const run = () => removalOrder({ a, weight, slopes: null }, { size: 1, what: "FFN channels of layer 2" });
  await assertRejects(run, NumericError, "inputs of FFN channels of layer 2");
  tf.dispose([a, weight]);
});

testOnEngines("removalOrder() removes first what the loss does not feel with S, not without", async () => {
  const n = 4;
  const a = tf.eye(n) as tf.Tensor2D;
  // Units 0 and 1 write much into a direction of no slope, 2 and 3 little into one that the loss feels.
  const weight = tf.tensor2d([[9, 0], [8, 0], [0, 1], [0, 2]]);
  const slopes = tf.tensor2d([[0, 0], [0, 1]]);
  const plain = await removalOrder({ a, weight, slopes: null }, { size: 1 });
  const felt = await removalOrder({ a, weight, slopes }, { size: 1 });
  assertEquals(Array.from(plain.order), [2, 3, 1, 0]);
  assertEquals(Array.from(felt.order), [0, 1, 2, 3]);
  tf.dispose([a, weight, slopes]);
});

/** Summed cross entropy of one window. */
async function summedLoss(model: DecoderModel, window: Int32Array): Promise<number> {
  const batch = windowBatch([window]);
  const rows = tf.tidy(() => scoredRows(forward(model, batch), batch));
  const { logProbs } = await targetLogProbs(model, rows, nextTokens(batch));
  rows.dispose();
  return -logProbs.reduce((sum, value) => sum + value, 0);
}

testOnEngines("slopeFactors() is the outer product of central differences for a single token", async () => {
  // Of two tokens only the first is scored, and in the last layer nothing of the second reaches it.
  const window = at(toyWindows(1, 2), 0);
  using model = await onDevice(toySource({}));
  const last = model.layers.length - 1;
  const factors = await slopeFactors(methodContext({ model, options: {}, calibration: [window] }));
  const { width } = model.config;
  for (const [site, map] of [["output", "output"], ["down", "down"]] as const) {
    const slope: number[] = [];
    const step = 0.02;
    for (let i = 0; i < width; i++) {
      const losses: number[] = [];
      for (const sign of [1, -1]) {
        const bias = tf.tensor1d(Float32Array.from({ length: width }, (_, j) => i === j ? sign * step : 0));
        const layers = model.layers.map((layer, l) =>
          l === last ? { ...layer, [map]: { ...layer[map], bias } } : layer
        );
        losses.push(await summedLoss({ ...model, layers }, window));
        bias.dispose();
      }
      slope.push((at(losses, 0) - at(losses, 1)) / (2 * step));
    }
    const expected = slope.flatMap((x) => slope.map((y) => x * y / 2));
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    assertClose(at(factors, last)[site], expected, { atol: 5e-3 * largest, rtol: 0 }, site);
  }
});

testOnEngines("obs removes exactly the planted dead channels, heads and groups, with either error", async () => {
  const layers = [0, 1].map(() => ({ kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 24 }));
  const dead = [0, 1].map((layer) => ({ layer, ffn: [1, 5, 6, 11, 17, 20], kvGroups: [layer + 1] }));
  using model = await onDevice(toySource({ layers, dead, deadScale: 1e-3 }));
  for (const error of ["plain", "kfac"] as const) {
    const options = obs.options.parse({ error });
    const context = methodContext({ model, options, calibration: toyWindows(6, 16), sparsity: 0.25 });
    const { plan } = await obs.prune(context);
    for (const { layer, ffn, kvGroups } of dead) {
      const kept = at(plan.layers, layer);
      assertEquals(kept.ffnChannels.filter((unit) => ffn.includes(unit)), [], `${error}: dead channels`);
      assertEquals(kept.kvGroups.filter((unit) => kvGroups.includes(unit)), [], `${error}: dead groups`);
    }
  }
});

testOnEngines("obs reads the statistics that compensation reads, once", async () => {
  using model = await onDevice(toySource({}));
  const cache = new Map();
  const context = methodContext({ model, options: obs.options.parse({}), calibration: toyWindows(4, 16), cache });
  await obs.prune(context);
  assertEquals([...cache.keys()], ["gram matrices", "removal scores, plain error"]);
});
