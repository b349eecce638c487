import { ALL_BIASES, type Family, headsDivideWidth } from "./family.ts";
import { MISTRAL } from "./mistral.ts";

/** Llama 1 to 3, and other models of that type: the plain decoder. */
export const LLAMA: Family = {
  id: "llama",
  title: "Llama",
  hf: {
    modelType: "llama",
    architecture: "LlamaForCausalLM",
    biases: ["attention_bias", "mlp_bias"],
    headsDivideWidth: true,
  },
  gguf: { architecture: "llama", pairsRows: true, biases: ALL_BIASES },
  standIn: (config) =>
    headsDivideWidth(config) || config.biases.length > 0
      ? undefined
      : { family: MISTRAL, reason: "transformers accepts a Llama only if its heads divide its width" },
};
