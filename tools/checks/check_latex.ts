/** `deno task check:latex [FILE…]`: whether the tables of reports compile. Needs pdflatex with booktabs and graphicx
 * (Debian: texlive-latex-recommended), and is therefore no part of `deno task ok`.
 *
 * @module
 */
import { join } from "node:path";
import { recordsToReport } from "../../benchmarks/commands/records_to_report.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { buildDocument } from "../../reports/build_document.ts";
import { toLatex } from "../../reports/latex.ts";

/** A layout of every kind, and the published run whose report is compiled besides. */
const LAYOUTS = "tests/golden/report.tex";
const PUBLISHED = "results/smollm2-135m-one-shot";

/** A two-column page around the tables, as they are used in papers. */
const documentAround = (tables: string) =>
  `\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n\\begin{document}\n${tables}\n` +
  "\\end{document}\n";

/** Names and LaTeX of the tables: those of `paths`, or of {@linkcode LAYOUTS} and {@linkcode PUBLISHED} without any. */
function tables(paths: readonly string[]): [name: string, latex: string][] {
  if (paths.length > 0) return paths.map((path) => [path, Deno.readTextFileSync(path)]);
  return [
    [LAYOUTS, Deno.readTextFileSync(join(ROOT, LAYOUTS))],
    [PUBLISHED, toLatex(buildDocument(recordsToReport(join(ROOT, PUBLISHED)), "Tables"))],
  ];
}

/** Compiles tables; what pdflatex said where it fails, undefined where it does not. */
async function compile(latex: string): Promise<string | undefined> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(join(folder, "page.tex"), documentAround(latex));
    const { success, stdout } = await new Deno.Command("pdflatex", {
      args: ["-interaction=nonstopmode", "-halt-on-error", "page.tex"],
      cwd: folder,
    }).output();
    if (success) return undefined;
    const lines = new TextDecoder().decode(stdout).split("\n");
    return lines.slice(lines.findIndex((line) => line.startsWith("!"))).slice(0, 6).join("\n");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  let failures = 0;
  try {
    for (const [name, latex] of tables(Deno.args)) {
      const problem = await compile(latex);
      console.log(`${problem === undefined ? "ok  " : "FAIL"} ${name}`);
      if (problem !== undefined) console.error(problem);
      failures += Number(problem !== undefined);
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.error(
      `pdflatex or the file is missing (${error.message}): on Debian, apt-get install texlive-latex-recommended`,
    );
    Deno.exit(2);
  }
  Deno.exit(failures > 0 ? 1 : 0);
}
