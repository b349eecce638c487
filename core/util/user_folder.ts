/** Where the user stands: `deno task` starts programs in the project's folder, wherever it was called.
 *
 * @module
 */
import { join, relative } from "node:path";

/** The project's folder. */
export const ROOT: string = join(import.meta.dirname!, "../..");

/** Goes to the folder that `deno task` was called in, so that paths mean there what they say, in and out. Without `deno task`
 * that is where the process is. */
export function goToUserFolder(): void {
  const folder = Deno.env.get("INIT_CWD");
  if (!folder) return;
  try {
    Deno.chdir(folder);
  } catch (error) {
    // Other programs set the variable, too.
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Path of a file of the project, as it is written where the user stands. */
export function inProject(path: string): string {
  return relative(Deno.cwd(), join(ROOT, path)) || ".";
}
