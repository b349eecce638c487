import { type DecoderConfig, type LayerAttention, layerAttention } from "../config.ts";
import { type Family, type FamilyConfig } from "./family.ts";
import { GLOBAL, layerTypes, LOCAL, readRope, readWindowed, ropeToHf } from "./hf_members.ts";

const LOCAL_BASE = 10_000;
const GLOBAL_BASE = 1e6;
const EVERY = 6;

const isGlobal = (layer: number) => (layer + 1) % EVERY === 0;

function family(
  common: DecoderConfig,
  { attention, scale }: { attention: LayerAttention[]; scale: number },
): FamilyConfig {
  return {
    headNorms: true,
    outputNorms: true,
    // lm-evaluation-harness always adds it for this family: without it perplexity more than doubles.
    needsBos: true,
    activation: "gelu-tanh",
    embeddingScale: Math.sqrt(common.width),
    ...scale !== 1 / Math.sqrt(common.headSize) && { attentionScale: scale },
    attention,
  };
}

/** Why no file format of the family can describe this model. */
function refusal(config: DecoderConfig): string | undefined {
  const { width, embeddingScale = 1, attention = [] } = config;
  if (embeddingScale !== Math.sqrt(width)) {
    return "fewer hidden dimensions: it scales embeddings by the root of the width";
  }
  const windows = new Set(attention.flatMap(({ window }) => window ?? []));
  return windows.size > 1 ? "windows of several sizes" : undefined;
}

const localOf = ({ attention = [], maxPositions }: DecoderConfig) => {
  const { rope, window } = attention.find(({ window }) => window !== null) ?? {};
  return { base: rope?.base ?? LOCAL_BASE, window: window ?? maxPositions };
};

/** Gemma 3, text: norms around both blocks and of heads, GELU, scaled embeddings. Of six layers five have a window and
 * other frequencies. */
export const GEMMA3: Family = {
  id: "gemma3",
  title: "Gemma 3, text",
  hf: {
    modelType: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    biases: ["attention_bias"],
    defaults: { kvHeads: 4, headSize: 256, maxPositions: 131072, tiedHead: true, ropeBase: GLOBAL_BASE },
    activation: { key: "hidden_activation", name: "gelu_pytorch_tanh" },
    norms: {
      attentionOutputNorm: "post_attention_layernorm",
      ffnNorm: "pre_feedforward_layernorm",
      ffnOutputNorm: "post_feedforward_layernorm",
    },
    normOffset: 1,
    read: (members, common) => {
      members.only("attn_logit_softcapping", []);
      members.only("final_logit_softcapping", []);
      members.only("use_bidirectional_attention", [false]);
      const isWindowed = readWindowed(members, common.layers.length);
      const every = members.integer("sliding_window_pattern", EVERY);
      const parameters = members.object("rope_parameters");
      const { maxPositions } = common;
      const local: LayerAttention = {
        rope: readRope(parameters.object(LOCAL), {
          base: members.number("rope_local_base_freq", LOCAL_BASE),
          maxPositions,
        }),
        window: Math.max(2, members.integer("sliding_window", 4096)),
      };
      const nested = parameters.value(GLOBAL) === undefined
        ? members.object("rope_scaling")
        : parameters.object(GLOBAL);
      const rope = readRope(nested, { base: members.number("rope_theta", GLOBAL_BASE), maxPositions });
      const global: LayerAttention = { rope, window: null };
      const hasWindow = (l: number) => isWindowed?.[l] ?? (l + 1) % every !== 0;
      return {
        ...family(common, {
          attention: common.layers.map((_, l) => hasWindow(l) ? local : global),
          scale: 1 / Math.sqrt(members.number("query_pre_attn_scalar", 256)),
        }),
        ropeBase: rope.base,
        ...rope.scaling && { ropeScaling: rope.scaling },
      };
    },
    write: (config) => ({
      query_pre_attn_scalar: Number(((config.attentionScale ?? 1 / Math.sqrt(config.headSize)) ** -2).toPrecision(12)),
      sliding_window: localOf(config).window,
      layer_types: layerTypes(config),
      rope_local_base_freq: localOf(config).base,
      rope_parameters: {
        [GLOBAL]: { rope_type: "default", ...ropeToHf(config.ropeScaling), rope_theta: config.ropeBase },
        [LOCAL]: { rope_type: "default", rope_theta: localOf(config).base },
      },
      rope_scaling: undefined,
      final_logit_softcapping: null,
      attn_logit_softcapping: null,
    }),
    refusal,
    headsDivideWidth: true,
  },
  gguf: {
    architecture: "gemma3",
    pairsRows: false,
    biases: [],
    read: (members, common) => {
      const rope = { base: members.number("rope.freq_base_swa", LOCAL_BASE) };
      const window = Math.max(2, members.integer("attention.sliding_window"));
      const attention = common.layers.map((_, l) => isGlobal(l) ? layerAttention(common, l) : { rope, window });
      // The largest model of the family has another scale, which is not in the file.
      const isLargest = common.layers.length === 62;
      const [shape] = common.layers;
      const heads = (shape?.kvGroups ?? 0) * (shape?.queryHeadsPerGroup ?? 0);
      return family(common, { attention, scale: 1 / Math.sqrt(isLargest ? common.width / heads : common.headSize) });
    },
    write: (config) => ({
      "attention.sliding_window": { u32: localOf(config).window },
      "rope.freq_base_swa": { f32: localOf(config).base },
    }),
    refusal: (config) => {
      if (config.attentionScale !== undefined) return "a scale of attention that is not 1 / sqrt(head size)";
      if (config.attention?.some(({ window }, l) => (window === null) !== isGlobal(l))) {
        return `layers without a window other than every ${EVERY}th`;
      }
      return refusal(config);
    },
  },
};
