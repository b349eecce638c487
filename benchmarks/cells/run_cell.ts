/** Measures one cell in a process of its own: `run_cell.ts JOB.json`. The record is written here, whole or not at all;
 * standard output carries one JSON event per line.
 *
 * Exit codes: 0 the record was written (also that of a failed cell), 2 the job file cannot be used.
 *
 * @module
 */
import { deviceMemoryWords } from "../../core/engine.ts";
import { UsageError } from "../../core/errors.ts";
import { type DoneRecord, type FailedRecord, SCHEMA_VERSION } from "../../core/schema.ts";
import { anyTask, getCorpus } from "../../datasets/mod.ts";
import { measureCell } from "./measure.ts";
import { classifyError } from "../../core/failure.ts";
import { type CellEvent, cellJobSchema } from "./job.ts";
import { type CellSamples, writeLmEvalFiles } from "../records/lm_eval_files.ts";
import { lmEvalDocuments, type LmEvalSample, lmEvalSamples } from "../records/lm_eval_samples.ts";
import { isComplete, missingMeasurements } from "../records/measured.ts";
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

function report(phase: string): void {
  tell({ event: "phase", phase });
  console.error(`${new Date().toISOString()} ${phase}`);
}

/** Writes the results as lm-evaluation-harness does. They come before the record, so that a finished cell has them; that
 * they cannot be written does not cost the measured numbers. */
function tryToWriteLmEvalFiles(out: string, record: DoneRecord, samples: CellSamples): void {
  try {
    writeLmEvalFiles(runPaths(out).lmEval, record, samples);
  } catch (error) {
    report(`the files for lm-evaluation-harness's readers could not be written: ${(error as Error).message}`);
  }
}

/** Waits for turns on standard input; the process ends when the parent does, however that ended. */
function listenToParent(): () => Promise<void> {
  let granted = Promise.withResolvers<void>();
  // A terminal sends Ctrl-C to every process of the run; the parent decides.
  Deno.addSignalListener("SIGINT", () => {});
  (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of Deno.stdin.readable) {
      if (decoder.decode(chunk, { stream: true }).includes("\n")) granted.resolve();
    }
    Deno.exit(143);
  })();
  return async () => {
    granted = Promise.withResolvers<void>();
    tell({ event: "take-turn" });
    await granted.promise;
  };
}

async function main(path: string): Promise<void> {
  const file = await Deno.open(path, { read: true, write: true });
  // One process per cell, even when a run was killed and its last cells have not noticed yet.
  await file.lock(true);
  const job = cellJobSchema.parse(JSON.parse(Deno.readTextFileSync(path)));
  const before = doneRecord(job.out, job);
  const missing = before ? missingMeasurements(job.cell, before, job.hashes) : job.cell;
  if (before && isComplete(job.cell, before, job)) {
    tell({ event: "recorded" });
    return;
  }
  const takeTurn = job.coordinated ? listenToParent() : () => Promise.resolve();
  const startedAt = new Date();
  const head = {
    schemaVersion: SCHEMA_VERSION,
    id: job.id,
    cell: job.cell,
    ...job.paper && { paper: job.paper },
    startedAt: startedAt.toISOString(),
  } as const;
  const samples = new Map<string, LmEvalSample[]>();
  try {
    const measured = await measureCell({ ...job, cell: missing }, {
      report,
      onScored: (task, scored) => {
        if (job.logSamples) samples.set(task, lmEvalSamples(anyTask(task), scored));
      },
      onDocuments: (corpus, scored) => {
        if (job.logSamples) samples.set(corpus, lmEvalDocuments(getCorpus(corpus).textField, scored));
      },
      alone: async (work) => {
        await takeTurn();
        const result = await work();
        tell({ event: "give-turn" });
        return result;
      },
      signal: new AbortController().signal,
    }, before);
    const seconds = (before?.seconds ?? 0) + (Date.now() - startedAt.getTime()) / 1000;
    const record: DoneRecord = { ...head, seconds, state: "done", ...measured };
    tryToWriteLmEvalFiles(job.out, record, samples);
    writeRecord(job.out, record);
  } catch (error) {
    console.error(error);
    // What was measured before is not lost to a measurement that fails.
    if (before) throw error;
    const failed: FailedRecord = {
      ...head,
      seconds: (Date.now() - startedAt.getTime()) / 1000,
      state: "failed",
      failure: { ...classifyError(error, deviceMemoryWords()), exitCode: null },
    };
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
