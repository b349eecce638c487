/** Checks that our scores equal those of lm-evaluation-harness.
 *
 * The harness (0.4.13 with PyTorch, from PyPI, in a private environment) scores the same records with its own task
 * definitions, on the same weights in f32. Each log-likelihood, decision and logged record is compared. With
 * `--task-files`, task files of the harness run as installed on small local data, and metrics are compared too.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { choiceOf, countFlag, withTempFolder } from "../../benchmarks/commands/command.ts";
import { list } from "../../benchmarks/configuration/short_forms.ts";
import { argmax, measureTask } from "../../benchmarks/evaluation/tasks.ts";
import { createScorer, type Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { lmEvalDocuments } from "../../benchmarks/records/lm_eval_samples.ts";
import { startBestEngine } from "../../core/engine/engine.ts";
import { unknownName, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { mean } from "../../core/util/stats.ts";
import { loadCorpus } from "../../datasets/load.ts";
import { corpora, getCorpus, getTask, tasks as knownTasks } from "../../datasets/mod.ts";
import { uploadModel } from "../../models/device.ts";
import { exportHfFolder } from "../../models/export.ts";
import { openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import {
  type CheckedExample,
  checkedExample,
  type CheckedTask,
  harnessPython,
  localData,
  ourExamples,
  runHarness,
} from "./lm_eval_harness.ts";
import { compareMetrics, scoreTaskFiles } from "./lm_eval_task_files.ts";

const FLAGS = ["peer", "model", "tasks", "data", "limit", "num-fewshot"] as const;
const HELP = `deno task check:lm-eval [options]

  --peer hf          the harness's backend: PyTorch and transformers
  --model PATH       model (default: tiny)
  --tasks LIST       tasks and corpora (default: the eight of datasets/fixtures)
  --data DIR         folder with their records (default: datasets/fixtures)
  --limit N          first N examples of each
  --num-fewshot N    few-shot examples (default: 0)
  --task-files       compare the harness's own task files instead`;

const TASKS = "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa,wikitext";
/** By how much two log-likelihoods may differ, in nats. */
const TOLERANCE_NATS = 1e-3;

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

/** Compares both sides, example by example in the same order, with a tolerance of `nats`; lengths are taken from ours.
 * @throws {UsageError} when one side has more examples or choices. */
export function compareExamples(
  ours: readonly CheckedExample[],
  theirs: readonly CheckedExample[],
  nats: number = TOLERANCE_NATS,
): Comparison {
  if (ours.length !== theirs.length) {
    throw new UsageError(`The harness has ${theirs.length} examples, we have ${ours.length}`);
  }
  const metrics = Object.keys(ours[0]?.outcomes ?? {}).filter((metric) => metric in at(theirs, 0).outcomes);
  const meanOf = (side: readonly CheckedExample[], metric: string) =>
    mean(side.map(({ outcomes }) => outcomes[metric] ?? NaN));
  const found: Comparison = {
    ...{ examples: ours.length, answers: 0, worst: 0, differing: 0, decisions: 0, ties: 0, greedy: 0, hashes: 0 },
    means: Object.fromEntries(
      metrics.map((metric) => [metric, { ours: meanOf(ours, metric), theirs: meanOf(theirs, metric) }]),
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
      if (!(difference <= nats)) found.differing++;
      if (isGreedy !== at(other.answers, j).isGreedy) found.greedy++;
    });
    // Of a document we keep the text alone: a record with more fields has another hash.
    const hashesOf = ({ hashes }: CheckedExample) => own.fields === 1 && other.fields > 1 ? hashes.slice(0, 2) : hashes;
    if (hashesOf(own).join() !== hashesOf(other).join()) found.hashes++;
    for (const divisors of own.lengths.length > 0 ? [own.lengths.map(() => 1), own.lengths] : []) {
      const values = (side: CheckedExample) =>
        side.answers.map(({ logLikelihood }, j) => logLikelihood / at(divisors, j));
      const mine = values(own);
      const [a, b] = [argmax(mine), argmax(values(other))];
      if (a === b) continue;
      const slack = nats / at(divisors, a) + nats / at(divisors, b);
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

/** Records and how many of them. */
interface Wanted {
  data: string;
  limit?: number;
  fewshot: number;
}

async function checkedTask(scorer: Scorer, name: string, wanted: Wanted): Promise<CheckedTask> {
  const task = getTask(name);
  const { result, scored } = await measureTask(scorer, name, wanted);
  const train = result.fewshotDataset && join(resolve(wanted.data), result.fewshotDataset.source);
  return {
    name,
    config: localData(task.split, join(resolve(wanted.data), result.dataset.source), train),
    ours: ourExamples(task, scored),
  };
}

/** Whole documents, protocol (c). */
async function checkedCorpus(scorer: Scorer, name: string, { data, limit }: Wanted): Promise<CheckedTask> {
  const corpus = getCorpus(name);
  const { texts, dataset } = await loadCorpus(corpus, { data });
  const documents = (corpus.documents?.(texts) ?? []).slice(0, limit);
  const shown = documents.map((document) => corpus.detokenise?.(document) ?? document);
  const scores = await scorer.loglikelihoodRolling(shown, { bos: "lm-eval" });
  const scored = documents.map((document, i) => ({
    document,
    text: at(shown, i),
    logLikelihood: at(scores, i).logLikelihood,
    words: 0,
    bytes: 0,
  }));
  return {
    name,
    config: localData(corpus.evaluationSplit, join(resolve(data), dataset.source)),
    ours: lmEvalDocuments(corpus.textField, scored).map((sample) => checkedExample(sample)),
  };
}

function describe(name: string, found: Comparison): string {
  const metrics = Object.entries(found.means).map(([metric, { ours, theirs }]) =>
    `; ${metric} ${ours.toFixed(4)} here, ${theirs.toFixed(4)} there`
  );
  return `${name}: ${found.examples} examples, ${found.answers} log-likelihoods, ` +
    `largest difference ${found.worst.toExponential(1)} nats; ${found.differing} differ, ` +
    `${found.decisions} other decisions, ${found.ties} at ties, ${found.greedy} other greedy flags, ` +
    `${found.hashes} other records or prompts${metrics.join("")}: ${isSound(found) ? "agrees" : "DISAGREES"}`;
}

async function main(flags: ToolArgs<typeof FLAGS[number], "task-files">): Promise<number> {
  choiceOf("peer", flags.peer ?? "hf", ["hf"]);
  const stray = (["tasks", "data", "limit", "num-fewshot"] as const).find((name) => flags[name] !== undefined);
  if (flags["task-files"] && stray) throw new UsageError(`--${stray} has no effect on --task-files`);
  const { model: path = "tiny", data = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url)) } = flags;
  const wanted = { data, limit: countFlag(flags, "limit"), fewshot: countFlag(flags, "num-fewshot", 0) ?? 0 };
  const names = list(flags.tasks ?? TASKS);
  const known = [...knownTasks.keys(), ...corpora.keys()];
  for (const name of names) if (!known.includes(name)) throw unknownName("task", name, known);
  const python = await harnessPython();
  const { engine } = await startBestEngine();
  const { source, tokenizer, tokenizerDefinition } = await openModel(path);
  return await withTempFolder(async (work) => {
    const pretrained = join(work, "model");
    exportHfFolder(source, { to: pretrained, dtype: "F32", tokenizer: tokenizerDefinition });
    const scorer = createScorer(scoringModel(await uploadModel(source)), tokenizer);
    source.close();
    const files = flags["task-files"] ? await scoreTaskFiles(scorer, python) : undefined;
    const tasks = files?.tasks ?? [];
    for (const name of files ? [] : names) {
      tasks.push(await (knownTasks.has(name) ? checkedTask : checkedCorpus)(scorer, name, wanted));
    }
    const { examples, results } = await runHarness(python, {
      pretrained,
      tasks: files ? files.asked : tasks,
      batch_size: 16,
      limit: wanted.limit,
      num_fewshot: wanted.fewshot,
    }, join(work, "harness"));
    console.log(`lm-evaluation-harness 0.4.13 (hf) and ours (${engine.library}) on ${path}`);
    console.log(`log-likelihoods may differ by ${TOLERANCE_NATS} nats`);
    let sound = true;
    for (const { name, ours } of tasks) {
      const found = compareExamples(ours, examples.get(name) ?? []);
      console.log(describe(name, found));
      sound &&= isSound(found);
    }
    if (files) sound = compareMetrics(files.metrics, results) && sound;
    return sound ? 0 : 1;
  });
}

if (import.meta.main) await runTool({ help: HELP, string: FLAGS, boolean: ["task-files"] }, main);
