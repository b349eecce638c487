/** The project's TypeScript files, for the checks of `deno task ok`.
 *
 * @module
 */
import { join } from "node:path";
import { ROOT } from "../../core/util/user_folder.ts";

/** TypeScript files at `place`, a file or folder of the project; all paths are relative to the project's folder. */
export function sourceFiles(place: string): string[] {
  if (place.endsWith(".ts")) return [place];
  return [...Deno.readDirSync(join(ROOT, place))].flatMap(({ name, isDirectory }) => {
    const path = `${place}/${name}`;
    return isDirectory || name.endsWith(".ts") ? sourceFiles(path) : [];
  });
}
