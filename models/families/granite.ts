/** Granite 3: Llama with four factors.
 *
 * @module
 */
import type { DecoderConfig } from "../config.ts";
import type { Family, FamilyConfig } from "./family.ts";

/** Omits factors of 1, and the usual one of attention. */
function factors(
  { headSize }: DecoderConfig,
  { embedding, attention, residual, logits }: {
    embedding: number;
    attention: number;
    residual: number;
    logits: number;
  },
): FamilyConfig {
  return {
    ...embedding !== 1 && { embeddingScale: embedding },
    ...attention !== 1 / Math.sqrt(headSize) && { attentionScale: attention },
    ...residual !== 1 && { residualScale: residual },
    // The file has the divisor of the logits.
    ...logits !== 1 && { logitScale: 1 / logits },
  };
}

const attentionOf = ({ attentionScale, headSize }: DecoderConfig) => attentionScale ?? 1 / Math.sqrt(headSize);

/** Rounds away the error of dividing twice. */
const divisorOf = ({ logitScale = 1 }: DecoderConfig) => Number((1 / logitScale).toPrecision(15));

/** See the module. */
export const GRANITE: Family = {
  id: "granite",
  title: "Granite 3",
  hf: {
    modelType: "granite",
    architecture: "GraniteForCausalLM",
    biases: ["attention_bias", "mlp_bias"],
    read: (members, common) =>
      factors(common, {
        embedding: members.number("embedding_multiplier", 1),
        attention: members.number("attention_multiplier", 1),
        residual: members.number("residual_multiplier", 1),
        logits: members.number("logits_scaling", 1),
      }),
    write: (config) => ({
      embedding_multiplier: config.embeddingScale ?? 1,
      attention_multiplier: attentionOf(config),
      residual_multiplier: config.residualScale ?? 1,
      logits_scaling: divisorOf(config),
    }),
  },
  gguf: {
    architecture: "granite",
    pairsRows: true,
    biases: ["query", "key", "value", "output", "gate", "up", "down"],
    read: (members, common) =>
      factors(common, {
        embedding: members.number("embedding_scale", 1),
        attention: members.number("attention.scale", 1 / Math.sqrt(common.headSize)),
        residual: members.number("residual_scale", 1),
        logits: members.number("logit_scale", 1),
      }),
    write: (config) => ({
      "embedding_scale": { f32: config.embeddingScale ?? 1 },
      "attention.scale": { f32: attentionOf(config) },
      "residual_scale": { f32: config.residualScale ?? 1 },
      "logit_scale": { f32: divisorOf(config) },
    }),
  },
};
