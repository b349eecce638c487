/** The user's folder. `deno task` starts programs in the project's folder, wherever it is called.
 *
 * @module
 */
import { join, relative } from "node:path";
import { kindOfPath } from "./paths.ts";

/** The project's folder. */
export const ROOT: string = join(import.meta.dirname!, "../..");

/** Changes to the folder that `deno task` was called in, so that relative paths are the user's. Does nothing without
 * `deno task`. */
export function goToUserFolder(): void {
  const folder = Deno.env.get("INIT_CWD");
  // Other programs set this variable too.
  if (folder && kindOfPath(folder) === "folder") Deno.chdir(folder);
}

/** Path of a file of the project, relative to the working folder. */
export function inProject(path: string): string {
  return relative(Deno.cwd(), join(ROOT, path)) || ".";
}
