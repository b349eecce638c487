/** Trained parameters of a decoder with frozen weights: low-rank adapters on the linear maps (LoRA: Hu et al. 2021,
 * arXiv:2106.09685), and scales, one number per FFN channel and query head.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { Rng } from "../../core/util/rng.ts";
import { type DecoderConfig, LINEAR_NAMES, type LinearName, linearShape } from "../config.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import type { DecoderModel, DeviceLayer } from "../device.ts";
import { unitCount } from "../units.ts";

/** Adapters of a model: `scale (x down) up` is added to every adapted map. Free them with
 * {@linkcode disposeAdapters}. */
export interface Adapters {
  /** r; 0 without low-rank updates. */
  rank: number;
  /** Factor of the update: alpha / r. */
  scale: number;
  /** Trained tensors by {@linkcode adapterName}: down [in, r], up [r, out]. */
  parameters: Record<string, tf.Variable>;
}

/** Name of one trained tensor. */
export function adapterName(layer: number, name: LinearName, part: "down" | "up"): string {
  return `lora.${layer}.${name}.${part}`;
}

/** New adapters on all linear maps, which change nothing yet: `down` uniform in +-1/sqrt(in), as PEFT draws it, `up`
 * zero. */
export function createAdapters(
  config: DecoderConfig,
  { rank, alpha, rng }: { rank: number; alpha: number; rng: Rng },
): Adapters {
  const parameters: Record<string, tf.Variable> = {};
  config.layers.forEach((shape, layer) => {
    for (const name of LINEAR_NAMES) {
      const [output, input] = linearShape(config, shape, name);
      const bound = 1 / Math.sqrt(input);
      const down = Float32Array.from({ length: input * rank }, () => bound * (2 * rng.uniform() - 1));
      parameters[adapterName(layer, name, "down")] = tf.tidy(() => tf.variable(tf.tensor2d(down, [input, rank])));
      parameters[adapterName(layer, name, "up")] = tf.tidy(() => tf.variable(tf.zeros([rank, output])));
    }
  });
  return { rank, scale: alpha / rank, parameters };
}

/** Unit types that have scales. */
export const SCALED_TYPES = ["ffn", "query-heads"] as const satisfies UnitType[];

/** Name of the scales of one layer and unit type. */
export function scaleName(layer: number, type: UnitType): string {
  return `scale.${layer}.${type}`;
}

/** New scales by {@linkcode scaleName}, all 1: [F] and [H] of every layer. */
export function createScales({ layers }: DecoderConfig): Record<string, tf.Variable> {
  const scales: Record<string, tf.Variable> = {};
  layers.forEach((shape, l) => {
    for (const type of SCALED_TYPES) {
      scales[scaleName(l, type)] = tf.tidy(() => tf.variable(tf.ones([unitCount(shape, type)])));
    }
  });
  return scales;
}

/** `model` with the adapters on: a new record that shares every tensor, so that `model` itself stays as it is. */
export function withAdapters(model: DecoderModel, { parameters, scale }: Adapters): DecoderModel {
  const layers = model.layers.map((dense, l) => {
    const layer: DeviceLayer = { ...dense };
    for (const name of LINEAR_NAMES) {
      const down = parameters[adapterName(l, name, "down")];
      if (!down) continue;
      const up = parameters[adapterName(l, name, "up")];
      layer[name] = {
        ...dense[name],
        lora: { down: down as tf.Variable<tf.Rank.R2>, up: up as tf.Variable<tf.Rank.R2>, scale },
      };
    }
    return layer;
  });
  return { ...model, layers };
}

/** Frees the trained tensors. */
export function disposeAdapters({ parameters }: Adapters): void {
  tf.dispose(Object.values(parameters));
}
