/** Size and work of a model, from its configuration alone.
 *
 * @module
 */
import type { ModelSize } from "../core/schema/schema.ts";
import { type DecoderConfig, expectedTensors, isLayerwiseUniform, LINEAR_NAMES, linearShape } from "./config.ts";
import { type LayerShape, queryHeads } from "./units.ts";

const BYTES_F32 = 4;

/** Weights in the linear maps of one layer, biases not counted: `(2 H + 2 G) K D + 3 F D`. */
export function layerParameters(config: DecoderConfig, shape: LayerShape): number {
  return LINEAR_NAMES.reduce((sum, name) => {
    const [out, input] = linearShape(config, shape, name);
    return sum + out * input;
  }, 0);
}

/** Weights in the linear maps of all layers, which can be pruned. `shapes` default to the shapes of `config`. */
export function keptParameters(config: DecoderConfig, shapes: readonly LayerShape[] = config.layers): number {
  return shapes.reduce((sum, shape) => sum + layerParameters(config, shape), 0);
}

/** Every weight of the model: embedding, head unless tied, norms, linear maps and biases. */
export function totalParameters(config: DecoderConfig): number {
  let total = 0;
  for (const shape of expectedTensors(config).values()) total += shape.reduce((a, b) => a * b, 1);
  return total;
}

/** Multiply-accumulates of one layer on one sequence of `tokens` tokens.
 *
 * The convention of LLM-Pruner's published figures (Ma et al. 2023, arXiv:2305.11627, table 3), with grouped keys and
 * values: linear maps `q (2 H + 2 G) K D + 3 q F D`, attention `H (2 q s K + q s)` without causal halving, rotary
 * `4 q H K`, activation `q F`, two norms `4 q D`. Biases and masks are not counted. */
export function layerMacs(config: DecoderConfig, shape: LayerShape, tokens: number): number {
  const { width, headSize } = config;
  const heads = queryHeads(shape);
  return tokens * layerParameters(config, shape) + heads * (2 * tokens * tokens * headSize + tokens * tokens) +
    4 * tokens * heads * headSize + tokens * shape.ffnChannels + 4 * tokens * width;
}

/** Multiply-accumulates of one sequence of `tokens` tokens through the whole model, logits of every position included;
 * see {@linkcode layerMacs}. */
export function modelMacs(config: DecoderConfig, tokens: number): number {
  const { width, vocabSize } = config;
  const layers = config.layers.reduce((sum, shape) => sum + layerMacs(config, shape, tokens), 0);
  return layers + 2 * tokens * width + tokens * width * vocabSize;
}

/** Size and shape of a model for its record; sparsities are against `dense` (0 when absent). */
export function modelSize(config: DecoderConfig, dense: DecoderConfig = config): ModelSize {
  const parameters = totalParameters(config);
  const prunableParameters = keptParameters(config);
  const layerwiseUniform = isLayerwiseUniform(config);
  return {
    parameters,
    prunableParameters,
    macs64: modelMacs(config, 64),
    weightBytes: BYTES_F32 * parameters,
    kvBytesPerToken: config.layers.reduce((sum, { kvGroups }) => sum + 2 * kvGroups * config.headSize * BYTES_F32, 0),
    sparsityOfModel: 1 - parameters / totalParameters(dense),
    sparsityOfPrunable: 1 - prunableParameters / keptParameters(dense),
    layerwiseUniform,
    plainLlama: layerwiseUniform && config.biases.every((name) => dense.biases.includes(name)),
    layers: config.layers.map((shape) => ({ ...shape })),
    ...config.width !== dense.width && { hidden: { kept: config.width, of: dense.width } },
  };
}
