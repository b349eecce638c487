/** What a LLaMA-family decoder is: its configuration, the names of its tensors, and where weights come from.
 *
 * Shape legend of the project: B batch, T tokens, D width (hidden size), H query heads, G key/value groups,
 * R query heads per group (H = G R), K head size, F FFN channels, V vocabulary, L layers.
 *
 * @module
 */

/** Widths of one decoder layer. All widths may differ between layers; a plain Llama config needs them equal. */
export interface LayerShape {
  /** G: key/value groups (key/value heads). */
  kvGroups: number;
  /** R: query heads in each group; 1 in multi-head attention. */
  queryHeadsPerGroup: number;
  /** F: intermediate channels of the SwiGLU block. */
  ffnChannels: number;
}

/** RoPE frequency scaling: `linear` (position interpolation) or `llama3` (Llama 3.1, frequency dependent). */
export type RopeScaling =
  | { type: "linear"; factor: number }
  | {
    type: "llama3";
    factor: number;
    lowFrequencyFactor: number;
    highFrequencyFactor: number;
    originalMaxPositions: number;
  };

/** The seven linear maps of a decoder layer. */
export const LINEAR_NAMES = ["query", "key", "value", "output", "gate", "up", "down"] as const;
/** One of the seven linear maps of a decoder layer. */
export type LinearName = (typeof LINEAR_NAMES)[number];

/** A LLaMA-family decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU. */
export interface DecoderConfig {
  /** V. */
  vocabSize: number;
  /** D: hidden size. */
  width: number;
  /** K: size of one head; explicit, since pruned models have H K != D. */
  headSize: number;
  /** One entry per layer. */
  layers: LayerShape[];
  /** The output projection is the transposed embedding. */
  tiedHead: boolean;
  /** Linear maps that have a bias, in every layer. Empty in a plain LLaMA. */
  biases: LinearName[];
  /** Base of the rotary frequencies (`rope_theta`). */
  ropeBase: number;
  /** Rotary frequency scaling, if any. */
  ropeScaling?: RopeScaling;
  /** Added to the mean square in RMSNorm. */
  normEpsilon: number;
  /** Longest sequence the model was made for, in tokens. */
  maxPositions: number;
  /** Id of the beginning-of-sequence token, if the model has one. */
  bosTokenId: number | null;
  /** Id of the end-of-sequence token, if the model has one. */
  eosTokenId: number | null;
}

/** H of one layer. */
export function queryHeads(shape: LayerShape): number {
  return shape.kvGroups * shape.queryHeadsPerGroup;
}

/** Whether every layer has the same widths, so that a plain Llama `config.json` describes the model. */
export function isLayerwiseUniform(config: DecoderConfig): boolean {
  const [first, ...others] = config.layers;
  return others.every((shape) =>
    shape.kvGroups === first.kvGroups && shape.queryHeadsPerGroup === first.queryHeadsPerGroup &&
    shape.ffnChannels === first.ffnChannels
  );
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

/** Tensor names as Hugging Face checkpoints have them; the one naming used inside the project. */
export const tensorNames = {
  embedding: "model.embed_tokens.weight",
  finalNorm: "model.norm.weight",
  head: "lm_head.weight",
  attentionNorm: (layer: number) => `model.layers.${layer}.input_layernorm.weight`,
  ffnNorm: (layer: number) => `model.layers.${layer}.post_attention_layernorm.weight`,
  weight: (layer: number, name: LinearName) => `model.layers.${layer}.${HF_LINEAR[name]}.weight`,
  bias: (layer: number, name: LinearName) => `model.layers.${layer}.${HF_LINEAR[name]}.bias`,
};

/** Every tensor of the model with its shape, in the order of a checkpoint. Weights are `[out, in]`. */
export function expectedTensors(config: DecoderConfig): Map<string, number[]> {
  const { width, vocabSize } = config;
  const tensors = new Map<string, number[]>([[tensorNames.embedding, [vocabSize, width]]]);
  config.layers.forEach((shape, layer) => {
    tensors.set(tensorNames.attentionNorm(layer), [width]);
    tensors.set(tensorNames.ffnNorm(layer), [width]);
    for (const name of LINEAR_NAMES) {
      const weight = linearShape(config, shape, name);
      tensors.set(tensorNames.weight(layer, name), weight);
      if (config.biases.includes(name)) tensors.set(tensorNames.bias(layer, name), [weight[0]]);
    }
  });
  tensors.set(tensorNames.finalNorm, [width]);
  if (!config.tiedHead) tensors.set(tensorNames.head, [vocabSize, width]);
  return tensors;
}

/** A tensor in host memory: row-major, f32. */
export interface HostTensor {
  /** Sizes of the axes. */
  shape: number[];
  /** As many values as the sizes multiply to. */
  data: Float32Array;
}

/** A checkpoint that is read tensor by tensor, so that no more than one host copy of one tensor exists at a time. */
export interface WeightSource {
  config: DecoderConfig;
  /** Where the weights come from, for the record. */
  origin: {
    /** Path as the user gave it. */
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

/** A checkpoint held in memory, such as a test's or a freshly trained one. */
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
