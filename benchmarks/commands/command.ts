/** What a command of `bench` is.
 *
 * @module
 */
import { isDiskFull } from "../../core/schema/failure.ts";
import { EngineError, NumericError, UsageError } from "../../core/util/errors.ts";
import { isSystemError } from "../../core/util/paths.ts";
import type { StrictOptions } from "../configuration/flags.ts";

/** Flags and positional arguments as they were given. */
export type Flags = Record<string, unknown> & { _: string[] };

/** A command. It imports what it needs when it runs, so that help and wrong use are answered at once. */
export interface Command {
  /** Arguments for the list of commands: `DIR --engine llama.cpp`. */
  usage: string;
  summary: string;
  help(): string;
  /** Its flags, and how many positional arguments it takes. */
  flags: StrictOptions;
  /** Runs it. `args` are the arguments as given. Returns the exit code.
   * @throws {UsageError} on a wrong argument. */
  run(flags: Flags, args: string[]): Promise<number>;
}

/** Value of the flag `name`; undefined when it was not given.
 * @throws {UsageError} when it is empty. */
export function textFlag(flags: Record<string, unknown>, name: string): string | undefined {
  const value = flags[name];
  if (value === "") throw new UsageError(`--${name} needs a value`);
  return typeof value === "string" ? value : undefined;
}

/** Whole number of the flag `name`; undefined when it was not given.
 * @throws {UsageError} when it is none, or below `least`. */
export function countFlag(flags: Record<string, unknown>, name: string, least = 1): number | undefined {
  const text = textFlag(flags, name);
  return text === undefined ? undefined : wholeNumber(name, text, least);
}

/** The whole number that `text`, given with the flag `name`, is.
 * @throws {UsageError} when it is none, or below `least`. */
export function wholeNumber(name: string, text: string, least = 1): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= least) return value;
  throw new UsageError(`--${name} must be a whole number of at least ${least}: current "${text}"`);
}

/** The one of `known` that `text` names in any case.
 * @throws {UsageError} that lists them otherwise. */
export function choiceOf<T extends string>(flag: string, text: string | undefined, known: readonly T[]): T {
  const found = known.find((name) => name.toLowerCase() === text?.toLowerCase());
  if (found !== undefined) return found;
  const which = known.length === 1 ? known[0] : `one of ${known.join(", ").toLowerCase()}`;
  throw new UsageError(`--${flag} must be ${which}: ${text === undefined ? "none given" : `current "${text}"`}`);
}

/** Says in one sentence on standard error why a program ends with `error`. Returns its exit code.
 * @throws the error itself when it is a defect of the program. */
export function explainEnd(error: unknown): number {
  const { message } = error as Error;
  if (isDiskFull(error)) console.error(`The disk is full: ${message}. Free some space, then repeat the command.`);
  else if (isSystemError(error)) console.error(`Cannot use a path: ${message}. Give another one.`);
  else if ([UsageError, EngineError, NumericError].some((kind) => error instanceof kind)) console.error(message);
  else throw error;
  return isDiskFull(error) || error instanceof NumericError ? 1 : 2;
}

/** Exit code after Ctrl-C: 128 + SIGINT. */
export const INTERRUPTED = 130;

/** Uses a temporary folder, which is removed in the end, also at Ctrl-C. */
export async function withTempFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = Deno.makeTempDirSync();
  const remove = () => Deno.removeSync(folder, { recursive: true });
  const stop = () => {
    remove();
    Deno.exit(INTERRUPTED);
  };
  Deno.addSignalListener("SIGINT", stop);
  try {
    return await use(folder);
  } finally {
    Deno.removeSignalListener("SIGINT", stop);
    remove();
  }
}
