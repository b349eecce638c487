import type { DecoderConfig } from "../config.ts";
import type { Family, FamilyConfig } from "./family.ts";

/** A factor's field, and its names in `config.json` and GGUF metadata. */
const FACTORS = [
  { field: "embeddingScale", hf: "embedding_multiplier", gguf: "embedding_scale" },
  { field: "attentionScale", hf: "attention_multiplier", gguf: "attention.scale" },
  { field: "residualScale", hf: "residual_multiplier", gguf: "residual_scale" },
  // Files have the divisor of the logits.
  { field: "logitScale", hf: "logits_scaling", gguf: "logit_scale" },
] as const;
type Field = typeof FACTORS[number]["field"];

const usual = (field: Field, { headSize }: DecoderConfig) => field === "attentionScale" ? 1 / Math.sqrt(headSize) : 1;

/** Factors with other values than usual. */
function readFactors(config: DecoderConfig, read: (factor: typeof FACTORS[number]) => number): FamilyConfig {
  return Object.fromEntries(FACTORS.flatMap((factor) => {
    const { field } = factor;
    const stored = read(factor);
    if (stored === usual(field, config)) return [];
    return [[field, field === "logitScale" ? 1 / stored : stored]];
  }));
}

function stored(field: Field, config: DecoderConfig): number {
  const value = config[field] ?? usual(field, config);
  // Rounds away the error of dividing twice.
  return field === "logitScale" ? Number((1 / value).toPrecision(15)) : value;
}

/** Granite 3: Llama with four factors. */
export const GRANITE: Family = {
  id: "granite",
  title: "Granite 3",
  hf: {
    modelType: "granite",
    architecture: "GraniteForCausalLM",
    biases: ["attention_bias", "mlp_bias"],
    read: (members, common) => readFactors(common, ({ hf }) => members.number(hf, 1)),
    write: (config) => Object.fromEntries(FACTORS.map(({ field, hf }) => [hf, stored(field, config)])),
  },
  gguf: {
    architecture: "granite",
    pairsRows: true,
    biases: ["query", "key", "value", "output", "gate", "up", "down"],
    read: (members, common) => readFactors(common, ({ field, gguf }) => members.number(gguf, usual(field, common))),
    write: (config) => Object.fromEntries(FACTORS.map(({ field, gguf }) => [gguf, { f32: stored(field, config) }])),
  },
};
