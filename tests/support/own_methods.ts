/** Methods in files of their own that are tested beside the shipped ones: the examples of the documentation, and those
 * that `MASKPRUNE_METHOD_FILE` names, separated by commas.
 *
 * @module
 */
import { join } from "node:path";
import { loadMethodFile } from "../../benchmarks/configuration/method_file.ts";

const EXAMPLES = join(import.meta.dirname!, "../../docs/examples");

/** Registers the methods; returns the file of each by id. */
export async function registerOwnMethods(): Promise<Map<string, string>> {
  const examples = [...Deno.readDirSync(EXAMPLES)].map(({ name }) => join(EXAMPLES, name));
  const own = Deno.env.get("MASKPRUNE_METHOD_FILE")?.split(",") ?? [];
  const fileOf = new Map<string, string>();
  for (const path of [...examples, ...own]) {
    for (const id of (await loadMethodFile(path)).ids) fileOf.set(id, path);
  }
  return fileOf;
}
