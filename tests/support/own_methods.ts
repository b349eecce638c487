/** Methods in files of their own that are tested beside the shipped ones: the examples of the documentation, and those
 * that `MASKPRUNE_METHOD_FILE` names, separated by commas.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { loadMethodFile } from "../../benchmarks/configuration/method_file.ts";
import type { Method } from "../../methods/define.ts";
import { listMethods } from "../../methods/mod.ts";

/** The documentation's example of a method. */
const EXAMPLE = join(import.meta.dirname!, "../../docs/examples/contribution.ts");

/** The user's own files, when the tests are asked to test them alone: paths are taken from where the user stands. */
export const OWN_FILES: readonly string[] = (Deno.env.get("MASKPRUNE_METHOD_FILE") ?? "").split(",")
  .filter((path) => path !== "").map((path) => resolve(Deno.env.get("INIT_CWD") ?? ".", path));

/** Methods to test, and the file of each that has one of its own. */
export interface TestedMethods {
  /** Those of the user's files alone where there are any, else the shipped ones and the documentation's. */
  methods: Method[];
  /** By id. */
  fileOf: Map<string, string>;
}

/** Registers the methods of files. */
export async function testedMethods(): Promise<TestedMethods> {
  const fileOf = new Map<string, string>();
  for (const path of OWN_FILES.length > 0 ? OWN_FILES : [EXAMPLE]) {
    for (const id of (await loadMethodFile(path)).ids) fileOf.set(id, path);
  }
  const methods = listMethods().filter(({ id }) => OWN_FILES.length === 0 || fileOf.has(id));
  return { methods, fileOf };
}
