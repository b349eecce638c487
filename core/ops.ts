/** The operations of a decoder with gradients of their own: written so that each engine gets the form it is fast at,
 * nothing is kept for the backward pass that can be computed again cheaply, and frozen weights cost no gradient.
 *
 * Shape legend: N rows (B T flattened), D width, H query heads, G key/value groups, R = H / G, K head size,
 * T query positions, S key positions. All tensors are f32.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";

type Inputs = Record<string, tf.Tensor>;
type Gradients<I extends Inputs> = { [name in keyof I]: () => tf.Tensor };

/** An operation with a gradient per input, each computed only when something upstream needs it.
 *
 * `tf.customGrad` computes the gradients of all inputs whenever one is needed, which would add the gradient of every
 * frozen weight to a mask's. The engine method below it takes one function per input; it is marked private in the
 * type declarations of TensorFlow.js 4.22.0, its last release. */
export function withGradient<I extends Inputs>(
  inputs: I,
  forward: (save: (tensors: tf.Tensor[]) => void) => tf.Tensor,
  backward: (dy: tf.Tensor, saved: tf.Tensor[]) => Gradients<I>,
): tf.Tensor {
  const engine = tf.engine() as unknown as {
    runKernelFunc(call: {
      forwardFunc: (backend: unknown, save: (tensors: tf.Tensor[]) => void) => tf.Tensor;
      backwardsFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => Gradients<I>;
      inputs: I;
    }): tf.Tensor;
  };
  return engine.runKernelFunc({ forwardFunc: (_, save) => forward(save), backwardsFunc: backward, inputs });
}

/** `a b` of two matrices, either one transposed. On wasm a transposed operand falls to a loop about 20 times slower
 * than the packed product, so it is transposed first. No gradient of its own. */
export function matMul2d(a: tf.Tensor2D, b: tf.Tensor2D, transposeA = false, transposeB = false): tf.Tensor2D {
  if (tf.getBackend() !== "wasm") return tf.matMul(a, b, transposeA, transposeB);
  return tf.matMul(transposeA ? tf.transpose(a) : a, transposeB ? tf.transpose(b) : b);
}

/** Products of `n` pairs of matrices: `a` is [n, ...], `b` is [n, ...]. On wasm two batched operands fall to the slow
 * loop as well, so the pairs are multiplied one by one. No gradient of its own. */
export function batchMatMul(a: tf.Tensor3D, b: tf.Tensor3D, transposeA = false, transposeB = false): tf.Tensor3D {
  if (tf.getBackend() !== "wasm") return tf.matMul(a, b, transposeA, transposeB);
  const rowsA = tf.unstack(transposeA ? tf.transpose(a, [0, 2, 1]) : a) as tf.Tensor2D[];
  const rowsB = tf.unstack(transposeB ? tf.transpose(b, [0, 2, 1]) : b) as tf.Tensor2D[];
  return tf.stack(rowsA.map((rows, i) => tf.matMul(rows, rowsB[i]))) as tf.Tensor3D;
}

/** `x w (+ bias)`: x [N, in], w [in, out], bias [out] -> [N, out]. */
export function linear(x: tf.Tensor2D, w: tf.Tensor2D, bias?: tf.Tensor1D): tf.Tensor2D {
  const product = withGradient(
    { x, w },
    (save) => {
      save([x, w]);
      return matMul2d(x, w);
    },
    (dy, [x, w]) => ({
      x: () => matMul2d(dy as tf.Tensor2D, w as tf.Tensor2D, false, true),
      w: () => matMul2d(x as tf.Tensor2D, dy as tf.Tensor2D, true, false),
    }),
  ) as tf.Tensor2D;
  return bias ? tf.add(product, bias) : product;
}

/** `x tableᵀ`: x [N, D], table [V, D] -> [N, V]. The tied output projection. */
export function linearTransposed(x: tf.Tensor2D, table: tf.Tensor2D): tf.Tensor2D {
  return withGradient(
    { x, table },
    (save) => {
      save([x, table]);
      return matMul2d(x, table, false, true);
    },
    (dy, [x, table]) => ({
      x: () => matMul2d(dy as tf.Tensor2D, table as tf.Tensor2D),
      table: () => matMul2d(dy as tf.Tensor2D, x as tf.Tensor2D, true, false),
    }),
  ) as tf.Tensor2D;
}

/** RMSNorm: `x / sqrt(mean(x^2) + epsilon) * gain`; x [N, D], gain [D] -> [N, D]. */
export function rmsNorm(x: tf.Tensor2D, gain: tf.Tensor1D, epsilon: number): tf.Tensor2D {
  const inverseRms = (x: tf.Tensor) => tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), epsilon));
  return withGradient(
    { x, gain },
    (save) => {
      const r = inverseRms(x);
      save([x, gain, r]);
      return tf.mul(tf.mul(x, r), gain);
    },
    (dy, [x, gain, r]) => ({
      x: () =>
        tf.tidy(() => {
          const normed = tf.mul(x, r);
          const scaled = tf.mul(dy, gain);
          const along = tf.mean(tf.mul(scaled, normed), -1, true);
          return tf.mul(r, tf.sub(scaled, tf.mul(normed, along)));
        }),
      gain: () => tf.tidy(() => tf.sum(tf.mul(dy, tf.mul(x, r)), 0)),
    }),
  ) as tf.Tensor2D;
}

/** SwiGLU: `silu(gate) * up`; both [N, F] -> [N, F]. */
export function swiGlu(gate: tf.Tensor2D, up: tf.Tensor2D): tf.Tensor2D {
  return withGradient(
    { gate, up },
    (save) => {
      save([gate, up]);
      return tf.mul(tf.mul(gate, tf.sigmoid(gate)), up);
    },
    (dy, [gate, up]) => ({
      // d silu(g) / dg = s + g s (1 - s), s = sigmoid(g)
      gate: () =>
        tf.tidy(() => {
          const s = tf.sigmoid(gate);
          const silu = tf.mul(gate, s);
          return tf.mul(tf.mul(dy, up), tf.add(s, tf.mul(silu, tf.sub(1, s))));
        }),
      up: () => tf.tidy(() => tf.mul(dy, tf.mul(gate, tf.sigmoid(gate)))),
    }),
  ) as tf.Tensor2D;
}

/** Rotary tables of a batch. */
export interface RotaryTables {
  /** cos of the angles, both halves: [N, 1, K]. */
  cos: tf.Tensor3D;
  /** sin of the angles, both halves: [N, 1, K]. */
  sin: tf.Tensor3D;
  /** The half rotation as a matrix: x rotate = concat(-x2, x1); [K, K]. */
  rotate: tf.Tensor2D;
}

/** Rotary position embedding in the half-split layout of Hugging Face; x [N, heads K] -> [N, heads K].
 * `back` applies the transposed map, which is the gradient. */
function rotate(x: tf.Tensor2D, tables: RotaryTables, back: boolean): tf.Tensor2D {
  const { cos, sin, rotate } = tables;
  const [n, columns] = x.shape;
  const headSize = rotate.shape[0];
  const as3d = (t: tf.Tensor) => tf.reshape(t, [n, -1, headSize]);
  const asRows = (t: tf.Tensor) => tf.reshape(t, [-1, headSize]) as tf.Tensor2D;
  const turned = back
    ? as3d(matMul2d(asRows(tf.mul(as3d(x), sin)), rotate, false, true))
    : tf.mul(as3d(matMul2d(asRows(x), rotate)), sin);
  return tf.reshape(tf.add(tf.mul(as3d(x), cos), turned), [n, columns]);
}

/** Sizes and tables of one attention call. */
export interface AttentionLayout {
  /** B. */
  batch: number;
  /** G. */
  kvGroups: number;
  /** R: query heads per group. */
  queryHeadsPerGroup: number;
  /** K. */
  headSize: number;
  tables: RotaryTables;
  /** Added to the scores, 0 where visible and a large negative number where not: [B or 1, 1, T, S].
   * Null: everything is visible. */
  mask: tf.Tensor4D | null;
}

/** Keys and values of the positions seen so far: both [B, G, S, K], keys already rotated. */
export interface KeyValues {
  keys: tf.Tensor4D;
  values: tf.Tensor4D;
}

/** [B T, heads K] -> [B, heads, T, K]. */
function splitHeads(x: tf.Tensor, batch: number, headSize: number): tf.Tensor4D {
  const [n, columns] = x.shape as [number, number];
  return tf.transpose(tf.reshape(x, [batch, n / batch, columns / headSize, headSize]), [0, 2, 1, 3]);
}

/** [B, heads, T, K] -> [B T, heads K]. */
function mergeHeads(x: tf.Tensor): tf.Tensor2D {
  const [b, h, t, k] = x.shape as [number, number, number, number];
  return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [b * t, h * k]);
}

/** Rotated queries and keys and the values of a packed projection, heads split. */
function splitPacked(packed: tf.Tensor2D, layout: AttentionLayout): { q: tf.Tensor4D; k: tf.Tensor4D; v: tf.Tensor4D } {
  const { batch, headSize, kvGroups: g, queryHeadsPerGroup, tables } = layout;
  const n = packed.shape[0];
  const h = g * queryHeadsPerGroup;
  const turned = rotate(tf.slice(packed, [0, 0], [n, (h + g) * headSize]), tables, false);
  return {
    q: splitHeads(tf.slice(turned, [0, 0], [n, h * headSize]), batch, headSize),
    k: splitHeads(tf.slice(turned, [0, h * headSize], [n, g * headSize]), batch, headSize),
    v: splitHeads(tf.slice(packed, [0, (h + g) * headSize], [n, g * headSize]), batch, headSize),
  };
}

/** Attention weights: q [B, H, T, K], k [B, G, S, K] -> [B G, R T, S]. */
function attentionWeights(q: tf.Tensor, k: tf.Tensor, mask: tf.Tensor4D | null): tf.Tensor3D {
  const [b, h, t, size] = q.shape as [number, number, number, number];
  const [, g, s] = k.shape as [number, number, number];
  const queries = tf.reshape(tf.mul(q, 1 / Math.sqrt(size)), [b * g, (h / g) * t, size]) as tf.Tensor3D;
  const scores = batchMatMul(queries, tf.reshape(k, [b * g, s, size]) as tf.Tensor3D, false, true);
  const masked = mask ? tf.add(tf.reshape(scores, [b, h, t, s]), mask) : scores;
  return tf.reshape(tf.softmax(masked), [b * g, (h / g) * t, s]) as tf.Tensor3D;
}

/** Scaled dot-product attention with grouped queries and rotary positions.
 *
 * packed [B T, (H + 2 G) K]: query, key and value projections side by side -> [B T, H K]. Query head h attends to
 * group floor(h / R). The attention weights are computed again in the backward pass rather than kept: they are the
 * largest tensor of a layer. */
export function attention(packed: tf.Tensor2D, layout: AttentionLayout): tf.Tensor2D {
  const { batch, headSize, kvGroups: g, tables, mask } = layout;
  const grouped = (x: tf.Tensor) => tf.reshape(x, [batch * g, -1, headSize]) as tf.Tensor3D;
  return withGradient(
    { packed },
    (save) => {
      const { q, k, v } = splitPacked(packed, layout);
      const out = tf.reshape(batchMatMul(attentionWeights(q, k, mask), grouped(v)), q.shape);
      save([q, k, v, out]);
      return mergeHeads(out);
    },
    (dy, [q, k, v, out]) => ({
      packed: () =>
        tf.tidy(() => {
          const dOut = splitHeads(dy, batch, headSize);
          const p = attentionWeights(q, k, mask);
          const dV = batchMatMul(p, grouped(dOut), true);
          // dS = P * (dP - rowsum(dO * O))
          const dP = batchMatMul(grouped(dOut), grouped(v), false, true);
          const along = tf.sum(grouped(tf.mul(dOut, out)), -1, true);
          const dS = tf.mul(p, tf.sub(dP, along)) as tf.Tensor3D;
          const scale = 1 / Math.sqrt(headSize);
          const dQ = tf.reshape(tf.mul(batchMatMul(dS, grouped(k)), scale), q.shape);
          const dK = tf.reshape(tf.mul(batchMatMul(dS, grouped(q), true), scale), k.shape);
          const dQK = tf.concat([mergeHeads(dQ), mergeHeads(dK)], 1) as tf.Tensor2D;
          return tf.concat([rotate(dQK, tables, true), mergeHeads(tf.reshape(dV, v.shape))], 1);
        }),
    }),
  ) as tf.Tensor2D;
}

/** Attention of new positions to those in a cache and to themselves; no gradient. `packed` as in
 * {@linkcode attention}. Returns the output [B T, H K] and the cache with the new positions appended. */
export function cachedAttention(
  packed: tf.Tensor2D,
  layout: AttentionLayout,
  past: KeyValues | null,
): { out: tf.Tensor2D; cache: KeyValues } {
  const { batch, headSize, kvGroups: g, mask } = layout;
  const { q, k, v } = splitPacked(packed, layout);
  const keys = past ? tf.concat([past.keys, k], 2) : k;
  const values = past ? tf.concat([past.values, v], 2) : v;
  const weights = attentionWeights(q, keys, mask);
  const out = batchMatMul(weights, tf.reshape(values, [batch * g, -1, headSize]) as tf.Tensor3D);
  return { out: mergeHeads(tf.reshape(out, q.shape)), cache: { keys, values } };
}

/** Cross entropy of each row against one target: logits [N, V], targets i32 [N] -> losses [N] in nats and, in the same
 * pass, the gradient softmax(logits) - onehot(targets) [N, V]. No gradient of its own. */
export function softmaxCrossEntropy(
  logits: tf.Tensor2D,
  targets: tf.Tensor1D,
): { losses: tf.Tensor1D; gradient: tf.Tensor2D } {
  if (tf.getBackend() === "tensorflow") {
    const [losses, gradient] = nativeOp("SparseSoftmaxCrossEntropyWithLogits", [logits, targets], 2, {
      T: logits,
      Tlabels: targets,
    });
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

/** Runs a TensorFlow operation that TensorFlow.js has no name for; only on the `tensorflow` engine. `types` gives the
 * tensor whose dtype each type attribute takes. */
export function nativeOp(
  name: string,
  inputs: tf.Tensor[],
  outputs: number,
  types: Record<string, tf.Tensor>,
): tf.Tensor[] {
  const backend = tf.backend() as unknown as {
    binding: Record<string, number>;
    getDTypeInteger(dtype: string): number;
    executeMultipleOutputs(name: string, attributes: unknown[], inputs: tf.Tensor[], count: number): tf.Tensor[];
  };
  const attributes = Object.entries(types).map(([attribute, tensor]) => ({
    name: attribute,
    type: backend.binding.TF_ATTR_TYPE,
    value: backend.getDTypeInteger(tensor.dtype),
  }));
  return backend.executeMultipleOutputs(name, attributes, inputs, outputs);
}
