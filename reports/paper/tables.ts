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
  /** What differs even when the preset is run as it is. */
  differences: string[];
}

/** Parameters of LLaMA-7B and of Llama-2-7B. */
const PARAMETERS_7B = 6_738_415_616;

const SEVEN_B = { model: "LLaMA-7B", parameters: PARAMETERS_7B };
const LLM_PRUNER = [
  "tuned rows: adapters trained on the run's training corpus here, on Alpaca with a mask on the prompts there",
  "BookCorpus: the first million sentences are drawn from here, all there, and another random stream",
  "perplexity and scores in f32 here, in f16 there",
  "L2 and Random choose units by another random stream or summed over a unit's matrices, which ranks alike",
  "which checkpoint's tokenizer is used moves PTB much (the paper's is decapoda-research's)",
];

/** Every published table by its id. */
export const PAPER_TABLE: Record<PaperTableId, PaperTable> = {
  "llm-pruner-20": {
    ...SEVEN_B,
    title: "LLM-Pruner, 20 % (Ma et al. 2023, arXiv:2305.11627, table 1)",
    differences: [
      ...LLM_PRUNER,
      "20 % is what the paper calls it: 24 heads and 8256 channels of layers 4 to 29, 20.3 % of the prunable parameters",
    ],
  },
  "llm-pruner-50": {
    ...SEVEN_B,
    title: "LLM-Pruner, 50 % (Ma et al. 2023, arXiv:2305.11627, table 16)",
    differences: [
      ...LLM_PRUNER,
      "50 % is what the paper calls it: 13 heads and 4403 channels of layers 3 to 30, 52.3 % of the prunable parameters",
    ],
  },
  "flap": {
    ...SEVEN_B,
    title: "FLAP (An et al. 2023, arXiv:2312.11983)",
    differences: [
      "Wanda-sp's 20 and 30 % are 19.58 and 29.38 % of the prunable parameters in its code (26 heads and 8807 channels, 23 " +
      "and 7706), and so they are here",
      "FLAP's widths meet the budget within one unit here, roughly there",
      "places of the calibration windows: another random stream",
      "perplexity and scores in f32 here, in f16 there",
      "which metric each task's column holds is taken to be as in LLM-Pruner's tables",
    ],
  },
  "sheared-llama": {
    ...SEVEN_B,
    model: "Llama-2-7B",
    title: "Sheared-LLaMA (Xia et al. 2024, arXiv:2310.06694)",
    differences: [
      "pruned on C4 here, on RedPajama's seven domains with dynamic batch loading there",
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
