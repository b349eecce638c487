/** Checks documentation, part of `deno task ok`: every module and every exported symbol says what it is, and exported
 * functions declare what they return. `deno doc --lint` alone would also want every type of a library re-exported.
 *
 * @module
 */
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";
import { at } from "../../core/util/indexing.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { runTool } from "../run_tool.ts";
import { sourceFiles } from "./source_files.ts";

const PLACES = ["core", "models", "methods", "datasets", "benchmarks", "reports", "tools", "mod.ts"];

interface Documented {
  doc?: string;
}

/** The part of the output of `deno doc --json` that is looked at. */
interface DocOutput {
  nodes: Record<string, {
    module_doc?: Documented;
    symbols: {
      name: string;
      declarations: {
        location: { filename: string; line: number };
        declarationKind: string;
        kind: string;
        jsDoc?: Documented;
      }[];
    }[];
  }>;
}

async function denoDoc(args: string[], stream: "stdout" | "stderr"): Promise<string> {
  const output = await new Deno.Command("deno", { args: ["doc", ...args], cwd: ROOT }).output();
  return stripVTControlCharacters(new TextDecoder().decode(output[stream]));
}

/** One line for every module and exported symbol without a description. */
export function undocumented({ nodes }: DocOutput): string[] {
  const problems: string[] = [];
  const place = (url: string, line?: number) => `${relative(ROOT, fileURLToPath(url))}${line ? `:${line + 1}` : ""}`;
  for (const [url, { module_doc, symbols }] of Object.entries(nodes)) {
    // A file with one symbol says with it what it is.
    if (!module_doc?.doc && symbols.length !== 1) problems.push(`${place(url)}: the module has no description`);
    for (const { name, declarations } of symbols) {
      const own = declarations.filter((one) => one.declarationKind === "export" && one.kind !== "reference");
      if (own.length > 0 && !own.some((one) => one.jsDoc?.doc)) {
        problems.push(`${place(url, at(own, 0).location.line)}: "${name}" has no description`);
      }
    }
  }
  return problems;
}

/** Places of exported functions without a declared return type, from what `deno doc --lint` prints. */
export function missingReturnTypes(lint: string): string[] {
  const found = lint.matchAll(/error\[missing-return-type\][^\n]*\n\s*-->\s*(\S+)/g);
  return [...found].map(([, place = ""]) =>
    `${relative(ROOT, place)}: the exported function must declare its return type`
  );
}

async function main(): Promise<number> {
  const files = PLACES.flatMap(sourceFiles).map((path) => join(ROOT, path));
  const problems = [
    ...undocumented(JSON.parse(await denoDoc(["--json", ...files], "stdout"))),
    ...missingReturnTypes(await denoDoc(["--lint", ...files], "stderr")),
  ];
  for (const problem of problems) console.error(problem);
  return problems.length > 0 ? 1 : 0;
}

if (import.meta.main) await runTool({ help: "deno task check:docs" }, main);
