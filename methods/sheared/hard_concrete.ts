/** Hard-concrete masks and the Lagrangian towards a target shape, as Sheared LLaMA's code has them.
 *
 * Paper: Xia et al. 2024, arXiv:2310.06694; masks after Louizos et al. 2018, arXiv:1712.01312. Constants are those of
 * the code (princeton-nlp/LLM-Shearing b87218b); the paper's appendix names the temperature 0.83, the code has 2/3.
 * Plain arrays: a is log-alpha, one number per unit.
 *
 * @module
 */
import type { Rng } from "../../core/util/rng.ts";

/** Constants of the distribution. */
export const HARD_CONCRETE = {
  /** gamma and zeta: the interval that samples are stretched to before they are cut to [0, 1]. */
  lower: -0.1,
  upper: 1.1,
  /** beta. */
  temperature: 2 / 3,
  /** Bound of the uniform noise and of probabilities. */
  epsilon: 1e-6,
  /** log-alpha is kept in [log 0.01, log 100]. */
  least: Math.log(0.01),
  most: Math.log(100),
  /** Factor of the deterministic mask. */
  evaluationFactor: 0.8,
  /** First log-alphas: normal with this mean and deviation, then clamped, which ties them all. */
  initialMean: 5,
  initialDeviation: 0.01,
} as const;

const { lower, upper, temperature, epsilon, least, most, evaluationFactor } = HARD_CONCRETE;
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const clamp = (x: number, low: number, high: number) => Math.max(low, Math.min(high, x));

/** Keeps log-alpha in its range; a new array. */
export function clampLogAlpha(a: Float32Array): Float32Array {
  return a.map((value) => clamp(value, least, most));
}

/** Probability that a mask is above 0: `1 - sigmoid(beta log(-gamma / zeta) - a)`. */
export function openProbability(a: number): number {
  return 1 - clamp(sigmoid(temperature * Math.log(-lower / upper) - a), epsilon, 1 - epsilon);
}

/** A draw of the masks and its slope in log-alpha, 0 where the mask is cut to 0 or 1. */
export function sampleMasks(a: Float32Array, rng: Rng): { masks: Float32Array; slopes: Float32Array } {
  const masks = new Float32Array(a.length);
  const slopes = new Float32Array(a.length);
  for (const [i, value] of a.entries()) {
    const u = epsilon + (1 - 2 * epsilon) * rng.uniform();
    const s = sigmoid((Math.log(u) - Math.log(1 - u) + value) / temperature);
    const stretched = s * (upper - lower) + lower;
    masks[i] = clamp(stretched, 0, 1);
    if (stretched > 0 && stretched < 1) slopes[i] = s * (1 - s) * (upper - lower) / temperature;
  }
  return { masks, slopes };
}

/** Deterministic soft mask: `sigmoid(0.8 a / beta)`. */
export function softMask(a: number): number {
  return sigmoid(evaluationFactor * a / temperature);
}

/** Expected fraction of masks that are 0, from the distribution and not from samples. */
export function expectedSparsity(a: Float32Array): number {
  let open = 0;
  for (const value of a) open += openProbability(value);
  return 1 - open / a.length;
}

/** Multipliers of one granularity, shared by all layers. */
interface Multipliers {
  /** lambda1. */
  linear: number;
  /** lambda2. */
  quadratic: number;
}

/** What the Lagrangian of one granularity gives. */
interface Lagrangian {
  /** Mean over rows of `lambda1 (s - t) + lambda2 (s - t)^2`. */
  value: number;
  /** Slopes in log-alpha, one array per row. */
  slopes: Float32Array[];
  /** Slopes in the multipliers, which ascend. */
  multipliers: Multipliers;
  /** Largest |s - t| of a row. */
  gap: number;
}

/** The Lagrangian of one granularity: `rows` are the log-alphas of each layer, `target` the wanted sparsity t. */
export function lagrangian(
  rows: readonly Float32Array[],
  target: number,
  { linear, quadratic }: Multipliers,
): Lagrangian {
  const count = rows.length;
  const result: Lagrangian = { value: 0, slopes: [], multipliers: { linear: 0, quadratic: 0 }, gap: 0 };
  for (const a of rows) {
    const excess = expectedSparsity(a) - target;
    result.value += (linear * excess + quadratic * excess * excess) / count;
    result.multipliers.linear += excess / count;
    result.multipliers.quadratic += excess * excess / count;
    result.gap = Math.max(result.gap, Math.abs(excess));
    const pull = (linear + 2 * quadratic * excess) / count;
    result.slopes.push(a.map((value) => {
      const p = openProbability(value);
      return -pull * p * (1 - p) / a.length;
    }));
  }
  return result;
}
