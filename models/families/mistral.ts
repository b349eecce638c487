import type { DecoderConfig } from "../config.ts";
import { type Family, isPlain } from "./family.ts";
import { oneWindow, windowed } from "./windows.ts";

/** Mistral 7B: Llama without biases; the first version has a window. */
export const MISTRAL: Family = {
  id: "mistral",
  title: "Mistral",
  hf: {
    modelType: "mistral",
    architecture: "MistralForCausalLM",
    biases: [],
    defaults: { kvHeads: 8, maxPositions: 131072 },
    read: (members, common) => {
      // In transformers a missing key means 4096, and null no window.
      if (members.value("sliding_window") === undefined && members.has("sliding_window")) return {};
      return windowed(common, members.integer("sliding_window", 4096));
    },
    write: (config) => ({ sliding_window: oneWindow(config) ?? null }),
    refusal: (config: DecoderConfig) =>
      isPlain(config) || oneWindow(config) !== undefined ? undefined : "layers that see positions differently",
  },
  // llama.cpp loads Mistral as Llama, without the window.
  gguf: { architecture: "llama", pairsRows: true, biases: [] },
};
