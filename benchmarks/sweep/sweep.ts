/** Runs all cells of a configuration, each in its own process, and goes on where an earlier run of the folder stopped.
 *
 * @module
 */
import { z } from "zod";
import { FileFormatError, UsageError } from "../../core/errors.ts";
import {
  type CellRecord,
  type FailedRecord,
  FAILURE_KINDS,
  type FailureKind,
  runConfigSchema,
  SCHEMA_VERSION,
} from "../../core/schema.ts";
import { canonicalJson, cellLabels, cellName, type NamedCell } from "../../core/cell_names.ts";
import { resolveConfig } from "../configuration/resolve.ts";
import { harnessCommit } from "../cells/environment.ts";
import type { Executor } from "../executors/executor.ts";
import { isDiskFull } from "../../core/failure.ts";
import { hasSamples } from "../records/lm_eval_files.ts";
import { localExecutor } from "../executors/local_executor.ts";
import { planSweep, type SweepPlan } from "../preparation/prepare.ts";
import type { SweepEvent } from "./progress.ts";
import {
  lockFolder,
  readRecord,
  recordPath,
  removeTemporaryFiles,
  runPaths,
  SchemaVersionError,
  setAside,
  toJson,
  writeAtomically,
  writeRecord,
} from "../records/store.ts";

/** A run as one writes it: whatever has a default may be left out. */
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
  /** Cells that failed before this run and were not tried again. */
  kept: number;
  /** Whether the signal stopped it. */
  interrupted: boolean;
}

/** Options of {@linkcode runSweep}. */
export interface SweepOptions {
  /** Told what happens. */
  onEvent?: (event: SweepEvent) => void;
  /** Stops the run: running cells are ended without a record, and the same call goes on from there. */
  signal?: AbortSignal;
  /** Longest time of a cell, in seconds; no limit when absent. */
  timeoutS?: number;
  /** Which failures of an earlier run are tried again; all by default. */
  retry?: readonly FailureKind[];
  /** What runs the cells; processes of this machine by default. */
  executor?: Executor;
}

/** `run.json`: the configuration as run, and what it was run on. */
const runFileSchema = z.object({
  schemaVersion: z.number(),
  config: runConfigSchema,
  engine: z.string(),
  fingerprint: z.object({ weights: z.string(), tokenizer: z.string(), data: z.record(z.string(), z.string()) }),
});

/** Runs `config`, one process per cell. Finished cells are skipped, failed ones run again where `retry` names their class.
 * Failures of cells are records, not exceptions.
 * @throws {UsageError} when the configuration, the model or the data cannot be used: nothing was run.
 * @throws {EngineError} when the engine that was asked for does not start. */
export async function runSweep(config: RunConfigInput, options: SweepOptions = {}): Promise<SweepResult> {
  const { onEvent = () => {}, signal = new AbortController().signal, timeoutS } = options;
  const { retry = FAILURE_KINDS, executor = localExecutor } = options;
  const checked = resolveConfig([{ values: config, where: () => "configuration" }]);
  const plan = await planSweep(checked, onEvent);
  const { out, jobs } = plan.config;
  using _lock = lockFolder(out);
  const startedAt = performance.now();
  removeTemporaryFiles(out);
  writeRunFile(plan);

  const { pending, stored } = remaining(plan, retry, onEvent);
  noteMissingSamples(plan, pending, onEvent);
  onEvent({
    event: "start",
    cells: plan.cells.length,
    finished: stored.done,
    retried: stored.retried,
    kept: stored.kept,
    jobs,
    out,
  });

  const counts = { done: 0, failed: 0 };
  const full = new AbortController();
  const labels = cellLabels(plan.cells);
  const named = (planned: NamedCell) => ({ name: cellName(planned), label: labels.get(planned.id)! });
  await executor.run(pending, {
    plan,
    commit: harnessCommit(),
    timeoutS,
    signal,
    queueSignal: AbortSignal.any([signal, full.signal]),
    started: (planned) => onEvent({ event: "cell-start", ...named(planned) }),
    phase: (planned, phase) => onEvent({ event: "cell-phase", ...named(planned), phase }),
    note: (message) => onEvent({ event: "note", message }),
    ended: (planned, record) => {
      if (record.state === "done") {
        counts.done++;
        onEvent({ event: "cell-done", ...named(planned), seconds: record.seconds });
        return;
      }
      counts.failed++;
      const { kind, message } = record.failure;
      onEvent({ event: "cell-failed", ...named(planned), kind, message });
      if (!storeFailure(out, record)) full.abort();
    },
  });

  if (full.signal.aborted) {
    onEvent({ event: "note", message: `The disk of "${out}" is full: free some space, the same command goes on` });
  }
  const records = plan.cells.flatMap((planned) => storedRecord(out, planned, onEvent) ?? []);
  const seconds = (performance.now() - startedAt) / 1000;
  const interrupted = signal.aborted;
  onEvent({ event: "end", ...counts, skipped: stored.done, kept: stored.kept, seconds, interrupted });
  return { records, ...counts, skipped: stored.done, kept: stored.kept, interrupted };
}

/** The cells that are to run, and how many of the others are there already. */
function remaining(
  { cells, config: { out } }: SweepPlan,
  retry: readonly FailureKind[],
  onEvent: (event: SweepEvent) => void,
): { pending: NamedCell[]; stored: { done: number; retried: number; kept: number } } {
  const pending: NamedCell[] = [];
  const stored = { done: 0, retried: 0, kept: 0 };
  for (const planned of cells) {
    const record = storedRecord(out, planned, onEvent);
    if (record?.state === "done") stored.done++;
    else if (record && !retry.includes(record.failure.kind)) stored.kept++;
    else pending.push(planned);
    if (record?.state === "failed" && retry.includes(record.failure.kind)) stored.retried++;
  }
  return { pending, stored };
}

/** Says which finished cells cannot get the samples files that were asked for. */
function noteMissingSamples(
  { config, cells }: SweepPlan,
  pending: readonly NamedCell[],
  onEvent: (event: SweepEvent) => void,
): void {
  const hasAny = config.tasks.length > 0 || config.perplexity.some(({ protocol }) => protocol === "c");
  if (!config.logSamples || !hasAny) return;
  const { lmEval } = runPaths(config.out);
  const missing = cells.filter((planned) => !pending.includes(planned) && !hasSamples(lmEval, planned)).length;
  if (missing === 0) return;
  const message = `${missing} finished cells have no samples files, since they were run without --log-samples: ` +
    "another --out measures them again";
  onEvent({ event: "note", message });
}

/** Writes the record of a failed cell, once more where its process did so already. False where the disk is full. */
function storeFailure(out: string, record: FailedRecord): boolean {
  try {
    writeRecord(out, record);
    return true;
  } catch (error) {
    if (!isDiskFull(error)) throw error;
    return false;
  }
}

/** The record of a cell, if it has one; an unreadable one is set aside and said. */
function storedRecord(
  out: string,
  planned: NamedCell,
  onEvent: (event: SweepEvent) => void,
): CellRecord | undefined {
  const path = recordPath(out, planned);
  try {
    return readRecord(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    if (!(error instanceof FileFormatError) || error instanceof SchemaVersionError) throw error;
    onEvent({ event: "note", message: `${error.message}; kept as ${setAside(path)}, the cell runs again` });
    return undefined;
  }
}

/** What must be equal for numbers to stand beside each other in one folder. */
function protocolOf({ config, engine, fingerprint }: z.infer<typeof runFileSchema>): Record<string, unknown> {
  const { units, ffnMultiple, calibration, perplexity, tasks, limit, numFewshot, throughput, training } = config;
  const { weights, tokenizer, data } = fingerprint;
  const { generate, generateTokens, ladder } = config;
  const generations = generate.length === 0 ? null : { generate, generateTokens };
  const measured = {
    units,
    ffnMultiple,
    calibration,
    perplexity,
    tasks,
    limit,
    numFewshot,
    throughput,
    generations,
    ladder,
  };
  return { weights, tokenizer, engine, ...measured, ...training && { training }, ...data };
}

/** Writes `run.json`, unless the folder holds a run whose numbers must not stand beside these.
 * @throws {UsageError} that names the settings that differ. */
function writeRunFile({ config, engine, fingerprint }: SweepPlan): void {
  const path = runPaths(config.out).run;
  const run = { schemaVersion: SCHEMA_VERSION, config, engine, fingerprint };
  const stored = readRunFile(config.out);
  if (stored) {
    const [before, now] = [protocolOf(stored), protocolOf(run)];
    // Data that only one of the two reads, such as calibration data of a method added later, cannot differ.
    const differing = Object.keys(now).filter((key) =>
      key in before && canonicalJson(before[key] ?? null) !== canonicalJson(now[key] ?? null)
    );
    if (differing.length > 0) {
      const which = differing.join(", ");
      throw new UsageError(
        `"${config.out}" holds a run with other settings (${which}), whose numbers cannot stand beside these: ` +
          "choose another --out",
      );
    }
  }
  writeAtomically(path, toJson(run));
}

/** What `run.json` of the folder `out` holds; undefined where there is none.
 * @throws {FileFormatError} when it is not one of this program's. */
export function readRunFile(out: string): z.infer<typeof runFileSchema> | undefined {
  const path = runPaths(out).run;
  try {
    return runFileSchema.parse(JSON.parse(Deno.readTextFileSync(path)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    if (!(error instanceof SyntaxError || error instanceof z.ZodError)) throw error;
    throw new FileFormatError(path, "is not the run file of this version of the program: choose another --out");
  }
}
