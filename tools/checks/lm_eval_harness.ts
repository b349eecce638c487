/** lm-evaluation-harness as another program: installs it in a private environment, runs it on local records with its
 * own task definitions, and reads what it wrote.
 *
 * @module
 */
import { type LmEvalSample, lmEvalSamples } from "../../benchmarks/records/lm_eval_samples.ts";
import { outputType, type ScoredExample } from "../../benchmarks/evaluation/tasks.ts";
import { at } from "../../core/util/indexing.ts";
import { codePointLength } from "../../core/util/python_text.ts";
import type { AnyTask } from "../../datasets/define.ts";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { privatePython, runCommand, TORCH, TRANSFORMERS } from "../setup/setup_common.ts";

const HARNESS = ["lm-eval[api,hf]==0.4.13"];

/** One answer: a choice of an example, or a whole document. */
export interface Answer {
  logLikelihood: number;
  /** Undefined for whole documents. */
  isGreedy?: boolean;
}

/** What a side has of an example. */
export interface CheckedExample {
  answers: Answer[];
  /** Lengths that acc_norm divides by; empty for whole documents. */
  lengths: number[];
  /** Hashes of target, prompt and record. */
  hashes: string[];
  /** Fields of the record. */
  fields: number;
  /** 1 or 0 by metric, as the side itself decided; empty for whole documents. */
  outcomes: Record<string, number>;
}

/** The part of a task's configuration that says where its records are. */
export function localData(split: string, file: string, train?: string): Record<string, unknown> {
  return {
    dataset_path: "json",
    dataset_name: null,
    dataset_kwargs: { data_files: { [split]: file, ...train === undefined ? {} : { train } } },
    training_split: train === undefined ? null : "train",
    validation_split: split === "validation" ? split : null,
    test_split: split === "test" ? split : null,
  };
}

/** What is compared of a line of a samples file, theirs or ours. */
export function checkedExample(sample: LmEvalSample, lengths: number[] = []): CheckedExample {
  const { filtered_resps, doc, doc_hash, prompt_hash, target_hash, metrics } = sample;
  return {
    answers: filtered_resps.map((answer) =>
      typeof answer === "string"
        ? { logLikelihood: Number(answer) }
        : { logLikelihood: Number(answer[0]), isGreedy: answer[1] === "True" }
    ),
    lengths,
    hashes: [target_hash, prompt_hash, doc_hash],
    fields: Object.keys(doc).length,
    outcomes: Object.fromEntries(
      metrics.flatMap((metric) => typeof sample[metric] === "number" ? [[metric, sample[metric]]] : []),
    ),
  };
}

/** Reads a samples file of the harness. */
export function readSamples(text: string): CheckedExample[] {
  return text.trimEnd().split("\n").map((line) => checkedExample(JSON.parse(line)));
}

/** Python with the harness. */
export async function harnessPython(): Promise<string> {
  return await privatePython("torch", [TORCH, TRANSFORMERS, HARNESS]);
}

/** The folder of the tasks that the harness comes with. */
export async function harnessTasks(python: string): Promise<string> {
  const find = "import importlib.util as u; print(u.find_spec('lm_eval').submodule_search_locations[0])";
  const { stdout } = await runCommand(python, ["-c", find], "lm-evaluation-harness was not found");
  return join(stdout.trim(), "tasks");
}

/** What the harness is asked to do. */
export interface HarnessJob {
  /** Hugging Face folder of the model, in f32. */
  pretrained: string;
  /** Tasks with the configurations that say where their records are. */
  tasks: { name: string; config: Record<string, unknown> }[];
  batch_size: number;
  /** Only the first examples. */
  limit?: number;
  /** Solved examples in the prompt. */
  num_fewshot: number;
}

/** What it answered. */
export interface HarnessRun {
  /** Examples by task, in order. */
  examples: Map<string, CheckedExample[]>;
  /** Metrics of tasks and groups (`acc,none`), as its results file has them. */
  results: Record<string, Record<string, unknown>>;
  /** Seconds for loading the model. */
  loadS: number;
  /** Seconds for everything after that. */
  seconds: number;
  /** Largest resident set of its process. */
  peakBytes: number;
}

/** Runs the harness with its files in the folder `work`, which is made.
 * @throws {UsageError} with the end of what it printed when it fails. */
export async function runHarness(
  python: string,
  { tasks, limit, ...job }: HarnessJob,
  work: string,
): Promise<HarnessRun> {
  const [out, yaml, request] = [join(work, "out"), join(work, "tasks"), join(work, "job.json")];
  Deno.mkdirSync(yaml, { recursive: true });
  const names = tasks.map(({ name, config }) => ({ name, config }));
  Deno.writeTextFileSync(request, JSON.stringify({ ...job, tasks: names, limit: limit ?? null, work: yaml, out }));
  const script = fileURLToPath(new URL("../peers/lm_eval_peer.py", import.meta.url));
  const { stdout } = await runCommand(python, [script, request], "lm-evaluation-harness ended with an error", {
    // Nothing is downloaded, and nothing is left in the user's caches.
    HF_HOME: join(work, "hf"),
    HF_HUB_OFFLINE: "1",
    HF_DATASETS_OFFLINE: "1",
    TOKENIZERS_PARALLELISM: "false",
    LMEVAL_LOG_LEVEL: "WARNING",
  });
  const examples = new Map<string, CheckedExample[]>();
  let results: HarnessRun["results"] = {};
  const [{ name: folder }] = [...Deno.readDirSync(out)] as [Deno.DirEntry];
  for (const { name } of Deno.readDirSync(join(out, folder))) {
    const text = Deno.readTextFileSync(join(out, folder, name));
    if (name.startsWith("results_")) ({ results } = JSON.parse(text));
    const task = /^samples_(.+)_\d{4}-\d\d-\d\dT.*\.jsonl$/.exec(name)?.[1];
    if (task) examples.set(task, readSamples(text));
  }
  return { examples, results, ...JSON.parse(stdout.trim().split("\n").at(-1) ?? "") };
}

/** A task of the check: our side, and what the harness needs to know. */
export interface CheckedTask {
  name: string;
  config: Record<string, unknown>;
  ours: CheckedExample[];
}

/** Our side of the examples of a task. */
export function ourExamples(task: AnyTask, scored: readonly ScoredExample[]): CheckedExample[] {
  const isChoice = outputType(task) === "multiple_choice";
  return lmEvalSamples(task, scored).map((sample, i) =>
    checkedExample(sample, isChoice ? at(scored, i).example.choices.map(({ text }) => codePointLength(text)) : [])
  );
}
