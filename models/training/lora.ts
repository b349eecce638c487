/** What learns of a decoder while its base stays frozen: low-rank adapters on the linear maps (LoRA: Hu et al. 2021,
 * arXiv:2106.09685), or copies of the linear maps themselves.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { denseMatrix } from "../../core/engine/matrix.ts";
import type { Rng } from "../../core/util/rng.ts";
import { type DecoderConfig, LINEAR_NAMES, type LinearName, linearShape } from "../config.ts";
import type { DecoderModel, DeviceLayer } from "../device.ts";

/** Adapters of a model: `scale (x down) up` is added to every adapted map, or the map is replaced. Free them with
 * {@linkcode disposeAdapters}. */
export interface Adapters {
  /** r; 0 without low-rank updates. */
  rank: number;
  /** Factor of the update: alpha / r. */
  scale: number;
  /** Trained tensors by {@linkcode adapterName}: down [in, r], up [r, out]; weight [in, out]. */
  parameters: Record<string, tf.Variable>;
}

/** Options of {@linkcode createAdapters}. */
export interface AdapterOptions {
  /** r: 8 in LLM-Pruner's recovery. */
  rank: number;
  /** The update is multiplied by alpha / r. */
  alpha: number;
  /** Draws the down matrices. */
  rng: Rng;
}

/** Name of one trained tensor. */
export function adapterName(layer: number, name: LinearName, part: "down" | "up" | "weight"): string {
  return `lora.${layer}.${name}.${part}`;
}

/** New adapters on all linear maps, which change nothing yet: `down` uniform in +-1/sqrt(in), as PEFT draws it, `up` zero. */
export function createAdapters(config: DecoderConfig, { rank, alpha, rng }: AdapterOptions): Adapters {
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

/** Copies of all linear maps of `model` that learn in their place. Embedding and norms stay as they are. */
export function createWeights(model: DecoderModel): Adapters {
  const parameters: Record<string, tf.Variable> = {};
  model.layers.forEach((layer, l) => {
    for (const name of LINEAR_NAMES) {
      parameters[adapterName(l, name, "weight")] = tf.tidy(() => tf.variable(denseMatrix(layer[name].weight)));
    }
  });
  return { rank: 0, scale: 0, parameters };
}

/** `model` with the adapters on: a new record that shares every tensor, so that `model` itself stays as it is. */
export function withAdapters(model: DecoderModel, { parameters, scale }: Adapters): DecoderModel {
  const layers = model.layers.map((dense, l) => {
    const layer: DeviceLayer = { ...dense };
    for (const name of LINEAR_NAMES) {
      const weight = parameters[adapterName(l, name, "weight")];
      if (weight) layer[name] = { ...dense[name], weight: weight as tf.Variable<tf.Rank.R2> };
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
