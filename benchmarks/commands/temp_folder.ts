/** A temporary folder of a command.
 *
 * @module
 */

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
