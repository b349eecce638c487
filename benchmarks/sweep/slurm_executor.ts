/** Cells as tasks of a Slurm job array. The run follows them and collects; when it is stopped the tasks go on, and the
 * same command follows them again.
 *
 * @module
 */
import { constants } from "node:os";
import { join } from "node:path";
import type { CellRecord } from "../../core/schema/schema.ts";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { cellJob, type Executor, type ExecutorContext, failedRecord, processFiles } from "./executor.ts";
import { classifyExit, type Failure, lastPhase, TIMEOUT_EXIT, timeoutFailure } from "../../core/schema/failure.ts";
import { arrayScript, checkSlurmOptions, endedBySlurm, queuedTasks, type SlurmOptions, submit } from "./slurm.ts";
import { parseEvent } from "../cells/job.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import { isSubmission, readRecord, recordPath, runPaths, toJson } from "../records/store.ts";

/** From one look at the queue to the next. */
const POLL_MS = 2000;
/** Looks at the queue after a task has left it until its record is given up: shared folders show files late. */
const PATIENCE = 3;
/** Looks at a queue that gives no answer until a run that asks which cells are in it gives up. */
const SILENT_LOOKS = 10;
/** Characters at the end of a log that a record quotes. */
const TAIL_LENGTH = 2000;

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

/** What the script of an array depends on. */
export type ScriptContext = Pick<ExecutorContext, "run" | "timeoutS" | "alone">;

/** The script that would be submitted for `cells`.
 * @throws {UsageError} when an option cannot stand in a script. */
export function slurmScript(cells: readonly NamedCell[], context: ScriptContext, options: SlurmOptions): string {
  checkSlurmOptions(options);
  return prepare(cells, context, options).script;
}

/** Runs cells as tasks of a job array.
 * @throws {UsageError} when an option cannot stand in a script. */
export function slurmExecutor(options: SlurmOptions): Executor {
  checkSlurmOptions(options);
  return {
    elsewhere: true,
    run: async (cells, context) => {
      if (cells.length === 0) return;
      const folder = slurmFolder(context);
      Deno.mkdirSync(folder, { recursive: true });
      const submitted = await stillQueued(cells, context);
      const names = new Set(submitted.map(({ named }) => cellName(named)));
      if (names.size > 0) context.note(`${names.size} cells are in Slurm's queue already: they are followed`);
      const others = cells.filter((named) => !names.has(cellName(named)));
      if (others.length > 0) submitted.push(...await submitArray(others, context, options));
      await follow(submitted, context);
    },
  };
}

const slurmFolder = ({ run }: ScriptContext) => runPaths(run.config.out).slurm;

/** The script for `cells` and the list of their names. */
function prepare(cells: readonly NamedCell[], context: ScriptContext, options: SlurmOptions) {
  const { run: { config, engine, device }, timeoutS } = context;
  const folder = slurmFolder(context);
  const { jobs, logs } = runPaths(config.out);
  const stamp = new Date().toISOString().replace(/\D/g, "");
  const list = join(folder, `${stamp}.list`);
  const array = { name: `bench-${config.name}`, count: cells.length, list, folder, jobs, logs, out: config.out };
  const alone = context.alone ? { ...options, maxParallel: 1 } : options;
  const script = arrayScript(array, alone, {
    ffi: engine === "tensorflow",
    // Which device a node has is known there; one that may be a GPU must be asked.
    cuda: engine === "tensorflow" && device !== "cpu",
    timeoutS,
  });
  return { script, path: join(folder, `${stamp}.sh`), list, logs };
}

async function submitArray(
  cells: readonly NamedCell[],
  context: ExecutorContext,
  options: SlurmOptions,
): Promise<Submitted[]> {
  const { out } = context.run.config;
  const { script, path, list, logs } = prepare(cells, context, options);
  Deno.mkdirSync(logs, { recursive: true });
  for (const named of cells) {
    Deno.mkdirSync(runPaths(out).jobs, { recursive: true });
    Deno.writeTextFileSync(processFiles(out, named).job, toJson(cellJob(context, named, false)));
  }
  const names = cells.map(cellName);
  writeAtomically(list, names.join("\n") + "\n");
  writeAtomically(path, script);
  const submittedAt = new Date();
  const job = await submit(path, join(logs.replaceAll("%", "%%"), "slurm-%A_%a.log"));
  writeAtomically(join(slurmFolder(context), `${job}.json`), toJson({ job, names }));
  context.note(`${cells.length} cells submitted to Slurm as job ${job}`);
  return cells.map((named, i) => followed(named, `${job}_${i}`, out, submittedAt));
}

function followed(named: NamedCell, task: string, out: string, submittedAt: Date): Submitted {
  const earlier = recordOf(out, named)?.startedAt;
  return { named, task, earlier, submittedAt, isRunning: false, goneFor: 0 };
}

function recordOf(out: string, named: NamedCell): CellRecord | undefined {
  try {
    return readRecord(recordPath(out, named));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Those of `cells` that an earlier run submitted and that have not ended.
 * @throws {UsageError} when Slurm does not say which these are. */
async function stillQueued(cells: readonly NamedCell[], context: ExecutorContext): Promise<Submitted[]> {
  const folder = slurmFolder(context);
  const arrays = [...Deno.readDirSync(folder)].filter(({ name }) => isSubmission(name)).map(({ name }) =>
    JSON.parse(Deno.readTextFileSync(join(folder, name))) as { job: string; names: string[] }
  );
  const queue = await answeredQueue(arrays.map(({ job }) => job), context);
  const byName = new Map(cells.map((named) => [cellName(named), named]));
  return arrays.flatMap(({ job, names }) =>
    names.flatMap((name, i) => {
      const named = byName.get(name);
      const task = `${job}_${i}`;
      return named && queue.has(task) ? [followed(named, task, context.run.config.out, new Date())] : [];
    })
  );
}

/** The queue as soon as Slurm answers.
 * @throws {UsageError} when it has not after {@linkcode SILENT_LOOKS}. */
async function answeredQueue(jobs: readonly string[], context: ExecutorContext): Promise<Map<string, string>> {
  for (let look = 0; look < SILENT_LOOKS && !context.signal.aborted; look++) {
    if (look === 1) context.note("Slurm's controller gives no answer: waiting for it");
    if (look > 0) await pause(context.signal);
    const queue = await queuedTasks(jobs);
    if (queue !== null) return queue;
  }
  throw new UsageError(
    "Slurm's controller gives no answer about the tasks of this folder: give the command again later",
  );
}

/** Looks at the queue until every task has a record or a reason for having none. */
async function follow(submitted: Submitted[], context: ExecutorContext): Promise<void> {
  const { run: { config }, signal } = context;
  let waiting = submitted;
  let isSilent = false;
  while (waiting.length > 0 && !signal.aborted) {
    const jobs = [...new Set(waiting.map(({ task }) => at(task.split("_"), 0)))];
    const queue = await queuedTasks(jobs);
    if (queue === null && !isSilent) context.note("Slurm's controller gives no answer: waiting for it");
    isSilent = queue === null;
    const left: Submitted[] = [];
    for (const one of waiting) {
      const state = queue?.get(one.task);
      if (state === "RUNNING" && !one.isRunning) {
        one.isRunning = true;
        context.started(one.named);
      }
      const record = recordOf(config.out, one.named);
      if (record && record.startedAt !== one.earlier) {
        context.ended(one.named, record);
        continue;
      }
      if (queue && state === undefined && ++one.goneFor >= PATIENCE) {
        context.ended(one.named, failedRecord(one.named, one.submittedAt, await reasonFor(one, context)));
        continue;
      }
      left.push(one);
    }
    waiting = left;
    if (waiting.length > 0) await pause(signal);
  }
  if (signal.aborted) {
    const jobs = [...new Set(waiting.map(({ task }) => task.split("_")[0]))].join(" ");
    if (jobs) context.note(`The tasks go on: the same command follows them, \`scancel ${jobs}\` ends them`);
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
  // A shell says 128 + N for a command that signal N ended.
  const signal = Object.entries(constants.signals).find(([, number]) => number === code - 128)?.[0];
  // Slurm ends a task by signals, too, and knows better why.
  const bySlurm = Number.isNaN(code) || signal !== undefined ? await endedBySlurm(task) : null;
  if (bySlurm) return { ...bySlurm, ...phase !== undefined && { phase } };
  if (!Number.isNaN(code)) return classifyExit({ code, signal: (signal ?? null) as Deno.Signal | null }, tail, phase);
  const unknown = `Slurm's task ${task} ended without a record: see its log, and run it again with --retry crash`;
  return { kind: "crash", message: unknown, exitCode: null };
}

function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}
