/** Measures one cell in a process of its own: `run_cell.ts JOB.json`. The record is written here, whole or not at all.
 * Standard output carries one JSON event per line. Throughput is timed in a separate process, after all other
 * measurements of the record.
 *
 * Exit codes: 0 the record was written (also of a failed cell), or the parent got the reason why a finished cell was
 * not measured; 2 neither.
 *
 * @module
 */
import { deviceMemoryWords } from "../../core/engine/engine.ts";
import { classifyError, isDiskFull } from "../../core/schema/failure.ts";
import { type DoneRecord, type FailedRecord, SCHEMA_VERSION } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { anyTask, getCorpus } from "../../datasets/mod.ts";
import { type CellSamples, writeLmEvalFiles } from "../records/lm_eval_files.ts";
import { lmEvalDocuments, type LmEvalSample, lmEvalSamples } from "../records/lm_eval_samples.ts";
import { askedResults, isComplete, missingMeasurements, withoutThroughput } from "../records/measured.ts";
import { doneRecord, runPaths, writeRecord } from "../records/store.ts";
import { type CellEvent, type CellJob, cellJobSchema } from "./job.ts";
import { type CellHost, measureCell, timeCell } from "./measure.ts";

/** Tells the parent. If the parent is gone, the process ends without a failed record. */
function tell(event: CellEvent): void {
  try {
    Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(event) + "\n"));
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
    Deno.exit(143);
  }
}

/** What the cell is doing. */
let current: string | undefined;

function report(phase: string): void {
  current = phase;
  tell({ event: "phase", phase });
  console.error(`${new Date().toISOString()} ${phase}`);
}

/** Writes the results as lm-evaluation-harness does, before the record, so that a finished cell has them. A full disk
 * does not cost the measured numbers. */
function writeLmEval(out: string, record: DoneRecord, samples: CellSamples): void {
  try {
    writeLmEvalFiles(runPaths(out).lmEval, record, samples);
  } catch (error) {
    if (!isDiskFull(error)) throw error;
    console.error(`Cannot write the files of lm-evaluation-harness: ${(error as Error).message}`);
  }
}

/** The process ends when the parent does, however that ended. */
function endWithParent(): void {
  // A terminal sends Ctrl-C to every process of the run; the parent decides.
  Deno.addSignalListener("SIGINT", () => {});
  new Worker(new URL("./end_with_parent.ts", import.meta.url), { type: "module" });
}

/** Runs the pipeline for what `before`, the cell's record, lacks, and writes the record. */
async function recordCell(job: CellJob, before: DoneRecord | undefined): Promise<void> {
  // The clock of phases: the system's own may be set while a cell runs.
  const startMs = performance.now();
  const { id, cell, paper, out, hashes } = job;
  const startedAt = new Date().toISOString();
  const head = { schemaVersion: SCHEMA_VERSION, id, cell, ...paper && { paper }, startedAt } as const;
  const seconds = () => (before?.seconds ?? 0) + (performance.now() - startMs) / 1000;
  const samples = new Map<string, LmEvalSample[]>();
  const host: CellHost = {
    report,
    signal: new AbortController().signal,
    ...job.logSamples && {
      onScored: (task, scored) => void samples.set(task, lmEvalSamples(anyTask(task), scored)),
      onDocuments: (corpus, scored) => void samples.set(corpus, lmEvalDocuments(getCorpus(corpus).textField, scored)),
    },
  };
  try {
    const own = { ...job, cell: before ? missingMeasurements(cell, before, hashes) : cell };
    const lacksTimes = before !== undefined && isComplete(withoutThroughput(cell), before, job);
    const measured = lacksTimes ? await timeCell(own, host, before) : await measureCell(own, host, before);
    const record: DoneRecord = { ...measured, ...head, seconds: seconds(), state: "done" };
    if (!lacksTimes) writeLmEval(out, askedResults(record, cell, hashes, job.taskGroups ?? []), samples);
    writeRecord(out, record);
  } catch (error) {
    console.error(error);
    const failure = { ...classifyError(error, { phase: current, memory: deviceMemoryWords() }), exitCode: null };
    // A measurement that fails does not cost the earlier ones.
    if (before) return tell({ event: "failed", failure });
    const failed: FailedRecord = { ...head, seconds: seconds(), state: "failed", failure };
    writeRecord(out, failed);
  }
  tell({ event: "recorded" });
}

async function main(path: string): Promise<void> {
  const file = await Deno.open(path, { read: true, write: true });
  const job = cellJobSchema.parse(JSON.parse(Deno.readTextFileSync(path)));
  // The end of the run ends this process also while it waits.
  if (job.coordinated) endWithParent();
  // One process per cell, even if cells of a run that was killed still run.
  await file.lock(true);
  const found = doneRecord(job.out, job);
  // The run may go on in another folder, from which paths differ.
  const before = found && { ...found, cell: job.cell };
  if (before && isComplete(job.cell, before, job)) return tell({ event: "recorded" });
  await recordCell(job, before);
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
