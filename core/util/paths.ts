/** Kinds of paths.
 *
 * @module
 */

import { UsageError } from "./errors.ts";

/** Error codes of paths that cannot exist: too long, or a circle of links. */
const IMPOSSIBLE = new Set<unknown>(["ENAMETOOLONG", "ELOOP"]);

/** Whether `path` is a file or a folder; null for nothing, "other" for anything else, such as a pipe.
 * @throws {UsageError} when access is denied. */
export function kindOfPath(path: string): "file" | "folder" | "other" | null {
  if (path.includes("\0")) return null;
  try {
    const { isFile, isDirectory } = Deno.statSync(path);
    return isFile ? "file" : isDirectory ? "folder" : "other";
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    if (error instanceof Error && "code" in error && IMPOSSIBLE.has(error.code)) return null;
    throw new UsageError(`${path}: cannot be opened (${error instanceof Error ? error.message : String(error)})`);
  }
}

/** Whether there is anything at `path`. */
export function isThere(path: string): boolean {
  return kindOfPath(path) !== null;
}

/** Whether there is a file, not a folder, at `path`. */
export function isFile(path: string): boolean {
  return kindOfPath(path) === "file";
}

/** What `read` gives; `otherwise` where the file or folder does not exist. */
export function ifThere<T, U>(read: () => T, otherwise: U): T | U {
  try {
    return read();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return otherwise;
    throw error;
  }
}

/** Whether the operating system refused a path: no rights, a file instead of a folder, a name too long, a loop of links.
 * Its errors have a code such as `ELOOP`; missing rights are told by their class. */
export const isSystemError = (error: unknown): error is Error =>
  error instanceof Error &&
  (error instanceof Deno.errors.NotCapable || "code" in error && /^E[A-Z0-9]+$/.test(String(error.code)));
