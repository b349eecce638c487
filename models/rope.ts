/** Rotary position embedding: frequencies with their scaling, and the tables of a batch.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { AttentionLayout, RotaryTables } from "../core/engine/attention.ts";
import { at } from "../core/util/indexing.ts";
import type { Rope, RopeScaling } from "./config.ts";

type Scaled<Type extends RopeScaling["type"]> = RopeScaling & { type: Type };

/** Llama 3.1: low frequencies are divided by the factor, high frequencies are unchanged, those between are blended. */
function byWavelength(frequency: number, scaling: Scaled<"llama3">): number {
  const { factor, lowFrequencyFactor, highFrequencyFactor, originalMaxPositions } = scaling;
  const wavelength = 2 * Math.PI / frequency;
  if (wavelength < originalMaxPositions / highFrequencyFactor) return frequency;
  if (wavelength > originalMaxPositions / lowFrequencyFactor) return frequency / factor;
  const smooth = (originalMaxPositions / wavelength - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

/** YaRN (Peng et al. 2023, arXiv:2309.00071): high frequencies are unchanged, low frequencies are divided by the
 * factor, with a ramp between. */
function yarn(plain: Float64Array, base: number, scaling: Scaled<"yarn">): Float64Array {
  const { factor, originalMaxPositions, betaFast, betaSlow, truncate } = scaling;
  const pairs = plain.length;
  const pairOf = (turns: number) => pairs * Math.log(originalMaxPositions / (turns * 2 * Math.PI)) / Math.log(base);
  const [from, to] = truncate
    ? [Math.floor(pairOf(betaFast)), Math.ceil(pairOf(betaSlow))]
    : [pairOf(betaFast), pairOf(betaSlow)];
  const low = Math.max(from, 0);
  const high = Math.min(to, 2 * pairs - 1);
  // A ramp of no length is a step.
  const length = high === low ? 0.001 : high - low;
  return plain.map((frequency, i) => {
    const seldom = Math.min(1, Math.max(0, (i - low) / length));
    return frequency / factor * seldom + frequency * (1 - seldom);
  });
}

/** The factor on cosines and sines for a YaRN factor, unless a file gives another. */
export const yarnMagnitude = (factor: number): number => factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1;

/** Frequencies of a rotation for sequences of `length` positions, in radians per position: f64 [K / 2], all 0 where
 * `rope` is null. `magnitude` is the factor on cosines and sines, 1 except for YaRN. */
export function rotaryFrequencies(
  headSize: number,
  rope: Rope | null,
  length = 0,
): { frequencies: Float64Array; magnitude: number } {
  const pairs = headSize / 2;
  if (!rope) return { frequencies: new Float64Array(pairs), magnitude: 1 };
  const { scaling } = rope;
  const plainAt = (base: number) => Float64Array.from({ length: pairs }, (_, i) => base ** (-i / pairs));
  const plain = plainAt(rope.base);
  switch (scaling?.type) {
    case undefined:
      return { frequencies: plain, magnitude: 1 };
    case "linear":
      return { frequencies: plain.map((frequency) => frequency / scaling.factor), magnitude: 1 };
    case "llama3":
      return { frequencies: plain.map((frequency) => byWavelength(frequency, scaling)), magnitude: 1 };
    case "dynamic": {
      // The base grows with sequences that are longer than the original positions.
      const { factor, originalMaxPositions } = scaling;
      const stretch = factor * Math.max(length, originalMaxPositions) / originalMaxPositions - (factor - 1);
      return { frequencies: plainAt(rope.base * stretch ** (headSize / (headSize - 2))), magnitude: 1 };
    }
    case "yarn":
      return { frequencies: yarn(plain, rope.base, scaling), magnitude: scaling.magnitude };
  }
}

/** The divisor of each rotary frequency, f32 [K / 2], as GGUF files store `llama3` scaling. */
export function frequencyDivisors(headSize: number, rope: Rope): Float32Array {
  const plain = rotaryFrequencies(headSize, { base: rope.base }).frequencies;
  const { frequencies } = rotaryFrequencies(headSize, rope);
  return Float32Array.from(plain, (frequency, i) => frequency / at(frequencies, i));
}

/** cos and sin of the angles at `positions` [N], both halves: [N K] each. */
export function rotation(
  headSize: number,
  rope: Rope | null,
  positions: Int32Array,
): { cos: Float32Array; sin: Float32Array } {
  const half = headSize / 2;
  const length = positions.reduce((max, position) => Math.max(max, position), 0) + 1;
  const { frequencies, magnitude } = rotaryFrequencies(headSize, rope, length);
  const cos = new Float32Array(positions.length * headSize);
  const sin = new Float32Array(cos.length);
  for (const [row, position] of positions.entries()) {
    for (const [i, frequency] of frequencies.entries()) {
      const place = row * headSize + i;
      cos[place] = cos[place + half] = magnitude * Math.cos(position * frequency);
      sin[place] = sin[place + half] = magnitude * Math.sin(position * frequency);
    }
  }
  return { cos, sin };
}

/** Tables for rows at `positions` [N]. */
export function rotaryTables(headSize: number, rope: Rope | null, positions: Int32Array): RotaryTables {
  const [half, n] = [headSize / 2, positions.length];
  const { cos, sin } = rotation(headSize, rope, positions);
  const rotate = new Float32Array(headSize * headSize);
  for (let i = 0; i < half; i++) {
    rotate[(i + half) * headSize + i] = -1;
    rotate[i * headSize + i + half] = 1;
  }
  return {
    cos: tf.tensor3d(cos, [n, 1, headSize]),
    sin: tf.tensor3d(sin, [n, 1, headSize]),
    rotate: tf.tensor2d(rotate, [headSize, headSize]),
  };
}

/** The rotation of one position as matrices, see {@linkcode AttentionLayout.turn}. */
export function turnMatrices(
  headSize: number,
  rope: Rope | null,
  position: number,
): NonNullable<AttentionLayout["turn"]> {
  const half = headSize / 2;
  const matrix = new Float32Array(headSize * headSize);
  const { cos, sin } = rotation(headSize, rope, Int32Array.of(position));
  for (let i = 0; i < half; i++) {
    matrix[i * headSize + i] = matrix[(i + half) * headSize + i + half] = at(cos, i);
    matrix[(i + half) * headSize + i] = -at(sin, i);
    matrix[i * headSize + i + half] = at(sin, i);
  }
  const scale = 1 / Math.sqrt(headSize);
  const shape: [number, number] = [headSize, headSize];
  return { query: tf.tensor2d(matrix.map((x) => x * scale), shape), key: tf.tensor2d(matrix, shape) };
}
