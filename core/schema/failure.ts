/** Failures as data: what went wrong with a cell, in the classes of a record.
 *
 * @module
 */
import { EngineError, MissingDataError, NumericError, unknownName, UsageError } from "../util/errors.ts";
import { lessMemory, lessTime } from "./phases.ts";
import { type FailedRecord, FAILURE_KINDS, type FailureKind } from "./schema.ts";

/** Why a cell failed. */
export type Failure = FailedRecord["failure"];

/** Messages with which a GPU or TensorFlow's allocator say that memory ran out. */
const DEVICE_FULL = /OOM when allocating|RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY/i;
/** Messages with which JavaScript and WebAssembly say that memory ran out. */
const PROCESS_FULL =
  /out of memory|allocation failed|failed to allocate|bad_alloc|\bOOM\b|ENOMEM|memory access out of bounds|Cannot enlarge memory/i;
const DISK_FULL = /No space left on device|\bENOSPC\b|Disk quota exceeded|\bEDQUOT\b/i;

/** Exit code of `timeout` of GNU coreutils when it ended its command. */
export const TIMEOUT_EXIT = 124;

/** Whether `error` says that a disk or a quota is full. */
export function isDiskFull(error: unknown): boolean {
  return error instanceof Error && DISK_FULL.test(error.message);
}

/** What is known of a failure besides its own words. */
export interface Circumstances {
  /** What the cell was doing. */
  phase?: string;
  /** The device's memory, in words. */
  memory?: string;
}

/** The class of a message, where the words alone give it, and the message with what to do. */
function classifyWords(text: string, { phase, memory }: Circumstances): Pick<Failure, "kind" | "message"> | undefined {
  if (DISK_FULL.test(text)) {
    return { kind: "disk-full", message: `The disk of the run's folder is full: free some space (${text})` };
  }
  if (DEVICE_FULL.test(text)) {
    return {
      kind: "out-of-memory",
      message: `The device's memory is full${memory ? ` (${memory})` : ""}: ${lessMemory(phase)} (${text})`,
    };
  }
  if (PROCESS_FULL.test(text)) {
    return {
      kind: "out-of-memory",
      message:
        `The memory of the cell's process is full: ${lessMemory(phase)}; the tensorflow engine has no limit of 4 GB ` +
        `(${text})`,
    };
  }
  return undefined;
}

/** Whether an exception says that memory ran out. */
export function isOutOfMemory(error: unknown): boolean {
  const message = error instanceof Error ? error.message : String(error);
  return DEVICE_FULL.test(message) || PROCESS_FULL.test(message);
}

/** The class and the message of an exception, with what was going on. */
export function classifyError(
  error: unknown,
  circumstances: Circumstances = {},
): Pick<Failure, "kind" | "message" | "phase"> {
  const { phase } = circumstances;
  return { ...classOfError(error, circumstances), ...phase !== undefined && { phase } };
}

function classOfError(error: unknown, circumstances: Circumstances): Pick<Failure, "kind" | "message"> {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof MissingDataError) return { kind: "missing-data", message };
  if (error instanceof UsageError) return { kind: "usage", message };
  if (error instanceof NumericError) {
    return { kind: "numeric", message: `${message}: remove less, recover the model, or learn at a lower rate` };
  }
  const known = classifyWords(message, circumstances);
  if (known) return known;
  if (error instanceof EngineError) return { kind: "engine", message };
  return { kind: "error", message: error instanceof Error ? `${error.name}: ${message}` : message };
}

/** The failure of a cell that reached the limit of `--timeout`. */
export function timeoutFailure(limitS: number, phase?: string): Failure {
  return {
    kind: "timeout",
    message: `The cell was ended after ${limitS} s: ${lessTime(phase)}`,
    exitCode: null,
    ...phase !== undefined && { phase },
  };
}

/** How a process ended, as far as it is known. */
export type ProcessEnd = Pick<Deno.CommandStatus, "code" | "signal">;

/** The class and the message of a process that ended without a record; `stderr` is the end of what it printed, `phase` what
 * it was doing. */
export function classifyExit(status: ProcessEnd, stderr: string, phase?: string): Failure {
  return { ...classOfExit(status, stderr, phase), ...phase !== undefined && { phase } };
}

function classOfExit(status: ProcessEnd, stderr: string, phase: string | undefined): Failure {
  const how = status.signal ? `was ended by ${status.signal}` : `ended with exit code ${status.code}`;
  const tail = stderr.trim();
  const said = tail === "" ? "" : `; it said: ${tail}`;
  const exitCode = status.code;
  // Nothing but the kernel (or a person) sends SIGKILL; a JavaScript heap that is full says so before it aborts.
  if (status.signal === "SIGKILL") {
    const message = `The cell's process ${how}, as the kernel does when the machine's memory is full: ${
      lessMemory(phase)
    }${said}`;
    return { kind: "out-of-memory", message, exitCode };
  }
  const known = classifyWords(tail, { phase });
  if (known) return { ...known, exitCode };
  const advice = "run it again with --retry crash, or with another --engine";
  return { kind: "crash", message: `The cell's process ${how}: ${advice}${said}`, exitCode };
}

/** The classes that `--retry` names: `oom` is short for `out-of-memory`; `all` and `none` stand alone.
 * @throws {UsageError} on an unknown class. */
export function parseRetry(text: string): readonly FailureKind[] {
  if (text === "all") return FAILURE_KINDS;
  if (text === "none") return [];
  return text.split(",").map((part) => {
    const name = part.trim() === "oom" ? "out-of-memory" : part.trim();
    const kind = FAILURE_KINDS.find((kind) => kind === name);
    if (name === "all" || name === "none") throw new UsageError(`"${name}" stands alone: current "${text}"`);
    if (!kind) throw unknownName("class of failure", name, ["oom", ...FAILURE_KINDS, "all", "none"]);
    return kind;
  });
}
