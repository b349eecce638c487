/** One decoder layer for one new position of each sequence as a single operation that writes the cache in place; only
 * on engines with `decoderOps`.
 *
 * Shape legend: B sequences, D width, G key/value groups, R query heads in each, K head size, F FFN channels, C
 * capacity of the cache in positions.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { KeyValues } from "./attention.ts";
import { type Matrix, storedForm } from "./matrix.ts";
import { decoderOp } from "./native_ops.ts";
import { type Activation, ACTIVATIONS } from "./ops.ts";

/** A linear map: weight [in, out], bias [out]. The weights of a layer are all in one form. */
interface StepLinear {
  weight: Matrix;
  bias?: tf.Tensor1D;
}

type LinearName = "query" | "key" | "value" | "output" | "gate" | "up" | "down";

/** Weights of a layer. Absent norms are skipped. Norms of heads (`queryNorm`, `keyNorm`) are [K], others [D]. */
export interface StepLayer
  extends Record<LinearName, StepLinear>, Partial<Record<typeof OPTIONAL_NORMS[number], tf.Tensor1D>> {
  attentionNorm: tf.Tensor1D;
  ffnNorm: tf.Tensor1D;
}

/** In the order of the operation's inputs; norms of heads are applied before the rotation. */
const OPTIONAL_NORMS = ["queryNorm", "keyNorm", "attentionOutputNorm", "ffnOutputNorm"] as const;

/** Shape and constants of a layer. */
export interface StepShape {
  kvGroups: number;
  queryHeadsPerGroup: number;
  ffnChannels: number;
  normEpsilon: number;
  /** Factor on the scores of attention, such as `1 / sqrt(K)`. */
  scoreScale: number;
  /** Factor on a block's output. */
  residualScale: number;
  activation: Activation;
  /** Visible positions, the token's own included; null: all. */
  window: number | null;
}

/** Inputs of a step besides the layer, and the cache that it writes. */
export interface StepState {
  /** cos and sin of the position's angles, both halves: K values, or equal rows of K. */
  cos: tf.Tensor;
  sin: tf.Tensor;
  /** [B, G, C, K] each; the new keys and values are written to position `held`. No other tensor may share their
   * data. */
  cache: KeyValues;
  /** i32 [1]: occupied positions, less than C. */
  held: tf.Tensor1D;
  /** f32 [0]: the value of absent tensors. */
  nothing: tf.Tensor1D;
}

/** Whether the weights of a layer are in one form. */
export function isOneForm({ query, key, value, output, gate, up, down }: Record<LinearName, StepLinear>): boolean {
  const { format } = storedForm(query.weight);
  return [key, value, output, gate, up, down].every(({ weight }) => storedForm(weight).format === format);
}

/** x [B, D] through a layer -> [B, D].
 * @throws {Error} when the cache is full, or another tensor shares its data and would change with it. */
export function decodeStep(x: tf.Tensor2D, layer: StepLayer, shape: StepShape, state: StepState): tf.Tensor2D {
  const { query, key, value, output, gate, up, down } = layer;
  const linears = [query, key, value, output, gate, up, down];
  const weights = linears.map(({ weight }) => storedForm(weight).tensor);
  const { tensor, format } = storedForm(query.weight);
  const { nothing, cache } = state;
  const { keys, values } = cache;
  if (keys.dataId === values.dataId || [keys, values].some(({ dataId }) => tf.backend().refCount(dataId) !== 1)) {
    throw new Error("The cache is written in place: no other tensor may share its data");
  }
  const inputs = [
    x,
    layer.attentionNorm,
    layer.ffnNorm,
    ...weights,
    ...linears.map(({ bias }) => bias ?? nothing),
    ...OPTIONAL_NORMS.map((name) => layer[name] ?? nothing),
    ...[state.cos, state.sin, keys, values, state.held],
  ];
  return decoderOp("DecodeLayer", inputs, 1, {
    W: { typeOf: tensor },
    format: { integer: format },
    columns: { integer: shape.ffnChannels },
    groups: { integer: shape.kvGroups },
    heads_per_group: { integer: shape.queryHeadsPerGroup },
    epsilon: { float: shape.normEpsilon },
    score_scale: { float: shape.scoreScale },
    residual_scale: { float: shape.residualScale },
    activation: { integer: ACTIVATIONS[shape.activation].number },
    window: { integer: shape.window ?? 0 },
  })[0] as tf.Tensor2D;
}
