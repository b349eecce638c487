/** Prints the lines of source and of tests, and fails above the limits. A part of `.ci/run`.
 *
 * @module
 */
import { join } from "node:path";
import { ROOT } from "../../core/util/user_folder.ts";
import { runTool } from "../run_tool.ts";
import { sourceFiles } from "./source_files.ts";

const MOST = { source: 36_000, tests: 20_000 };
const SOURCE = ["core", "models", "methods", "benchmarks", "datasets", "reports", "tools", "mod.ts"];

/** Lines of the TypeScript files, by whether a path is one of a test. */
function countLines(): Record<keyof typeof MOST, number> {
  const lines = { source: 0, tests: 0 };
  for (const path of [...SOURCE, "tests"].flatMap(sourceFiles)) {
    const isTest = path.startsWith("tests/") || /_test\.ts$|\/testing\//.test(path);
    lines[isTest ? "tests" : "source"] += Deno.readTextFileSync(join(ROOT, path)).split("\n").length - 1;
  }
  return lines;
}

function main(): number {
  const { source, tests } = countLines();
  console.log(`${source} lines of source (at most ${MOST.source}), ${tests} of tests (at most ${MOST.tests})`);
  return source <= MOST.source && tests <= MOST.tests ? 0 : 1;
}

if (import.meta.main) await runTool({ help: "deno task lines" }, main);
