/** Files and folders that appear whole or not at all.
 *
 * @module
 */
import { ifThere } from "./paths.ts";
import { dirname, resolve } from "node:path";

/** Appends bytes to the file that is being written. */
export type Append = (bytes: Uint8Array) => void;

/** Writes a file under a temporary name next to `path`, flushes it and renames it: `path` never holds half a file, not
 * even after a power cut. The temporary file is removed if `write` throws. */
export function writeWhole(path: string, write: (append: Append) => void): void {
  const temporary = `${path}.${Deno.pid}.tmp`;
  try {
    {
      using file = Deno.openSync(temporary, { write: true, create: true, truncate: true });
      write((bytes) => {
        for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
      });
      file.syncSync();
    }
    Deno.renameSync(temporary, path);
  } catch (error) {
    try {
      Deno.removeSync(temporary);
    } catch { /* it was never created */ }
    throw error;
  }
  syncFolder(dirname(path));
}

/** Writes `content` as {@linkcode writeWhole} does, and creates the folder. */
export function writeAtomically(path: string, content: string | Uint8Array): void {
  Deno.mkdirSync(dirname(path), { recursive: true });
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  writeWhole(path, (append) => append(bytes));
}

/** Makes a rename durable; not every platform can open a folder. */
function syncFolder(folder: string): void {
  try {
    using handle = Deno.openSync(folder, { read: true });
    handle.syncSync();
  } catch { /* the rename itself is still atomic */ }
}

/** Fills a folder under a temporary name next to `path` and renames it. An earlier folder is replaced as a whole; it
 * stays unchanged if `fill` throws. */
export function writeFolderWhole(path: string, fill: (folder: string) => void): void {
  const temporary = `${resolve(path)}.${Deno.pid}.tmp`;
  const replaced = `${resolve(path)}.${Deno.pid}.old`;
  Deno.mkdirSync(temporary, { recursive: true });
  let isReplaced = false;
  try {
    fill(temporary);
    isReplaced = ifThere(() => (Deno.renameSync(path, replaced), true), false);
    Deno.renameSync(temporary, path);
  } catch (error) {
    Deno.removeSync(temporary, { recursive: true });
    if (isReplaced) Deno.renameSync(replaced, path);
    throw error;
  }
  if (isReplaced) Deno.removeSync(replaced, { recursive: true });
}
