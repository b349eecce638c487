/** Runs all cells of a configuration, each in its own process, and resumes an earlier run of the folder. Throughput
 * comes last: when every cell has its record, models are timed one at a time.
 *
 * @module
 */
import type { z } from "zod";
import { FileFormatError } from "../../core/util/errors.ts";
import {
  type CellRecord,
  type FailedRecord,
  FAILURE_KINDS,
  type FailureKind,
  type RunConfig,
  type runConfigSchema,
} from "../../core/schema/schema.ts";
import { cellLabels, cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import { resolveConfig } from "../configuration/resolve.ts";
import { harnessCommit } from "../cells/environment.ts";
import { type Executor, type ExecutorContext, processFiles } from "./executor.ts";
import { ifThere } from "../../core/util/paths.ts";
import { isDiskFull } from "../../core/schema/failure.ts";
import { localExecutor } from "./local_executor.ts";
import { type PreparedRun, prepareRun, wantedOf } from "../configuration/prepare.ts";
import type { SweepEvent } from "./progress.ts";
import { timeModels } from "./timing.ts";
import { askedResults, isComplete, withoutThroughput } from "../records/measured.ts";
import { outdatedMethods, writeRunFile } from "../records/run_file.ts";
import {
  doneRecord,
  lockFolder,
  readRecord,
  recordPath,
  removeTemporaryFiles,
  SchemaVersionError,
  setAside,
  writeRecord,
} from "../records/store.ts";

/** A run as a user writes it: values with a default may be left out. */
export type RunConfigInput = z.input<typeof runConfigSchema>;

/** How a run went. */
export interface SweepResult {
  /** Records of every cell of the configuration that has one, dense first. */
  records: CellRecord[];
  /** Cells that finished in this run. */
  done: number;
  /** Cells that failed in this run. */
  failed: number;
  /** Cells that were finished before this run. */
  skipped: number;
  /** Cells that failed earlier and were not retried. */
  kept: number;
  /** Whether the signal stopped it. */
  interrupted: boolean;
}

/** Options of {@linkcode runSweep}. */
export interface SweepOptions {
  /** Told what happens. */
  onEvent?: (event: SweepEvent) => void;
  /** Stops the run: running cells end without a record, and the same call resumes. */
  signal?: AbortSignal;
  /** Longest time of a cell, in seconds; no limit when absent. */
  timeoutS?: number;
  /** Failures of an earlier run that are retried; all by default. */
  retry?: readonly FailureKind[];
  /** What runs the cells; processes of this machine by default. */
  executor?: Executor;
}

/** Runs `config`, one process per cell. Finished cells are skipped, failed ones run again if `retry` names their class.
 * Failures of cells are records, not exceptions.
 * @throws {UsageError} when the configuration, the model or the data cannot be used: nothing was run.
 * @throws {EngineError} when the engine that was asked for does not start. */
export async function runSweep(config: RunConfigInput, options: SweepOptions = {}): Promise<SweepResult> {
  return await sweep(resolveConfig([{ values: config, where: () => "configuration" }]), options);
}

/** Runs a checked configuration; see {@linkcode runSweep}.
 * @throws {UsageError} as `runSweep`.
 * @throws {EngineError} as `runSweep`. */
export async function sweep(config: RunConfig, options: SweepOptions): Promise<SweepResult> {
  const { onEvent = () => {}, signal = new AbortController().signal, timeoutS } = options;
  const { retry = FAILURE_KINDS, executor = localExecutor } = options;
  const note = (message: string) => onEvent({ event: "note", message });
  const run = await prepareRun(config, note, { elsewhere: executor.elsewhere });
  const { cells, config: { out, jobs } } = run;
  using _lock = lockFolder(out);
  const startedAt = performance.now();
  removeTemporaryFiles(out);
  const outdated = outdatedMethods(out, cells);
  if (outdated.length > 0) {
    const names = outdated.join(", ");
    note(`${names} changed since "${out}" was written: they are computed anew, and the old cells leave the report`);
  }
  writeRunFile(run);

  const { pending, finished, retried, kept } = remaining(run, retry, note);
  onEvent({ event: "start", cells: cells.length, finished, retried, kept, jobs, out });

  const counts = { done: 0, failed: 0 };
  const full = new AbortController();
  const { called, ...listeners } = eventsOfCells(run, { counts, diskFull: () => full.abort(), onEvent });
  const queueSignal = AbortSignal.any([signal, full.signal]);
  const context: ExecutorContext = { run, commit: harnessCommit(), timeoutS, signal, queueSignal, note, ...listeners };
  await executor.run(pending, context);
  if (!queueSignal.aborted) {
    await timeModels(executor, context, {
      begin: (models) => onEvent({ event: "timing", models }),
      timed: (named, seconds) => onEvent({ event: "cell-timed", ...called(named), seconds }),
    });
  }

  if (full.signal.aborted) note(`The disk of "${out}" is full: free some space, then repeat the command`);
  const records = cells.flatMap((named) => {
    const record = storedRecord(out, named, note);
    if (record?.state === "done") return askedResults(record, named.cell, run.fingerprint.data, run.taskGroups);
    return record ?? [];
  });
  const ended = { ...counts, skipped: finished, kept, interrupted: signal.aborted };
  onEvent({ event: "end", ...ended, seconds: (performance.now() - startedAt) / 1000 });
  return { records, ...ended };
}

/** What an executor tells of its cells, as events of the run: counts what ends, keeps the records of what failed. */
function eventsOfCells(
  { cells, config: { out } }: PreparedRun,
  { counts, diskFull, onEvent }: {
    counts: { done: number; failed: number };
    /** Called when a record could not be written for want of space. */
    diskFull: () => void;
    onEvent: (event: SweepEvent) => void;
  },
): Pick<ExecutorContext, "started" | "phase" | "ended"> & {
  called(named: NamedCell): { name: string; label: string };
} {
  const labels = cellLabels(cells);
  const called = (named: NamedCell) => ({ name: cellName(named), label: labels.get(named.id)! });
  // A record's seconds are the sum over all its processes.
  const startedMs = new Map<string, number>();
  return {
    called,
    started: (named) => {
      startedMs.set(named.id, performance.now());
      onEvent({ event: "cell-start", ...called(named) });
    },
    phase: (named, phase) => onEvent({ event: "cell-phase", ...called(named), phase }),
    ended: (named, record) => {
      if (record.state === "done") {
        counts.done++;
        const begun = startedMs.get(named.id);
        const seconds = begun === undefined ? record.seconds : (performance.now() - begun) / 1000;
        onEvent({ event: "cell-done", ...called(named), seconds });
        return;
      }
      counts.failed++;
      const { kind, message, phase } = record.failure;
      const { log } = processFiles(out, named);
      onEvent({ event: "cell-failed", ...called(named), kind, message, ...phase !== undefined && { phase }, log });
      if (!storeFailure(out, record)) diskFull();
    },
  };
}

/** The cells that are to run, without throughput, and the number of the others. */
function remaining(
  run: PreparedRun,
  retry: readonly FailureKind[],
  note: (message: string) => void,
): { pending: NamedCell[]; finished: number; retried: number; kept: number } {
  const wanted = wantedOf(run);
  const left = { pending: [] as NamedCell[], finished: 0, retried: 0, kept: 0 };
  for (const { id, cell } of run.cells) {
    const named = { id, cell: withoutThroughput(cell) };
    const record = storedRecord(run.config.out, named, note);
    const isRetried = record?.state === "failed" && retry.includes(record.failure.kind);
    if (record?.state === "done" && isComplete(named.cell, record, wanted)) left.finished++;
    else if (record?.state === "failed" && !isRetried) left.kept++;
    else left.pending.push(named);
    if (isRetried) left.retried++;
  }
  return left;
}

/** Writes the record of a failed cell; false if the disk is full. */
function storeFailure(out: string, record: FailedRecord): boolean {
  try {
    // A finished cell that could not be measured further stays finished.
    if (!doneRecord(out, record)) writeRecord(out, record);
    return true;
  } catch (error) {
    if (!isDiskFull(error)) throw error;
    return false;
  }
}

/** The record of a cell, if it has one. An unreadable one is set aside. */
function storedRecord(out: string, named: NamedCell, note: (message: string) => void): CellRecord | undefined {
  const path = recordPath(out, named);
  try {
    return ifThere(() => readRecord(path), undefined);
  } catch (error) {
    if (!(error instanceof FileFormatError) || error instanceof SchemaVersionError) throw error;
    note(`${error.message}; kept as ${setAside(path)}, the cell runs again`);
    return undefined;
  }
}
