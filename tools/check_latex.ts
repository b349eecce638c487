/** `deno task check:latex [FILE…]`: whether the tables of reports compile. Needs pdflatex with booktabs and graphicx
 * (Debian: texlive-latex-recommended), and is therefore no part of `deno task ok`.
 *
 * @module
 */
import { join } from "node:path";
import { ROOT } from "../core/user_folder.ts";

/** Tables that are compiled unless files are given: a layout of every kind, and the published report. */
const FILES = ["tests/golden/report.tex", "results/smollm2-135m-one-shot/report/comparison.tex"].map((path) =>
  join(ROOT, path)
);

/** A two-column page around the tables, as they are used in papers. */
const documentAround = (tables: string) =>
  `\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n\\begin{document}\n${tables}\n` +
  "\\end{document}\n";

/** Compiles the tables of one file; what pdflatex said where it fails, undefined where it does not. */
async function compile(path: string): Promise<string | undefined> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(join(folder, "page.tex"), documentAround(await Deno.readTextFile(path)));
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
    for (const path of Deno.args.length > 0 ? Deno.args : FILES) {
      const problem = await compile(path);
      console.log(`${problem === undefined ? "ok  " : "FAIL"} ${path}`);
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
