/** AdamW over named variables: groups with rates and schedules of their own, clipping by the global norm, and a
 * state that can be stored and restored.
 *
 * On a CPU the arithmetic runs on the host: one pass over all values in JavaScript is fast, and the moments are plain
 * arrays on every engine. On a GPU (`Engine.stepsOnDevice`) it runs on the device, see `device_optimizer.ts`.
 *
 * @module
 */
import { at, lookUp } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../../core/engine/engine.ts";
import { NumericError } from "../../core/util/errors.ts";
import type { HostTensor } from "../config.ts";

/** AdamW without weight decay, which is Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1). */
export interface AdamW {
  /** Decay of the first and second moment; (0.9, 0.999) by default. */
  betas?: [number, number];
  /** Added to the root of the second moment; 1e-8 by default. */
  epsilon?: number;
}

/** Course of a learning rate: a linear warm-up, then half a cosine. */
export interface Schedule {
  /** Steps of the warm-up; step 0 already moves. 0 by default. */
  warmupSteps?: number;
  /** Steps of the whole course, after which the rate stays. */
  totalSteps: number;
  /** Fraction of the peak reached at the end; 0 by default. */
  finalFraction?: number;
}

/** Moments of one parameter, each of its size. */
export type Moments = {
  /** Running mean of the gradient. */
  first: Float32Array;
  /** Running mean of its square. */
  second: Float32Array;
};

/** Parameters that share a rule, a rate and a schedule. */
export interface ParameterGroup {
  name: string;
  rule: AdamW;
  /** Peak learning rate. */
  learningRate: number;
  /** Constant by default. */
  schedule?: Schedule;
  /** Trained tensors by name; names are unique over all groups. They are changed in place and stay the caller's. */
  parameters: Record<string, tf.Variable>;
}

/** Moments of a group on the device, all of its parameters in order: [n] each. */
export interface DeviceMoments {
  first: tf.Tensor1D;
  second: tf.Tensor1D;
}

/** An optimiser and its state. Free the tensors of `device` with `forgetDevice`. */
export interface Optimizer {
  groups: ParameterGroup[];
  step: number;
  /** Largest global norm of the gradient; `Infinity` leaves it alone. */
  clipNorm: number;
  /** Moments by parameter name; those in `device` are newer. */
  moments: Map<string, Moments>;
  /** Moments by group, after steps on the device. */
  device: Map<string, DeviceMoments>;
}

/** State of an optimiser in host memory. */
export interface OptimizerState {
  step: number;
  /** Moments by `<parameter>/first` and `<parameter>/second`, each in the parameter's shape. */
  tensors: Map<string, HostTensor>;
}

/** Learning rate at `step` (from 0) as a fraction of the peak. */
export function scheduleFactor(schedule: Schedule, step: number): number {
  const { warmupSteps = 0, totalSteps, finalFraction = 0 } = schedule;
  if (step < warmupSteps) return (step + 1) / warmupSteps;
  // The last step of the course, totalSteps - 1, has the final fraction.
  const done = Math.min(1, (step - warmupSteps) / Math.max(1, totalSteps - 1 - warmupSteps));
  return finalFraction + (1 - finalFraction) * 0.5 * (1 + Math.cos(Math.PI * done));
}

/** Zero moments for `size` values. */
export function createMoments(size: number): Moments {
  return { first: new Float32Array(size), second: new Float32Array(size) };
}

/** What one step needs besides the values. */
export interface StepOptions {
  rule: AdamW;
  rate: number;
  /** Steps done before this one. */
  step: number;
  /** The gradient is multiplied by this first; 1 by default. */
  gradientScale?: number;
}

/** Values after one step along `gradient`, a new array; `moments` moves. */
export function stepValues(
  values: Float32Array,
  gradient: Float32Array,
  moments: Moments,
  { rule, rate, step, gradientScale = 1 }: StepOptions,
): Float32Array {
  const result = new Float32Array(values.length);
  const { first, second } = moments;
  const { betas: [beta1, beta2] = [0.9, 0.999], epsilon = 1e-8 } = rule;
  const size = rate / (1 - beta1 ** (step + 1));
  const rootScale = 1 / Math.sqrt(1 - beta2 ** (step + 1));
  for (let i = 0; i < values.length; i++) {
    const g = gradientScale * (gradient[i] ?? NaN);
    const m = first[i] = beta1 * (first[i] ?? NaN) + (1 - beta1) * g;
    const v = second[i] = beta2 * (second[i] ?? NaN) + (1 - beta2) * g * g;
    result[i] = (values[i] ?? NaN) - size * m / (Math.sqrt(v) * rootScale + epsilon);
  }
  return result;
}

/** An optimiser with zero moments; all parameters have names of their own. */
export function createOptimizer(
  { groups, clipNorm = Infinity }: { groups: ParameterGroup[]; clipNorm?: number },
): Optimizer {
  const moments = new Map<string, Moments>();
  for (const { parameters } of groups) {
    for (const [name, { size }] of Object.entries(parameters)) {
      moments.set(name, createMoments(size));
    }
  }
  return { groups, step: 0, clipNorm, moments, device: new Map() };
}

/** Values of many f32 tensors in host memory; the arrays must not be changed. */
export async function readTensors(tensors: tf.Tensor[]): Promise<Float32Array[]> {
  // Each read of a WebGPU buffer waits for the queue, so all are joined into one.
  if (!currentEngine().readsWaitForQueue || tensors.length < 2) {
    return await Promise.all(tensors.map((tensor) => tensor.data() as Promise<Float32Array>));
  }
  const joined = tf.tidy(() => tf.concat1d(tensors.map((tensor) => tf.reshape(tensor, [tensor.size]) as tf.Tensor1D)));
  const data = await joined.data() as Float32Array;
  joined.dispose();
  let start = 0;
  return tensors.map(({ size }) => data.subarray(start, start += size));
}

/** Variables in host memory, by name. */
export async function readVariables(variables: Record<string, tf.Variable>): Promise<Record<string, HostTensor>> {
  const values = await readTensors(Object.values(variables));
  return Object.fromEntries(
    Object.entries(variables).map(([name, { shape }], i) => [name, { shape: [...shape], data: at(values, i) }]),
  );
}

/** Gives `variable` the values `data`, which must not be changed afterwards. */
export function writeVariable(variable: tf.Variable, data: Float32Array): void {
  tf.tidy(() => variable.assign(tf.tensor(data, variable.shape)));
}

/** Norm of all gradients together, in f64. */
export function globalNorm(gradients: Float32Array[]): number {
  let sum = 0;
  for (const gradient of gradients) for (const value of gradient) sum += value * value;
  return Math.sqrt(sum);
}

/** Refuses the gradients of `step` whose global norm is `norm`.
 * @throws {NumericError} unless that is finite. */
export function checkNorm(norm: number, step: number): void {
  if (!Number.isFinite(norm)) throw new NumericError(`The gradient's norm is ${norm} at step ${step}`);
}

/** Does one step: moves every parameter along its gradient, f32 of its size, and gives the global norm of all gradients
 * before clipping.
 * @throws {RangeError} when a gradient is missing.
 * @throws {NumericError} when the norm is not finite; the parameters have not moved then. */
export async function stepParameters(optimizer: Optimizer, gradients: Record<string, Float32Array>): Promise<number> {
  const { groups, clipNorm, step, moments } = optimizer;
  const entries = groups.flatMap((group) =>
    Object.entries(group.parameters).map(([name, variable]) => ({ group, name, variable }))
  );
  const slopes = entries.map(({ name }) => {
    if (!gradients[name]) throw new RangeError(`Parameter "${name}" has no gradient`);
    return gradients[name];
  });
  const norm = globalNorm(slopes);
  checkNorm(norm, step);
  const gradientScale = norm > clipNorm ? clipNorm / norm : 1;
  const values = await readTensors(entries.map(({ variable }) => variable));
  entries.forEach(({ group: { rule, learningRate, schedule }, name, variable }, i) => {
    const rate = learningRate * (schedule ? scheduleFactor(schedule, step) : 1);
    writeVariable(
      variable,
      stepValues(at(values, i), at(slopes, i), lookUp(moments, name), { rule, rate, step, gradientScale }),
    );
  });
  optimizer.step++;
  return norm;
}

/** Copies the state; what the device has must have been fetched. */
export function exportOptimizer({ groups, step, moments }: Optimizer): OptimizerState {
  const tensors = new Map<string, HostTensor>();
  for (const { parameters } of groups) {
    for (const [name, { shape }] of Object.entries(parameters)) {
      for (const [moment, data] of Object.entries(lookUp(moments, name))) {
        tensors.set(`${name}/${moment}`, { shape: [...shape], data: data.slice() });
      }
    }
  }
  return { step, tensors };
}

/** Restores a state made by {@linkcode exportOptimizer} with the same groups, before the first step. */
export function importOptimizer(optimizer: Optimizer, state: OptimizerState): void {
  for (const [name, moments] of optimizer.moments) {
    for (const [moment, data] of Object.entries(moments)) data.set(lookUp(state.tensors, `${name}/${moment}`).data);
  }
  optimizer.step = state.step;
}
