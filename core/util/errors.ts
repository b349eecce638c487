/** Errors with messages for the user. Every other error is a defect of the program or the machine.
 *
 * @module
 */

import { at } from "./indexing.ts";

/** A request that cannot be met: an unknown name, a wrong value, an unreadable file. The command line prints only the
 * message and exits with code 2. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** A file that does not follow its format. The message names the file, the value and the limit. */
export class FileFormatError extends UsageError {
  override name = "FileFormatError";
  readonly path: string;

  /** `problem` completes a sentence that begins with the path. */
  constructor(path: string, problem: string) {
    super(`${path}: ${problem}`);
    this.path = path;
  }
}

/** Missing data. The message says what was looked for, where, and how to get it. */
export class MissingDataError extends UsageError {
  override name = "MissingDataError";
}

/** An engine that could not start, or an error of a device. */
export class EngineError extends Error {
  override name = "EngineError";
}

/** NaN or infinity instead of a score or a loss. */
export class NumericError extends Error {
  override name = "NumericError";
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const changed = at(previous, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row[j] = Math.min(at(previous, j) + 1, at(row, j - 1) + 1, changed);
    }
    previous = row;
  }
  return at(previous, b.length);
}

/** A {@linkcode UsageError} for an unknown name, with the nearest known one as a suggestion, or a list of all. */
export function unknownName(kind: string, name: string, known: readonly string[]): UsageError {
  const nearest = [...known].sort((a, b) => editDistance(name, a) - editDistance(name, b))[0];
  const isNear = nearest !== undefined && editDistance(name, nearest) <= Math.max(1, name.length / 3);
  const hint = isNear ? ` Did you mean "${nearest}"?` : "";
  const list = isNear && known.length > 20 ? "" : ` Known: ${known.join(", ") || "none"}`;
  return new UsageError(`Unknown ${kind} "${name}".${hint}${list}`);
}
