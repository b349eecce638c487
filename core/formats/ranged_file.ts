/** Files read range by range: a checkpoint is never in memory as a whole.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { FileFormatError, UsageError } from "../util/errors.ts";

/** An open file. */
export interface RangedFile extends Disposable {
  path: string;
  sizeBytes: number;
  /** Fills `target` with the bytes from `offset`.
   * @throws {FileFormatError} when the file ends before `target` is full. */
  readInto(offset: number, target: Uint8Array): void;
  /** Closes the file; a second call does nothing. */
  close(): void;
}

function openProblem(path: string, error: unknown): UsageError {
  if (error instanceof Deno.errors.NotFound) return new UsageError(`${path}: there is no such file or folder`);
  if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable) {
    return new UsageError(`${path}: this process may not read it`);
  }
  return new UsageError(`${path}: cannot be opened (${error instanceof Error ? error.message : String(error)})`);
}

/** Opens a regular file for ranged reads.
 * @throws {UsageError} when it is missing, unreadable, or not a regular file. */
export function openRanged(path: string): RangedFile {
  let file: Deno.FsFile;
  let sizeBytes: number;
  try {
    // Opening a pipe would block until there is a writer.
    if (!Deno.statSync(path).isFile) throw new UsageError(`${path}: must be a regular file`);
    file = Deno.openSync(path, { read: true });
    sizeBytes = file.statSync().size;
  } catch (error) {
    throw error instanceof UsageError ? error : openProblem(path, error);
  }
  const close = () => file[Symbol.dispose]();
  return {
    path,
    sizeBytes,
    readInto: (offset, target) => {
      file.seekSync(offset, Deno.SeekMode.Start);
      for (let filled = 0; filled < target.length;) {
        const count = file.readSync(target.subarray(filled));
        if (count === null || count === 0) {
          throw new FileFormatError(path, `ends at byte ${offset + filled}, before byte ${offset + target.length}`);
        }
        filled += count;
      }
    },
    close,
    [Symbol.dispose]: close,
  };
}

/** The result of `use`; closes `opened` if it throws. */
export function closingOnError<T>(opened: { close(): void }, use: () => T): T {
  try {
    return use();
  } catch (error) {
    opened.close();
    throw error;
  }
}

/** Names of a folder's entries.
 * @throws {UsageError} when the folder is missing or unreadable. */
export function listFolder(path: string): Set<string> {
  try {
    return new Set([...Deno.readDirSync(path)].map((entry) => entry.name));
  } catch (error) {
    throw openProblem(path, error);
  }
}

/** Longest JSON text that is read, in bytes; the largest published tokenizers have 35 MB. */
const MAX_JSON_BYTES = 256 * 1024 * 1024;

/** Parses a JSON object out of the bytes `offset` to `end` of a file; `what` names them in messages.
 * @throws {FileFormatError} when they are not in the file, too many, not UTF-8, not JSON, or not an object. */
export function readJsonRange(
  file: RangedFile,
  { offset, end, what }: { offset: number; end: number; what: string },
): Record<string, unknown> {
  const fail = (problem: string): never => {
    throw new FileFormatError(file.path, `${what} ${problem}`);
  };
  const longest = Math.min(file.sizeBytes - offset, MAX_JSON_BYTES);
  if (end - offset > longest) {
    fail(`has ${end - offset} bytes: at most ${longest} accepted. It may be a Git LFS pointer.`);
  }
  const bytes = new Uint8Array(end - offset);
  file.readInto(offset, bytes);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    fail(error instanceof TypeError ? "is not UTF-8 text" : `is not JSON (${(error as Error).message})`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return fail("must be a JSON object");
  return value as Record<string, unknown>;
}

/** Parses a JSON file whose top level is an object.
 * @throws {UsageError} when it cannot be opened.
 * @throws {FileFormatError} as {@linkcode readJsonRange}. */
export function readJsonObject(path: string): Record<string, unknown> {
  using file = openRanged(path);
  return readJsonRange(file, { offset: 0, end: file.sizeBytes, what: "the file" });
}

const HASH_CHUNK_BYTES = 4 * 1024 * 1024;

/** A hash of files that was taken before. */
export interface KnownHash {
  sha256: string;
  /** When hashing began, milliseconds since 1970. */
  atMs: number;
}

/** Whether nothing was written to a file, and nothing put in its place, since `atMs`. */
function isUnchanged(path: string, atMs: number): boolean {
  const { mtime, ctime } = Deno.statSync(path);
  if (mtime === null || ctime === null) return false;
  // Deno cuts the time of a change to whole seconds.
  return Math.max(mtime.getTime(), ctime.getTime() + 1000) < atMs;
}

/** SHA-256, hex, of the files' concatenated bytes, as `cat PATHS | sha256sum` prints. The `known` one is taken
 * over if the files are unchanged since.
 * @throws {UsageError} when a file cannot be opened. */
export function sha256OfFiles(paths: readonly string[], known?: KnownHash): string {
  if (known && paths.every((path) => isUnchanged(path, known.atMs))) return known.sha256;
  const hash = createHash("sha256");
  const chunk = new Uint8Array(HASH_CHUNK_BYTES);
  for (const path of paths) {
    using file = openRanged(path);
    for (let offset = 0; offset < file.sizeBytes; offset += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, file.sizeBytes - offset));
      file.readInto(offset, part);
      hash.update(part);
    }
  }
  return hash.digest("hex");
}
