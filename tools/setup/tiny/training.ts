/** Trains a decoder from scratch, all weights, on an endless stream of token rows.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { denseMatrix, type Matrix } from "../../../core/engine/matrix.ts";
import { at } from "../../../core/util/indexing.ts";
import { softmaxCrossEntropy, withGradient } from "../../../core/engine/ops.ts";
import { createRng } from "../../../core/util/rng.ts";
import {
  type DecoderConfig,
  expectedTensors,
  type HostTensor,
  LINEAR_NAMES,
  memorySource,
  tensorNames,
} from "../../../models/config.ts";
import { type DecoderModel, forward, logits, uploadModel } from "../../../models/decoder.ts";
import { applyGradients, createOptimizer } from "../../../models/training/optimizer.ts";

/** Random weights: normal with standard deviation 0.02, smaller for the maps that write to the residual stream (GPT-2's
 * rule, 1 / sqrt(2 L)); norms are 1. */
export function initialTensors(config: DecoderConfig, seed: number): Map<string, HostTensor> {
  const tensors = new Map<string, HostTensor>();
  for (const [name, shape] of expectedTensors(config)) {
    const rng = createRng(seed, `tiny/init/${name}`);
    const writes = /\.(o_proj|down_proj)\.weight$/.test(name);
    const sd = writes ? 0.02 / Math.sqrt(2 * config.layers.length) : 0.02;
    const size = shape.reduce((product, length) => product * length, 1);
    const data = shape.length === 1
      ? new Float32Array(size).fill(1)
      : Float32Array.from({ length: size }, () => sd * rng.normal());
    tensors.set(name, { shape, data });
  }
  return tensors;
}

/** A model of variables, by Hugging Face name. */
async function trainableModel(
  config: DecoderConfig,
  tensors: Map<string, HostTensor>,
): Promise<{ model: DecoderModel; variables: Record<string, tf.Variable> }> {
  const model = await uploadModel(memorySource(config, tensors));
  const variables: Record<string, tf.Variable> = {};
  function variable<T extends tf.Tensor>(name: string, tensor: T): T {
    variables[name] = tf.variable(tensor, true, name);
    tensor.dispose();
    return variables[name] as unknown as T;
  }
  const matrix = (name: string, held: Matrix) => {
    const dense = denseMatrix(held);
    held.dispose();
    return variable(name, dense);
  };
  model.embedding = [matrix(tensorNames.embedding, at(model.embedding, 0))];
  model.finalNorm = variable(tensorNames.finalNorm, model.finalNorm);
  if (model.head) model.head = [matrix(tensorNames.head, at(model.head, 0))];
  model.layers.forEach((layer, l) => {
    layer.attentionNorm = variable(tensorNames.attentionNorm(l), layer.attentionNorm);
    layer.ffnNorm = variable(tensorNames.ffnNorm(l), layer.ffnNorm);
    for (const name of LINEAR_NAMES) layer[name].weight = matrix(tensorNames.weight(l, name), layer[name].weight);
  });
  return { model, variables };
}

/** Mean cross entropy of logits [N, V] against targets [N]: a scalar in nats. */
function meanCrossEntropy(scores: tf.Tensor2D, targets: tf.Tensor1D): tf.Scalar {
  return withGradient(
    { scores },
    () => {
      const { losses, gradient } = softmaxCrossEntropy(scores, targets);
      return { out: tf.mean(losses), saved: [gradient] };
    },
    (dy, [gradient]) => ({ scores: () => tf.mul(gradient, tf.div(dy, targets.size)) }),
  ) as tf.Scalar;
}

/** Rows of token ids, each one longer than the model sees: the last `length` of each are the targets. */
export interface TrainingBatch {
  /** i32 [rows (length + 1)], row-major. */
  tokens: Int32Array;
  rows: number;
  length: number;
}

/** Options of {@linkcode trainFromScratch}. */
export interface TrainingOptions {
  config: DecoderConfig;
  seed: number;
  steps: number;
  learningRate: number;
  warmupSteps: number;
  weightDecay: number;
  /** The rows of step `step`. */
  batch(step: number): TrainingBatch;
  /** Called after each step; `loss` in nats per token. */
  report(step: number, loss: number, gradientNorm: number): void;
}

/** One row of `length + 1` ids as inputs and targets. */
function shifted({ tokens, rows, length }: TrainingBatch): { inputs: Int32Array; targets: Int32Array } {
  const [inputs, targets] = [new Int32Array(rows * length), new Int32Array(rows * length)];
  for (let row = 0; row < rows; row++) {
    const start = row * (length + 1);
    inputs.set(tokens.subarray(start, start + length), row * length);
    targets.set(tokens.subarray(start + 1, start + 1 + length), row * length);
  }
  return { inputs, targets };
}

/** Trains with AdamW (betas 0.9 and 0.98, decay on matrices only), linear warm-up, cosine decay to 2 %, and clipping at
 * norm 1. Needs an engine with the gradient of `gather`: `tensorflow`.
 * @returns the trained tensors by Hugging Face name, `[out, in]`. */
export async function trainFromScratch(options: TrainingOptions): Promise<Map<string, HostTensor>> {
  const { config, seed, steps, learningRate, warmupSteps, weightDecay } = options;
  const { model, variables } = await trainableModel(config, initialTensors(config, seed));
  const schedule = { warmupSteps, totalSteps: steps, finalFraction: 0.02 } as const;
  const group = (name: string, rank: number, decay: number) => ({
    name,
    rule: { betas: [0.9, 0.98], weightDecay: decay } as const,
    learningRate,
    schedule,
    parameters: Object.fromEntries(Object.entries(variables).filter(([, variable]) => variable.rank === rank)),
  });
  const optimizer = createOptimizer({
    groups: [group("matrices", 2, weightDecay), group("norms", 1, 0)] as Parameters<
      typeof createOptimizer
    >[0]["groups"],
    clipNorm: 1,
  });
  for (let step = 0; step < steps; step++) {
    const batch = options.batch(step);
    const { inputs, targets } = shifted(batch);
    const target = tf.tensor1d(targets, "int32");
    const { value, grads } = tf.variableGrads(() => {
      const hidden = forward(model, { tokens: inputs, batch: batch.rows, length: batch.length });
      return meanCrossEntropy(logits(model, hidden), target);
    }, Object.values(variables));
    const norm = await applyGradients(optimizer, grads);
    options.report(step, at(await value.data(), 0), norm);
    tf.dispose([value, target, ...Object.values(grads)]);
  }
  const trained = new Map<string, HostTensor>();
  for (const [name, variable] of Object.entries(variables)) {
    // Linear maps are [in, out] on the device and [out, in] in a checkpoint; the embedding is [V, D] in both.
    const isLinear = variable.rank === 2 && name !== tensorNames.embedding;
    const tensor = isLinear ? tf.transpose(variable) : variable;
    trained.set(name, { shape: tensor.shape, data: (await tensor.data() as Float32Array).slice() });
    if (isLinear) tensor.dispose();
  }
  tf.dispose(Object.values(variables));
  return trained;
}
