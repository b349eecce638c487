/** Small random models of the families that llama.cpp has, with the vocabulary of another model: what `check:export`
 * writes as GGUF.
 *
 * @module
 */
import type { DecoderConfig, WeightSource } from "../../models/config.ts";
import { prunedSource } from "../../models/export_source.ts";
import { referenceForward, referenceLogProbs } from "../../tests/support/reference.ts";
import { toySource } from "../../tests/support/toy.ts";
import { familyConfig, randomPlan } from "./small_families.ts";

/** Tokens that a small model can take. */
const POSITIONS = 256;

/** By the name in `FAMILY_CONFIGS`: those that a GGUF file can say, and what they need besides. Qwen2's heads must add
 * up to its width there, which its small model's do not. */
const SAYABLE: Record<string, Partial<DecoderConfig>> = {
  "llama, yarn": {},
  "mistral": {},
  "qwen2": { width: 32 },
  "qwen3": {},
  "qwen3, multi-head, tied": {},
  "smollm3": {},
  "granite": {},
  "gemma3": {},
};

/** A model to export. */
export interface ExportCase {
  name: string;
  source: WeightSource;
}

/** Each model of `vocabSize` tokens, dense and cut: half of all units, of Qwen2 FFN channels alone. */
export function familyCases(vocabSize: number): ExportCase[] {
  return Object.entries(SAYABLE).flatMap(([name, changes]) => {
    const source = toySource({ ...familyConfig(name), vocabSize, maxPositions: POSITIONS, ...changes, seed: 5 });
    const { config } = source;
    const plan = randomPlan(config, config.family === "qwen2" ? { units: ["ffn"], sparsity: 0.2 } : {});
    return [{ name, source }, { name: `${name}, pruned`, source: prunedSource(source, plan) }];
  });
}

/** GELU as ggml's CPU code computes it: below 10 in absolute value from a table of half-precision inputs and outputs
 * (`ggml_vec_geglu_f32`, `GGML_GELU_FP16`). */
function tableGelu(x: number): number {
  if (x <= -10) return 0;
  if (x >= 10) return x;
  const g = Math.f16round(x);
  return Math.f16round(g / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3))));
}

/** Natural-log probabilities of `tokens[1:]` in double precision, with llama.cpp's GELU. */
export function withTableGelu(source: WeightSource, tokens: readonly number[]): Float32Array {
  const { logits } = referenceForward(source, tokens, { activation: tableGelu });
  return Float32Array.from(referenceLogProbs(logits.slice(0, -1), tokens.slice(1)));
}
