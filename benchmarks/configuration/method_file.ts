/** Methods from a user's files, `bench run --method-file ./mine.ts`. They are known by the contents of the file and of
 * what it imports beside npm packages and this program.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { UsageError } from "../../core/util/errors.ts";
import { isFile, kindOfPath } from "../../core/util/paths.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import type { MethodFile } from "../../core/schema/schema.ts";
import { defineMethod, type Method } from "../../methods/define.ts";
import { listMethods, register } from "../../methods/mod.ts";

/** Folders of this program's own modules, which the commit of a record names. */
const OWN = ["core", "models", "methods", "datasets", "benchmarks", "reports"].map((name) => join(ROOT, name) + sep);
const isOwn = (path: string) => path === join(ROOT, "mod.ts") || OWN.some((folder) => path.startsWith(folder));

/** Part of the path of every module of an npm package. */
const PACKAGES = `${sep}node_modules${sep}`;

/** Loads a method file and registers its methods; returns their ids. Needs the right to run Deno, which lists the imports.
 * @throws {UsageError} when the file cannot be loaded, exports no method, or one whose id is taken. */
export async function loadMethodFile(path: string): Promise<{ file: MethodFile; ids: string[] }> {
  checkFile(path);
  const imports = await localImports(path);
  const ids = await importMethods(path);
  return { file: { path, sha256: hashFiles(path, imports), imports }, ids };
}

/** Loads the method file of a cell again.
 * @throws {UsageError} when it is not what it was when the cell was named. */
export async function reloadMethodFile({ path, sha256, imports }: MethodFile): Promise<void> {
  checkFile(path);
  const now = hashFiles(path, imports);
  if (now !== sha256) {
    throw new UsageError(`"${path}" changed: its SHA-256 is ${now}, not ${sha256} as before. Start the run again`);
  }
  await importMethods(path);
}

function checkFile(path: string): void {
  const kind = kindOfPath(path);
  if (kind === null) throw new UsageError(`There is no method file "${path}"`);
  if (kind === "file") return;
  throw new UsageError(`"${path}" is not a file: --method-file takes a TypeScript or JavaScript file`);
}

/** Paths of what the file imports, relative to its folder and sorted; npm packages and this program are left out. */
async function localImports(path: string): Promise<string[]> {
  const { success, stdout, stderr } = await new Deno.Command("deno", {
    args: ["info", "--json", "--no-lock", `--config=${join(ROOT, "deno.json")}`, path],
  }).output();
  const decoder = new TextDecoder();
  if (!success) throw new UsageError(`Cannot read the method file "${path}": ${decoder.decode(stderr).trim()}`);
  const { modules } = JSON.parse(decoder.decode(stdout)) as { modules: { specifier: string }[] };
  const own = resolve(path);
  return modules.flatMap(({ specifier }) => {
    const module = specifier.startsWith("file:") ? fileURLToPath(specifier) : own;
    return module === own || isOwn(module) || module.includes(PACKAGES) ? [] : [relative(dirname(own), module)];
  }).sort();
}

/** SHA-256 over the hashes of the files, hex. A missing import is reported when the file is loaded. */
function hashFiles(path: string, imports: readonly string[]): string {
  const whole = createHash("sha256");
  for (const file of [path, ...imports.map((name) => join(dirname(path), name))]) {
    whole.update(createHash("sha256").update(isFile(file) ? Deno.readFileSync(file) : "").digest());
  }
  return whole.digest("hex");
}

/** Imports the file and registers what it exports, once. */
async function importMethods(path: string): Promise<string[]> {
  let methods: Method[];
  try {
    const exports: Record<string, unknown> = await import(pathToFileURL(resolve(path)).href);
    methods = [...new Set(Object.values(exports))].filter(isMethod);
    methods.forEach(defineMethod);
  } catch (error) {
    throw new UsageError(`Cannot load the method file "${path}": ${(error as Error).message ?? error}`);
  }
  if (methods.length === 0) {
    throw new UsageError(`"${path}" exports no method: export what defineMethod() returns`);
  }
  for (const method of methods) {
    const known = listMethods();
    if (known.includes(method)) continue;
    if (known.some(({ id }) => id === method.id)) {
      throw new UsageError(`"${path}" exports a method "${method.id}", but this id is taken: rename it`);
    }
    register(method);
  }
  return methods.map(({ id }) => id);
}

function isMethod(value: unknown): value is Method {
  const { id, kind } = (value ?? {}) as Partial<Method>;
  return typeof id === "string" && typeof kind === "string";
}
