/** The published tables: what they are of, and what their authors did that a run of ours does not do.
 *
 * @module
 */
import type { PaperTableId } from "../../core/schema.ts";

/** What a published table is of. */
export interface PaperTable {
  title: string;
  /** Parameters of its dense model, by which another model is told apart. */
  parameters: number;
  model: string;
  /** What differs even when the preset is run as it is. */
  differences: string[];
}

/** Parameters of LLaMA-7B and of Llama-2-7B. */
const PARAMETERS_7B = 6_738_415_616;

const SEVEN_B = { model: "LLaMA-7B", parameters: PARAMETERS_7B };
const LLM_PRUNER = [
  "calibrated on C4 here, on BookCorpus there (10 windows of 64 tokens in both)",
  "tuned rows: adapters trained on the run's training corpus here, on Alpaca there",
  "L2 and Random prune every layer alike here, the same middle layers as the other rows there",
  "widths meet a budget in parameters here, a fraction of the units of a layer there",
];

/** Every published table by its id. */
export const PAPER_TABLE: Record<PaperTableId, PaperTable> = {
  "llm-pruner-20": {
    ...SEVEN_B,
    title: "LLM-Pruner, 20 % (Ma et al. 2023, arXiv:2305.11627, table 1)",
    differences: [
      ...LLM_PRUNER,
      "20 % is what the paper calls it: 19.5 % of all parameters, 20.3 % of the prunable ones",
    ],
  },
  "llm-pruner-50": {
    ...SEVEN_B,
    title: "LLM-Pruner, 50 % (Ma et al. 2023, arXiv:2305.11627, table 16)",
    differences: [
      ...LLM_PRUNER,
      "50 % is what the paper calls it: 50.3 % of all parameters, 52.3 % of the prunable ones",
    ],
  },
  "flap": {
    ...SEVEN_B,
    title: "FLAP (An et al. 2023, arXiv:2312.11983)",
    differences: [
      "Wanda-sp is calibrated on WikiText-2 here, on C4 there",
      "the widths meet the budget within one unit here, roughly there",
      "which metric each task's column holds is taken to be as in LLM-Pruner's tables",
    ],
  },
  "sheared-llama": {
    ...SEVEN_B,
    model: "Llama-2-7B",
    title: "Sheared-LLaMA (Xia et al. 2024, arXiv:2310.06694)",
    differences: [
      "heads and FFN channels are removed here, layers and the hidden size too there, unless options of sheared name " +
      "that shape; equal are the parameters without embeddings",
      "the 50 B tokens of training after pruning are left out here",
      "only tasks without examples in the prompt are compared",
    ],
  },
  "maskprune-llama-7b": {
    ...SEVEN_B,
    title: "MaskPrune's shape of table, LLaMA-7B (Qin et al. 2025, arXiv:2502.14008)",
    differences: [
      "MaskPrune's own numbers and protocol are not public to this project: windows, calibration and tasks are LLM-Pruner's",
    ],
  },
  "maskprune-llama2-7b": {
    ...SEVEN_B,
    model: "Llama-2-7B",
    title: "MaskPrune's shape of table, Llama-2-7B (Qin et al. 2025, arXiv:2502.14008)",
    differences: [
      "MaskPrune's own numbers and protocol are not public to this project: windows, calibration and tasks are LLM-Pruner's",
    ],
  },
};
