/** The parent's side of a cell's process.
 *
 * @module
 */
import { dirname, join } from "node:path";
import { NVIDIA_SMI } from "../../core/engine/cuda.ts";
import { denoRun, linesOf } from "../../core/util/deno_run.ts";
import { type Failure, isDiskFull } from "../../core/schema/failure.ts";
import { type CellJob, parseEvent } from "../cells/job.ts";
import { toJson } from "../records/store.ts";

/** Characters of standard error that a crash record quotes. */
const TAIL_LENGTH = 2000;
/** How long a process may take to end before it is killed. */
const PATIENCE_MS = 2000;

/** What to run and whom to tell. */
export interface CellProcess {
  job: CellJob;
  jobPath: string;
  logPath: string;
  /** Whether the log of an earlier process stays in front of this one's. */
  keepsLog?: boolean;
  threads: number;
  ffi: boolean;
  /** Whether the cell runs on CUDA: it may ask `nvidia-smi`. */
  cuda: boolean;
  /** UUID of the one GPU that the cell may use; those of this process when absent. */
  gpu?: string;
  timeoutS?: number;
  signal: AbortSignal;
  onPhase: (phase: string) => void;
}

/** How a cell's process ended. */
export interface CellExit {
  status: Deno.CommandStatus;
  recorded: boolean;
  /** Why it could not measure a finished cell further. */
  failure?: Failure;
  timedOut: boolean;
  stderrTail: string;
}

/** Runs a cell's process to its end with no more rights than it needs: no network, and writing in the run's folder. */
export async function runCellProcess(options: CellProcess): Promise<CellExit> {
  const { job, jobPath, logPath, signal } = options;
  for (const path of [jobPath, logPath]) Deno.mkdirSync(dirname(path), { recursive: true });
  // Not renamed into place: the process locks this very file.
  Deno.writeTextFileSync(jobPath, toJson(job));
  const write = { write: true, create: true, append: options.keepsLog, truncate: !options.keepsLog };
  // Opened before the process starts, which a full disk must not leave alone.
  using log = await Deno.open(logPath, write);
  const child = new Deno.Command("deno", {
    args: denoRun({
      script: join(import.meta.dirname!, "../cells/run_cell.ts"),
      args: [jobPath],
      ffi: options.ffi,
      ...options.cuda && { program: NVIDIA_SMI },
      write: job.out,
    }),
    env: {
      TF_NUM_INTRAOP_THREADS: String(options.threads),
      NO_COLOR: "1",
      ...options.gpu !== undefined && { CUDA_VISIBLE_DEVICES: options.gpu },
    },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const stdin = child.stdin.getWriter();
  let timer: ReturnType<typeof setTimeout> | undefined;
  // The end of its input ends the process, even behind a launcher.
  const endInput = () => stdin.close().catch(() => {});
  const stop = () => {
    endInput();
    timer = setTimeout(() => kill(child, "SIGKILL"), PATIENCE_MS);
    kill(child, "SIGTERM");
  };
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  let recorded = false;
  let failure: Failure | undefined;
  let timedOut = false;
  const limit = afterSeconds(options.timeoutS, () => {
    timedOut = true;
    endInput();
    kill(child, "SIGKILL");
  });
  const readEvents = async () => {
    for await (const line of linesOf(child.stdout)) {
      const event = parseEvent(line);
      if (event?.event === "phase") options.onPhase(event.phase);
      if (event?.event === "recorded") recorded = true;
      if (event?.event === "failed") failure = event.failure;
    }
  };
  const [stderrTail, status] = await Promise.all([
    copyToLog(child.stderr, log),
    child.status,
    readEvents(),
  ]);
  clearTimeout(timer);
  clearTimeout(limit);
  signal.removeEventListener("abort", stop);
  await endInput();
  return { status, recorded, failure, timedOut, stderrTail };
}

/** Calls `end` after `seconds`. */
function afterSeconds(seconds: number | undefined, end: () => void): ReturnType<typeof setTimeout> | undefined {
  // Timers take at most 2^31 ms.
  return seconds === undefined ? undefined : setTimeout(end, Math.min(1000 * seconds, 2 ** 31 - 1));
}

function kill(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch { /* it has ended */ }
}

/** Copies `stream` to a file and returns its end. A full disk costs the log, not the cell. */
async function copyToLog(stream: ReadableStream<Uint8Array>, file: Deno.FsFile): Promise<string> {
  const decoder = new TextDecoder();
  let tail = "";
  let isFull = false;
  for await (const chunk of stream) {
    try {
      for (let bytes = chunk; bytes.length > 0 && !isFull;) bytes = bytes.subarray(await file.write(bytes));
    } catch (error) {
      if (!isDiskFull(error)) throw error;
      isFull = true;
    }
    tail = (tail + decoder.decode(chunk, { stream: true })).slice(-TAIL_LENGTH);
  }
  return tail;
}
