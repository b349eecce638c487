/** Executors start the cells of a run on this machine or a cluster, and report how they ended. The sweep handles names,
 * skipping, records of failures and progress.
 *
 * @module
 */
import { join } from "node:path";
import { type CellRecord, type FailedRecord, SCHEMA_VERSION } from "../../core/schema/schema.ts";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import type { Failure } from "../../core/schema/failure.ts";
import type { CellJob } from "../cells/job.ts";
import type { PreparedRun } from "../configuration/prepare.ts";
import { runPaths } from "../records/store.ts";

/** What an executor works with, and whom it tells. */
export interface ExecutorContext {
  run: PreparedRun;
  commit: string | null;
  timeoutS?: number;
  /** One cell at a time with the whole machine, for timing. */
  alone?: boolean;
  /** Starts no further cell once it aborts. */
  queueSignal: AbortSignal;
  /** Also ends running cells. */
  signal: AbortSignal;
  started(named: NamedCell): void;
  phase(named: NamedCell, phase: string): void;
  note(message: string): void;
  /** A cell ended: `outcome` is the record that its process wrote, or why there is none. */
  ended(named: NamedCell, outcome: CellRecord | FailedRecord): void;
}

/** A way to run cells. */
export interface Executor {
  /** Whether cells run on other machines than this one. */
  elsewhere?: boolean;
  /** Runs `cells` in order. Resolves when all have ended, or a signal stopped the rest. */
  run(cells: readonly NamedCell[], context: ExecutorContext): Promise<void>;
}

/** Files of a cell's process. */
export function processFiles(out: string, named: NamedCell): { job: string; log: string } {
  const { jobs, logs } = runPaths(out);
  const name = cellName(named);
  return { job: join(jobs, `${name}.json`), log: join(logs, `${name}.log`) };
}

/** The message to a cell's process. */
export function cellJob({ run, commit }: ExecutorContext, named: NamedCell, coordinated: boolean): CellJob {
  const { out, data, keepWeights, layerwise, logSamples, paper } = run.config;
  const { device, latency, taskDefinitions, taskGroups } = run;
  return {
    ...named,
    out,
    weights: { sha256: run.fingerprint.weights, atMs: run.preparedAtMs },
    ...{ data, keepWeights, paper, layerwise, device, latency, taskDefinitions, taskGroups, logSamples },
    hashes: run.fingerprint.data,
    commit,
    coordinated,
  };
}

/** The record of a cell whose process wrote none. */
export function failedRecord(named: NamedCell, startedAt: Date, failure: Failure): FailedRecord {
  return {
    schemaVersion: SCHEMA_VERSION,
    ...named,
    startedAt: startedAt.toISOString(),
    seconds: (Date.now() - startedAt.getTime()) / 1000,
    state: "failed",
    failure,
  };
}
