/** `deno task check:lm-eval [--peer hf] [--model PATH] [--tasks LIST] [--data DIR] [--limit N]
 * [--num-fewshot N] [--task-files]`: whether our scores are those of lm-evaluation-harness, choice by choice.
 *
 * The harness (0.4.13, from PyPI, in a private environment) scores the same records with its own task definitions; each
 * log-likelihood, each decision and each logged record is compared with ours.
 *
 * The harness scores through its `hf` backend: PyTorch and transformers on the same weights in f32. No code is shared.
 *
 * With `--task-files`, task files of the harness are run as they are installed, on small local data; metrics of tasks and of
 * a group are compared as well. See `lm_eval_task_files.ts`.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { countFlag } from "../../benchmarks/commands/command.ts";
import { lmEvalDocuments } from "../../benchmarks/records/lm_eval_samples.ts";
import { argmax, measureTask } from "../../benchmarks/evaluation/tasks.ts";
import type { ScoredDocument } from "../../benchmarks/evaluation/perplexity.ts";
import { createScorer, type Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { startBestEngine, startEngine } from "../../core/engine/engine.ts";
import { unknownName, UsageError } from "../../core/util/errors.ts";
import type { EngineName } from "../../core/schema/schema.ts";
import { mean } from "../../core/util/stats.ts";
import { loadCorpus } from "../../datasets/load.ts";
import { corpora, getCorpus, getTask, tasks as knownTasks } from "../../datasets/mod.ts";
import { exportHfFolder } from "../../models/export.ts";
import { uploadModel } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import {
  type CheckedExample,
  type CheckedTask,
  harnessPython,
  localData,
  ourExamples,
  runHarness,
  TINY_TASK,
} from "./lm_eval_harness.ts";
import { compareMetrics, scoreTaskFiles } from "./check_task_files.ts";
import { runTool } from "../run_tool.ts";
import { at } from "../../core/util/indexing.ts";

/** By how much log-likelihoods may differ: `nats + relative * |log-likelihood|`. */
export interface Tolerance {
  nats: number;
  relative: number;
}

/** By how much PyTorch's log-likelihoods may differ. */
const TOLERANCE: Tolerance = { nats: 1e-3, relative: 0 };

/** What the comparison of a task found. */
export interface Comparison {
  examples: number;
  answers: number;
  /** Largest difference of two log-likelihoods, in nats. */
  worst: number;
  /** Log-likelihoods that differ by more than the tolerance. */
  differing: number;
  /** Decisions (acc and acc_norm) that differ although the two best choices are not equal within the tolerance. */
  decisions: number;
  /** Decisions that differ between choices that are equal within the tolerance. */
  ties: number;
  /** Answers that are greedy on one side only. */
  greedy: number;
  /** Examples whose record, prompt or target has another hash. */
  hashes: number;
  /** Means of the metrics that both sides have. */
  means: Record<string, { ours: number; theirs: number }>;
}

/** Compares both sides, example by example in the same order; lengths are taken from ours.
 * @throws {UsageError} when one side has more examples or choices. */
export function compareExamples(
  ours: readonly CheckedExample[],
  theirs: readonly CheckedExample[],
  { nats, relative }: Tolerance,
): Comparison {
  const allowed = (value: number) => nats + relative * Math.abs(value);
  if (ours.length !== theirs.length) {
    throw new UsageError(`The harness has ${theirs.length} examples, we have ${ours.length}`);
  }
  const found: Comparison = {
    examples: ours.length,
    answers: 0,
    worst: 0,
    differing: 0,
    decisions: 0,
    ties: 0,
    greedy: 0,
    hashes: 0,
    means: Object.fromEntries(
      Object.keys(ours[0]?.outcomes ?? {}).filter((metric) => metric in at(theirs, 0).outcomes).map((
        metric,
      ) => [metric, {
        ours: mean(ours.map(({ outcomes }) => outcomes[metric] ?? NaN)),
        theirs: mean(theirs.map(({ outcomes }) => outcomes[metric] ?? NaN)),
      }]),
    ),
  };
  ours.forEach((own, i) => {
    const other = at(theirs, i);
    if (own.answers.length !== other.answers.length) {
      throw new UsageError(`Example ${i}: the harness has ${other.answers.length} answers, we ${own.answers.length}`);
    }
    own.answers.forEach(({ logLikelihood, isGreedy }, j) => {
      const difference = Math.abs(logLikelihood - at(other.answers, j).logLikelihood);
      found.answers++;
      found.worst = Math.max(found.worst, difference);
      // NaN must count as a difference.
      if (!(difference <= allowed(logLikelihood))) found.differing++;
      if (isGreedy !== at(other.answers, j).isGreedy) found.greedy++;
    });
    if (own.hashes.join() !== other.hashes.join()) found.hashes++;
    for (const divisors of own.lengths.length > 0 ? [own.lengths.map(() => 1), own.lengths] : []) {
      const values = (side: CheckedExample) =>
        side.answers.map(({ logLikelihood }, j) => logLikelihood / at(divisors, j));
      const [mine, his] = [values(own), values(other)];
      const [a, b] = [argmax(mine), argmax(his)];
      if (a === b) continue;
      const slack = [a, b].reduce((sum, j) => sum + allowed(at(own.answers, j).logLikelihood) / at(divisors, j), 0);
      if (at(mine, a) - at(mine, b) <= slack) found.ties++;
      else found.decisions++;
    }
  });
  return found;
}

/** Whether nothing is wrong. */
export function isSound({ differing, decisions, greedy, hashes }: Comparison): boolean {
  return differing + decisions + greedy + hashes === 0;
}

async function checkedTask(
  scorer: Scorer,
  name: string,
  { data, limit, fewshot }: { data: string; limit?: number; fewshot: number },
): Promise<CheckedTask> {
  const task = getTask(name);
  const { result, scored } = await measureTask(scorer, name, { data, limit, fewshot });
  const folder = task.folder ? fileURLToPath(task.folder) : resolve(data);
  const isOwn = task.folder !== undefined;
  return {
    name,
    config: {
      ...localData(
        task.split,
        join(folder, result.dataset.source),
        result.fewshotDataset && join(folder, result.fewshotDataset.source),
      ),
      ...isOwn ? TINY_TASK : {},
    },
    ours: ourExamples(task, scored),
    seconds: result.seconds,
  };
}

/** Whole documents, protocol (c). */
async function checkedCorpus(
  scorer: Scorer,
  name: string,
  { data, limit }: { data: string; limit?: number },
): Promise<CheckedTask> {
  const corpus = getCorpus(name);
  const start = performance.now();
  const { texts, dataset } = await loadCorpus(corpus, { data });
  const documents = (corpus.documents?.(texts) ?? []).slice(0, limit);
  const shown = documents.map((document) => corpus.detokenise?.(document) ?? document);
  const scores = await scorer.loglikelihoodRolling(shown, { bos: "lm-eval" });
  const scored = documents.map((document, i): ScoredDocument => ({
    document,
    text: at(shown, i),
    logLikelihood: at(scores, i).logLikelihood,
    words: 0,
    bytes: 0,
  }));
  return {
    name,
    config: localData(corpus.evaluationSplit, join(resolve(data), dataset.source)),
    ours: lmEvalDocuments(corpus.textField, scored).map(({ doc_hash, prompt_hash, target_hash }, i) => ({
      answers: [{ logLikelihood: at(scored, i).logLikelihood }],
      lengths: [],
      hashes: [doc_hash, prompt_hash, target_hash],
      outcomes: {},
    })),
    seconds: (performance.now() - start) / 1000,
  };
}

interface Flags {
  model: string;
  engine?: EngineName;
  tasks: string[];
  data: string;
  limit?: number;
  /** Solved examples in the prompt. */
  fewshot: number;
  /** The harness's own task files in place of tasks of ours. */
  taskFiles: boolean;
}

function parseFlags(args: string[]): Flags {
  const refuse = (arg: string) => {
    throw new UsageError(`Unknown argument "${arg}": see the head of tools/checks/check_lm_eval.ts`);
  };
  const flags = parseArgs(args, {
    string: ["peer", "model", "engine", "tasks", "data", "limit", "num-fewshot"],
    boolean: ["task-files"],
    default: {
      peer: "hf",
      model: "tiny",
      tasks: "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa,wikitext",
      data: fileURLToPath(new URL("../../datasets/fixtures", import.meta.url)),
    },
    unknown: refuse,
  });
  const oneOf = (name: string, value: string, known: string[]) => {
    if (!known.includes(value)) throw unknownName(name, value, known);
  };
  oneOf("peer", flags.peer, ["hf"]);
  const tasks = String(flags.tasks).split(",");
  for (const task of tasks) oneOf("task", task, [...knownTasks.keys(), ...corpora.keys()]);
  const [limit, fewshot = 0] = [countFlag(flags, "limit"), countFlag(flags, "num-fewshot", 0)];
  return { ...flags as unknown as Flags, tasks, limit, fewshot, taskFiles: flags["task-files"] };
}

function describe(name: string, found: Comparison): string {
  const { examples, answers, worst, differing, decisions, ties, greedy, hashes, means } = found;
  const metrics = Object.entries(means).map(([metric, { ours, theirs }]) =>
    `; ${metric} ${ours.toFixed(4)} here, ${theirs.toFixed(4)} there`
  );
  return `${name}: ${examples} examples, ${answers} log-likelihoods, largest difference ${
    worst.toExponential(1)
  } nats; ` +
    `${differing} differ, ${decisions} other decisions, ${ties} at ties, ${greedy} other greedy flags, ` +
    `${hashes} other records or prompts${metrics.join("")}: ${isSound(found) ? "agrees" : "DISAGREES"}`;
}

/** Prints what the comparison of each task found; returns whether all is sound. */
function report(
  tasks: readonly CheckedTask[],
  examples: ReadonlyMap<string, CheckedExample[]>,
  tolerance: Tolerance,
): boolean {
  console.log(`log-likelihoods may differ by ${tolerance.nats} nats + ${tolerance.relative} of their size`);
  const found = tasks.map(({ name, ours }) => ({
    name,
    comparison: compareExamples(ours, examples.get(name) ?? [], tolerance),
  }));
  for (const { name, comparison } of found) console.log(describe(name, comparison));
  return found.every(({ comparison }) => isSound(comparison));
}

async function main(args: string[]): Promise<number> {
  const flags = parseFlags(args);
  const python = await harnessPython();
  const engine = flags.engine ? await startEngine(flags.engine) : (await startBestEngine()).engine;
  const { source, tokenizer, tokenizerDefinition } = await openModel(flags.model);
  const work = await Deno.makeTempDir({ prefix: "check-lm-eval-" });
  try {
    const folder = join(work, "model");
    exportHfFolder(source, { to: folder, dtype: "F32", tokenizer: tokenizerDefinition });
    const model = scoringModel(await uploadModel(source));
    source.close();
    const scorer = createScorer(model, tokenizer);
    const tasks: CheckedTask[] = [];
    for (const name of flags.taskFiles ? [] : flags.tasks) {
      tasks.push(await (knownTasks.has(name) ? checkedTask : checkedCorpus)(scorer, name, flags));
    }
    const files = flags.taskFiles ? await scoreTaskFiles(scorer, python, join(work, "files")) : undefined;
    if (files) tasks.push(...files.tasks);
    const ourSeconds = tasks.reduce((sum, { seconds }) => sum + seconds, 0);
    const { examples, results, loadS, seconds } = await runHarness(python, {
      model: "hf",
      model_args: { pretrained: folder, dtype: "float32" },
      tasks: files ? files.asked : tasks,
      batch_size: 16,
      limit: flags.limit,
      num_fewshot: flags.fewshot,
    }, join(work, "harness"));
    console.log(`lm-evaluation-harness 0.4.13 (hf) and ours (${engine.library}) on ${flags.model}`);
    const sound = [
      report(tasks, examples, TOLERANCE),
      !files || compareMetrics(files.metrics, results),
    ].every((one) => one);
    const times = [ourSeconds, seconds, loadS].map((time) => time.toFixed(1));
    console.log(`scoring took us ${times[0]} s and the harness ${times[1]} s, after ${times[2]} s of loading`);
    return sound ? 0 : 1;
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

if (import.meta.main) await runTool(() => main(Deno.args));
