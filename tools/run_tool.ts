/** How a tool ends.
 *
 * @module
 */
import { UsageError } from "../core/util/errors.ts";
import { goToUserFolder } from "../core/util/user_folder.ts";

/** Runs a tool where the user stands and ends the process with the code it returns, or with 2 and one sentence for bad usage. Nothing is ended
 * when it returns no code: what it left open finishes first. */
export async function runTool(main: () => void | number | Promise<void | number>): Promise<void> {
  try {
    goToUserFolder();
    const code = await main();
    if (code !== undefined) Deno.exit(code);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(error.message);
    Deno.exit(2);
  }
}
