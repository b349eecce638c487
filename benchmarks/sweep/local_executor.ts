/** Cells as processes of this machine: `jobs` at once, the threads divided among them, on CUDA a GPU for each; or one
 * alone with all threads.
 *
 * @module
 */
import { runCellProcess } from "./cell_process.ts";
import type { NamedCell } from "../../core/schema/cell_names.ts";
import { cellJob, type Executor, type ExecutorContext, failedRecord, processFiles } from "./executor.ts";
import { classifyError, classifyExit, type Failure, isDiskFull, timeoutFailure } from "../../core/schema/failure.ts";
import { isMeasured } from "../records/measured.ts";
import { wantedOf } from "../configuration/prepare.ts";
import { readRecord, recordPath } from "../records/store.ts";

/** Runs cells as processes of this machine, `config.jobs` at once. */
export const localExecutor: Executor = {
  run: (cells, context) => {
    const free = [...context.run.gpus ?? []];
    return runConcurrently(cells, { jobs: jobsOf(context), signal: context.queueSignal }, async (named) => {
      context.started(named);
      const gpu = free.shift();
      try {
        await runCell(named, gpu, context);
      } finally {
        if (gpu !== undefined) free.push(gpu);
      }
    });
  },
};

const jobsOf = ({ alone, run }: ExecutorContext) => alone ? 1 : run.config.jobs;

/** Runs one cell in its process, and reports a failure that the process could not record. */
async function runCell(named: NamedCell, gpu: string | undefined, context: ExecutorContext): Promise<void> {
  const { run: { config, engine, device }, timeoutS, signal } = context;
  const files = processFiles(config.out, named);
  const startedAt = new Date();
  let phase: string | undefined;
  const fail = (failure: Failure) => context.ended(named, failedRecord(named, startedAt, failure));
  try {
    const { status, recorded, failure, timedOut, stderrTail } = await runCellProcess({
      job: cellJob(context, named, true),
      jobPath: files.job,
      logPath: files.log,
      keepsLog: context.alone,
      threads: Math.max(1, Math.floor(navigator.hardwareConcurrency / jobsOf(context))),
      ffi: engine === "tensorflow",
      cuda: device === "cuda",
      gpu,
      timeoutS,
      signal,
      onPhase: (now) => context.phase(named, phase = now),
    });
    // A process may be killed between writing its record and reporting it.
    if (recorded || isMeasured(config.out, named, wantedOf(context.run))) {
      context.ended(named, readRecord(recordPath(config.out, named)));
    } else if (failure) fail(failure);
    else if (timedOut) fail(timeoutFailure(timeoutS!, phase));
    else if (!signal.aborted) fail(classifyExit(status, stderrTail, phase));
  } catch (error) {
    if (!isDiskFull(error)) throw error;
    fail({ ...classifyError(error, { phase }), exitCode: null });
  }
}

/** Runs `work` for every item, at most `jobs` at once, in order. No item is started after `signal` aborts; running ones
 * are waited for.
 * @throws whatever `work` throws first, after the others have ended. */
export async function runConcurrently<T>(
  items: readonly T[],
  { jobs, signal }: { jobs: number; signal: AbortSignal },
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = items.values();
  const failures: unknown[] = [];
  const runOneByOne = async () => {
    while (!signal.aborted && failures.length === 0) {
      const { value, done } = queue.next();
      if (done) return;
      try {
        await work(value);
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, items.length) }, runOneByOne));
  if (failures.length > 0) throw failures[0];
}
