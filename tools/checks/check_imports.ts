/** Checks who imports whom, part of `deno task ok`. The rules are the table below; the graph is Deno's own.
 *
 * @module
 */
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { at } from "../../core/util/indexing.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { runTool } from "../run_tool.ts";
import { sourceFiles } from "./source_files.ts";

/** What a folder may import besides itself. The methods' registry and definitions are named as files. */
const ALLOWED: Record<string, string[]> = {
  core: [],
  models: ["core"],
  datasets: ["core"],
  methods: ["core", "models"],
  reports: ["core/schema", "core/util"],
  benchmarks: ["core", "models", "datasets", "methods/mod.ts", "methods/define.ts", "methods/_shared/depth.ts"],
  "benchmarks/commands": ["core", "models", "datasets", "methods/mod.ts", "reports"],
  "mod.ts": ["core", "models", "datasets", "methods", "benchmarks", "reports"],
  tools: ["core", "models", "datasets", "methods", "benchmarks", "reports", "tests/support"],
  tests: ["core", "models", "datasets", "methods", "benchmarks", "reports", "tools", "mod.ts"],
};

/** The rooms of `benchmarks/`: each may import those after it, and itself. */
const ROOMS = ["commands", "sweep", "cells", "configuration", "records", "pipeline", "evaluation", "timing"];

/** Folders that may import TensorFlow.js; tests and tools may import anything. */
const TENSORFLOW = ["core", "models", "methods", "tests", "tools"];

interface Module {
  specifier: string;
  dependencies?: { specifier: string; code?: { specifier?: string }; type?: { specifier?: string } }[];
}

const folderOf = (path: string) => at(path.split("/"), 0);

/** The method that a file of `methods/` belongs to: the name of its folder, or its own without the ending. */
const methodOf = (path: string) => at(path.split("/"), 1).replace(/\.ts$/, "");

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

/** What is wrong with a file of `benchmarks/` importing another one; undefined if nothing. */
function roomProblem(from: string, to: string): string | undefined {
  const [own, other] = [from, to].map((path) => ROOMS.indexOf(path.split("/")[1] ?? "")) as [number, number];
  const room = ROOMS[own];
  // The command line itself stands before all rooms.
  if (room === undefined || (other >= own && other >= 0)) return undefined;
  return `benchmarks/${room} may import ${ROOMS.slice(own + 1).join(", ") || "no other room of benchmarks"}`;
}

/** Every circle of files that import each other: the files of each, sorted. `imports` has the imports of every file. */
export function importCircles(imports: ReadonlyMap<string, readonly string[]>): string[][] {
  const reached = (from: string): Set<string> => {
    const found = new Set<string>();
    const visit = (file: string): void =>
      imports.get(file)?.forEach((next) => {
        if (found.has(next)) return;
        found.add(next);
        visit(next);
      });
    visit(from);
    return found;
  };
  const reach = new Map([...imports.keys()].map((file) => [file, reached(file)]));
  const inCircle = [...imports.keys()].filter((file) => reach.get(file)?.has(file));
  const circleOf = (file: string) =>
    inCircle.filter((other) => reach.get(file)?.has(other) && reach.get(other)?.has(file));
  return [...new Map(inCircle.map(circleOf).map((circle) => [circle.sort().join(), circle])).values()];
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
  if (folder === "benchmarks" && folderOf(to) === folder) return roomProblem(from, to);
  if (folderOf(to) === folder) return undefined;
  const room = from.split("/").slice(0, 2).join("/");
  const place = room in ALLOWED ? room : folder;
  const allowed = ALLOWED[place] ?? [];
  const places = [folderOf(to), to.split("/").slice(0, 2).join("/"), to];
  if (places.some((one) => allowed.includes(one))) return undefined;
  return `${place} may import ${allowed.join(", ") || "nothing else"}`;
}

/** One line for every import against the rules. */
export async function checkImports(): Promise<string[]> {
  const files = Object.keys(ALLOWED).filter((place) => !place.includes("/")).flatMap(sourceFiles);
  const known = new Set(files);
  const pathOf = (specifier: string) => {
    const [, npmPackage] = /.*\/node_modules\/(.*)/.exec(specifier) ?? [];
    if (npmPackage !== undefined) return `npm:${npmPackage}`;
    return specifier.startsWith("file:") ? relative(ROOT, fileURLToPath(specifier)) : specifier;
  };
  const imports = new Map((await moduleGraph(files)).flatMap(({ specifier, dependencies = [] }) => {
    const from = pathOf(specifier);
    if (!known.has(from)) return [];
    const targets = dependencies.flatMap(({ specifier, code, type }) =>
      [code?.specifier ?? (type ? undefined : specifier), type?.specifier].filter((one) => one !== undefined)
    );
    return [[from, [...new Set(targets.map(pathOf))]] as const];
  }));
  const problems = [...imports].flatMap(([from, targets]) =>
    targets.flatMap((to) => {
      const problem = importProblem(from, to);
      return problem ? [`${from} imports ${to}: ${problem}`] : [];
    })
  );
  return [...problems, ...importCircles(imports).map((files) => `${files.join(", ")}: import each other`)];
}

async function main(): Promise<number> {
  const problems = await checkImports();
  for (const problem of problems) console.error(problem);
  return problems.length > 0 ? 1 : 0;
}

if (import.meta.main) await runTool({ help: "deno task check:imports" }, main);
