/** Failures as data: the class of a failed cell, and its remedy.
 *
 * @module
 */
import { EngineError, MissingDataError, NumericError, unknownName, UsageError } from "../util/errors.ts";
import { type FailedRecord, FAILURE_KINDS, type FailureKind } from "./schema.ts";

/** Why a cell failed. */
export type Failure = FailedRecord["failure"];

/** How a GPU or TensorFlow's allocator say that memory ran out. */
const DEVICE_FULL = /OOM when allocating|RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY/i;
/** The same from JavaScript and WebAssembly. */
const PROCESS_FULL =
  /out of memory|allocation failed|failed to allocate|bad_alloc|\bOOM\b|ENOMEM|Cannot enlarge memory/i;
const DISK_FULL = /No space left on device|\bENOSPC\b|Disk quota exceeded|\bEDQUOT\b/i;
/** Invalid reads or jumps in WebAssembly: a fault of the library. */
const CRASHED = /memory access out of bounds|table index is out of bounds|unreachable executed/i;

/** Exit code of `timeout` of GNU coreutils when it ended its command. */
export const TIMEOUT_EXIT = 124;

const wordsOf = (error: unknown): string => error instanceof Error ? error.message : String(error);

/** Whether `error` says that a disk or a quota is full. */
export function isDiskFull(error: unknown): boolean {
  return error instanceof Error && DISK_FULL.test(error.message);
}

/** Whether an exception says that memory ran out. */
export function isOutOfMemory(error: unknown): boolean {
  return DEVICE_FULL.test(wordsOf(error)) || PROCESS_FULL.test(wordsOf(error));
}

interface Advice {
  memory: string;
  time: string;
}

const EVALUATION: Advice = {
  memory: "run fewer cells at once, score shorter windows (--perplexity wikitext2:a:512)",
  time: "give a longer --timeout, fewer examples (--limit) or fewer windows",
};
/** By the beginning of a cell's phase; the phase of an evaluation is a corpus or a task. */
const ADVICE: readonly [begin: RegExp, advice: Advice][] = [
  [/^loading\b/, {
    memory: "run fewer cells at once, keep the matrices of f16 and bf16 files in 16 bits (--weights stored)",
    time: "give a longer --timeout",
  }],
  [/^(pruning|text of the model)\b/, {
    memory: "run fewer cells at once, calibrate on fewer or shorter windows (--calibration CORPUS:32:128), prune " +
      "--layerwise where the method can",
    time: "give a longer --timeout, or calibrate on fewer windows",
  }],
  [/^(learning|recovery)\b/, {
    memory: "run fewer cells at once, set `training` microBatch=1 or fewer tokens",
    time: "give a longer --timeout, or fewer `training` steps; the same command resumes from the last snapshot",
  }],
  [/^throughput\b/, {
    memory: "time fewer tokens or a smaller batch (`throughput` prefillTokens, batch)",
    time: "give a longer --timeout, or time fewer tokens (`throughput` decodeTokens, repeats)",
  }],
];

function adviceOn(phase: string | undefined): Advice {
  if (phase === undefined) {
    return { ...EVALUATION, memory: "run fewer cells at once, set `training` microBatch=1" };
  }
  return ADVICE.find(([begin]) => begin.test(phase))?.[1] ?? EVALUATION;
}

const lessMemory = (phase: string | undefined) => `${adviceOn(phase).memory}, or use a smaller model`;

interface Circumstances {
  phase?: string;
  /** The device's memory, in words. */
  memory?: string;
}

/** Characters of an error or of a process's words in a message. */
const MOST_QUOTED = 300;

type Classified = Pick<Failure, "kind" | "message">;

/** The class of a message, if its words suffice, and the message with a remedy. */
function classifyWords(text: string, { phase, memory }: Circumstances): Classified | undefined {
  if (DISK_FULL.test(text)) {
    return { kind: "disk-full", message: `The disk of the run's folder is full: free some space (${text})` };
  }
  if (DEVICE_FULL.test(text)) {
    const size = memory ? ` (${memory})` : "";
    return { kind: "out-of-memory", message: `The device's memory is full${size}: ${lessMemory(phase)} (${text})` };
  }
  if (PROCESS_FULL.test(text)) {
    const message = `The memory of the cell's process is full: ${lessMemory(phase)}, or, on wasm with its limit of ` +
      `4 GB, use the tensorflow engine (${text})`;
    return { kind: "out-of-memory", message };
  }
  if (CRASHED.test(text)) return { kind: "crash", message: `The engine crashed: use another --engine (${text})` };
  return undefined;
}

function classOfError(error: unknown, circumstances: Circumstances): Classified {
  const message = wordsOf(error);
  if (error instanceof MissingDataError) return { kind: "missing-data", message };
  if (error instanceof UsageError) return { kind: "usage", message };
  if (error instanceof NumericError) {
    return { kind: "numeric", message: `${message}: check the scores, remove less, or lower the learning rate` };
  }
  const known = classifyWords(message, circumstances);
  if (known) return known;
  if (error instanceof EngineError) return { kind: "engine", message };
  // The log has the rest.
  const [line = ""] = message.trim().split("\n", 1);
  const isNamed = error instanceof Error && error.name !== "Error";
  return { kind: "error", message: (isNamed ? `${error.name}: ${line}` : line).slice(0, MOST_QUOTED) };
}

const during = (phase: string | undefined) => phase === undefined ? {} : { phase };

/** The class and the message of an exception. */
export function classifyError(
  error: unknown,
  circumstances: Circumstances = {},
): Pick<Failure, "kind" | "message" | "phase"> {
  return { ...classOfError(error, circumstances), ...during(circumstances.phase) };
}

/** The failure of a cell that reached the limit of `--timeout`. */
export function timeoutFailure(limitS: number, phase?: string): Failure {
  const message = `The cell was stopped after ${limitS} s: ${adviceOn(phase).time}`;
  return { kind: "timeout", message, exitCode: null, ...during(phase) };
}

/** The lines of a process's output without phases, stack frames, and what TensorFlow says at every start. */
export const spoken = (stderr: string): string[] =>
  stderr.split("\n").map((line) => line.trim())
    .filter((line) => line !== "" && !/^(at |code: |\d{4}-\d\d-\d\dT[\d:.]+Z |[IW]\d{4} |WARNING: All log)/.test(line));

/** The class and the message of a process that ended without a record; `stderr` is the end of its output, `phase` its
 * last phase. */
export function classifyExit(
  { signal, code: exitCode }: Pick<Deno.CommandStatus, "code" | "signal">,
  stderr: string,
  phase?: string,
): Failure {
  const how = signal ? `was ended by ${signal}` : `ended with exit code ${exitCode}`;
  const lines = spoken(stderr).map((line) => line.slice(0, MOST_QUOTED)).reverse();
  const said = lines[0] === undefined ? "" : `; it said: ${lines[0]}`;
  const advice = "run it again with --retry crash, or with another --engine";
  const crash: Classified = { kind: "crash", message: `The cell's process ${how}: ${advice}${said}` };
  // Nothing but the kernel (or a person) sends SIGKILL; a JavaScript heap that is full says so before it aborts.
  const full = `The cell's process ${how}, as the kernel does when the machine's memory is full`;
  const killed: Classified = { kind: "out-of-memory", message: `${full}: ${lessMemory(phase)}${said}` };
  const known = lines.map((line) => classifyWords(line, { phase })).find((one) => one !== undefined);
  const classified = signal === "SIGKILL" ? killed : known ?? crash;
  return { ...classified, exitCode, ...during(phase) };
}

/** `learning: step 41 of 60, loss 3.2` -> `during learning, step 41 of 60`. */
export function phaseWords(phase: string): string {
  return `during ${phase.split(", ", 1)[0]?.replace(": ", ", ")}`;
}

/** The last phase in the text of a cell's log; undefined where there is none. */
export function lastPhase(log: string): string | undefined {
  return [...log.matchAll(/^\d{4}-\d\d-\d\dT[\d:.]+Z (.+)$/gm)].at(-1)?.[1];
}

/** The classes that `--retry` names: `oom` is short for `out-of-memory`; `all` and `none` cannot be combined.
 * @throws {UsageError} on an unknown class. */
export function parseRetry(text: string): readonly FailureKind[] {
  if (text === "all") return FAILURE_KINDS;
  if (text === "none") return [];
  return text.split(",").map((part) => {
    const name = part.trim() === "oom" ? "out-of-memory" : part.trim();
    const kind = FAILURE_KINDS.find((kind) => kind === name);
    if (name === "all" || name === "none") throw new UsageError(`"${name}" must be the only class: current "${text}"`);
    if (!kind) throw unknownName("class of failure", name, ["oom", ...FAILURE_KINDS, "all", "none"]);
    return kind;
  });
}
