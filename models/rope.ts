/** Rotary position embedding: frequencies with their scaling, and the tables of a batch.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { AttentionLayout, RotaryTables } from "../core/attention.ts";
import type { DecoderConfig } from "./config.ts";

/** Rotary frequencies in radians per position: f64 [K / 2]. `llama3` scaling as in Llama 3.1: long wavelengths are
 * divided by the factor, short ones stay, those between are blended. */
export function rotaryFrequencies(config: DecoderConfig): Float64Array {
  const { headSize, ropeBase, ropeScaling } = config;
  return Float64Array.from({ length: headSize / 2 }, (_, i) => {
    const frequency = ropeBase ** (-2 * i / headSize);
    if (!ropeScaling) return frequency;
    if (ropeScaling.type === "linear") return frequency / ropeScaling.factor;
    const { factor, lowFrequencyFactor, highFrequencyFactor, originalMaxPositions } = ropeScaling;
    const wavelength = 2 * Math.PI / frequency;
    if (wavelength < originalMaxPositions / highFrequencyFactor) return frequency;
    if (wavelength > originalMaxPositions / lowFrequencyFactor) return frequency / factor;
    const smooth = (originalMaxPositions / wavelength - lowFrequencyFactor) /
      (highFrequencyFactor - lowFrequencyFactor);
    return (1 - smooth) * frequency / factor + smooth * frequency;
  });
}

/** Tables for rows at `positions` [N]. */
export function rotaryTables(config: DecoderConfig, positions: Int32Array): RotaryTables {
  const { headSize } = config;
  const half = headSize / 2;
  const frequencies = rotaryFrequencies(config);
  const n = positions.length;
  const cos = new Float32Array(n * headSize);
  const sin = new Float32Array(n * headSize);
  for (let row = 0; row < n; row++) {
    for (let i = 0; i < half; i++) {
      const angle = positions[row] * frequencies[i];
      const at = row * headSize + i;
      cos[at] = cos[at + half] = Math.cos(angle);
      sin[at] = sin[at + half] = Math.sin(angle);
    }
  }
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
export function turnMatrices(config: DecoderConfig, position: number): NonNullable<AttentionLayout["turn"]> {
  const { headSize } = config;
  const half = headSize / 2;
  const matrix = new Float32Array(headSize * headSize);
  rotaryFrequencies(config).forEach((frequency, i) => {
    const [cos, sin] = [Math.cos(position * frequency), Math.sin(position * frequency)];
    matrix[i * headSize + i] = matrix[(i + half) * headSize + i + half] = cos;
    matrix[(i + half) * headSize + i] = -sin;
    matrix[i * headSize + i + half] = sin;
  });
  const scale = 1 / Math.sqrt(headSize);
  const shape: [number, number] = [headSize, headSize];
  return { query: tf.tensor2d(matrix.map((x) => x * scale), shape), key: tf.tensor2d(matrix, shape) };
}
