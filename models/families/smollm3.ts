import { type DecoderConfig, type LayerAttention, layerAttention } from "../config.ts";
import type { Family } from "./family.ts";

const EVERY = 4;

const turned = (config: DecoderConfig, hasRope: (layer: number) => boolean): LayerAttention[] =>
  config.layers.map((_, l) => hasRope(l) ? layerAttention(config, l) : { rope: null, window: null });

const everyOther = (every: number) => (layer: number) => (layer + 1) % every !== 0;

/** SmolLM3: Llama with layers without positions, by default every fourth. */
export const SMOLLM3: Family = {
  id: "smollm3",
  title: "SmolLM3",
  hf: {
    modelType: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    biases: ["attention_bias", "mlp_bias"],
    defaults: { kvHeads: 4, maxPositions: 32768, tiedHead: true, ropeBase: 2e6 },
    read: (members, common) => {
      members.only("use_sliding_window", [false]);
      const isFlag = (flag: unknown): flag is 0 | 1 => flag === 0 || flag === 1;
      const flags = members.list("no_rope_layers", common.layers.length, isFlag, "0 or 1");
      const every = everyOther(members.integer("no_rope_layer_interval", EVERY));
      return { attention: turned(common, flags ? (l) => flags[l] === 1 : every) };
    },
    write: ({ attention, layers }) => ({
      no_rope_layers: layers.map((_, l) => attention?.[l]?.rope === null ? 0 : 1),
      use_sliding_window: false,
      // The default is a token of the original vocabulary.
      pad_token_id: null,
    }),
  },
  gguf: {
    architecture: "smollm3",
    pairsRows: true,
    biases: [],
    read: (_members, common) => ({ attention: turned(common, everyOther(EVERY)) }),
    refusal: ({ attention }) =>
      attention?.every(({ rope }, l) => (rope !== null) === everyOther(EVERY)(l))
        ? undefined
        : `layers without positions other than every ${EVERY}th`,
  },
};
