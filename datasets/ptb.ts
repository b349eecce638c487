/** Penn Treebank, in the two variants that papers use.
 *
 * @module
 */
import type { Corpus } from "./define.ts";

/** Penn Treebank in two variants whose numbers are not comparable: split and joiner differ between papers. */
function variant(id: string, paper: string, evaluationSplit: string, joiner: string): Corpus {
  const joined = `sentences joined by ${JSON.stringify(joiner)}`;
  return {
    id,
    summary: `Penn Treebank, ${evaluationSplit} split, ${joined}, as ${paper} reads it`,
    source: "Marcus et al. 1993, Computational Linguistics 19(2)",
    licence: "LDC User Agreement for Non-Members",
    hub: { repo: "ptb-text-only/ptb_text_only", config: "penn_treebank" },
    textField: "sentence",
    splits: {
      train: ["ptb-train.jsonl", "ptb.train.txt"],
      validation: ["ptb-validation.jsonl", "ptb.valid.txt"],
      test: ["ptb-test.jsonl", "ptb.test.txt"],
    },
    evaluationSplit,
    calibrationSplit: "train",
    joiner,
    calibrationJoiner: " ",
  };
}

/** Penn Treebank as SparseGPT reads it. */
export const ptbTestSpace: Corpus = variant("ptb-test-space", "SparseGPT", "test", " ");
/** Penn Treebank as LLM-Pruner reads it. */
export const ptbValidNl2: Corpus = variant("ptb-valid-nl2", "LLM-Pruner", "validation", "\n\n");
