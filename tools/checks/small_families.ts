/** Small configurations of every family of models, as `config.json` says them.
 *
 * @module
 */
import { createRng } from "../../core/util/rng.ts";
import { keepWidths } from "../../methods/_shared/selection.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { fromHfConfig } from "../../models/hf_config.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { UNIT_TYPES, type UnitType } from "../../core/schema/schema.ts";
import { resolveTarget } from "../../models/target.ts";
import { unitCount } from "../../models/units.ts";

/** What all have; layers enough for every kind that a family has. */
const COMMON = {
  vocab_size: 61,
  hidden_size: 24,
  intermediate_size: 20,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  hidden_act: "silu",
  max_position_embeddings: 96,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: false,
  bos_token_id: 0,
  eos_token_id: 1,
};

const model = (model_type: string, architecture: string, more: Record<string, unknown> = {}) => ({
  ...COMMON,
  model_type,
  architectures: [architecture],
  ...more,
});

const GEMMA3 = {
  hidden_act: undefined,
  hidden_activation: "gelu_pytorch_tanh",
  tie_word_embeddings: true,
  sliding_window: 7,
  rope_local_base_freq: 100,
  query_pre_attn_scalar: 8,
};

/** One small model of each family, and variants of heads, heads' output, windows and RoPE, by what is special. */
export const FAMILY_CONFIGS: Record<string, Record<string, unknown>> = {
  "llama": model("llama", "LlamaForCausalLM"),
  "llama, yarn": model("llama", "LlamaForCausalLM", {
    rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 24 },
  }),
  "llama, dynamic": model("llama", "LlamaForCausalLM", {
    max_position_embeddings: 16,
    rope_scaling: { rope_type: "dynamic", factor: 2 },
  }),
  "mistral": model("mistral", "MistralForCausalLM", { sliding_window: null }),
  "mistral, window": model("mistral", "MistralForCausalLM", { sliding_window: 9 }),
  "qwen2": model("qwen2", "Qwen2ForCausalLM", { tie_word_embeddings: true }),
  "qwen2, multi-head, window": model("qwen2", "Qwen2ForCausalLM", {
    num_key_value_heads: 4,
    use_sliding_window: true,
    sliding_window: 9,
    max_window_layers: 2,
  }),
  "qwen3": model("qwen3", "Qwen3ForCausalLM", { head_dim: 16 }),
  "qwen3, multi-head, tied": model("qwen3", "Qwen3ForCausalLM", { num_key_value_heads: 4, tie_word_embeddings: true }),
  "smollm3": model("smollm3", "SmolLM3ForCausalLM", { tie_word_embeddings: true, pad_token_id: 2 }),
  "smollm3, multi-head, untied": model("smollm3", "SmolLM3ForCausalLM", {
    num_key_value_heads: 4,
    pad_token_id: 2,
    no_rope_layers: [0, 1, 1, 0],
  }),
  "granite": model("granite", "GraniteForCausalLM", {
    tie_word_embeddings: true,
    embedding_multiplier: 12,
    attention_multiplier: 0.25,
    residual_multiplier: 0.22,
    logits_scaling: 8,
  }),
  "granite, multi-head, untied, biases": model("granite", "GraniteForCausalLM", {
    num_key_value_heads: 4,
    attention_bias: true,
    mlp_bias: true,
    logits_scaling: 3,
    attention_multiplier: 0.3,
  }),
  "gemma3": model("gemma3_text", "Gemma3ForCausalLM", { ...GEMMA3, num_hidden_layers: 7 }),
  "gemma3, multi-head, untied": model("gemma3_text", "Gemma3ForCausalLM", {
    ...GEMMA3,
    num_key_value_heads: 4,
    tie_word_embeddings: false,
    query_pre_attn_scalar: 12,
    layer_types: ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
  }),
};

/** The configuration of one of {@linkcode FAMILY_CONFIGS}. */
export function familyConfig(name: string): DecoderConfig {
  const json = FAMILY_CONFIGS[name];
  if (!json) throw new RangeError(`There is no small model "${name}"`);
  return fromHfConfig(JSON.parse(JSON.stringify(json)), name);
}

/** Random units of these types, half of the prunable parameters by default, the same widths in every layer. */
export function randomPlan(
  config: DecoderConfig,
  { units = UNIT_TYPES, sparsity = 0.5 }: { units?: readonly UnitType[]; sparsity?: number } = {},
): PrunePlan {
  const rng = createRng(3, "small families");
  const random = (count: number) => Float64Array.from({ length: count }, () => rng.uniform());
  const scores = config.layers.map((shape) => ({
    ffn: random(unitCount(shape, "ffn")),
    queryHeads: random(unitCount(shape, "query-heads")),
    kvGroups: random(unitCount(shape, "kv-groups")),
  }));
  return keepWidths(scores, resolveTarget(config, { sparsity, units }).uniform);
}
