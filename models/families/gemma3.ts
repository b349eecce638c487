import { type DecoderConfig, type LayerAttention, layerAttention } from "../config.ts";
import { type Family, type FamilyConfig } from "./family.ts";
import { readRope, ropeToHf } from "./hf_members.ts";

const LOCAL_BASE = 10_000;
const GLOBAL_BASE = 1e6;
const EVERY = 6;
const LOCAL = "sliding_attention";
const GLOBAL = "full_attention";

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
  const windows = new Set(attention.map(({ window }) => window).filter((window) => window !== null));
  return windows.size > 1 ? "windows of several sizes" : undefined;
}

const windowOf = ({ attention = [] }: DecoderConfig) => attention.find(({ window }) => window !== null)?.window ?? null;

const localBase = ({ attention = [] }: DecoderConfig) =>
  attention.find(({ window }) => window !== null)?.rope?.base ?? LOCAL_BASE;

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
      const isType = (type: unknown): type is string => type === LOCAL || type === GLOBAL;
      const types = members.list("layer_types", common.layers.length, isType, `"${LOCAL}" or "${GLOBAL}"`);
      const every = members.integer("sliding_window_pattern", EVERY);
      const parameters = members.object("rope_parameters");
      const own = { base: members.number("rope_local_base_freq", LOCAL_BASE), maxPositions: common.maxPositions };
      const local: LayerAttention = {
        rope: readRope(parameters.object(LOCAL), own),
        window: Math.max(2, members.integer("sliding_window", 4096)),
      };
      const nested = parameters.value(GLOBAL) === undefined ? "rope_scaling" : "rope_parameters";
      const rope = nested === "rope_scaling" ? members.object(nested) : parameters.object(GLOBAL);
      const base = members.number("rope_theta", GLOBAL_BASE);
      const { base: ropeBase, scaling } = readRope(rope, { base, maxPositions: common.maxPositions });
      const global: LayerAttention = { rope: { base: ropeBase, ...scaling && { scaling } }, window: null };
      const hasAll = (l: number) => types ? types[l] === GLOBAL : (l + 1) % every === 0;
      return {
        ...family(common, {
          attention: common.layers.map((_, l) => hasAll(l) ? global : local),
          scale: 1 / Math.sqrt(members.number("query_pre_attn_scalar", 256)),
        }),
        ropeBase,
        ...scaling && { ropeScaling: scaling },
      };
    },
    write: (config) => ({
      query_pre_attn_scalar: Number(((config.attentionScale ?? 1 / Math.sqrt(config.headSize)) ** -2).toPrecision(12)),
      sliding_window: windowOf(config) ?? config.maxPositions,
      layer_types: config.attention?.map(({ window }) => window === null ? GLOBAL : LOCAL),
      rope_local_base_freq: localBase(config),
      rope_parameters: {
        [GLOBAL]: { rope_type: "default", ...ropeToHf(config.ropeScaling), rope_theta: config.ropeBase },
        [LOCAL]: { rope_type: "default", rope_theta: localBase(config) },
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
      "attention.sliding_window": { u32: windowOf(config) ?? config.maxPositions },
      "rope.freq_base_swa": { f32: localBase(config) },
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
