/** How long evaluating a model takes, and how much memory.
 *
 * Each repeat is a process of its own; loading counts for the memory, not for the time. With `--peer lm-eval`, the same
 * records go through lm-evaluation-harness's `hf` backend (PyTorch on the CPU, f32) in turns with ours, at its fastest
 * batch size on a few examples. Ratios are printed only when both sides give the same log-likelihoods. With `--peer
 * exact`, fast arithmetic is compared with exact, and changed decisions are counted.
 *
 * Exit codes: 0 done, 1 the sides disagree, 2 wrong use.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { at, lookUp } from "../../core/util/indexing.ts";
import { hostMemory } from "../../core/engine/device_memory.ts";
import { choiceOf, countFlag, wholeNumber, withTempFolder } from "../../benchmarks/commands/command.ts";
import { list } from "../../benchmarks/configuration/short_forms.ts";
import { measureTask } from "../../benchmarks/evaluation/tasks.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { startBestEngine } from "../../core/engine/engine.ts";
import { spoken } from "../../core/schema/failure.ts";
import { type Arithmetic, ARITHMETICS } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { getTask } from "../../datasets/mod.ts";
import { exportHfFolder } from "../../models/export.ts";
import { uploadModel, usualForm } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { type HarnessJob, harnessPython, localData, runHarness } from "../checks/lm_eval_harness.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import { inProject } from "../../core/util/user_folder.ts";
import { ratios, spread } from "./in_turns.ts";

const FLAGS = ["model", "tasks", "data", "limit", "repeats", "peer", "peer-batch", "arithmetic", "worker"] as const;
const HELP = `deno task bench:eval --data DIR [options]

  --data DIR         folder with the tasks' records
  --model PATH       model (default: models/SmolLM2-135M.gguf)
  --tasks LIST       tasks (default: arc_easy,openbookqa)
  --limit N          first N examples of each task
  --repeats N        repeats (default: 3)
  --arithmetic A     exact (the default) or fast
  --peer P           lm-eval or exact: alternates with it
  --peer-batch LIST  batch sizes of the harness to choose from (default: 1,4,16)`;

/** Examples of each task for choosing the batch size. */
const TRIAL_EXAMPLES = 16;
/** Nats by which the sides may differ. */
const TOLERANCE_NATS = 1e-3;

/** What is evaluated. */
interface Work {
  model: string;
  tasks: string[];
  data: string;
  limit?: number;
  arithmetic: Arithmetic;
  /** Batch sizes of the harness to choose from. */
  peerBatch: number[];
}

/** One evaluation. */
interface Outcome {
  seconds: number;
  loadS: number;
  peakBytes: number;
  logLikelihoods: number[];
  /** The most likely choice of each example; absent for the harness. */
  decisions?: number[];
  /** Names of the files that were read, by task. */
  files: Record<string, string>;
}

/** Our side, in this process. */
async function evaluateHere({ model: path, tasks, data, limit, arithmetic }: Work): Promise<Outcome> {
  const start = performance.now();
  const { engine } = await startBestEngine({ arithmetic });
  const { source, tokenizer } = await openModel(path);
  const model = await uploadModel(source, usualForm(source, engine));
  source.close();
  const loaded = performance.now();
  const scorer = createScorer(scoringModel(model), tokenizer);
  const logLikelihoods: number[] = [];
  const decisions: number[] = [];
  const files: Record<string, string> = {};
  for (const id of tasks) {
    const { scored, result } = await measureTask(scorer, id, { data, limit });
    for (const { scores } of scored) {
      const found = scores.map(({ logLikelihood }) => logLikelihood);
      logLikelihoods.push(...found);
      decisions.push(found.indexOf(Math.max(...found)));
    }
    files[id] = result.dataset.source;
  }
  return {
    seconds: (performance.now() - loaded) / 1000,
    loadS: (loaded - start) / 1000,
    peakBytes: hostMemory.peak().bytes,
    logLikelihoods,
    decisions,
    files,
  };
}

/** Our side, in a process of its own. */
async function ours(work: Work): Promise<Outcome> {
  const { success, stdout, stderr } = await new Deno.Command("deno", {
    args: [
      ...["run", "--quiet", "--no-prompt", "--allow-read", "--allow-env", "--allow-sys", "--allow-ffi"],
      ...[import.meta.filename!, "--worker", JSON.stringify(work)],
    ],
  }).output();
  if (!success) throw new UsageError(`Evaluating failed: ${spoken(new TextDecoder().decode(stderr)).at(-1)}`);
  return JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").pop()!);
}

const peakOf = (outcomes: Outcome[]) => Math.max(...outcomes.map(({ peakBytes }) => peakBytes));

function describe(name: string, outcomes: Outcome[]): string {
  const seconds = spread(outcomes.map((outcome) => outcome.seconds), 1, `${outcomes.length} repeats`, " s");
  return `${name}: median ${seconds}, peak ${(peakOf(outcomes) / 2 ** 20).toFixed(0)} MiB`;
}

/** The harness at its fastest batch size. */
async function harnessSide(work: Work, files: Record<string, string>, folder: string): Promise<() => Promise<Outcome>> {
  const python = await harnessPython();
  const pretrained = join(folder, "model");
  const { source, tokenizerDefinition } = await openModel(work.model);
  exportHfFolder(source, { to: pretrained, dtype: "F32", tokenizer: tokenizerDefinition });
  source.close();
  const job: Omit<HarnessJob, "batch_size"> = {
    pretrained,
    tasks: Object.entries(files).map(([name, file]) => ({
      name,
      config: localData(getTask(name).split, join(resolve(work.data), file)),
    })),
    limit: work.limit,
    num_fewshot: 0,
  };
  let runs = 0;
  const run = async (batch_size: number, limit = work.limit): Promise<Outcome> => {
    const { examples, ...measured } = await runHarness(
      python,
      { ...job, batch_size, limit },
      join(folder, `run-${runs++}`),
    );
    const logLikelihoods = work.tasks.flatMap((task) =>
      lookUp(examples, task).flatMap(({ answers }) => answers.map(({ logLikelihood }) => logLikelihood))
    );
    return { ...measured, logLikelihoods, files };
  };
  const { peerBatch: sizes } = work;
  const trials: number[] = [];
  if (sizes.length > 1) { for (const size of sizes) trials.push((await run(size, TRIAL_EXAMPLES)).seconds); }
  const best = at(sizes, Math.max(0, trials.indexOf(Math.min(...trials))));
  console.log(`lm-evaluation-harness runs at batch size ${best}, the fastest of ${sizes.join(", ")}`);
  return () => run(best);
}

/** @returns whether the sides agree, as they do without a peer */
async function compare(work: Work, repeats: number, peer?: "lm-eval" | "exact"): Promise<boolean> {
  return await withTempFolder(async (folder) => {
    const mine: Outcome[] = [];
    const theirs: Outcome[] = [];
    let other: (() => Promise<Outcome>) | undefined;
    for (let repeat = 0; repeat < repeats; repeat++) {
      mine.push(await ours(work));
      if (peer === "exact") other ??= () => ours({ ...work, arithmetic: "exact" });
      if (peer === "lm-eval") other ??= await harnessSide(work, at(mine, 0).files, folder);
      if (other) theirs.push(await other());
    }
    console.log(describe(`ours, ${work.arithmetic}`, mine));
    if (theirs.length === 0) return true;
    console.log(describe(peer === "exact" ? "ours, exact" : "lm-evaluation-harness 0.4.13, hf", theirs));
    const worst = at(mine, 0).logLikelihoods.reduce(
      (most, value, i) => Math.max(most, Math.abs(value - at(at(theirs, 0).logLikelihoods, i))),
      0,
    );
    const count = at(mine, 0).logLikelihoods.length;
    if (peer === "exact") {
      const [fast = [], exact = []] = [at(mine, 0).decisions, at(theirs, 0).decisions];
      const changed = fast.filter((choice, i) => choice !== exact[i]).length;
      console.log(`${changed} of ${fast.length} examples are decided otherwise`);
    } else if (count !== at(theirs, 0).logLikelihoods.length || !(worst <= TOLERANCE_NATS)) {
      console.log(
        `The sides disagree: ${count} and ${at(theirs, 0).logLikelihoods.length} log-likelihoods, ` +
          `largest difference ${worst} nats`,
      );
      return false;
    }
    const memory = (peakOf(mine) / peakOf(theirs)).toFixed(2);
    const times = [mine, theirs].map((side) => side.map(({ seconds }) => seconds));
    console.log(`${count} log-likelihoods within ${worst.toExponential(1)} nats`);
    console.log(`ours takes ${ratios(at(times, 0), at(times, 1))} of the time and ${memory} of the peak memory`);
    return true;
  });
}

async function main(flags: ToolArgs<typeof FLAGS[number], never>): Promise<number> {
  if (flags.worker !== undefined) {
    console.log(JSON.stringify(await evaluateHere(JSON.parse(flags.worker))));
    return 0;
  }
  const { model = inProject("models/SmolLM2-135M.gguf"), data, peer } = flags;
  if (data === undefined) throw new UsageError("--data must name a folder with the tasks' records");
  const other = peer === undefined ? undefined : choiceOf("peer", peer, ["lm-eval", "exact"]);
  if (flags["peer-batch"] && other !== "lm-eval") throw new UsageError("--peer-batch needs --peer lm-eval");
  const arithmetic = choiceOf("arithmetic", flags.arithmetic ?? "exact", ARITHMETICS);
  const limit = countFlag(flags, "limit");
  const peerBatch = list(flags["peer-batch"] ?? "1,4,16").map((size) => wholeNumber("peer-batch", size));
  const tasks = list(flags.tasks ?? "arc_easy,openbookqa");
  for (const task of tasks) getTask(task);
  const work = { model, tasks, data, limit, arithmetic, peerBatch };
  return await compare(work, countFlag(flags, "repeats") ?? 3, other) ? 0 : 1;
}

if (import.meta.main) await runTool({ help: HELP, string: FLAGS }, main);
