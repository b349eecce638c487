import type { Family } from "./family.ts";
import { readQwenWindow, withoutWindow, writeQwenWindow } from "./qwen2.ts";

/** Qwen3, dense: norms of query and key heads, and its own head size. */
export const QWEN3: Family = {
  id: "qwen3",
  title: "Qwen3",
  hf: {
    modelType: "qwen3",
    architecture: "Qwen3ForCausalLM",
    biases: ["attention_bias"],
    defaults: { kvHeads: 32, headSize: 128, maxPositions: 32768 },
    read: (members, common) => ({ headNorms: true, ...readQwenWindow(members, common) }),
    write: writeQwenWindow,
  },
  gguf: {
    architecture: "qwen3",
    pairsRows: false,
    biases: [],
    read: () => ({ headNorms: true }),
    refusal: withoutWindow,
  },
};
