/** Checks who imports whom, part of `deno task ok`. The rules are the table below; the graph is Deno's own.
 *
 * @module
 */
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { ROOT, sourceFiles } from "./source_files.ts";

/** What a folder may import besides itself; a name with `/` is that file alone. */
const ALLOWED: Record<string, string[]> = {
  core: [],
  models: ["core"],
  datasets: ["core"],
  methods: ["core", "models"],
  reports: ["core/cell_names.ts", "core/indexing.ts", "core/schema.ts", "core/stats.ts", "core/write_file.ts"],
  benchmarks: ["core", "models", "datasets", "methods/mod.ts", "methods/define.ts"],
  "benchmarks/cli.ts": ["core", "models", "datasets", "methods/mod.ts", "reports"],
  "mod.ts": ["core", "models", "datasets", "methods", "benchmarks", "reports"],
  tools: ["core", "models", "datasets", "methods", "benchmarks", "reports"],
  tests: ["core", "models", "datasets", "methods", "benchmarks", "reports", "tools", "mod.ts"],
};

/** Folders that may import TensorFlow.js; tests and tools may import anything. */
const TENSORFLOW = ["core", "models", "methods", "tests", "tools"];

interface Module {
  specifier: string;
  dependencies?: { specifier: string; code?: { specifier?: string }; type?: { specifier?: string } }[];
}

const folderOf = (path: string) => path.split("/")[0];

/** The method that a file of `methods/` belongs to: the name of its folder, or its own without the ending. */
const methodOf = (path: string) => path.split("/")[1].replace(/\.ts$/, "");

/** Every module that the project's files reach. A temporary root imports all of them, so that one call is enough. */
async function moduleGraph(files: string[]): Promise<Module[]> {
  const root = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    const imports = files.map((file) => `import ${JSON.stringify(pathToFileURL(join(ROOT, file)).href)};`);
    await Deno.writeTextFile(root, imports.join("\n"));
    const { success, stdout } = await new Deno.Command("deno", {
      args: ["info", "--json", "--config", join(ROOT, "deno.json"), root],
      stderr: "inherit",
    }).output();
    if (!success) throw new Error("`deno info` failed");
    return JSON.parse(new TextDecoder().decode(stdout)).modules;
  } finally {
    await Deno.remove(root);
  }
}

/** What is wrong with `from` importing `to` (a path in the project, or any other specifier); undefined if nothing. */
export function importProblem(from: string, to: string): string | undefined {
  const folder = folderOf(from);
  if (to.startsWith("npm:")) {
    if (!to.includes("@tensorflow/") || TENSORFLOW.includes(folder)) return undefined;
    return `TensorFlow.js may be imported in ${TENSORFLOW.join(", ")} only`;
  }
  if (!(folderOf(to) in ALLOWED) && to !== "mod.ts") return undefined;
  if (folder === "methods" && folderOf(to) === "methods") {
    const shared = methodOf(to) === "_shared" || to === "methods/define.ts" || methodOf(to) === methodOf(from);
    return shared || from === "methods/mod.ts" ? undefined : "a method may not import another one";
  }
  if (folderOf(to) === folder) return undefined;
  const allowed = ALLOWED[from] ?? ALLOWED[folder];
  if (allowed.includes(folderOf(to)) || allowed.includes(to)) return undefined;
  return `${from in ALLOWED ? from : folder} may import ${allowed.join(", ") || "nothing else"}`;
}

/** One line for every import against the rules. */
export async function checkImports(): Promise<string[]> {
  const files = Object.keys(ALLOWED).filter((place) => !place.includes("/")).flatMap(sourceFiles);
  const known = new Set(files);
  const pathOf = (specifier: string) =>
    specifier.startsWith("file:") ? relative(ROOT, fileURLToPath(specifier)) : specifier;
  return (await moduleGraph(files)).flatMap(({ specifier, dependencies = [] }) => {
    const from = pathOf(specifier);
    if (!known.has(from)) return [];
    return dependencies.flatMap((dependency) => {
      const target = dependency.code?.specifier ?? dependency.type?.specifier ?? dependency.specifier;
      const problem = importProblem(from, pathOf(target));
      return problem ? [`${from} imports ${pathOf(target)}: ${problem}`] : [];
    });
  });
}

if (import.meta.main) {
  const problems = await checkImports();
  for (const problem of problems) console.error(problem);
  Deno.exit(problems.length > 0 ? 1 : 0);
}
