/** The operations of a decoder with gradients of their own. Each engine gets its fastest form, cheap intermediate
 * results are computed again in the backward pass, and frozen weights cost no gradient. All tensors are f32.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "./engine.ts";
import { NumericError } from "../util/errors.ts";
import { at } from "../util/indexing.ts";
import { isOwnProductFaster, type Matrix, PackedMatrix, productOf, storedProduct } from "./matrix.ts";
import { decoderOp, nativeOp } from "./native_ops.ts";

type Inputs = Record<string, tf.Tensor>;
type Gradients<I extends Inputs> = { [name in keyof I]: () => tf.Tensor };

/** An operation with a gradient per input, each computed only when needed upstream. `forward` returns the result and
 * the tensors that the gradients are computed from.
 *
 * `tf.customGrad` computes the gradients of all inputs whenever one is needed, which would add the gradient of every
 * frozen weight to a mask's. The engine method below it takes one function per input; it is marked private in the type
 * declarations of TensorFlow.js 4.22.0, its last release. */
export function withGradient<I extends Inputs, const S extends readonly (tf.Tensor | undefined)[]>(
  inputs: I,
  forward: () => { out: tf.Tensor; saved: S },
  backward: (dy: tf.Tensor, saved: S) => Gradients<I>,
): tf.Tensor {
  const engine = tf.engine() as unknown as {
    runKernelFunc(call: {
      forwardFunc: (backend: unknown, save: (tensors: S) => void) => tf.Tensor;
      backwardsFunc: (dy: tf.Tensor, saved: S) => Gradients<I>;
      inputs: I;
    }): tf.Tensor;
  };
  const forwardFunc = (_: unknown, save: (tensors: S) => void) => {
    const { out, saved } = forward();
    save(saved);
    return out;
  };
  return engine.runKernelFunc({ forwardFunc, backwardsFunc: backward, inputs });
}

/** `a b` of two matrices, either one transposed. On wasm a product with a transposed operand runs in a loop about 20
 * times slower, so the operand is transposed first. Without a gradient. */
export function matMul2d(a: tf.Tensor2D, b: tf.Tensor2D, transposeA = false, transposeB = false): tf.Tensor2D {
  if (!currentEngine().needsPlainProducts) return tf.matMul(a, b, transposeA, transposeB);
  return tf.matMul(transposeA ? tf.transpose(a) : a, transposeB ? tf.transpose(b) : b);
}

/** The matrices of a batch on wasm, where the backend's slice kernel copies the whole batch. */
function wasmMatrices(x: tf.Tensor3D): tf.Tensor2D[] {
  const [n, rows, columns] = x.shape;
  const size = rows * columns;
  const backend = tf.backend() as unknown as { typedArrayFromHeap(x: tf.Tensor): Float32Array };
  // The view is taken anew each time: an allocation may move the heap.
  return Array.from(
    { length: n },
    (_, i) => tf.tensor2d(backend.typedArrayFromHeap(x).slice(i * size, (i + 1) * size), [rows, columns]),
  );
}

/** Products of `n` pairs of matrices: `a` is [n, ...], `b` is [n, ...]. On wasm products of two batched operands run in
 * the slow loop too, so the pairs are multiplied one by one. Without a gradient. */
export function batchMatMul(a: tf.Tensor3D, b: tf.Tensor3D, transposeA = false, transposeB = false): tf.Tensor3D {
  if (!currentEngine().needsPlainProducts) return tf.matMul(a, b, transposeA, transposeB);
  const rowsA = wasmMatrices(transposeA ? tf.transpose(a, [0, 2, 1]) : a);
  const rowsB = wasmMatrices(transposeB ? tf.transpose(b, [0, 2, 1]) : b);
  return tf.stack(rowsA.map((rows, i) => tf.matMul(rows, at(rowsB, i)))) as tf.Tensor3D;
}

/** `x w`, or `x wᵀ` if `transposed`, in the engine's fastest form. Without a gradient. */
export function matrixProduct(x: tf.Tensor2D, w: Matrix, transposed = false): tf.Tensor2D {
  if (w instanceof PackedMatrix) return storedProduct(x, w, transposed);
  const isOwn = currentEngine().decoderOps && isOwnProductFaster(x.shape[0], w);
  return isOwn ? storedProduct(x, w, transposed) : matMul2d(x, w, false, transposed);
}

/** {@linkcode matrixProduct} with its gradients; a matrix in 16 bits has none. */
function product(x: tf.Tensor2D, w: Matrix, transposed: boolean): tf.Tensor2D {
  if (w instanceof PackedMatrix) {
    return withGradient(
      { x },
      () => ({ out: matrixProduct(x, w, transposed), saved: [] }),
      (dy) => ({ x: () => matrixProduct(dy as tf.Tensor2D, w, !transposed) }),
    ) as tf.Tensor2D;
  }
  return withGradient(
    { x, w },
    () => ({ out: matrixProduct(x, w, transposed), saved: [x, w] }),
    (dy, [x, w]) => ({
      x: () => matrixProduct(dy as tf.Tensor2D, w, !transposed),
      w: () => transposed ? matMul2d(dy as tf.Tensor2D, x, true) : matMul2d(x, dy as tf.Tensor2D, true),
    }),
  ) as tf.Tensor2D;
}

/** `x w (+ bias)`: x [N, in], w [in, out], bias [out] -> [N, out]. */
export function linear(x: tf.Tensor2D, w: Matrix, bias?: tf.Tensor1D): tf.Tensor2D {
  return withBias(product(x, w, false), bias);
}

const withBias = (x: tf.Tensor2D, bias?: tf.Tensor1D): tf.Tensor2D => bias ? tf.add(x, bias) : x;

/** {@linkcode linearLowRank} without a bias, in one native operation, and its gradients in another. */
function nativeLowRank(
  x: tf.Tensor2D,
  w: PackedMatrix,
  { down, up, scale }: { down: tf.Tensor2D; up: tf.Tensor2D; scale: number },
): tf.Tensor2D {
  const { tensor, attributes } = productOf(w);
  const all = { ...attributes, scale: { float: scale } };
  return withGradient(
    { x, down, up },
    () => {
      const [out, inner] = decoderOp("LowRank", [x, tensor, down, up], 2, all);
      return { out, saved: [x, down, up, inner] };
    },
    (dy, [x, down, up, inner]) => {
      const [dx, dDown, dUp] = decoderOp("LowRankGradient", [x, tensor, down, up, inner, dy], 3, all);
      return { x: () => dx, down: () => dDown, up: () => dUp };
    },
  ) as tf.Tensor2D;
}

/** A linear map with a low-rank update: `x w + scale (x down) up (+ bias)`; x [N, in], w [in, out], down [in, r],
 * up [r, out] -> [N, out]. One operation, so that neither product is kept for the gradient. */
export function linearLowRank(
  x: tf.Tensor2D,
  w: Matrix,
  { down, up, scale }: { down: tf.Tensor2D; up: tf.Tensor2D; scale: number },
  bias?: tf.Tensor1D,
): tf.Tensor2D {
  const isPacked = w instanceof PackedMatrix;
  if (isPacked && currentEngine().arithmetic === "fast") {
    return withBias(nativeLowRank(x, w, { down, up, scale }), bias);
  }
  const inputs: Inputs = isPacked ? { x, down, up } : { x, w, down, up };
  const out = withGradient(
    inputs,
    () => {
      const inner = tf.mul(matMul2d(x, down), scale) as tf.Tensor2D;
      const rest: readonly [tf.Tensor2D?] = isPacked ? [] : [w];
      return { out: tf.add(matrixProduct(x, w), matMul2d(inner, up)), saved: [x, down, up, inner, ...rest] };
    },
    (dy, [x, down, up, inner, saved]) => {
      const slope = dy as tf.Tensor2D;
      // scale dy upᵀ, [N, r]: small, and used twice.
      const dInner = tf.tidy(() => tf.mul(matMul2d(slope, up, false, true), scale)) as tf.Tensor2D;
      return {
        x: () => tf.tidy(() => tf.add(matrixProduct(slope, saved ?? w, true), matMul2d(dInner, down, false, true))),
        w: () => matMul2d(x, slope, true, false),
        down: () => matMul2d(x, dInner, true, false),
        up: () => matMul2d(inner, slope, true, false),
      };
    },
  ) as tf.Tensor2D;
  return withBias(out, bias);
}

/** `x tableᵀ`: x [N, D], table [V, D] -> [N, V]. The tied output projection. */
export function linearTransposed(x: tf.Tensor2D, table: Matrix): tf.Tensor2D {
  return product(x, table, true);
}

/** RMSNorm: `x / sqrt(mean(x^2) + epsilon) * gain`; x [N, D], gain [D] -> [N, D]. */
export function rmsNorm(x: tf.Tensor2D, gain: tf.Tensor1D, epsilon: number): tf.Tensor2D {
  const inverseRms = (x: tf.Tensor) => tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), epsilon));
  return withGradient(
    { x, gain },
    () => {
      if (currentEngine().decoderOps) {
        const [out, r] = decoderOp("RmsNorm", [x, gain], 2, { epsilon: { float: epsilon } });
        return { out, saved: [x, gain, r] };
      }
      const r = inverseRms(x);
      return { out: tf.mul(tf.mul(x, r), gain), saved: [x, gain, r] };
    },
    (dy, [x, gain, r]) => ({
      x: () =>
        tf.tidy(() => {
          if (currentEngine().decoderOps) return decoderOp("RmsNormGradient", [x, gain, r, dy], 1)[0];
          const normed = tf.mul(x, r);
          const scaled = tf.mul(dy, gain);
          const along = tf.mean(tf.mul(scaled, normed), -1, true);
          return tf.mul(r, tf.sub(scaled, tf.mul(normed, along)));
        }),
      gain: () => tf.tidy(() => tf.sum(tf.mul(dy, tf.mul(x, tf.reshape(r, [-1, 1]))), 0)),
    }),
  ) as tf.Tensor2D;
}

/** An activation of x: its value, and its slope, which uses parts of the value. */
type ActivationOf = (x: tf.Tensor) => { value: tf.Tensor; slope: () => tf.Tensor };

const silu: ActivationOf = (x) => {
  const s = tf.sigmoid(x);
  const value = tf.mul(x, s);
  // s + x s (1 - s)
  return { value, slope: () => tf.add(s, tf.mul(value, tf.sub(1, s))) };
};

/** `gelu(x)` by its tanh approximation (Hendrycks and Gimpel 2016, arXiv:1606.08415). */
const geluTanh: ActivationOf = (x) => {
  const [scale, cubic] = [Math.sqrt(2 / Math.PI), 0.044715];
  const squared = tf.square(x);
  const tanh = tf.tanh(tf.mul(tf.mul(x, scale), tf.add(tf.mul(squared, cubic), 1)));
  const half = tf.mul(tf.add(tanh, 1), 0.5);
  return {
    value: tf.mul(x, half),
    // (1 + t) / 2 + x (1 - t^2) / 2 scale (1 + 3 cubic x^2)
    slope: () => {
      const inner = tf.mul(tf.add(tf.mul(squared, 3 * cubic), 1), 0.5 * scale);
      return tf.add(half, tf.mul(tf.mul(x, tf.sub(1, tf.square(tanh))), inner));
    },
  };
};

/** Activations of gated FFNs. `number`: in the operations of `core/engine/native/`; `isNative`: whether these have the
 * gated unit alone, and not only the whole decoding layer. */
export const ACTIVATIONS = {
  "silu": { of: silu, number: 0, isNative: true },
  "gelu-tanh": { of: geluTanh, number: 1, isNative: false },
} as const;
/** Name of an activation. */
export type Activation = keyof typeof ACTIVATIONS;

/** Gated unit of an FFN (SwiGLU, GeGLU): `activation(gate) * up (* mask)`; gate and up [N, F], mask [F] -> [N, F]. Only
 * the inputs are kept for the gradient. */
export function gatedUnit(gate: tf.Tensor2D, up: tf.Tensor2D, activation: Activation, mask?: tf.Tensor1D): tf.Tensor2D {
  const { of, isNative } = ACTIVATIONS[activation];
  const usesNative = isNative && currentEngine().decoderOps;
  const inputs: Inputs = mask ? { gate, up, mask } : { gate, up };
  const saved: readonly [tf.Tensor2D, tf.Tensor2D, tf.Tensor1D?] = mask ? [gate, up, mask] : [gate, up];
  return withGradient(
    inputs,
    () => {
      if (usesNative) {
        return { out: tf.tidy(() => decoderOp("SwiGlu", [gate, up, mask ?? tf.zeros([0])], 1)[0]), saved };
      }
      const gated = tf.mul(of(gate).value, up);
      return { out: mask ? tf.mul(gated, mask) : gated, saved };
    },
    (dy, [gate, up, mask]) => {
      // All at once: they share the activation and two products, and none of these lives on.
      const [dGate, dUp, dMask] = tf.tidy((): [tf.Tensor, tf.Tensor, tf.Tensor] => {
        if (usesNative) return decoderOp("SwiGluGradient", [gate, up, mask ?? tf.zeros([0]), dy], 3);
        const { value, slope } = of(gate);
        const dGated = mask ? tf.mul(dy, mask) : dy;
        return [
          tf.mul(tf.mul(dGated, up), slope()),
          tf.mul(dGated, value),
          mask ? tf.sum(tf.mul(tf.mul(dy, value), up), 0) : tf.zeros([0]),
        ];
      });
      return { gate: () => dGate, up: () => dUp, mask: () => dMask };
    },
  ) as tf.Tensor2D;
}

/** Cross entropy of each row against one target: logits [N, V], targets i32 [N] -> losses [N] in nats and, in the same
 * pass, the gradient softmax(logits) - onehot(targets) [N, V]. Without a gradient. */
export function softmaxCrossEntropy(
  logits: tf.Tensor2D,
  targets: tf.Tensor1D,
): { losses: tf.Tensor1D; gradient: tf.Tensor2D } {
  const { decoderOps, namedOps, arithmetic } = currentEngine();
  if (namedOps) {
    const types = { T: { typeOf: logits }, Tlabels: { typeOf: targets } };
    const [losses, gradient] = decoderOps && arithmetic === "fast"
      ? decoderOp("CrossEntropy", [logits, targets], 2)
      : nativeOp("SparseSoftmaxCrossEntropyWithLogits", [logits, targets], 2, types);
    return { losses: losses as tf.Tensor1D, gradient: gradient as tf.Tensor2D };
  }
  const [n, v] = logits.shape;
  const max = tf.max(logits, 1, true);
  const exp = tf.exp(tf.sub(logits, max));
  const sum = tf.sum(exp, 1, true);
  const oneHot = tf.oneHot(targets, v) as tf.Tensor2D;
  const target = tf.sum(tf.mul(logits, oneHot), 1);
  return {
    losses: tf.sub(tf.reshape(tf.add(tf.log(sum), max), [n]), target) as tf.Tensor1D,
    gradient: tf.sub(tf.div(exp, sum), oneHot) as tf.Tensor2D,
  };
}

/** Reads many tensors with one transfer; each is returned flat, in f32. The tensors are freed.
 * @throws {NumericError} when a value is not finite; `what` names the values.
 * @throws {EngineError} when the device reported an error. */
export async function readFlat(tensors: tf.Tensor[], what: string): Promise<Float32Array[]> {
  const joined = tf.tidy(() => tf.concat(tensors.map((tensor) => tf.reshape(tensor, [-1]))));
  const sizes = tensors.map((tensor) => tensor.size);
  tf.dispose(tensors);
  let values: Float32Array;
  try {
    values = await joined.data<"float32">();
  } finally {
    joined.dispose();
  }
  currentEngine().check();
  const bad = values.find((value) => !Number.isFinite(value));
  if (bad !== undefined) throw new NumericError(`The ${what} must be finite numbers: current ${bad}`);
  let start = 0;
  return sizes.map((size) => values.slice(start, start += size));
}
