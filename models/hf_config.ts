/** `config.json` of Hugging Face folders: to and from the project's own configuration.
 *
 * @module
 */
import { FileFormatError, UsageError } from "../core/errors.ts";
import {
  type DecoderConfig,
  isLayerwiseUniform,
  type LayerShape,
  type LinearName,
  queryHeads,
  type RopeScaling,
} from "./config.ts";

/** Limits on what a configuration may claim; far above every published model. */
export const CONFIG_LIMITS = {
  layers: 1024,
  /** Hidden size, FFN channels, heads, head size. */
  width: 1 << 20,
  vocabulary: 1 << 22,
  positions: 1 << 30,
} as const;

const ATTENTION_BIASES: LinearName[] = ["query", "key", "value", "output"];
const FFN_BIASES: LinearName[] = ["gate", "up", "down"];

/** Typed access to a JSON object's members; the messages name file and key. */
interface Members {
  integer(key: string, max: number, fallback?: number): number;
  number(key: string, fallback?: number): number;
  flag(key: string): boolean;
  value(key: string): unknown;
}

function membersOf(json: Record<string, unknown>, path: string, prefix = ""): Members {
  const value = (key: string) => Object.hasOwn(json, key) && json[key] !== null ? json[key] : undefined;
  const fail = (key: string, must: string): never => {
    const current = value(key) === undefined ? "is missing" : `is ${JSON.stringify(value(key))}`;
    throw new FileFormatError(path, `"${prefix}${key}" ${current}: must be ${must}`);
  };
  return {
    value,
    integer: (key, max, fallback) => {
      const found = value(key) ?? fallback;
      const isValid = Number.isInteger(found) && (found as number) >= 1 && (found as number) <= max;
      return isValid ? found as number : fail(key, `a whole number from 1 to ${max}`);
    },
    number: (key, fallback) => {
      const found = value(key) ?? fallback;
      return typeof found === "number" && found > 0 && found < Infinity ? found : fail(key, "a positive number");
    },
    flag: (key) => {
      const found = value(key) ?? false;
      return typeof found === "boolean" ? found : fail(key, "true or false");
    },
  };
}

/** RoPE settings from `rope_theta` and `rope_scaling`, or from `rope_parameters` (transformers 5). */
function readRope(json: Record<string, unknown>, path: string): Pick<DecoderConfig, "ropeBase" | "ropeScaling"> {
  const top = membersOf(json, path);
  const key = top.value("rope_parameters") === undefined ? "rope_scaling" : "rope_parameters";
  const nested = top.value(key) ?? {};
  if (typeof nested !== "object" || Array.isArray(nested)) {
    throw new FileFormatError(path, `"${key}" must be an object or null`);
  }
  const rope = membersOf(nested as Record<string, unknown>, path, `${key}.`);
  const ropeBase = rope.number("rope_theta", top.number("rope_theta", 10000));
  for (const members of [top, rope]) {
    const partial = members.value("partial_rotary_factor");
    if (partial !== undefined && partial !== 1) {
      throw new UsageError(`${path}: "partial_rotary_factor" ${JSON.stringify(partial)} is not supported: must be 1`);
    }
  }
  const type = rope.value("rope_type") ?? rope.value("type") ?? "default";
  if (type === "default") return { ropeBase };
  if (type === "linear") return { ropeBase, ropeScaling: { type, factor: rope.number("factor") } };
  if (type === "llama3") {
    const ropeScaling: RopeScaling = {
      type,
      factor: rope.number("factor"),
      lowFrequencyFactor: rope.number("low_freq_factor"),
      highFrequencyFactor: rope.number("high_freq_factor"),
      originalMaxPositions: rope.integer("original_max_position_embeddings", CONFIG_LIMITS.positions),
    };
    if (ropeScaling.highFrequencyFactor <= ropeScaling.lowFrequencyFactor) {
      throw new FileFormatError(path, `"${key}.high_freq_factor" must be greater than "${key}.low_freq_factor"`);
    }
    return { ropeBase, ropeScaling };
  }
  throw new UsageError(
    `${path}: RoPE type ${JSON.stringify(type)} is not supported: must be default, linear or llama3`,
  );
}

/** A token id, the first of a list, or null. */
function readTokenId(json: Record<string, unknown>, key: string, vocabSize: number, path: string): number | null {
  const found = Object.hasOwn(json, key) ? json[key] : null;
  const id = Array.isArray(found) ? found[0] : found;
  if (id === null || id === undefined || id === -1) return null;
  if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
    throw new FileFormatError(path, `"${key}" is ${JSON.stringify(found)}: must be null or in [0, ${vocabSize})`);
  }
  return id as number;
}

/** Refuses models that are not plain LLaMA decoders, by the name of what differs. A Mistral without a sliding window is
 * one: the same tensors and the same computation. */
function refuseOtherModels(json: Record<string, unknown>, path: string): void {
  const { model_type: modelType, architectures, hidden_act: activation = "silu", sliding_window: window = 4096 } = json;
  if (modelType !== "llama" && modelType !== "mistral") {
    throw new UsageError(
      `${path}: model_type ${JSON.stringify(modelType) ?? "(none)"} is not supported: must be "llama" or "mistral"`,
    );
  }
  const architecture = modelType === "llama" ? "LlamaForCausalLM" : "MistralForCausalLM";
  if (Array.isArray(architectures) && architectures.length > 0 && !architectures.includes(architecture)) {
    throw new UsageError(
      `${path}: architecture ${JSON.stringify(architectures[0])} is not supported: must be "${architecture}"`,
    );
  }
  if (modelType === "mistral" && window !== null) {
    throw new UsageError(`${path}: sliding_window ${JSON.stringify(window)} is not supported: must be null`);
  }
  if (activation !== "silu") {
    throw new UsageError(`${path}: hidden_act ${JSON.stringify(activation)} is not supported: must be "silu"`);
  }
  const quantization = json.quantization_config;
  if (typeof quantization === "object" && quantization !== null) {
    const method = JSON.stringify((quantization as Record<string, unknown>).quant_method) ?? "(unnamed)";
    throw new UsageError(
      `${path}: quantized weights (${method}) are not supported: use the f32, f16 or bf16 checkpoint, or a GGUF file`,
    );
  }
}

/** Reads the configuration of a LLaMA checkpoint. Defaults are those of transformers' `LlamaConfig` (`MistralConfig`).
 *
 * @param json the parsed `config.json`
 * @param path of the file, for messages
 * @throws {UsageError} for another model type, architecture, activation, RoPE type or quantization, by its name.
 * @throws {FileFormatError} when a value is missing, of the wrong type, or beyond {@linkcode CONFIG_LIMITS}. */
export function fromHfConfig(json: Record<string, unknown>, path: string): DecoderConfig {
  refuseOtherModels(json, path);
  const members = membersOf(json, path);
  const vocabSize = members.integer("vocab_size", CONFIG_LIMITS.vocabulary);
  const width = members.integer("hidden_size", CONFIG_LIMITS.width);
  const heads = members.integer("num_attention_heads", CONFIG_LIMITS.width);
  const isMistral = json.model_type === "mistral";
  const kvGroups = members.integer("num_key_value_heads", CONFIG_LIMITS.width, isMistral ? 8 : heads);
  if (heads % kvGroups !== 0) {
    throw new FileFormatError(
      path,
      `"num_attention_heads" is ${heads}: must be a multiple of "num_key_value_heads" ${kvGroups}`,
    );
  }
  const headSize = members.integer("head_dim", CONFIG_LIMITS.width, width / heads);
  if (headSize % 2 !== 0) throw new FileFormatError(path, `the head size is ${headSize}: must be even for RoPE`);
  const shape: LayerShape = {
    kvGroups,
    queryHeadsPerGroup: heads / kvGroups,
    ffnChannels: members.integer("intermediate_size", CONFIG_LIMITS.width),
  };
  const layers = members.integer("num_hidden_layers", CONFIG_LIMITS.layers);
  return {
    vocabSize,
    width,
    headSize,
    layers: Array.from({ length: layers }, () => ({ ...shape })),
    tiedHead: members.flag("tie_word_embeddings"),
    biases: [
      ...(members.flag("attention_bias") ? ATTENTION_BIASES : []),
      ...(members.flag("mlp_bias") ? FFN_BIASES : []),
    ],
    ...readRope(json, path),
    normEpsilon: members.number("rms_norm_eps", 1e-6),
    maxPositions: members.integer("max_position_embeddings", CONFIG_LIMITS.positions, isMistral ? 131072 : 2048),
    bosTokenId: readTokenId(json, "bos_token_id", vocabSize, path),
    eosTokenId: readTokenId(json, "eos_token_id", vocabSize, path),
  };
}

/** A scaling as `rope_scaling` has it. */
function scalingToHf(scaling: RopeScaling): Record<string, unknown> {
  const { type, factor } = scaling;
  switch (type) {
    case "linear":
      return { rope_type: type, factor };
    case "dynamic":
      return { rope_type: type, factor, original_max_position_embeddings: scaling.originalMaxPositions };
    case "yarn":
      return {
        rope_type: type,
        factor,
        original_max_position_embeddings: scaling.originalMaxPositions,
        beta_fast: scaling.betaFast,
        beta_slow: scaling.betaSlow,
        truncate: scaling.truncate,
        attention_factor: scaling.magnitude,
      };
    case "llama3":
      return {
        rope_type: type,
        factor,
        low_freq_factor: scaling.lowFrequencyFactor,
        high_freq_factor: scaling.highFrequencyFactor,
        original_max_position_embeddings: scaling.originalMaxPositions,
      };
  }
}

/** Whether `biases` has all, none, or only some of `names`. */
function coverage(biases: LinearName[], names: LinearName[]): "all" | "none" | "some" {
  const count = names.filter((name) => biases.includes(name)).length;
  return count === names.length ? "all" : count === 0 ? "none" : "some";
}

/** Whether transformers accepts the model as a Llama: since version 5 the number of query heads must divide the width,
 * although an explicit head size makes that needless. */
export function headsDivideWidth({ layers: [shape], width }: DecoderConfig): boolean {
  return width % queryHeads(shape) === 0;
}

/** The `config.json` that makes transformers load the checkpoint as a plain `LlamaForCausalLM`; the inverse of
 * {@linkcode fromHfConfig}. Where the heads do not divide the width (see {@linkcode headsDivideWidth}) it says
 * `MistralForCausalLM` without a sliding window, which computes the same, unless there are biases, which Mistral lacks.
 * @throws {UsageError} when no plain Llama configuration describes the model: layers of unequal widths, or biases on
 *   only some maps of a block. */
export function toHfConfig(config: DecoderConfig): Record<string, unknown> {
  if (!isLayerwiseUniform(config)) {
    throw new UsageError("Layers have unequal widths, which a Llama config.json cannot say: use uniform widths");
  }
  const attentionBias = coverage(config.biases, ATTENTION_BIASES);
  const ffnBias = coverage(config.biases, FFN_BIASES);
  if (attentionBias === "some" || ffnBias === "some") {
    throw new UsageError(
      `Only ${config.biases.join(", ")} have a bias, which a Llama config.json cannot say: prune without added biases`,
    );
  }
  const [shape] = config.layers;
  const scaling = config.ropeScaling;
  const isMistral = !headsDivideWidth(config) && config.biases.length === 0;
  return {
    architectures: [isMistral ? "MistralForCausalLM" : "LlamaForCausalLM"],
    model_type: isMistral ? "mistral" : "llama",
    vocab_size: config.vocabSize,
    hidden_size: config.width,
    intermediate_size: shape.ffnChannels,
    num_hidden_layers: config.layers.length,
    num_attention_heads: queryHeads(shape),
    num_key_value_heads: shape.kvGroups,
    head_dim: config.headSize,
    hidden_act: "silu",
    max_position_embeddings: config.maxPositions,
    rms_norm_eps: config.normEpsilon,
    rope_theta: config.ropeBase,
    rope_scaling: scaling ? scalingToHf(scaling) : null,
    tie_word_embeddings: config.tiedHead,
    ...isMistral ? { sliding_window: null } : { attention_bias: attentionBias === "all", mlp_bias: ffnBias === "all" },
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenId,
  };
}
