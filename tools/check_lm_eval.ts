/** `deno task check:lm-eval [--peer server|hf] [--model PATH] [--tasks LIST] [--data DIR] [--limit N]`: whether our scores
 * are those of lm-evaluation-harness, choice by choice.
 *
 * The harness (0.4.13, from PyPI, in a private environment) scores the same records with its own task definitions; each
 * log-likelihood, each decision and each logged record is compared with ours.
 *
 * - `server`, the default: through its `local-completions` backend and our `/v1/completions`. `--tokenizer remote` uses
 *   our tokenizer endpoints as well; `huggingface`, the default, transformers' tokenizer.
 * - `hf`: through its `hf` backend, PyTorch and transformers, on the same weights in f32; no code is shared.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { lmEvalSamples } from "../benchmarks/lm_eval_files.ts";
import { argmax, measureTask } from "../benchmarks/multiple_choice.ts";
import { createScorer, type Scorer } from "../benchmarks/scorer.ts";
import { createApp } from "../benchmarks/server.ts";
import { startBestEngine, startEngine } from "../core/engine.ts";
import { unknownName, UsageError } from "../core/errors.ts";
import { codePointLength } from "../core/python_text.ts";
import type { EngineName } from "../core/schema.ts";
import { loadCorpus } from "../datasets/load.ts";
import { corpora, getCorpus, getTask, tasks as knownTasks } from "../datasets/mod.ts";
import { exportHfFolder } from "../models/export.ts";
import { uploadModel } from "../models/llama.ts";
import { openModel } from "../models/load.ts";
import { scoringModel } from "../models/scoring.ts";
import { cacheFolder, privatePython } from "./setup_common.ts";

const HARNESS = ["lm-eval[api]==0.4.13"];
const HARNESS_WITH_TORCH = ["lm-eval[api,hf]==0.4.13"];
const TRANSFORMERS = ["transformers==5.24.0"];
const TORCH = ["torch==2.15.0"];

/** By how much log-likelihoods may differ: `nats + relative * |log-likelihood|`. */
export interface Tolerance {
  nats: number;
  /** What f32 leaves of a long sum when the same tokens stand in another batch. */
  relative: number;
}

const TOLERANCES = { server: { nats: 1e-5, relative: 1e-6 }, hf: { nats: 1e-3, relative: 0 } };
type Peer = keyof typeof TOLERANCES;

/** One answer: a choice of an example, or a whole document. */
interface Answer {
  logLikelihood: number;
  /** Undefined for whole documents. */
  isGreedy?: boolean;
}

/** What one side has of an example. */
export interface CheckedExample {
  answers: Answer[];
  /** Lengths that acc_norm divides by; empty for whole documents. */
  lengths: number[];
  /** Hashes of record, prompt and target. */
  hashes: string[];
}

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
}

/** Compares both sides, example by example in the same order.
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
  };
  ours.forEach((own, i) => {
    const other = theirs[i];
    if (own.answers.length !== other.answers.length) {
      throw new UsageError(`Example ${i}: the harness has ${other.answers.length} answers, we ${own.answers.length}`);
    }
    own.answers.forEach(({ logLikelihood, isGreedy }, j) => {
      const difference = Math.abs(logLikelihood - other.answers[j].logLikelihood);
      found.answers++;
      found.worst = Math.max(found.worst, difference);
      // NaN must count as a difference.
      if (!(difference <= allowed(logLikelihood))) found.differing++;
      if (isGreedy !== other.answers[j].isGreedy) found.greedy++;
    });
    if (own.hashes.join() !== other.hashes.join()) found.hashes++;
    for (const divisors of own.lengths.length > 0 ? [own.lengths.map(() => 1), own.lengths] : []) {
      const values = (side: CheckedExample) => side.answers.map(({ logLikelihood }, j) => logLikelihood / divisors[j]);
      const [mine, his] = [values(own), values(other)];
      const [a, b] = [argmax(mine), argmax(his)];
      if (a === b) continue;
      const slack = [a, b].reduce((sum, j) => sum + allowed(own.answers[j].logLikelihood) / divisors[j], 0);
      if (mine[a] - mine[b] <= slack) found.ties++;
      else found.decisions++;
    }
  });
  return found;
}

/** Whether nothing is wrong. */
export function isSound({ differing, decisions, greedy, hashes }: Comparison): boolean {
  return differing + decisions + greedy + hashes === 0;
}

/** A task of the check: our side, and what the harness needs to know. */
interface CheckedTask {
  name: string;
  config: Record<string, unknown>;
  ours: CheckedExample[];
  seconds: number;
}

/** The part of a task's configuration that says where its records are. */
function localData(split: string, file: string): Record<string, unknown> {
  return {
    dataset_path: "json",
    dataset_name: null,
    dataset_kwargs: { data_files: { [split]: file } },
    training_split: null,
    validation_split: split === "validation" ? split : null,
    test_split: split === "test" ? split : null,
  };
}

/** Configuration of a task that the harness does not have: records of the tiny world. */
const TINY_TASK = {
  output_type: "multiple_choice",
  doc_to_text: "{{context}}",
  doc_to_choice: "{{choices}}",
  doc_to_target: "gold",
  metric_list: [{ metric: "acc", aggregation: "mean", higher_is_better: true }],
  metadata: { version: 1 },
};

async function checkedTask(
  scorer: Scorer,
  name: string,
  { data, limit }: { data: string; limit?: number },
): Promise<CheckedTask> {
  const task = getTask(name);
  const { result, scored } = await measureTask(scorer, name, { data, limit });
  const folder = task.folder ? fileURLToPath(task.folder) : resolve(data);
  const isOwn = task.folder !== undefined;
  return {
    name,
    config: { ...localData(task.split, join(folder, result.dataset.source)), ...isOwn ? TINY_TASK : {} },
    ours: lmEvalSamples(task, scored).map(({ doc_hash, prompt_hash, target_hash }, i) => ({
      answers: scored[i].scores,
      lengths: scored[i].example.choices.map(({ text }) => codePointLength(text)),
      hashes: [doc_hash, prompt_hash, target_hash],
    })),
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
  const scores = await scorer.rollingLogLikelihood(documents.map((text) => corpus.detokenise?.(text) ?? text));
  return {
    name,
    config: localData(corpus.evaluationSplit, join(resolve(data), dataset.source)),
    ours: scores.map(({ logLikelihood }) => ({ answers: [{ logLikelihood }], lengths: [], hashes: [] })),
    seconds: (performance.now() - start) / 1000,
  };
}

/** Reads a samples file of the harness. */
export function readSamples(text: string): CheckedExample[] {
  return text.trimEnd().split("\n").map((line): CheckedExample => {
    const { filtered_resps, doc_hash, prompt_hash, target_hash } = JSON.parse(line);
    if (typeof filtered_resps[0] === "string") {
      return { answers: [{ logLikelihood: Number(filtered_resps[0]) }], lengths: [], hashes: [] };
    }
    return {
      answers: filtered_resps.map(([value, greedy]: string[]) => ({
        logLikelihood: Number(value),
        isGreedy: greedy === "True",
      })),
      lengths: [],
      hashes: [doc_hash, prompt_hash, target_hash],
    };
  });
}

/** Python with the harness. The server's client needs no PyTorch, so it has a smaller environment unless there is the
 * larger one already. */
async function harnessPython(peer: Peer): Promise<string> {
  let hasTorch = peer === "hf";
  try {
    hasTorch ||= Deno.statSync(`${cacheFolder()}/python-torch/ready`).isFile;
  } catch {
    // Not made.
  }
  return hasTorch
    ? await privatePython("torch", [TORCH, TRANSFORMERS, HARNESS_WITH_TORCH])
    : await privatePython("lm-eval", [TRANSFORMERS, HARNESS]);
}

interface HarnessJob {
  model: string;
  model_args: Record<string, unknown>;
  tasks: CheckedTask[];
  batch_size: number;
  limit?: number;
}

/** Runs the harness in `work` and gives its examples by task and its seconds. */
async function runHarness(
  python: string,
  { tasks, limit, ...job }: HarnessJob,
  work: string,
): Promise<{ examples: Map<string, CheckedExample[]>; seconds: number }> {
  const [out, yaml] = [join(work, "out"), join(work, "tasks")];
  Deno.mkdirSync(yaml);
  const child = new Deno.Command(python, {
    args: [fileURLToPath(new URL("./peers/lm_eval_peer.py", import.meta.url))],
    env: {
      // Nothing is downloaded, and nothing is left in the user's caches.
      HF_HOME: join(work, "hf"),
      HF_HUB_OFFLINE: "1",
      HF_DATASETS_OFFLINE: "1",
      TOKENIZERS_PARALLELISM: "false",
      LMEVAL_LOG_LEVEL: "WARNING",
    },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  const names = tasks.map(({ name, config }) => ({ name, config }));
  const request = { ...job, tasks: names, limit: limit ?? null, num_fewshot: 0, work: yaml, out };
  await writer.write(new TextEncoder().encode(JSON.stringify(request)));
  await writer.close();
  const { success, stdout, stderr } = await child.output();
  if (!success) {
    const tail = new TextDecoder().decode(stderr).trim().split("\n").slice(-15).join("\n");
    throw new UsageError(`lm-evaluation-harness ended with an error:\n${tail}`);
  }
  const examples = new Map<string, CheckedExample[]>();
  for (const { name: folder } of Deno.readDirSync(out)) {
    for (const { name } of Deno.readDirSync(join(out, folder))) {
      const task = /^samples_(.+)_\d{4}-\d\d-\d\dT.*\.jsonl$/.exec(name)?.[1];
      if (task) examples.set(task, readSamples(Deno.readTextFileSync(join(out, folder, name))));
    }
  }
  const { seconds } = JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").pop()!);
  return { examples, seconds };
}

interface Flags {
  peer: Peer;
  model: string;
  engine?: EngineName;
  tasks: string[];
  data: string;
  limit?: number;
  tokenizer: "remote" | "huggingface";
}

function parseFlags(args: string[]): Flags {
  const refuse = (arg: string) => {
    throw new UsageError(`Unknown argument "${arg}": see the head of tools/check_lm_eval.ts`);
  };
  const flags = parseArgs(args, {
    string: ["peer", "model", "engine", "tasks", "data", "limit", "tokenizer"],
    default: {
      peer: "server",
      model: "tiny",
      tasks: "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa,wikitext",
      data: fileURLToPath(new URL("../datasets/fixtures", import.meta.url)),
      tokenizer: "huggingface",
    },
    unknown: refuse,
  });
  const oneOf = (name: string, value: string, known: string[]) => {
    if (!known.includes(value)) throw unknownName(name, value, known);
  };
  oneOf("peer", flags.peer, Object.keys(TOLERANCES));
  oneOf("tokenizer", flags.tokenizer, ["remote", "huggingface"]);
  const tasks = String(flags.tasks).split(",");
  for (const task of tasks) oneOf("task", task, [...knownTasks.keys(), ...corpora.keys()]);
  const limit = flags.limit === undefined ? undefined : Number(flags.limit);
  if (limit !== undefined && !(Number.isInteger(limit) && limit > 0)) {
    throw new UsageError(`--limit must be a whole number above 0: current "${flags.limit}"`);
  }
  return { ...flags as unknown as Flags, tasks, limit };
}

function describe(name: string, found: Comparison): string {
  const { examples, answers, worst, differing, decisions, ties, greedy, hashes } = found;
  return `${name}: ${examples} examples, ${answers} log-likelihoods, largest difference ${
    worst.toExponential(1)
  } nats; ` +
    `${differing} differ, ${decisions} other decisions, ${ties} at ties, ${greedy} other greedy flags, ` +
    `${hashes} other records or prompts: ${isSound(found) ? "agrees" : "DISAGREES"}`;
}

async function main(args: string[]): Promise<number> {
  const { peer, tokenizer: backend, ...flags } = parseFlags(args);
  const python = await harnessPython(peer);
  const engine = flags.engine ? await startEngine(flags.engine) : (await startBestEngine()).engine;
  const { source, tokenizer, tokenizerDefinition } = await openModel(flags.model);
  const work = await Deno.makeTempDir({ prefix: "check-lm-eval-" });
  try {
    const folder = join(work, "model");
    exportHfFolder(source, { to: folder, dtype: "F32", tokenizer: tokenizerDefinition });
    const model = scoringModel(await uploadModel(source));
    source.close();
    const isRemote = peer === "server" && backend === "remote";
    // The remote tokenizer never adds a beginning-of-sequence token; the others follow the tokenizer's default.
    const scorer = createScorer(model, tokenizer, {
      bos: isRemote ? "never" : "tokenizer",
      rollingBos: isRemote ? "single" : "lm-eval",
    });
    const tasks: CheckedTask[] = [];
    for (const name of flags.tasks) {
      tasks.push(await (knownTasks.has(name) ? checkedTask : checkedCorpus)(scorer, name, flags));
    }
    const ourSeconds = tasks.reduce((sum, { seconds }) => sum + seconds, 0);
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: () => {} },
      createApp({ name: "checked", model, tokenizer }).fetch,
    );
    try {
      const { examples, seconds } = await runHarness(python, {
        model: peer === "hf" ? "hf" : "local-completions",
        model_args: peer === "hf" ? { pretrained: folder, dtype: "float32" } : {
          model: "checked",
          base_url: `http://127.0.0.1:${server.addr.port}/v1/completions`,
          tokenizer_backend: backend,
          ...isRemote ? {} : { tokenizer: folder, add_bos_token: tokenizer.addsBos },
          max_length: model.maxPositions + 2,
        },
        tasks,
        batch_size: 16,
        limit: flags.limit,
      }, work);
      console.log(`lm-evaluation-harness 0.4.13 (${peer}) and ours (${engine.library}) on ${flags.model}`);
      let sound = true;
      for (const { name, ours } of tasks) {
        const found = compareExamples(ours, examples.get(name) ?? [], TOLERANCES[peer]);
        sound &&= isSound(found);
        console.log(describe(name, found));
      }
      console.log(
        `scoring took us ${ourSeconds.toFixed(1)} s and the harness ${seconds.toFixed(1)} s, loading included`,
      );
      return sound ? 0 : 1;
    } finally {
      await server.shutdown();
    }
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

if (import.meta.main) {
  try {
    Deno.exit(await main(Deno.args));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(error.message);
    Deno.exit(2);
  }
}
