/** Mistral 7B: Llama without biases, and a window in the first version.
 *
 * @module
 */
import type { DecoderConfig } from "../config.ts";
import { type Family, isPlain } from "./family.ts";
import { CONFIG_LIMITS } from "./hf_members.ts";
import { oneWindow, windowed } from "./windows.ts";

/** See the module. */
export const MISTRAL: Family = {
  id: "mistral",
  title: "Mistral",
  hf: {
    modelType: "mistral",
    architecture: "MistralForCausalLM",
    biases: [],
    defaults: { kvHeads: 8, maxPositions: 131072 },
    read: (members, common) => {
      // A missing key is 4096 in transformers, null is none.
      if (members.value("sliding_window") === undefined && members.has("sliding_window")) return {};
      return windowed(common, members.integer("sliding_window", CONFIG_LIMITS.positions, 4096));
    },
    write: (config) => ({ sliding_window: oneWindow(config) ?? null }),
    refusal: (config: DecoderConfig) =>
      isPlain(config) || oneWindow(config) !== undefined ? undefined : "layers that see positions differently",
  },
  // llama.cpp knows Mistral as Llama: it computes without the window.
  gguf: { architecture: "llama", pairsRows: true, biases: [] },
};
