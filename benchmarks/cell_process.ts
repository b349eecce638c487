/** The parent's side of a cell's process.
 *
 * @module
 */
import { dirname, join } from "node:path";
import { denoRun } from "./deno_run.ts";
import { cellEventSchema, type CellJob } from "./job.ts";
import type { Turns } from "./scheduler.ts";
import { toJson } from "./store.ts";

/** Characters of standard error that a crash record quotes. */
const TAIL_LENGTH = 2000;
/** How long a process may take to end before it is killed. */
const PATIENCE_MS = 2000;

/** What to run and whom to tell. */
export interface CellProcess {
  job: CellJob;
  jobPath: string;
  /** Standard error goes here. */
  logPath: string;
  /** Threads for the native engine. */
  threads: number;
  /** Whether native code is loaded. */
  ffi: boolean;
  turns: Turns;
  signal: AbortSignal;
  onPhase: (phase: string) => void;
}

/** How a cell's process ended. */
export interface CellExit {
  status: Deno.CommandStatus;
  /** Whether it wrote the record. */
  recorded: boolean;
  stderrTail: string;
}

/** Runs a cell's process to its end with no more rights than it needs: no network, and writing in the run's folder. */
export async function runCellProcess(options: CellProcess): Promise<CellExit> {
  const { job, jobPath, logPath, signal, turns } = options;
  for (const path of [jobPath, logPath]) Deno.mkdirSync(dirname(path), { recursive: true });
  // Not renamed into place: the process locks this very file.
  Deno.writeTextFileSync(jobPath, toJson(job));
  const child = new Deno.Command("deno", {
    args: denoRun({
      script: join(import.meta.dirname!, "run_cell.ts"),
      args: [jobPath],
      ffi: options.ffi,
      write: job.out,
    }),
    env: { TF_NUM_INTRAOP_THREADS: String(options.threads), NO_COLOR: "1" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const stdin = child.stdin.getWriter();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const stop = () => {
    // The end of its input ends the process, also where a launcher stands between it and us.
    stdin.close().catch(() => {});
    timer = setTimeout(() => kill(child, "SIGKILL"), PATIENCE_MS);
    kill(child, "SIGTERM");
  };
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  let recorded = false;
  const events = readLines(child.stdout, async (line) => {
    const event = parseEvent(line);
    if (event?.event === "phase") options.onPhase(event.phase);
    if (event?.event === "recorded") recorded = true;
    if (event?.event === "give-turn") turns.give();
    if (event?.event === "take-turn") {
      await turns.take();
      await stdin.write(new TextEncoder().encode("go\n")).catch(() => {});
    }
  });
  const [stderrTail, status] = await Promise.all([copyToLog(child.stderr, logPath), child.status, events]);
  clearTimeout(timer);
  signal.removeEventListener("abort", stop);
  await stdin.close().catch(() => {});
  return { status, recorded, stderrTail };
}

function kill(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch { /* it has ended */ }
}

function parseEvent(line: string): ReturnType<typeof cellEventSchema.parse> | undefined {
  try {
    return cellEventSchema.parse(JSON.parse(line));
  } catch {
    // Native libraries may print to standard output.
    return undefined;
  }
}

async function readLines(stream: ReadableStream<Uint8Array>, onLine: (line: string) => Promise<void>): Promise<void> {
  let rest = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const line of lines) await onLine(line);
  }
}

/** Copies `stream` to a file; returns the end of it. */
async function copyToLog(stream: ReadableStream<Uint8Array>, path: string): Promise<string> {
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  const decoder = new TextDecoder();
  let tail = "";
  for await (const chunk of stream) {
    for (let bytes = chunk; bytes.length > 0;) bytes = bytes.subarray(await file.write(bytes));
    tail = (tail + decoder.decode(chunk, { stream: true })).slice(-TAIL_LENGTH);
  }
  return tail;
}
