/** A report's files.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { UsageError } from "../core/util/errors.ts";
import { writeAtomically } from "../core/util/write_file.ts";
import { toCsv, toSeedCsv } from "./csv.ts";
import { toPng, toSvg } from "./draw.ts";
import { chartsOf, type ReportDocument } from "./document.ts";
import { toHtml } from "./html.ts";
import { toLatex } from "./latex.ts";
import { toMarkdown } from "./markdown.ts";

const FIGURE_FILES = ["vl.json", "svg", "png"];

/** Whether a folder is a run's own `report`, beside its `run.json`. */
const isRunsOwn = (folder: string): boolean =>
  basename(resolve(folder)) === "report" && existsSync(join(dirname(resolve(folder)), "run.json"));

/** Removes figures that earlier reports left in a run's own folder `report`: three files of one name each. Other
 * files, and any other folder, are the user's. */
function removeOldFiles(folder: string, written: ReadonlySet<string>): void {
  if (!isRunsOwn(folder)) return;
  const path = resolve(folder);
  const names = new Set([...Deno.readDirSync(path)].flatMap(({ name, isFile }) => isFile ? [name] : []));
  const figures = [...names].flatMap((name) => /^(.+)\.svg$/.exec(name)?.[1] ?? [])
    .map((stem) => FIGURE_FILES.map((ending) => `${stem}.${ending}`))
    .filter((files) => files.every((name) => names.has(name)));
  for (const name of figures.flat()) {
    if (names.has(name) && !written.has(name)) Deno.removeSync(join(path, name));
  }
}

/** Files that every report has. */
const FILES = ["comparison.md", "comparison.csv", "comparison.tex", "report.html"];

/** Refuses to write over files that have the names of a report's and are of no report: one has all of them.
 * @throws {UsageError} that names the first. */
function checkFolder(folder: string): void {
  const found = FILES.filter((name) => existsSync(join(folder, name)));
  if (found.length === 0 || found.length === FILES.length || isRunsOwn(folder)) return;
  throw new UsageError(
    `"${join(folder, found[0] ?? "")}" does not belong to an earlier report: move it, or use another folder`,
  );
}

/** Writes `comparison.md`, `.csv` and `.tex`, `comparison-by-seed.csv`, `report.html`, and every figure as `NAME.vl.json`, `NAME.svg` and
 * `NAME.png` into `outFolder`, which is made if it is missing. A folder `report` beside a run's `run.json` keeps no
 * figure of an earlier report.
 * @returns Paths of the files written.
 * @throws {UsageError} when the folder has files of these names that are not of an earlier report. */
export async function writeFiles(document: ReportDocument, outFolder: string): Promise<string[]> {
  checkFolder(outFolder);
  const files: [name: string, content: string | Uint8Array][] = [];
  const drawings = new Map<string, string>();
  for (const { name, spec } of chartsOf(document)) {
    const svg = await toSvg(spec);
    drawings.set(name, svg);
    files.push([`${name}.vl.json`, JSON.stringify(spec) + "\n"]);
    files.push([`${name}.svg`, svg + "\n"], [`${name}.png`, await toPng(svg)]);
  }
  files.push(
    ["comparison.md", toMarkdown(document)],
    ["comparison.csv", toCsv(document)],
    ["comparison-by-seed.csv", toSeedCsv(document)],
    ["comparison.tex", toLatex(document)],
    ["report.html", await toHtml(document, drawings)],
  );
  for (const [name, content] of files) writeAtomically(join(outFolder, name), content);
  removeOldFiles(outFolder, new Set(files.map(([name]) => name)));
  return files.map(([name]) => join(outFolder, name));
}
