/** `deno.lock` says which packages the project is made of. Those that a file of the user's imports stay out of it.
 *
 * @module
 */
import { join } from "node:path";
import { ROOT } from "./user_folder.ts";

const PATH = join(ROOT, "deno.lock");

/** Does `work`, which imports a file of the user's into this process, and puts the lock file at `path` back as it was. In a process
 * that may not write there, Deno was given a copy to write to. */
export async function keepingLock<T>(work: () => Promise<T>, path: string = PATH): Promise<T> {
  const before = Deno.readTextFileSync(path);
  try {
    return await work();
  } finally {
    if (Deno.readTextFileSync(path) !== before) Deno.writeTextFileSync(path, before);
  }
}

/** Copies the lock file to `copy`, whose path it returns: {@linkcode denoRun} has Deno take it from there. */
export function lockCopy(copy: string): string {
  Deno.copyFileSync(PATH, copy);
  return copy;
}
