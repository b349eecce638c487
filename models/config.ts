/** A LLaMA-family decoder: its configuration, the names of its tensors, and the source of its weights.
 *
 * Shape legend of the project: B batch, T tokens, D width (hidden size), H query heads, G key/value groups,
 * R query heads per group (H = G R), K head size, F FFN channels, V vocabulary, L layers.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { type LayerShape, queryHeads, widthOf } from "./units.ts";
import type { Activation } from "../core/engine/ops.ts";
import { UNIT_TYPES } from "../core/schema/schema.ts";

/** RoPE frequency scaling: `linear` (position interpolation), `dynamic` (NTK-aware, by the length of the sequence),
 * `llama3` (Llama 3.1, frequency dependent) or `yarn`. */
export type RopeScaling =
  | { type: "linear"; factor: number }
  | { type: "dynamic"; factor: number; originalMaxPositions: number }
  | {
    type: "yarn";
    factor: number;
    originalMaxPositions: number;
    /** A pair that makes more turns than this over the original positions is not scaled. */
    betaFast: number;
    /** A pair that makes fewer turns than this is divided by the factor. */
    betaSlow: number;
    /** Whether the ramp between the two begins and ends at whole pairs. */
    truncate: boolean;
    /** Factor on cosines and sines. */
    magnitude: number;
  }
  | {
    type: "llama3";
    factor: number;
    lowFrequencyFactor: number;
    highFrequencyFactor: number;
    originalMaxPositions: number;
  };

/** Rotary position embedding: base of the frequencies, and their scaling. */
export interface Rope {
  /** `rope_theta`. */
  base: number;
  scaling?: RopeScaling;
}

/** How the attention of a layer sees positions. */
export interface LayerAttention {
  /** Null: keys and queries are not turned. */
  rope: Rope | null;
  /** Positions that a token sees, its own included; null: all before it. At least 2. */
  window: number | null;
}

/** The norms that a decoder layer may have. The last two norm each head of queries and keys, before they are turned. */
export const NORM_NAMES = [
  "attentionNorm",
  "attentionOutputNorm",
  "ffnNorm",
  "ffnOutputNorm",
  "queryNorm",
  "keyNorm",
] as const;
/** One of {@linkcode NORM_NAMES}. */
export type NormName = (typeof NORM_NAMES)[number];

/** The seven linear maps of a decoder layer. */
export const LINEAR_NAMES = ["query", "key", "value", "output", "gate", "up", "down"] as const;
/** One of the seven linear maps of a decoder layer. */
export type LinearName = (typeof LINEAR_NAMES)[number];

/** The linear maps that write to the residual stream. */
export const WRITING_NAMES = ["output", "down"] as const;

/** Whether a linear map writes to the residual stream. The units of a layer are the inputs of such a map (columns of
 * its weight `[out, in]`) and the outputs of the other maps (rows). */
export function writesResidual(name: LinearName): boolean {
  return WRITING_NAMES.some((writing) => writing === name);
}

/** A decoder: RMSNorm, RoPE, grouped-query attention and a gated FFN. Optional fields differ between families and are
 * absent in a plain LLaMA. */
export interface DecoderConfig {
  /** Family whose file formats it is read from and written to; see `families/`. */
  family?: string;
  /** V. */
  vocabSize: number;
  /** D: hidden size. */
  width: number;
  /** K: size of one head; explicit, since pruned models have H K != D. */
  headSize: number;
  layers: LayerShape[];
  /** The output projection is the transposed embedding. */
  tiedHead: boolean;
  /** Linear maps that have a bias, in every layer. Empty in a plain LLaMA. */
  biases: LinearName[];
  /** Base of the rotary frequencies (`rope_theta`). */
  ropeBase: number;
  ropeScaling?: RopeScaling;
  /** How each layer sees positions; when absent, all use the frequencies above and no window. */
  attention?: LayerAttention[];
  headNorms?: boolean;
  /** Whether the output of a block is normed before it is added. */
  outputNorms?: boolean;
  /** SiLU when absent. */
  activation?: Activation;
  embeddingScale?: number;
  /** Factor on the scores of attention, in place of `1 / sqrt(K)`. */
  attentionScale?: number;
  /** Factor on the output of a block. */
  residualScale?: number;
  logitScale?: number;
  /** Added to the mean square in RMSNorm. */
  normEpsilon: number;
  /** Longest sequence that the model was made for, in tokens. */
  maxPositions: number;
  bosTokenId: number | null;
  /** Whether the model fails on sequences that do not begin with that token. */
  needsBos?: boolean;
  eosTokenId: number | null;
}

/** How layer `layer` sees positions. */
export function layerAttention(config: DecoderConfig, layer: number): LayerAttention {
  const { attention, ropeBase, ropeScaling } = config;
  if (attention) return at(attention, layer);
  return { rope: { base: ropeBase, ...ropeScaling && { scaling: ropeScaling } }, window: null };
}

/** Whether a norm is of single heads, K, rather than of the residual stream, D. */
export function isHeadNorm(name: NormName): boolean {
  return name === "queryNorm" || name === "keyNorm";
}

/** The norms that each layer has, with their lengths. */
export function layerNorms({ width, headSize, headNorms, outputNorms }: DecoderConfig): [NormName, number][] {
  const has = (name: NormName) =>
    name === "attentionNorm" || name === "ffnNorm" || (isHeadNorm(name) ? headNorms : outputNorms) === true;
  return NORM_NAMES.filter(has).map((name) => [name, isHeadNorm(name) ? headSize : width]);
}

/** Whether every layer has the same widths, so that a plain Llama `config.json` describes the model. */
export function isLayerwiseUniform(config: DecoderConfig): boolean {
  const first = at(config.layers, 0);
  return config.layers.every((shape) => UNIT_TYPES.every((type) => widthOf(shape, type) === widthOf(first, type)));
}

/** Shape `[out, in]` of the weight of linear map `name` in layer `shape`. */
export function linearShape(config: DecoderConfig, shape: LayerShape, name: LinearName): [number, number] {
  const { width, headSize } = config;
  switch (name) {
    case "query":
      return [queryHeads(shape) * headSize, width];
    case "key":
    case "value":
      return [shape.kvGroups * headSize, width];
    case "output":
      return [width, queryHeads(shape) * headSize];
    case "gate":
    case "up":
      return [shape.ffnChannels, width];
    case "down":
      return [width, shape.ffnChannels];
  }
}

const HF_LINEAR: Record<LinearName, string> = {
  query: "self_attn.q_proj",
  key: "self_attn.k_proj",
  value: "self_attn.v_proj",
  output: "self_attn.o_proj",
  gate: "mlp.gate_proj",
  up: "mlp.up_proj",
  down: "mlp.down_proj",
};

const HF_NORM: Record<NormName, string> = {
  attentionNorm: "input_layernorm",
  attentionOutputNorm: "attention_output_layernorm",
  ffnNorm: "post_attention_layernorm",
  ffnOutputNorm: "ffn_output_layernorm",
  queryNorm: "self_attn.q_norm",
  keyNorm: "self_attn.k_norm",
};

/** Names of tensors inside the project: the names of a plain Hugging Face checkpoint, and two of our own for norms that
 * it lacks. A family with other names defines them in its file in `families/`. */
export const tensorNames = {
  embedding: "model.embed_tokens.weight",
  finalNorm: "model.norm.weight",
  head: "lm_head.weight",
  norm: (layer: number, name: NormName) => `model.layers.${layer}.${HF_NORM[name]}.weight`,
  weight: (layer: number, name: LinearName) => `model.layers.${layer}.${HF_LINEAR[name]}.weight`,
  bias: (layer: number, name: LinearName) => `model.layers.${layer}.${HF_LINEAR[name]}.bias`,
};

/** Every tensor of the model with its shape, in the order of a checkpoint. Weights are `[out, in]`. */
export function expectedTensors(config: DecoderConfig): Map<string, number[]> {
  const { width, vocabSize } = config;
  const tensors = new Map<string, number[]>([[tensorNames.embedding, [vocabSize, width]]]);
  config.layers.forEach((shape, layer) => {
    for (const [name, length] of layerNorms(config)) tensors.set(tensorNames.norm(layer, name), [length]);
    for (const name of LINEAR_NAMES) {
      const weight = linearShape(config, shape, name);
      tensors.set(tensorNames.weight(layer, name), weight);
      const [out] = weight;
      if (config.biases.includes(name)) tensors.set(tensorNames.bias(layer, name), [out]);
    }
  });
  tensors.set(tensorNames.finalNorm, [width]);
  if (!config.tiedHead) tensors.set(tensorNames.head, [vocabSize, width]);
  return tensors;
}

/** A tensor in host memory: row-major, f32. */
export interface HostTensor {
  shape: number[];
  /** The product of the sizes is its length. */
  data: Float32Array;
}

/** A checkpoint that is read tensor by tensor, so that at most one tensor has a host copy. */
export interface WeightSource {
  config: DecoderConfig;
  /** Where the weights come from, for the record. */
  origin: {
    path: string;
    format: "safetensors" | "gguf" | "memory";
    /** Storage types in the file, such as `["F16"]` or `["Q4_1", "Q8_0", "F32"]`. */
    dtypes: string[];
    sizeBytes: number;
    /** SHA-256 over the checkpoint's files, hex. */
    sha256: string;
  };
  /** Reads one tensor by its Hugging Face name (see {@linkcode tensorNames}), dequantised to f32.
   * @throws {UsageError} when the checkpoint lacks it. */
  read(name: string): HostTensor;
  close(): void;
}

/** A checkpoint in memory. */
export function memorySource(config: DecoderConfig, tensors: Map<string, HostTensor>, path = "memory"): WeightSource {
  let sizeBytes = 0;
  for (const tensor of tensors.values()) sizeBytes += tensor.data.byteLength;
  return {
    config,
    origin: { path, format: "memory", dtypes: ["F32"], sizeBytes, sha256: "" },
    read: (name) => {
      const tensor = tensors.get(name);
      if (!tensor) throw new RangeError(`No tensor named "${name}" in memory`);
      return tensor;
    },
    close: () => {},
  };
}
