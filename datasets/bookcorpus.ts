import type { Corpus } from "./define.ts";

/** BookCorpus, one sentence a record: LLM-Pruner's calibration text. Only long enough sentences are used, about one in
 * a hundred for windows of 64 tokens.
 *
 * Deviations: the first million records; the original draws from all 74 million. */
export const bookcorpus: Corpus = {
  id: "bookcorpus",
  summary: "BookCorpus: sentences of unpublished novels, the first million; for calibration",
  source: "Zhu et al. 2015, arXiv:1506.06724",
  licence: "unknown",
  hub: { repo: "bookcorpus/bookcorpus", config: "plain_text" },
  textField: "text",
  splits: { train: ["bookcorpus-train.jsonl", "bookcorpus-train.txt"] },
  evaluationSplit: "train",
  calibrationSplit: "train",
  maxRecords: 1_000_000,
};
