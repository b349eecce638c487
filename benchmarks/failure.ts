/** Failures as data: what went wrong with a cell, in the classes of a record.
 *
 * @module
 */
import { EngineError, NumericError, UsageError } from "../core/errors.ts";
import type { FailedRecord } from "../core/schema.ts";

type Failure = FailedRecord["failure"];

/** Messages with which JavaScript, WebAssembly, TensorFlow and CUDA say that memory ran out. */
const OUT_OF_MEMORY =
  /out of memory|allocation failed|failed to allocate|\bOOM\b|RESOURCE_EXHAUSTED|ENOMEM|memory access out of bounds|Cannot enlarge memory/i;

/** Whether an exception says that memory ran out. */
export function isOutOfMemory(error: unknown): boolean {
  return OUT_OF_MEMORY.test(error instanceof Error ? error.message : String(error));
}

/** The class and the message of an exception. */
export function classifyError(error: unknown): Pick<Failure, "kind" | "message"> {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof UsageError) return { kind: "usage", message };
  if (error instanceof NumericError) return { kind: "numeric", message };
  if (isOutOfMemory(error)) return { kind: "out-of-memory", message };
  if (error instanceof EngineError) return { kind: "engine", message };
  return { kind: "error", message: error instanceof Error ? `${error.name}: ${message}` : message };
}

/** The class and the message of a process that ended without a record; `stderr` is the end of what it printed. */
export function classifyExit(status: Deno.CommandStatus, stderr: string): Failure {
  const how = status.signal ? `was ended by ${status.signal}` : `ended with exit code ${status.code}`;
  const tail = stderr.trim();
  const said = tail === "" ? "" : `; it said: ${tail}`;
  // Nothing but the kernel (or a person) sends SIGKILL; a JavaScript heap that is full says so before it aborts.
  if (status.signal === "SIGKILL") {
    return {
      kind: "out-of-memory",
      message:
        `The cell's process ${how}, as the kernel does when memory runs out: run fewer jobs or a smaller model${said}`,
      exitCode: status.code,
    };
  }
  const kind = OUT_OF_MEMORY.test(tail) ? "out-of-memory" : "crash";
  return { kind, message: `The cell's process ${how}${said}`, exitCode: status.code };
}
