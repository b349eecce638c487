/** Cells as tasks of a Slurm job array. The run follows them and collects their records. If it is stopped, the tasks
 * continue, and the same command follows them again.
 *
 * @module
 */
import { constants } from "node:os";
import { join } from "node:path";
import type { CellRecord } from "../../core/schema/schema.ts";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import { classifyExit, type Failure, lastPhase, TIMEOUT_EXIT, timeoutFailure } from "../../core/schema/failure.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { ifThere } from "../../core/util/paths.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import { parseEvent } from "../cells/job.ts";
import { wantedOf } from "../configuration/prepare.ts";
import { isMeasured } from "../records/measured.ts";
import { isSubmission, readRecord, recordPath, runPaths, toJson } from "../records/store.ts";
import { cellJob, type Executor, type ExecutorContext, failedRecord, processFiles } from "./executor.ts";
import { arrayScript, endedBySlurm, jobWithComment, queuedTasks, type SlurmOptions, submit } from "./slurm.ts";

/** From one look at the queue to the next. */
const POLL_MS = 2000;
/** Looks at the queue between the end of a task and giving up its record: shared folders show files late. */
const PATIENCE = 3;
/** Looks at a silent queue before a run gives up. */
const SILENT_LOOKS = 10;
/** Characters at the end of a log that a record quotes. */
const TAIL_LENGTH = 2000;

/** A job array, as its file in the folder `slurm` names it. */
interface Submission {
  /** The array's comment in Slurm, by which it is found if the run was killed before it knew the job. */
  comment: string;
  job?: string;
  /** Whether it measures throughput, one task at a time. */
  alone: boolean;
  /** Names of cells, in the order of the tasks. */
  names: string[];
}

/** A cell whose task was submitted. */
interface Submitted {
  named: NamedCell;
  /** `JOB_TASK`. */
  task: string;
  /** When the record of an earlier attempt began, which the new one replaces. */
  earlier: string | undefined;
  submittedAt: Date;
  isRunning: boolean;
  /** Looks at the queue since the task left it. */
  goneFor: number;
}

/** Runs cells as tasks of a job array. */
export function slurmExecutor(options: SlurmOptions): Executor {
  return {
    elsewhere: true,
    run: async (cells, context) => {
      if (cells.length === 0) return;
      Deno.mkdirSync(slurmFolder(context), { recursive: true });
      const submitted = await stillQueued(cells, context);
      const names = new Set(submitted.map(({ named }) => cellName(named)));
      if (names.size > 0) context.note(`${names.size} cells are in Slurm's queue already: the run follows them`);
      const others = cells.filter((named) => !names.has(cellName(named)));
      if (others.length > 0) submitted.push(...await submitArray(others, context, options));
      await follow(submitted, context);
    },
  };
}

const slurmFolder = ({ run }: Pick<ExecutorContext, "run">) => runPaths(run.config.out).slurm;

/** The script for `cells`, which `path` is for, the array's comment, and files that the script names. */
export function arrayOf(
  cells: readonly NamedCell[],
  context: Pick<ExecutorContext, "run" | "timeoutS" | "alone">,
  options: SlurmOptions,
): { script: string; comment: string; path: string; list: string; logs: string } {
  const { run: { config, engine, device }, timeoutS } = context;
  const folder = slurmFolder(context);
  const { jobs, logs } = runPaths(config.out);
  const comment = new Date().toISOString().replace(/\D/g, "");
  const list = join(folder, `${comment}.list`);
  const script = arrayScript(
    { name: `bench-${config.name}`, comment, count: cells.length, list, folder, jobs, logs, out: config.out },
    context.alone ? { ...options, maxParallel: 1 } : options,
    // The device of a node is known there; one that may be a GPU must be asked.
    { ffi: engine === "tensorflow", cuda: engine === "tensorflow" && device !== "cpu", timeoutS },
  );
  return { script, comment, path: join(folder, `${comment}.sh`), list, logs };
}

/** Submits an array. Its file is written first: a run that is killed in between finds the array by its comment. */
async function submitArray(
  cells: readonly NamedCell[],
  context: ExecutorContext,
  options: SlurmOptions,
): Promise<Submitted[]> {
  const { out } = context.run.config;
  const { script, comment, path, list, logs } = arrayOf(cells, context, options);
  for (const folder of [logs, runPaths(out).jobs]) Deno.mkdirSync(folder, { recursive: true });
  for (const named of cells) {
    Deno.writeTextFileSync(processFiles(out, named).job, toJson(cellJob(context, named, false)));
  }
  const names = cells.map(cellName);
  writeAtomically(list, names.join("\n") + "\n");
  writeAtomically(path, script);
  const file = join(slurmFolder(context), `${comment}.json`);
  const submission: Submission = { comment, alone: context.alone === true, names };
  writeAtomically(file, toJson(submission));
  const submittedAt = new Date();
  const job = await submit(path, join(logs.replaceAll("%", "%%"), "slurm-%A_%a.log"));
  writeAtomically(file, toJson({ ...submission, job }));
  context.note(`${cells.length} cells submitted to Slurm as job ${job}`);
  return cells.map((named, i) => followed(named, `${job}_${i}`, out, submittedAt));
}

function followed(named: NamedCell, task: string, out: string, submittedAt: Date): Submitted {
  const earlier = recordOf(out, named)?.startedAt;
  return { named, task, earlier, submittedAt, isRunning: false, goneFor: 0 };
}

const recordOf = (out: string, named: NamedCell): CellRecord | undefined =>
  ifThere(() => readRecord(recordPath(out, named)), undefined);

/** Those of `cells` that an earlier run submitted and that have not ended.
 * @throws {UsageError} when Slurm does not say which these are. */
async function stillQueued(cells: readonly NamedCell[], context: ExecutorContext): Promise<Submitted[]> {
  const folder = slurmFolder(context);
  const byName = new Map(cells.map((named) => [cellName(named), named]));
  const found: Submitted[] = [];
  for (const { name } of [...Deno.readDirSync(folder)].filter(({ name }) => isSubmission(name))) {
    const { comment, names, ...known }: Submission = JSON.parse(Deno.readTextFileSync(join(folder, name)));
    // A task that measured scores may still be leaving the queue while throughput is asked for.
    if (known.alone !== (context.alone === true)) continue;
    const job = known.job ?? await answered(() => jobWithComment(comment), context);
    const queue = job === undefined ? new Map() : await answered(() => queuedTasks([job]), context);
    names.forEach((cell, i) => {
      const named = byName.get(cell);
      if (named && queue.has(`${job}_${i}`)) {
        found.push(followed(named, `${job}_${i}`, context.run.config.out, new Date()));
      }
    });
  }
  return found;
}

/** What Slurm says as soon as it answers.
 * @throws {UsageError} when it has not after {@linkcode SILENT_LOOKS}. */
async function answered<T>(ask: () => Promise<T | null>, context: ExecutorContext): Promise<T> {
  for (let look = 0; look < SILENT_LOOKS && !context.signal.aborted; look++) {
    if (look === 1) context.note("Slurm's controller does not answer: waiting");
    if (look > 0) await pause(context.signal);
    const answer = await ask();
    if (answer !== null) return answer;
  }
  throw new UsageError("Slurm's controller does not answer about the tasks of this folder: repeat the command later");
}

const jobsOf = (submitted: readonly Submitted[]) => [...new Set(submitted.map(({ task }) => at(task.split("_"), 0)))];

/** Looks at the queue until every task has a record or a reason for having none. */
async function follow(submitted: Submitted[], context: ExecutorContext): Promise<void> {
  const { run: { config }, signal } = context;
  let waiting = submitted;
  let isSilent = false;
  while (waiting.length > 0 && !signal.aborted) {
    const queue = await queuedTasks(jobsOf(waiting));
    if (queue === null && !isSilent) context.note("Slurm's controller does not answer: waiting");
    isSilent = queue === null;
    const left: Submitted[] = [];
    for (const one of waiting) {
      const state = queue?.get(one.task);
      if (state === "RUNNING" && !one.isRunning) {
        one.isRunning = true;
        context.started(one.named);
      }
      const record = recordOf(config.out, one.named);
      // A task that was leaving when the run looked first may have written its record before that.
      if (record && (record.startedAt !== one.earlier || isMeasured(config.out, one.named, wantedOf(context.run)))) {
        context.ended(one.named, record);
      } else if (queue && state === undefined && ++one.goneFor >= PATIENCE) {
        context.ended(one.named, failedRecord(one.named, one.submittedAt, await reasonFor(one, context)));
      } else left.push(one);
    }
    waiting = left;
    if (waiting.length > 0) await pause(signal);
  }
  if (signal.aborted && waiting.length > 0) {
    const jobs = jobsOf(waiting).join(" ");
    context.note(`The tasks continue. Repeat the command to follow them, or stop them with \`scancel ${jobs}\``);
  }
}

function pause(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, POLL_MS);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}

/** Why a task that is gone left no record. */
async function reasonFor({ named, task }: Submitted, context: ExecutorContext): Promise<Failure> {
  const tail = readText(processFiles(context.run.config.out, named).log).slice(-TAIL_LENGTH);
  const events = readText(join(slurmFolder(context), `${task}.events`)).split("\n").map(parseEvent);
  const told = events.find((event) => event?.event === "failed");
  if (told) return told.failure;
  const phase = lastPhase(tail);
  const code = Number(readText(join(slurmFolder(context), `${task}.exit`)).trim() || NaN);
  if (code === TIMEOUT_EXIT && context.timeoutS !== undefined) return timeoutFailure(context.timeoutS, phase);
  // A shell exits with 128 + N after signal N.
  const signal = Object.entries(constants.signals).find(([, number]) => number === code - 128)?.[0];
  // Slurm ends tasks by signals, too, and knows why.
  const bySlurm = Number.isNaN(code) || signal !== undefined ? await endedBySlurm(task) : null;
  if (bySlurm) return { ...bySlurm, ...phase !== undefined && { phase } };
  if (!Number.isNaN(code)) return classifyExit({ code, signal: (signal ?? null) as Deno.Signal | null }, tail, phase);
  const message = `Slurm's task ${task} ended without a record: see its log, and run it again with --retry crash`;
  return { kind: "crash", message, exitCode: null };
}

const readText = (path: string): string => ifThere(() => Deno.readTextFileSync(path), "");
