/** Files and folders that appear whole or not at all.
 *
 * @module
 */

/** Appends bytes to the file that is being written. */
export type Append = (bytes: Uint8Array) => void;

/** Writes a file under a temporary name next to `path`, flushes it and renames it, so that no half-written file is ever
 * found under `path`. The temporary file is removed when `write` throws. */
export function writeWhole(path: string, write: (append: Append) => void): void {
  const temporary = `${path}.${Deno.pid}.tmp`;
  const file = Deno.openSync(temporary, { write: true, create: true, truncate: true });
  try {
    try {
      write((bytes) => {
        for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
      });
      file.syncDataSync();
    } finally {
      file.close();
    }
    Deno.renameSync(temporary, path);
  } catch (error) {
    Deno.removeSync(temporary);
    throw error;
  }
}

/** Fills a folder under a temporary name next to `path` and renames it; what was under `path` is replaced as a whole, and
 * stays as it was when `fill` throws. */
export function writeFolderWhole(path: string, fill: (folder: string) => void): void {
  const temporary = `${path}.${Deno.pid}.tmp`;
  const replaced = `${path}.${Deno.pid}.old`;
  Deno.mkdirSync(temporary);
  let isReplaced = false;
  try {
    fill(temporary);
    try {
      Deno.renameSync(path, replaced);
      isReplaced = true;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    Deno.renameSync(temporary, path);
  } catch (error) {
    Deno.removeSync(temporary, { recursive: true });
    if (isReplaced) Deno.renameSync(replaced, path);
    throw error;
  }
  if (isReplaced) Deno.removeSync(replaced, { recursive: true });
}
