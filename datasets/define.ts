/** Data sets: multiple-choice tasks and text corpora. Each is one short file with its source, licence, record format
 * and the text that a model sees.
 *
 * @module
 */
import type { z } from "zod";
import type { DatasetUse, PerplexityChoice } from "../core/schema/schema.ts";
import { UsageError } from "../core/util/errors.ts";

/** Where a data set lives on the Hugging Face Hub. */
export interface HubSource {
  /** `owner/name`. */
  repo: string;
  /** Configuration (subset), if the set has several. */
  config?: string;
}

/** The common part of tasks and corpora. Exactly one of `hub` and `folder` is set. */
export interface DataSource {
  /** Lower-case words joined by `_` or `-`; unique in the registry. */
  id: string;
  /** One sentence for `bench ls tasks`. */
  summary: string;
  /** Reference: authors, year, arXiv id. */
  source: string;
  /** Licence according to the data card or repository. */
  licence: string;
  /** Data that the user downloads: their place on the Hub. */
  hub?: HubSource;
  /** Data that ship with the project: their folder. */
  folder?: URL;
}

/** Kinds of tasks, by their names in lm-evaluation-harness: the most probable of several texts, the probability of a
 * text after another, the probability of a whole text. */
export const OUTPUT_TYPES = ["multiple_choice", "loglikelihood", "loglikelihood_rolling"] as const;
/** A kind of task. */
export type OutputType = (typeof OUTPUT_TYPES)[number];

/** A metric of a task. `acc`: highest log-likelihood; `acc_norm`, `acc_bytes`: per character (code point), per UTF-8
 * byte. For one text, `acc` says whether it is the most probable continuation. The others are exp of the mean loss per
 * text, word or byte, and bits per byte. */
export type MetricName =
  | "acc"
  | "acc_norm"
  | "acc_bytes"
  | "perplexity"
  | "word_perplexity"
  | "byte_perplexity"
  | "bits_per_byte";

/** One answer of an example, as the model sees it. */
export interface Choice {
  /** Text before the continuation. */
  context: string;
  /** The scored text; begins with the delimiter, one space. */
  continuation: string;
  /** The answer without delimiter: its length normalises `acc_norm` and `acc_bytes`. */
  text: string;
}

/** An example of a task. If a text alone is scored, it is the only choice. */
export interface Example {
  /** Solved examples before the context of each choice; none when absent. */
  prefix?: string;
  /** At least two of a multiple-choice task. */
  choices: Choice[];
  /** Index of the right choice; −1 if none is. */
  gold: number;
  /** Indices of the right choices, if there are several. */
  golds?: number[];
  /** The target in logs, if it is not the index of the right choice. */
  target?: string;
}

/** A multiple-choice task, scored by the log-likelihood of each choice as in lm-evaluation-harness. */
export interface Task<Schema extends z.ZodType = z.ZodType> extends DataSource {
  /** Version of the prompt, that of lm-evaluation-harness for its tasks. */
  version: number;
  split: string;
  /** Possible names of the split's file in a data folder; the first one present is read. */
  files: readonly string[];
  /** Format of one record; unused fields may be missing or of any type. */
  record: Schema;
  /** The example of one record.
   * @throws {RangeError} when the fields contradict each other, such as an answer key without a choice. */
  toExample(record: z.infer<Schema>): Example;
  /** Fields that lm-evaluation-harness adds to the logged record; none when absent. */
  addedFields?(example: Example): Record<string, unknown>;
  /** Reported metrics. `acc`: highest log-likelihood; `acc_norm`: highest log-likelihood per character (code point).
   * `acc_bytes`, per UTF-8 byte, is reported together with `acc_norm`. */
  metrics: readonly ("acc" | "acc_norm")[];
  /** The task's metric in tables and means, as in LLM-Pruner's tables; default `acc`. */
  primaryMetric?: "acc_norm";
}

/** A task defined by a file; see `lm_eval/`. It reads its own data. */
export interface FileTask extends Pick<Task, "id" | "summary" | "source" | "licence" | "version"> {
  outputType: OutputType;
  metrics: readonly MetricName[];
  definition: TaskDefinition;
  /** Its data on the Hub, if they are there. */
  hub?: HubSource;
  /** The scored split, and that of solved examples. */
  splits: string[];
  /** Examples of the scored split after `fewshot` solved ones (default: the file's number).
   * @throws {UsageError} when data are missing, or a template does not fit a record. */
  load(options: { data?: string; cache?: string; limit?: number; fewshot?: number }): Promise<LoadedTask>;
}

/** A task's definition in a file. */
export interface TaskDefinition {
  path: string;
  /** Its keys, with includes and the overrides of a group. */
  config: Record<string, unknown>;
}

/** A task of either kind. */
export type AnyTask = Task | FileTask;

/** A task's examples in the order of the file. */
export interface LoadedTask {
  /** The examples to score: all, or the first `limit`. */
  examples: Example[];
  /** Their unchanged records, for result files that quote them. */
  records: unknown[];
  /** Examples in the whole split. */
  total: number;
  /** Solved examples in each prompt. */
  numFewshot: number;
  /** Origin, for records of results. */
  dataset: DatasetUse;
  /** Origin of the examples in the prompts, if there are any. */
  fewshotDataset?: DatasetUse;
}

/** A text corpus: records of text, joined for perplexity and calibration. */
export interface Corpus extends DataSource {
  /** The record's field that holds the text. */
  textField: string;
  /** Splits with the possible names of their file in a data folder; the first one present is read.
   * JSON Lines (`.jsonl`, `.json`, each also `.gz`) or plain text, one record per line. */
  splits: Record<string, readonly string[]>;
  /** Names of files with the whole corpus. A split without a file of its own is cut from this one: see
   * {@linkcode PARTS}. */
  wholeFiles?: readonly string[];
  evaluationSplit: string;
  calibrationSplit: string;
  /** Text between two records in protocols (a) and (b); absent if these are not defined for the corpus. */
  joiner?: string;
  /** Text between two records of the calibration text; absent if each window comes from one record. */
  calibrationJoiner?: string;
  /** Only the first records are read. */
  maxRecords?: number;
  /** Only the first windows are scored. */
  maxWindows?: number;
  /** Whether a record begins an article, before which a file may be cut; absent: before every record. */
  startsArticle?(text: string): boolean;
  /** The raw documents of protocol (c); absent if the protocol is not defined for the corpus. */
  documents?(texts: readonly string[]): string[];
  /** A document as the model sees it in protocol (c). */
  detokenise?(document: string): string;
}

/** Checks that a protocol is defined for a corpus.
 * @throws {UsageError} that names a protocol to use. */
export function checkProtocol(corpus: Corpus, protocol: PerplexityChoice["protocol"]): void {
  const isDefined = protocol === "c" ? corpus.documents : corpus.joiner;
  if (isDefined !== undefined) return;
  const others = protocol === "c" ? "a or b" : "c";
  throw new UsageError(`Protocol ${protocol} is not defined for corpus "${corpus.id}": use protocol ${others}`);
}

/** Shares of a corpus's only file that replace splits without a file. Calibration and evaluation do not overlap, except
 * with `all`. Cuts are moved to the nearest beginning of an article. */
export const PARTS: Record<string, readonly [from: number, to: number]> = {
  all: [0, 1],
  calibration: [0, 0.8],
  validation: [0.8, 0.9],
  test: [0.9, 1],
};

/** Usual name of a task's file with the records of a split. */
export const splitFile = (id: string, split: string): string => `${id}-${split}.jsonl`;

/** A task; `files` defaults to `<id>-<split>.jsonl`, then `<id>.jsonl`. */
export function defineTask<Schema extends z.ZodType>(
  task: Omit<Task<Schema>, "files"> & { files?: readonly string[] },
): Task<Schema> {
  return { files: [splitFile(task.id, task.split), `${task.id}.jsonl`], ...task };
}

/** Choices that share a context: each text is scored after `context` and one space. */
export function choicesAfter(context: string, texts: readonly string[]): Choice[] {
  return texts.map((text) => ({ context, continuation: ` ${text}`, text }));
}
