/** A report's files.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { writeWhole } from "../core/util/write_file.ts";
import { toCsv } from "./csv.ts";
import { toPng, toSvg } from "./draw.ts";
import type { ReportDocument } from "./document.ts";
import { toHtml } from "./html.ts";
import { toLatex } from "./latex.ts";
import { toMarkdown } from "./markdown.ts";

/** Every figure of a document. */
const chartsOf = ({ sections }: ReportDocument) =>
  sections.flatMap(({ blocks }) => blocks.flatMap((block) => block.kind === "figures" ? block.charts : []));

/** Files of one figure. */
const FIGURE_FILES = ["vl.json", "svg", "png"];

/** Removes figures that earlier reports left in a run's own folder `report`: three files of one name each. Other
 * files, and any other folder, are the user's. */
function removeOldFiles(folder: string, written: ReadonlySet<string>): void {
  const path = resolve(folder);
  if (basename(path) !== "report" || !existsSync(join(dirname(path), "run.json"))) return;
  const names = new Set([...Deno.readDirSync(path)].flatMap(({ name, isFile }) => isFile ? [name] : []));
  const figures = [...names].flatMap((name) => /^(.+)\.svg$/.exec(name)?.[1] ?? [])
    .map((stem) => FIGURE_FILES.map((ending) => `${stem}.${ending}`))
    .filter((files) => files.every((name) => names.has(name)));
  for (const name of figures.flat()) {
    if (names.has(name) && !written.has(name)) Deno.removeSync(join(path, name));
  }
}

/** Writes `comparison.md`, `.csv` and `.tex`, `report.html`, and every figure as `NAME.vl.json`, `NAME.svg` and
 * `NAME.png` into `outFolder`, which is made if it is missing. A folder `report` beside a run's `run.json` keeps no
 * figure of an earlier report.
 * @returns Paths of the files written. */
export async function writeFiles(document: ReportDocument, outFolder: string): Promise<string[]> {
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
    ["comparison.tex", toLatex(document)],
    ["report.html", await toHtml(document, drawings)],
  );
  await Deno.mkdir(outFolder, { recursive: true });
  for (const [name, content] of files) {
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    writeWhole(join(outFolder, name), (append) => append(bytes));
  }
  removeOldFiles(outFolder, new Set(files.map(([name]) => name)));
  return files.map(([name]) => join(outFolder, name));
}
