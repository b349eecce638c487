/** The published tables: what they are of, and what their authors did that a run of ours does not do.
 *
 * @module
 */
import type { PaperTableId } from "../../core/schema/schema.ts";

/** What a published table is of. */
export interface PaperTable {
  title: string;
  /** Parameters of its dense model, by which another model is told apart. */
  parameters: number;
  model: string;
  /** What differs even when the preset is run as it is, without a full stop. */
  differences: string[];
}

const LLAMA_7B = { model: "LLaMA-7B", parameters: 6_738_415_616 };
const LLAMA_2_7B = { ...LLAMA_7B, model: "Llama-2-7B" };
const LLM_PRUNER = [
  "tuned rows train on the run's corpus; the paper trains on Alpaca without its prompts in the loss",
  "BookCorpus windows come from the first million sentences and another random stream",
  "arithmetic is f32; the paper's is f16",
  "Random and L2 draw or rank units in an equivalent way",
  "perplexity on PTB depends on the tokenizer's copy (the paper's is decapoda-research's)",
];
const MASK_PRUNE = [
  "MaskPrune's numbers and protocol are not available to this project: windows, calibration and tasks are LLM-Pruner's",
];

/** Every published table by its id. */
export const PAPER_TABLE: Record<PaperTableId, PaperTable> = {
  "llm-pruner-20": {
    ...LLAMA_7B,
    title: "LLM-Pruner, 20 % (Ma et al. 2023, arXiv:2305.11627, table 1)",
    differences: [...LLM_PRUNER, "the paper's 20 % are 20.3 % of the prunable parameters, and so they are here"],
  },
  "llm-pruner-50": {
    ...LLAMA_7B,
    title: "LLM-Pruner, 50 % (Ma et al. 2023, arXiv:2305.11627, table 16)",
    differences: [...LLM_PRUNER, "the paper's 50 % are 52.3 % of the prunable parameters, and so they are here"],
  },
  "flap": {
    ...LLAMA_7B,
    title: "FLAP (An et al. 2023, arXiv:2312.11983)",
    differences: [
      "the paper's 20 and 30 % of Wanda-sp are 19.58 and 29.38 % of the prunable parameters, and so they are here",
      "FLAP's widths meet the budget within one unit; the paper's roughly",
      "calibration windows come from another random stream",
      "arithmetic is f32; the paper's is f16",
      "the metric of each task is assumed to be that of LLM-Pruner's tables",
    ],
  },
  "sheared-llama": {
    ...LLAMA_2_7B,
    title: "Sheared-LLaMA (Xia et al. 2024, arXiv:2310.06694)",
    differences: [
      "pruning trains on C4; the paper uses RedPajama's seven domains with dynamic batch loading",
      "the paper's 50 B tokens of training after pruning are left out",
      "only tasks without examples in the prompt are compared",
    ],
  },
  "maskprune-llama-7b": {
    ...LLAMA_7B,
    title: "MaskPrune's shape of table, LLaMA-7B (Qin et al. 2025, arXiv:2502.14008)",
    differences: MASK_PRUNE,
  },
  "maskprune-llama2-7b": {
    ...LLAMA_2_7B,
    title: "MaskPrune's shape of table, Llama-2-7B (Qin et al. 2025, arXiv:2502.14008)",
    differences: MASK_PRUNE,
  },
};
