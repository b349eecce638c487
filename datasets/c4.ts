import type { Corpus } from "./define.ts";
import { wikitextDetokenise } from "./wikitext2.ts";

/** C4 as SparseGPT and Wanda read it: the first 1100 records of the first validation shard joined by one space, at most
 * 256 windows; calibration windows each come from one record of the first training shard that is long enough.
 * Protocol (c) detokenises as for WikiText, as the task `c4` of lm-evaluation-harness does.
 *
 * Deviations: calibration draws from the first 1100 records of its shard and protocol (c) scores 1100 documents;
 * the originals read whole shards. */
export const c4: Corpus = {
  id: "c4",
  summary: "C4 (en): web text, the first 1100 records of the first validation shard",
  source: "Raffel et al. 2019, arXiv:1910.10683",
  licence: "ODC-BY",
  hub: { repo: "allenai/c4", config: "en" },
  textField: "text",
  splits: {
    train: ["c4-train.jsonl", "c4-train.00000-of-01024.json.gz"],
    validation: ["c4-validation.jsonl", "c4-validation.00000-of-00008.json.gz", "c4.jsonl"],
  },
  evaluationSplit: "validation",
  calibrationSplit: "train",
  joiner: " ",
  maxRecords: 1100,
  maxWindows: 256,
  documents: (texts) => [...texts],
  detokenise: wikitextDetokenise,
};
