/** Loss and gradients of one batch: the student's pass with adapters and masks on, against tokens and teacher.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../../core/engine/engine.ts";
import { NumericError } from "../../core/util/errors.ts";
import {
  createPass,
  disposePass,
  embed,
  finalStates,
  type PassContext,
  runLayers,
  type TokenBatch,
} from "../layers.ts";
import type { DecoderModel } from "../device.ts";
import type { HiddenMask, LayerMasks } from "../masks.ts";
import { nextTokens, scoredRows, windowBatch } from "./batches.ts";
import { type LossTerms, type LossWeights, vocabularyLoss } from "./loss.ts";
import { flatten } from "./device_optimizer.ts";
import { joinTargets, type TeacherTargets } from "./teacher.ts";

/** What {@linkcode batchGradients} works on. */
export interface BatchGradientOptions {
  /** The model with adapters on, if any; base weights are frozen. */
  model: DecoderModel;
  masks?: LayerMasks[];
  /** Factors of the masks, layer by layer; what has no mask is multiplied by its factor alone. */
  scales?: readonly LayerMasks[];
  hidden?: HiddenMask;
  /** Token windows of one length. */
  windows: readonly Int32Array[];
  /** The teacher's targets of each window. */
  targets?: readonly TeacherTargets[];
  /** The teacher itself; needed when `weights.hidden` is above 0. */
  teacher?: DecoderModel;
  /** For each layer of `model`, the teacher's whose output it is compared with; its own number when absent. */
  teacherLayers?: readonly number[];
  weights: LossWeights;
  /** Tensors that get a gradient, each used by `model`, `masks`, `scales` or `hidden`. */
  variables: readonly tf.Tensor[];
  /** Windows at once; all when absent. The gradient is the same up to rounding, but for the hidden-state term: that one
   * is relative to the states of the windows at once, and the mean of such parts. */
  microBatch?: number;
}

/** Sums of loss terms: cross entropy, distillation, hidden states. */
const TERMS = 3;

/** Hidden states after every layer, or after each of `layers`, [B T, D] each; no gradient. */
function teacherStates(
  teacher: DecoderModel,
  batch: TokenBatch,
  pass: PassContext,
  layers?: readonly number[],
): tf.Tensor2D[] {
  const states: tf.Tensor2D[] = [];
  const own = layers ? createPass(teacher.config, batch) : { ...pass, config: teacher.config };
  const x = embed(teacher, batch.tokens);
  try {
    runLayers(teacher, x, own, { each: (state) => states.push(state) });
  } finally {
    x.dispose();
    if (layers) disposePass(own);
  }
  if (!layers) return states;
  states.forEach((state, l) => layers.includes(l) || state.dispose());
  return layers.map((l) => at(states, l));
}

/** Mean over layers of `mean((student - teacher)^2) / mean(teacher^2)`: scalar. Relative, so that the few layers with
 * huge activations do not drown the others. */
function hiddenError(student: tf.Tensor2D[], teacher: tf.Tensor2D[]): tf.Scalar {
  const errors = student.map((x, l) => {
    const own = at(teacher, l);
    return tf.div(tf.mean(tf.squaredDifference(x, own)), tf.mean(tf.square(own)));
  });
  return tf.div(tf.addN(errors), errors.length);
}

/** Masks times scales, for each layer. */
function scaled(masks: LayerMasks[] | undefined, scales: readonly LayerMasks[]): LayerMasks[] {
  return scales.map((own, l) => {
    const layer: LayerMasks = { ...masks?.[l] };
    for (const field of ["queryHeads", "ffn"] as const) {
      const [mask, scale] = [layer[field], own[field]];
      if (scale) layer[field] = mask ? tf.mul(mask, scale) : scale;
    }
    return layer;
  });
}

/** One micro-batch: sums of CE and KL over rows and mean hidden error, [3], and gradients of its share of the loss. */
function microGradients(
  { model, masks, scales, hidden: hiddenMask, teacher, teacherLayers, weights, variables }: BatchGradientOptions,
  { batch, targets, allRows }: { batch: TokenBatch; targets?: TeacherTargets; allRows: number },
): { sums: tf.Tensor1D; gradients: tf.Tensor[] } {
  const pass = createPass(model.config, batch);
  const share = batch.batch * (batch.length - 1) / allRows;
  const states = weights.hidden > 0 ? teacherStates(teacher!, batch, pass, teacherLayers) : [];
  let terms: tf.Tensor1D | undefined;
  let error: tf.Tensor | undefined;
  const loss = () => {
    const student: tf.Tensor2D[] = [];
    const x = runLayers(model, embed(model, batch.tokens, hiddenMask), pass, {
      masks: scales ? scaled(masks, scales) : masks,
      hidden: hiddenMask,
      ...states.length > 0 && { each: (state) => student.push(state) },
    });
    const hidden = finalStates(model, scoredRows(x, batch), hiddenMask);
    const vocabulary = vocabularyLoss(model, hidden, { ids: nextTokens(batch), teacher: targets }, {
      weights,
      scale: 1 / allRows,
      onTerms: (sums) => terms = sums,
    });
    if (states.length === 0) return vocabulary;
    const relative = hiddenError(student, states);
    error = tf.keep(tf.clone(relative));
    return tf.add(vocabulary, tf.mul(relative, weights.hidden * share)) as tf.Scalar;
  };
  try {
    const { value, grads } = tf.valueAndGrads(loss as (...args: tf.Tensor[]) => tf.Scalar)([...variables]);
    value.dispose();
    const sums = tf.tidy(() => {
      const relative = error ? tf.mul(error, share) : tf.scalar(0);
      return tf.concat1d([terms!, tf.reshape(relative, [1])]);
    });
    return { sums, gradients: grads };
  } finally {
    disposePass(pass);
    tf.dispose([...states, ...terms ? [terms] : [], ...error ? [error] : []]);
  }
}

/** Sums of loss terms over a whole batch as one loss. */
function lossTerms(sums: ArrayLike<number>, weights: LossWeights, allRows: number): LossTerms {
  const [crossEntropy, distillation, hidden] = [at(sums, 0) / allRows, at(sums, 1) / allRows, at(sums, 2)];
  const total = weights.crossEntropy * crossEntropy + weights.distillation * weights.temperature ** 2 * distillation +
    weights.hidden * hidden;
  if (!Number.isFinite(total)) throw new NumericError(`The training loss is ${total}`);
  return { total, crossEntropy, distillation, hidden };
}

/** Micro-batches of a batch with their targets. */
function* microBatches({ windows, targets, microBatch = windows.length }: BatchGradientOptions) {
  for (let start = 0; start < windows.length; start += microBatch) {
    yield {
      batch: windowBatch(windows.slice(start, start + microBatch)),
      targets: targets && joinTargets(targets.slice(start, start + microBatch)),
    };
  }
}

/** As {@linkcode batchGradients}, but only the gradients of the first `read` variables come to the host, in one read
 * with the loss terms. `rest` has the other gradients, concatenated on the device, [n], to be freed by the caller;
 * `norm` is their global norm.
 * @throws {NumericError} when the loss is not finite.
 * @throws {EngineError} when the device reported an error. */
export async function deviceGradients(
  options: BatchGradientOptions,
  read: number,
): Promise<{ terms: LossTerms; gradients: Float32Array[]; rest: tf.Tensor1D; norm: number }> {
  const { windows, weights, variables } = options;
  const allRows = windows.reduce((sum, { length }) => sum + length - 1, 0);
  let whole: tf.Tensor1D | undefined;
  for (const micro of microBatches(options)) {
    const { sums, gradients } = microGradients(options, { ...micro, allRows });
    if (gradients.length !== variables.length) throw new RangeError("A gradient is missing");
    const before = whole;
    whole = tf.tidy(() => {
      const own = flatten([sums, ...gradients]);
      return before ? tf.add(before, own) : tf.clone(own);
    });
    tf.dispose([sums, ...gradients, ...before ? [before] : []]);
  }
  if (!whole) throw new RangeError("A batch must have a window");
  const all = whole;
  const sizes = variables.slice(0, read).map(({ size }) => size);
  const place = TERMS + sizes.reduce((sum, size) => sum + size, 0);
  const rest = tf.slice(all, place, all.size - place);
  // Not every engine can sum nothing.
  const square = () => rest.size === 0 ? tf.zeros([1]) : tf.reshape(tf.sum(tf.square(rest)), [1]);
  const known = tf.tidy(() => tf.concat1d([tf.slice(all, 0, place), square() as tf.Tensor1D]));
  try {
    const values = await known.data() as Float32Array;
    currentEngine().check();
    let start = TERMS;
    const gradients = sizes.map((size) => values.slice(start, start += size));
    return { terms: lossTerms(values, weights, allRows), gradients, rest, norm: Math.sqrt(at(values, place)) };
  } catch (error) {
    rest.dispose();
    throw error;
  } finally {
    tf.dispose([known, all]);
  }
}

/** Loss terms of a batch, means over all its scored tokens, and the gradient to each of `variables`, f32 in its size.
 * @throws {NumericError} when the loss is not finite.
 * @throws {EngineError} when the device reported an error. */
export async function batchGradients(
  options: BatchGradientOptions,
): Promise<{ terms: LossTerms; gradients: Float32Array[] }> {
  const { terms, gradients, rest } = await deviceGradients(options, options.variables.length);
  rest.dispose();
  return { terms, gradients };
}
