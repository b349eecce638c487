/** Least-squares compensation: changes the output and down maps so that the kept units reproduce the dense output as
 * well as possible.
 *
 * With G = sum over calibration tokens of a a^T (a: input of the map in the dense model), K the kept and R the removed
 * inputs, `W_K += W_R G_RK (G_KK + lambda mean(diag G) I)^-1`: the correction is regularised, not the weight.
 *
 * @module
 */
import { giveWay } from "../../core/engine/give_way.ts";
import { at, lookUp } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { matMul2d } from "../../core/engine/ops.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type DecoderConfig, type HostTensor, tensorNames, WRITING_NAMES } from "../config.ts";
import { forward } from "../decoder.ts";
import type { DecoderModel } from "../device.ts";
import type { ObservedSite } from "../layers.ts";
import { keptLayers, type PrunePlan } from "../plan.ts";
import { hostTensor, keptIndices } from "../surgery.ts";
import { queryHeads } from "../units.ts";
import { windowBatch } from "./batches.ts";
import { readTensors } from "./optimizer.ts";

/** Gram matrices by {@linkcode gramName}: f32 [H K, H K] and [F, F], means over tokens. */
export type Gram = Record<string, HostTensor>;

/** Name of the Gram matrix of one site. */
export function gramName(layer: number, site: ObservedSite): string {
  return `${layer}.${site}.gram`;
}

/** Tokens of all windows.
 * @throws {UsageError} when there are none. */
export function tokensOf(windows: readonly Int32Array[]): number {
  if (windows.length > 0) return windows.reduce((sum, { length }) => sum + length, 0);
  throw new UsageError("Second moments of a map's inputs need calibration data: current 0 windows");
}

/** Gram matrices of the inputs of the output and down maps of the dense model: means over all tokens of `windows`.
 *
 * Cost: one forward pass, and 2 F^2 operations per token and layer; 4 F^2 bytes per layer are kept.
 * @throws {UsageError} when there are no windows. */
export async function gramMatrices(
  model: DecoderModel,
  windows: readonly Int32Array[],
  { report, signal }: { report(message: string): void; signal: AbortSignal },
): Promise<Gram> {
  const tokens = tokensOf(windows);
  const sums = new Map<string, tf.Tensor>();
  try {
    for (const [i, window] of windows.entries()) {
      await giveWay(signal);
      report(`Gram matrices, sequence ${i + 1} of ${windows.length}`);
      const observe = (layer: number, site: ObservedSite, input: tf.Tensor2D) => {
        const name = gramName(layer, site);
        const before = sums.get(name);
        sums.set(
          name,
          tf.keep(tf.tidy(() => {
            const product = tf.mul(matMul2d(input, input, true, false), 1 / tokens);
            return before ? tf.add(before, product) : product;
          })),
        );
        before?.dispose();
      };
      forward(model, windowBatch([window]), { observe }).dispose();
    }
    const names = [...sums.keys()];
    const values = await readTensors([...sums.values()]);
    return Object.fromEntries(
      names.map((
        name,
        i,
      ): [string, HostTensor] => [name, { shape: [...lookUp(sums, name).shape], data: at(values, i) }]),
    );
  } finally {
    tf.dispose([...sums.values()]);
  }
}

/** Relative residual at which a solution is good enough, far below what calibration data determine. */
const TOLERANCE = 1e-5;
const MOST_ITERATIONS = 500;
/** Iterations between two looks at the residual, each of which waits for the device. */
const CHECK_EVERY = 10;

/** Solves `(a + ridge I) x = b` for many right-hand sides by conjugate gradients with the diagonal as preconditioner
 * (Hestenes and Stiefel 1952): a [n, n] symmetric positive semi-definite, b [n, m] -> x [n, m], with the largest
 * relative residual of a column where {@linkcode MOST_ITERATIONS} left one above {@linkcode TOLERANCE}, else 0.
 * Products of whole matrices are what every engine is fast at; factorising in JavaScript takes ten times as long. */
async function solveRidge(
  a: tf.Tensor2D,
  b: tf.Tensor2D,
  ridge: number,
): Promise<{ x: tf.Tensor2D; residual: number }> {
  const n = a.shape[0];
  const inverse = tf.tidy(() => {
    const ones = tf.range(0, n, 1, "int32");
    const diagonal = tf.gatherND(a, tf.stack([ones, ones], 1));
    return tf.reshape(tf.reciprocal(tf.add(diagonal, ridge)), [n, 1]);
  });
  const squares = (x: tf.Tensor) => tf.sum(tf.square(x), 0);
  const goal = tf.tidy(() => tf.mul(squares(b), TOLERANCE ** 2));
  let state = tf.tidy(() => {
    const z = tf.mul(b, inverse);
    return { x: tf.zerosLike(b), r: tf.clone(b), p: z, rz: tf.sum(tf.mul(b, z), 0) as tf.Tensor };
  });
  try {
    for (let i = 0; i < MOST_ITERATIONS; i++) {
      const before = state;
      state = tf.tidy(() => {
        const { x, r, p, rz } = before;
        const ap = tf.add(matMul2d(a, p as tf.Tensor2D), tf.mul(p, ridge));
        // 0 / 0 is 0 here: a column that is solved stays as it is.
        const alpha = tf.divNoNan(rz, tf.sum(tf.mul(p, ap), 0));
        const nextR = tf.sub(r, tf.mul(alpha, ap));
        const z = tf.mul(nextR, inverse);
        const nextRz = tf.sum(tf.mul(nextR, z), 0);
        return {
          x: tf.add(x, tf.mul(alpha, p)) as tf.Tensor2D,
          r: nextR as tf.Tensor2D,
          p: tf.add(z, tf.mul(tf.divNoNan(nextRz, rz), p)) as tf.Tensor2D,
          rz: nextRz,
        };
      });
      tf.dispose(before);
      if (i % CHECK_EVERY !== CHECK_EVERY - 1) continue;
      const open = tf.tidy(() => tf.any(tf.greater(squares(state.r), goal)));
      const [more] = await open.data();
      open.dispose();
      if (!more) return { x: tf.clone(state.x) as tf.Tensor2D, residual: 0 };
    }
    const worst = tf.tidy(() => tf.max(tf.sqrt(tf.divNoNan(squares(state.r), squares(b)))));
    const [residual = NaN] = await worst.data();
    worst.dispose();
    return { x: tf.clone(state.x) as tf.Tensor2D, residual };
  } finally {
    tf.dispose([inverse, goal, state.x, state.r, state.p, state.rz]);
  }
}

/** What the kept input rows of a map gain when the others go: `(G_KK + lambda mean(diag G) I)^-1 G_KR W_R`.
 *
 * weight [in, out], gram f32 [in, in]; the gain is f32 [kept, out]. `residual` is 0 where the system was solved. */
export async function leastSquaresGain(
  weight: tf.Tensor2D,
  gram: Float32Array,
  { kept, lambda }: { kept: readonly number[]; lambda: number },
): Promise<{ gain: Float32Array; residual: number }> {
  const inputs = weight.shape[0];
  const isKept = new Set(kept);
  const removed = Array.from({ length: inputs }, (_, i) => i).filter((i) => !isKept.has(i));
  let trace = 0;
  for (let i = 0; i < inputs; i++) trace += at(gram, i * inputs + i);
  // A floor keeps units that never fire from making the system singular.
  const ridge = Math.max(lambda * trace / inputs, 1e-20);
  const [a, b] = tf.tidy(() => {
    const rows = tf.gather(tf.tensor2d(gram, [inputs, inputs]), tf.tensor1d([...kept], "int32"));
    const lost = tf.gather(weight, tf.tensor1d(removed, "int32"));
    return [
      tf.gather(rows, tf.tensor1d([...kept], "int32"), 1),
      matMul2d(tf.gather(rows, tf.tensor1d(removed, "int32"), 1), lost),
    ];
  });
  const { x, residual } = await solveRidge(a, b, ridge);
  try {
    return { gain: await x.data() as Float32Array, residual };
  } finally {
    tf.dispose([a, b, x]);
  }
}

const LAMBDA = 1e-2;

/** What {@linkcode compensate} and {@linkcode compensatedWeight} are given. */
export interface CompensationOptions {
  /** Tensors that the method gave, in place of the model's. */
  replaced?: Record<string, HostTensor>;
  /** Gets the relative residual of every system that did not converge. */
  onUnsolved?(residual: number): void;
}

/** The weight of a map, `[out, in]`, when the inputs `kept` stay and make up for the others by least squares.
 *
 * It stays as it is where one input that goes has more than half of the second moment: a massive activation at a few
 * tokens (Sun et al. 2024, arXiv:2402.17762). The others would reduce its error at the cost of all other tokens. */
export async function compensatedWeight(
  model: DecoderModel,
  name: string,
  { gram, kept }: { gram: Float32Array; kept: readonly number[] },
  { replaced = {}, onUnsolved = () => {} }: CompensationOptions = {},
): Promise<HostTensor> {
  const { shape, data } = replaced[name] ?? await hostTensor(model, name);
  if (losesMassive(gram, kept)) return { shape, data };
  const weight = tf.tidy(() => tf.transpose(tf.tensor2d(data, shape as [number, number])));
  try {
    const { gain, residual } = await leastSquaresGain(weight, gram, { kept, lambda: LAMBDA });
    if (residual > 0) onUnsolved(residual);
    return { shape, data: gained(data, gain, { inputs: at(shape, 1), kept }) };
  } finally {
    weight.dispose();
  }
}

/** Whether one input of a map that goes has more than half of the second moment: gram [in, in]. */
function losesMassive(gram: Float32Array, kept: readonly number[]): boolean {
  const inputs = Math.sqrt(gram.length);
  const moments = Array.from({ length: inputs }, (_, i) => at(gram, i * (inputs + 1)));
  const largest = moments.indexOf(Math.max(...moments));
  return at(moments, largest) > moments.reduce((sum, moment) => sum + moment, 0) / 2 && !kept.includes(largest);
}

/** Tensors to replace when `plan` is cut out of `model` with compensation: output and down weights, `[out, in]` at
 * dense shape. Those that the method `replaced` are compensated in their turn: merge the result over them. */
export async function compensate(
  model: DecoderModel,
  plan: PrunePlan,
  { gram, report, signal, ...options }: CompensationOptions & {
    gram: Gram;
    report(message: string): void;
    signal: AbortSignal;
  },
): Promise<Record<string, HostTensor>> {
  const result: Record<string, HostTensor> = {};
  for (const l of keptLayers(plan)) {
    await giveWay(signal);
    report(`compensation, layer ${l + 1} of ${plan.layers.length}`);
    for (const site of WRITING_NAMES) {
      const kept = keptIndices(at(plan.layers, l), site, model.config.headSize);
      if (kept.length === siteInputs(model.config, l, site)) continue;
      const own = gram[gramName(l, site)];
      if (!own) throw new RangeError(`There is no Gram matrix of layer ${l}, ${site}`);
      const name = tensorNames.weight(l, site);
      result[name] = await compensatedWeight(model, name, { gram: own.data, kept }, options);
    }
  }
  return result;
}

/** Adds the gain [kept, out] to the kept columns of a weight [out, in]; a new array. */
function gained(
  weight: Float32Array,
  gain: Float32Array,
  { inputs, kept }: { inputs: number; kept: readonly number[] },
): Float32Array {
  const result = weight.slice();
  const outputs = weight.length / inputs;
  kept.forEach((column, i) => {
    gain.subarray(i * outputs, (i + 1) * outputs).forEach((value, row) => {
      const place = row * inputs + column;
      result[place] = (result[place] ?? 0) + value;
    });
  });
  return result;
}

/** Inputs of a map: H K or F. */
export function siteInputs({ layers, headSize }: DecoderConfig, layer: number, site: ObservedSite): number {
  const shape = at(layers, layer);
  return site === "down" ? shape.ffnChannels : queryHeads(shape) * headSize;
}
