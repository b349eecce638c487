/** Removal by optimal brain surgeon, and maps cut in turn, against dense references in f64 and planted problems. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { NumericError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng, type Rng } from "../../core/util/rng.ts";
import { slopeFactors } from "../../methods/obs/curvature.ts";
import { diagonalBlocks, invert, invertSmall } from "../../methods/obs/inverse.ts";
import { removalOrder } from "../../methods/obs/removal_order.ts";
import { obs } from "../../methods/obs/mod.ts";
import { type HostTensor, memorySource, tensorNames, type WeightSource, WRITING_NAMES } from "../../models/config.ts";
import type { ObservedSite } from "../../models/layers.ts";
import { densePlan, type PrunePlan } from "../../models/plan.ts";
import { keptIndices } from "../../models/surgery.ts";
import { compensateInTurn } from "../../models/training/cut_in_turn.ts";
import { identity, inverseOf, product, transposed } from "../support/dense.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { methodContext, QUIET, toyWindows } from "../support/method_context.ts";
import { lossOf, onDevice } from "../support/device_models.ts";
import { referenceForward } from "../support/reference.ts";
import { toySource } from "../support/toy.ts";

/** A random [rows, columns] matrix, row-major, in f64. */
const draw = (rng: Rng, rows: number, columns: number) =>
  Float64Array.from({ length: rows * columns }, () => rng.normal());

/** x^T x / rows of x [rows, n]: [n, n]. */
const second = (x: Float64Array, rows: number, n: number) =>
  product(transposed(x, [rows, n]), x, [n, rows, n]).map((value) => value / rows);

/** The error of a map without the units `gone` if those left make up for them: the least of `tr(S D^T A D)` over changes
 * D of the weight W with `D = -W` on `gone`, from the inverse of A and `energy` = W S W^T of the whole map, [n, n]. */
function errorWithout(
  inverse: ArrayLike<number>,
  energy: Float64Array,
  { n, gone, size }: { n: number; gone: number[]; size: number },
): number {
  const columns = gone.flatMap((unit) => Array.from({ length: size }, (_, k) => unit * size + k));
  const inner = inverseOf(columns.flatMap((i) => columns.map((j) => at(inverse, i * n + j))), columns.length);
  return inner.reduce((sum, value, i) => {
    const [row, column] = [at(columns, Math.floor(i / columns.length)), at(columns, i % columns.length)];
    return sum + value * at(energy, column * n + row);
  }, 0);
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

testOnEngines(
  "removalOrder() is the greedy order by the error of least squares without the units that are gone",
  async () => {
    const rng = createRng(2, "order");
    for (const [size, weighted] of [[1, false], [1, true], [3, true]] as const) {
      const [n, out] = [12, 5];
      const a = second(draw(rng, 20, n), 20, n);
      const w = draw(rng, n, out);
      const s = second(draw(rng, 9, out), 9, out);
      const ws = product(w, weighted ? s : identity(out), [n, out, out]);
      const energy = product(ws, transposed(w, [n, out]), [n, out, n]);
      const ridge = 1e-2 * Array.from({ length: n }, (_, i) => at(a, i * n + i)).reduce((x, y) => x + y, 0) / n;
      const damped = a.map((value, i) => i % (n + 1) === 0 ? value + ridge : value);
      const inverse = inverseOf(damped, n);
      const [order, errors]: [number[], number[]] = [[], [0]];
      let left = Array.from({ length: n / size }, (_, i) => i);
      while (left.length > 0) {
        const after = left.map((unit) => errorWithout(inverse, energy, { n, gone: [...order, unit], size }));
        const best = after.indexOf(Math.min(...after));
        order.push(at(left, best));
        errors.push(at(after, best));
        left = left.filter((_, i) => i !== best);
      }
      const cost = order.map((_, i) => at(errors, i + 1) - at(errors, i));
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
  },
);

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
        losses.push(await lossOf({ ...model, layers }, [window]));
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
  const options = obs.options.parse({ statistics: "dense" });
  const context = methodContext({ model, options, calibration: toyWindows(4, 16), cache });
  await obs.prune(context);
  assertEquals([...cache.keys()], ["gram matrices", "removal scores, plain error"]);
});

const windows = toyWindows(5, 16);

/** Mean of a a^T over the tokens, [in, in]. */
function gramOf(source: WeightSource, layer: number, site: ObservedSite): Float64Array {
  const rows: Float64Array[] = [];
  const observe = (l: number, observed: ObservedSite, input: Float64Array[]) => {
    if (l === layer && observed === site) rows.push(...input);
  };
  for (const window of windows) referenceForward(source, window, { observe });
  return second(Float64Array.from(rows.flatMap((row) => [...row])), rows.length, at(rows, 0).length);
}

/** `source` with other tensors in place of its own. */
const withTensors = (source: WeightSource, tensors: Map<string, HostTensor>): WeightSource => ({
  ...memorySource(source.config, tensors),
  read: (name) => tensors.get(name) ?? source.read(name),
});

/** The columns `kept` of a weight [out, in] after they made up for the others, which are 0. */
function repaired({ shape, data }: HostTensor, gram: Float64Array, kept: number[]): HostTensor {
  const [outputs, n] = [at(shape, 0), at(shape, 1)];
  const gone = Array.from({ length: n }, (_, i) => i).filter((i) => !kept.includes(i));
  const ridge = 0.01 * Array.from({ length: n }, (_, i) => at(gram, i * n + i)).reduce((a, b) => a + b, 0) / n;
  const damped = kept.flatMap((i) => kept.map((j) => at(gram, i * n + j) + (i === j ? ridge : 0)));
  const cross = kept.flatMap((i) => gone.map((j) => at(gram, i * n + j)));
  const lost = gone.flatMap((j) => Array.from({ length: outputs }, (_, o) => at(data, o * n + j)));
  const right = product(cross, lost, [kept.length, gone.length, outputs]);
  const gain = product(inverseOf(damped, kept.length), right, [kept.length, kept.length, outputs]);
  const result = new Float64Array(data.length);
  kept.forEach((column, i) => {
    for (let o = 0; o < outputs; o++) result[o * n + column] = at(data, o * n + column) + at(gain, i * outputs + o);
  });
  return { shape, data: result as unknown as Float32Array };
}

testOnEngines("compensateInTurn() corrects each map on the inputs from the maps corrected before it", async () => {
  const layers = [0, 1, 2].map(() => ({ kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 12 }));
  const source = toySource({ layers, seed: 8, biases: ["output"] });
  const whole = densePlan(source.config).layers;
  const plan: PrunePlan = {
    layers: [
      { kvGroups: [1], queryHeads: [2, 3], ffnChannels: [0, 2, 3, 7, 8, 11] },
      { kvGroups: [], queryHeads: [], ffnChannels: [] },
      { ...at(whole, 2), ffnChannels: [1, 2, 4, 5] },
    ],
  };
  const expected = new Map<string, HostTensor>();
  const stream = new Map<string, HostTensor>([[tensorNames.bias(1, "output"), {
    shape: [32],
    data: new Float32Array(32),
  }]]);
  for (const [l, layer] of plan.layers.entries()) {
    for (const site of WRITING_NAMES) {
      const name = tensorNames.weight(l, site);
      const kept = keptIndices(layer, site, source.config.headSize);
      const own = source.read(name);
      if (kept.length === at(own.shape, 1)) continue;
      if (kept.length === 0) {
        stream.set(name, { ...own, data: new Float32Array(own.data.length) });
        continue;
      }
      const cut = repaired(own, gramOf(withTensors(source, stream), l, site), kept);
      stream.set(name, cut);
      expected.set(name, cut);
    }
  }
  using model = await onDevice(source);
  const before = tf.memory().numTensors;
  const actual = await compensateInTurn(model, plan, { windows, ...QUIET });
  assertEquals(tf.memory().numTensors, before);
  assertEquals(Object.keys(actual), [...expected.keys()]);
  for (const [name, { data }] of expected) {
    assertClose(actual[name]!.data, data, { atol: 2e-4, rtol: 1e-3 }, name);
  }
});

/** Two layers of four channels. Channel 0 of the first writes a little into dimension 0 and is cheap there; channel 1 of
 * the second reads nothing else, and much. */
function planted(): WeightSource {
  const layers = [0, 1].map(() => ({ kvGroups: 1, queryHeadsPerGroup: 1, ffnChannels: 4 }));
  const source = toySource({ layers, seed: 2, deadHidden: [0] });
  const { width } = source.config;
  source.read(tensorNames.weight(0, "down")).data.forEach((value, i, data) => {
    if (i % 4 === 0) data[i] = i === 0 ? 0.2 : 0.01 * value;
  });
  for (const name of ["gate", "up"] as const) {
    source.read(tensorNames.weight(1, name)).data.fill(0, width, 2 * width)[width] = 60;
  }
  return source;
}

testOnEngines("obs keeps on dense statistics, and removes in turn, what reads a unit that is gone", async () => {
  const source = planted();
  const cheapest = (l: number, given: WeightSource) => {
    const weight = given.read(tensorNames.weight(l, "down"));
    const energy = product(transposed(weight.data, [32, 4]), weight.data, [4, 32, 4]);
    const gram = gramOf(given, l, "down");
    const ridge = 0.01 * [0, 5, 10, 15].reduce((sum, i) => sum + at(gram, i), 0) / 4;
    const damped = gram.map((value, i) => i % 5 === 0 ? value + ridge : value);
    const inverse = inverseOf(damped, 4);
    const costs = [0, 1, 2, 3].map((unit) => errorWithout(inverse, energy, { n: 4, gone: [unit], size: 1 }));
    return costs.indexOf(Math.min(...costs));
  };
  const first = cheapest(0, source);
  const weight = source.read(tensorNames.weight(0, "down"));
  const cut = { ...weight, data: weight.data.map((value, i) => i % 4 === first ? 0 : value) };
  const pruned = withTensors(source, new Map([[tensorNames.weight(0, "down"), cut]]));
  const [dense, sequential] = [cheapest(1, source), cheapest(1, pruned)];
  assertEquals([first, dense === 1, sequential], [0, false, 1], "the problem is not the planted one");
  using model = await onDevice(source);
  for (const [statistics, second] of [["dense", dense], ["sequential", sequential]] as const) {
    const options = obs.options.parse({ statistics });
    const context = methodContext({ model, options, calibration: windows, sparsity: 0.06, units: ["ffn"] });
    const { plan } = await obs.prune(context);
    const gone = plan.layers.map(({ ffnChannels }) => [0, 1, 2, 3].filter((i) => !ffnChannels.includes(i)));
    assertEquals(gone, [[first], [second]], statistics);
  }
});
