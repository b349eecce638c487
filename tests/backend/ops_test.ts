import * as tf from "@tensorflow/tfjs";
import { assertEquals } from "@std/assert";
import { known, take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { attention } from "../../core/engine/attention.ts";
import { currentEngine } from "../../core/engine/engine.ts";
import {
  type Activation,
  batchMatMul,
  gatedUnit,
  linear,
  linearTransposed,
  matMul2d,
  rmsNorm,
  softmaxCrossEntropy,
  withGradient,
} from "../../core/engine/ops.ts";
import { createRng } from "../../core/util/rng.ts";
import {
  type Matrix,
  referenceAttend,
  referenceLogProbs,
  referenceRmsNorm,
  referenceRotate,
} from "../support/reference.ts";
import { rotaryFrequencies, rotaryTables } from "../../models/rope.ts";
import { assertClose, flat, testOnEngines } from "../support/engines.ts";

/** A tensor of a test: values that f32 holds exactly, in double precision. */
interface Values {
  shape: number[];
  data: Float64Array;
}

const rng = createRng(0, "ops");
function random(...shape: number[]): Values {
  const size = shape.reduce((a, b) => a * b);
  return { shape, data: Float64Array.from({ length: size }, () => Math.fround(rng.normal())) };
}
const toTensor = ({ shape, data }: Values) => tf.tensor(Float32Array.from(data), shape);

function toRows({ shape, data }: Values): Matrix {
  const columns = shape.at(-1)!;
  return Array.from({ length: data.length / columns }, (_, n) => data.slice(n * columns, (n + 1) * columns));
}

/** `a b` in double precision. */
const product = (a: Matrix, b: Matrix): Matrix =>
  a.map((row) =>
    Float64Array.from(at(b, 0), (_, j) => row.reduce((sum, value, i) => sum + value * at(at(b, i), j), 0))
  );
const transposed = (a: Matrix): Matrix => Array.from(at(a, 0), (_, j) => Float64Array.from(a, (row) => at(row, j)));

/** Checks the values of an operation against `plain`, and its gradients against central differences of `plain`. */
async function checkOperation(
  { inputs, operation, plain, what }: {
    inputs: Values[];
    operation: (...inputs: tf.Tensor[]) => tf.Tensor;
    plain: (...inputs: Values[]) => Matrix;
    what: string;
  },
): Promise<void> {
  const expected = flat(plain(...inputs));
  // Any fixed weighting of the outputs gives a scalar whose gradient shows every part.
  const weights = random(expected.length).data;
  const plainLoss = (...values: Values[]) =>
    flat(plain(...values)).reduce((sum, value, i) => sum + value * at(weights, i), 0);
  const [value, ...gradients] = tf.tidy(() => {
    const tensors = inputs.map(toTensor);
    const loss = (...xs: tf.Tensor[]) =>
      tf.sum(tf.mul(tf.reshape(operation(...xs), [-1]), tf.tensor1d(Float32Array.from(weights)))) as tf.Scalar;
    return [operation(...tensors), ...tf.grads(loss)(tensors)];
  });
  assertClose(await value.data(), expected, {}, what);
  for (const [n, gradient] of gradients.entries()) {
    const { shape, data } = at(inputs, n);
    assertEquals(gradient.shape, shape);
    const differences = data.map((x, i) => {
      const at = (moved: number) =>
        plainLoss(...inputs.map((other, m) => n === m ? { shape, data: data.with(i, moved) } : other));
      return (at(x + 1e-5) - at(x - 1e-5)) / 2e-5;
    });
    assertClose(await gradient.data(), differences, { atol: 1e-4, rtol: 1e-4 }, `${what}, gradient of input ${n}`);
  }
  tf.dispose([value, ...gradients]);
}

testOnEngines("matMul2d() and batchMatMul() give the product, whichever operand is transposed", async () => {
  for (const [transposeA, transposeB] of [[false, false], [true, false], [false, true], [true, true]]) {
    const stored = [0, 1, 2].map(() => ({
      a: random(...transposeA ? [7, 5] : [5, 7]),
      b: random(...transposeB ? [6, 7] : [7, 6]),
    }));
    const expected = stored.map(({ a, b }) =>
      product(transposeA ? transposed(toRows(a)) : toRows(a), transposeB ? transposed(toRows(b)) : toRows(b))
    );
    const [single, batched] = tf.tidy(() => {
      const as = stored.map(({ a }) => toTensor(a) as tf.Tensor2D);
      const bs = stored.map(({ b }) => toTensor(b) as tf.Tensor2D);
      return [
        matMul2d(at(as, 0), at(bs, 0), transposeA, transposeB),
        batchMatMul(tf.stack(as) as tf.Tensor3D, tf.stack(bs) as tf.Tensor3D, transposeA, transposeB),
      ];
    });
    assertEquals([single.shape, batched.shape], [[5, 6], [3, 5, 6]]);
    assertClose(await single.data(), flat(at(expected, 0)), {}, `transposed ${transposeA}, ${transposeB}`);
    assertClose(await batched.data(), flat(expected.flat()), {}, `batch, transposed ${transposeA}, ${transposeB}`);
    tf.dispose([single, batched]);
  }
});

testOnEngines("linear() and linearTransposed() equal double precision, with their gradients", async () => {
  await checkOperation({
    what: "linear",
    inputs: [random(5, 4), random(4, 3), random(3)],
    operation: (x, w, bias) => linear(x as tf.Tensor2D, w as tf.Tensor2D, bias as tf.Tensor1D),
    plain: (x, w, bias) => product(toRows(x), toRows(w)).map((row) => row.map((value, i) => value + at(bias.data, i))),
  });
  await checkOperation({
    what: "linearTransposed",
    inputs: [random(5, 4), random(6, 4)],
    operation: (x, table) => linearTransposed(x as tf.Tensor2D, table as tf.Tensor2D),
    plain: (x, table) => product(toRows(x), transposed(toRows(table))),
  });
});

testOnEngines("rmsNorm() equals double precision, with its gradients", async () => {
  await checkOperation({
    what: "rmsNorm",
    inputs: [random(35, 19), random(19)],
    operation: (x, gain) => rmsNorm(x as tf.Tensor2D, gain as tf.Tensor1D, 1e-2),
    plain: (x, gain) => referenceRmsNorm(toRows(x), gain.data, 1e-2),
  });
});

const PLAIN_ACTIVATIONS: Record<Activation, (g: number) => number> = {
  "silu": (g) => g / (1 + Math.exp(-g)),
  "gelu-tanh": (g) => g / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3))),
};

testOnEngines("gatedUnit() equals double precision, with its gradients", async () => {
  for (const [name, activate] of Object.entries(PLAIN_ACTIVATIONS) as [Activation, (g: number) => number][]) {
    const plain = (gate: Values, up: Values) => gate.data.map((g, i) => activate(g) * at(up.data, i));
    await checkOperation({
      what: name,
      inputs: [random(4, 6), random(4, 6)],
      operation: (gate, up) => gatedUnit(gate as tf.Tensor2D, up as tf.Tensor2D, name),
      plain: (gate, up) => [plain(gate, up)],
    });
    await checkOperation({
      what: `${name} with a mask`,
      inputs: [random(35, 19), random(35, 19), random(19)],
      operation: (gate, up, mask) => gatedUnit(gate as tf.Tensor2D, up as tf.Tensor2D, name, mask as tf.Tensor1D),
      plain: (gate, up, mask) => [plain(gate, up).map((y, i) => y * at(mask.data, i % 19))],
    });
  }
});

/** Rows of a packed projection through rotation and attention, sequence by sequence. */
function plainAttention(
  packed: Matrix,
  { batch, kvGroups, perGroup, size }: { batch: number; kvGroups: number; perGroup: number; size: number },
  segments: number[],
): Matrix {
  const length = packed.length / batch;
  const heads = kvGroups * perGroup;
  const { frequencies } = rotaryFrequencies(size, { base: 10_000 });
  const positions = Array.from({ length }, (_, t) => t);
  return Array.from({ length: batch }, (_, b) => {
    const rows = packed.slice(b * length, (b + 1) * length);
    const part = (from: number, count: number) => rows.map((row) => row.slice(from * size, (from + count) * size));
    return referenceAttend({
      q: referenceRotate(part(0, heads), positions, frequencies),
      k: referenceRotate(part(heads, kvGroups), positions, frequencies),
      v: part(heads + kvGroups, kvGroups),
    }, { heads, perGroup, size, segments: segments.slice(b * length, (b + 1) * length) });
  }).flat();
}

/** Additive mask [B, 1, T, T] of a prefix tree. */
function treeMask(batch: number, segments: number[]): tf.Tensor4D {
  const length = segments.length / batch;
  const mask = new Float32Array(batch * length * length).map((_, n) => {
    const [b, j, i] = [Math.floor(n / length ** 2), Math.floor(n / length) % length, n % length];
    const branch = segments[b * length + i];
    return i > j || (branch !== 0 && branch !== segments[b * length + j]) ? -1e9 : 0;
  });
  return tf.tensor4d(mask, [batch, 1, length, length]);
}

/** The forms of "who sees whom" that the engine takes. */
function visibilities(batch: number, segments: number[]) {
  const masked = { name: "mask", mask: treeMask(batch, segments) };
  if (!currentEngine().decoderOps) return [masked];
  return [masked, { name: "native", mask: null, segments: tf.tensor1d(segments, "int32") }];
}

testOnEngines("attention() equals double precision, with its gradient, for shared keys and prefix trees", async () => {
  const cases = [
    { batch: 1, kvGroups: 3, perGroup: 1, segments: [0, 0, 0, 0, 0] },
    { batch: 2, kvGroups: 2, perGroup: 3, segments: [0, 0, 1, 1, 2, 0, 0, 0, 1, 2] },
  ];
  const size = 4;
  for (const { batch, kvGroups, perGroup, segments } of cases) {
    const packed = random(segments.length, (kvGroups * perGroup + 2 * kvGroups) * size);
    const positions = Int32Array.from(segments, (_, n) => n % (segments.length / batch));
    for (const form of currentEngine().decoderOps ? [0, 1] : [0]) {
      await checkOperation({
        what: `attention of ${kvGroups} x ${perGroup} heads, form ${form}`,
        inputs: [packed],
        operation: (x) =>
          attention(x as tf.Tensor2D, {
            batch,
            kvGroups,
            queryHeadsPerGroup: perGroup,
            headSize: size,
            tables: rotaryTables(size, { base: 10_000 }, positions),
            ...at(visibilities(batch, segments), form),
          }),
        plain: (x) => plainAttention(toRows(x), { batch, kvGroups, perGroup, size }, segments),
      });
    }
  }
});

testOnEngines("attention() over several blocks of queries equals one softmax, with its gradient", async ({ name }) => {
  // Long enough for three blocks; too long for differences, so TensorFlow.js's own gradients are the measure. The width
  // is not one of whole vectors, and the tree's branches cross blocks.
  // Software Vulkan takes minutes for more than one head.
  const [length, size, kvGroups, perGroup] = name === "webgpu" ? [300, 2, 1, 1] : [300, 18, 2, 2];
  const x = random(length, (kvGroups * perGroup + 2 * kvGroups) * size);
  const weights = random(length, kvGroups * perGroup * size);
  const trees = [Array(length).fill(0), Array.from({ length }, (_, i) => i < 40 ? 0 : i < 170 ? 1 : 2)];
  for (const segments of trees) {
    const results = tf.tidy(() => {
      const layout = { batch: 1, kvGroups, queryHeadsPerGroup: perGroup, headSize: size };
      const tables = rotaryTables(size, { base: 10_000 }, new Int32Array(length));
      const plain = (packed: tf.Tensor) => {
        const heads = tf.split(packed, kvGroups * (perGroup + 2), 1);
        const mask = tf.reshape(treeMask(1, segments), [length, length]);
        return tf.concat(
          Array.from({ length: kvGroups * perGroup }, (_, h) => {
            const [k, v] = take([0, 1].map((n) => at(heads, kvGroups * (perGroup + n) + Math.floor(h / perGroup))), 2);
            const exp = tf.exp(tf.add(tf.matMul(tf.mul(at(heads, h), 1 / Math.sqrt(size)), tf.transpose(k)), mask));
            return tf.matMul(tf.div(exp, tf.sum(exp, 1, true)), v);
          }),
          1,
        );
      };
      const measured = (attend: (packed: tf.Tensor) => tf.Tensor) => {
        const grad = tf.grad((packed) => tf.sum(tf.mul(attend(packed), toTensor(weights))));
        return [attend(toTensor(x)), grad(toTensor(x))];
      };
      const forms = visibilities(1, segments).map((visibility) =>
        measured((packed) => attention(packed as tf.Tensor2D, { ...layout, tables, ...visibility }))
      );
      return [measured(plain), ...forms];
    });
    const [expected, ...forms] = await Promise.all(results.map((pair) => Promise.all(pair.map((t) => t.data()))));
    for (const [out, gradient] of forms) {
      assertClose(known(out), known(expected?.[0]), { atol: 2e-5, rtol: 1e-4 }, "output");
      assertClose(known(gradient), known(expected?.[1]), { atol: 5e-5, rtol: 1e-3 }, "gradient");
    }
    tf.dispose(results);
  }
});

testOnEngines("softmaxCrossEntropy() gives losses and gradient of double precision, far logits included", async () => {
  const values = random(6, 9);
  values.data[0] = 3e4;
  values.data[10] = -3e4;
  const targets = Int32Array.of(0, 1, 8, 4, 4, 2);
  const loss = (data: Float64Array) =>
    referenceLogProbs(toRows({ ...values, data }), targets).reduce((sum, value) => sum - value, 0);
  const [losses, gradient] = tf.tidy(() => {
    const { losses, gradient } = softmaxCrossEntropy(toTensor(values) as tf.Tensor2D, tf.tensor1d(targets, "int32"));
    return [losses, gradient];
  });
  assertClose(await losses.data(), referenceLogProbs(toRows(values), targets).map((value) => -value));
  const differences = values.data.map((x, i) =>
    (loss(values.data.with(i, x + 1e-4)) - loss(values.data.with(i, x - 1e-4))) / 2e-4
  );
  assertClose(await gradient.data(), differences, { atol: 1e-6, rtol: 1e-4 });
  tf.dispose([losses, gradient]);
});

testOnEngines("withGradient() computes only the gradients that are needed", () => {
  const asked: string[] = [];
  const gradient = tf.tidy(() => {
    const frozen = tf.scalar(3);
    return tf.grad((x) =>
      withGradient({ x, frozen }, () => ({ out: tf.mul(x, frozen), saved: [] }), (dy) => ({
        x: () => {
          asked.push("x");
          return tf.mul(dy, 3);
        },
        frozen: () => {
          asked.push("frozen");
          return tf.zerosLike(frozen);
        },
      }))
    )(tf.scalar(2));
  });
  assertEquals(asked, ["x"]);
  assertEquals(gradient.dataSync()[0], 3);
  gradient.dispose();
});
