/** Measures one cell in a process of its own: `run_cell.ts JOB.json`. The record is written here, whole or not at all;
 * standard output carries one JSON event per line. Throughput is timed by a process that has nothing else to do: of a
 * record that lacks other measurements as well, those come first, and the sweep asks again.
 *
 * Exit codes: 0 the record was written (also that of a failed cell), or why a finished cell was not measured further was
 * told; 2 neither could be done.
 *
 * @module
 */
import { deviceMemoryWords } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type DoneRecord, type FailedRecord, SCHEMA_VERSION } from "../../core/schema/schema.ts";
import { anyTask, getCorpus } from "../../datasets/mod.ts";
import { classifyError, isDiskFull } from "../../core/schema/failure.ts";
import { type CellHost, measureCell } from "./measure.ts";
import { type CellEvent, cellJobSchema } from "./job.ts";
import { timeCell } from "./time_cell.ts";
import { type CellSamples, writeLmEvalFiles } from "../records/lm_eval_files.ts";
import { lmEvalDocuments, type LmEvalSample, lmEvalSamples } from "../records/lm_eval_samples.ts";
import { askedResults, isComplete, missingMeasurements, withoutThroughput } from "../records/measured.ts";
import { doneRecord, runPaths, writeRecord } from "../records/store.ts";

/** Tells the parent. A parent that is gone ends the process: that nobody listens is no failure of the cell. */
function tell(event: CellEvent): void {
  try {
    Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(event) + "\n"));
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
    Deno.exit(143);
  }
}

/** What this cell does. */
let current: string | undefined;

function report(phase: string): void {
  current = phase;
  tell({ event: "phase", phase });
  console.error(`${new Date().toISOString()} ${phase}`);
}

/** Writes the results as lm-evaluation-harness does, before the record, so that a finished cell has them. A full disk does
 * not cost the measured numbers. */
function writeLmEval(out: string, record: DoneRecord, samples: CellSamples): void {
  try {
    writeLmEvalFiles(runPaths(out).lmEval, record, samples);
  } catch (error) {
    if (!isDiskFull(error)) throw error;
    report(`the files for lm-evaluation-harness's readers could not be written: ${(error as Error).message}`);
  }
}

/** The process ends when the parent does, however that ended. */
function endWithParent(): void {
  // A terminal sends Ctrl-C to every process of the run; the parent decides.
  Deno.addSignalListener("SIGINT", () => {});
  (async () => {
    for await (const _chunk of Deno.stdin.readable) { /* nothing is said */ }
    Deno.exit(143);
  })();
}

async function main(path: string): Promise<void> {
  const file = await Deno.open(path, { read: true, write: true });
  const job = cellJobSchema.parse(JSON.parse(Deno.readTextFileSync(path)));
  // The end of the run ends this process also while it waits.
  if (job.coordinated) endWithParent();
  // One process per cell, even when a run was killed and its last cells have not noticed yet.
  await file.lock(true);
  const before = doneRecord(job.out, job);
  const missing = before ? missingMeasurements(job.cell, before, job.hashes) : job.cell;
  if (before && isComplete(job.cell, before, job)) {
    tell({ event: "recorded" });
    return;
  }
  const startedAt = new Date();
  // Of the clock that phases are timed by: the other may be set while a cell runs.
  const startMs = performance.now();
  const head = {
    schemaVersion: SCHEMA_VERSION,
    id: job.id,
    cell: job.cell,
    ...job.paper && { paper: job.paper },
    startedAt: startedAt.toISOString(),
  } as const;
  const samples = new Map<string, LmEvalSample[]>();
  try {
    const host: CellHost = {
      report,
      onScored: (task, scored) => {
        if (job.logSamples) samples.set(task, lmEvalSamples(anyTask(task), scored));
      },
      onDocuments: (corpus, scored) => {
        if (job.logSamples) samples.set(corpus, lmEvalDocuments(getCorpus(corpus).textField, scored));
      },
      signal: new AbortController().signal,
    };
    const own = { ...job, cell: missing };
    const timed = before && isComplete(withoutThroughput(job.cell), before, job) ? before : undefined;
    const measured = timed ? await timeCell(own, host, timed) : await measureCell(own, host, before);
    const seconds = (before?.seconds ?? 0) + (performance.now() - startMs) / 1000;
    const record: DoneRecord = { ...measured, ...head, seconds, state: "done" };
    const asked = askedResults(record, job.cell, job.hashes, job.taskGroups ?? []);
    writeLmEval(job.out, { ...asked, throughput: record.throughput }, samples);
    writeRecord(job.out, record);
  } catch (error) {
    console.error(error);
    const failure = { ...classifyError(error, { phase: current, memory: deviceMemoryWords() }), exitCode: null };
    // What was measured before is not lost to a measurement that fails.
    if (before) return tell({ event: "failed", failure });
    const seconds = (performance.now() - startMs) / 1000;
    const failed: FailedRecord = { ...head, seconds, state: "failed", failure };
    writeRecord(job.out, failed);
  }
  tell({ event: "recorded" });
}

if (import.meta.main) {
  // Libraries that print must not disturb the events.
  console.log = console.error;
  console.info = console.error;
  const [path] = Deno.args;
  try {
    if (path === undefined) throw new UsageError("A job file must be given");
    await main(path);
    // Reading standard input would keep the process alive.
    Deno.exit(0);
  } catch (error) {
    console.error(error);
    Deno.exit(2);
  }
}
