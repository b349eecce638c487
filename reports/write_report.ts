/** Records in, files out: the one entry that writes a report.
 *
 * @module
 */
import { join } from "node:path";
import type { CellRecord } from "../core/schema.ts";
import { NARROW, WIDE } from "./chart_style.ts";
import { buildCharts } from "./charts.ts";
import { reproductionCsv, toCsv } from "./csv.ts";
import { toPng, toSvg } from "./draw.ts";
import { toHtml } from "./html.ts";
import { toLatex } from "./latex.ts";
import { toMarkdown } from "./markdown.ts";
import { buildSections } from "./rows.ts";
import { rankings } from "./significance.ts";

/** Options of {@linkcode writeReport}. */
export interface ReportOptions {
  /** Heading of the Markdown and HTML reports. */
  title: string;
}

/** Writes under a temporary name first, so that a report is never half a file. */
async function writeAtomically(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = `${path}.tmp`;
  if (typeof content === "string") await Deno.writeTextFile(temporary, content);
  else await Deno.writeFile(temporary, content);
  await Deno.rename(temporary, path);
}

/** Writes `comparison.md`, `.csv` and `.tex`, `report.html`, `reproduction.csv` where the run is set beside a published
 * table, and every figure as `NAME.vl.json`, `NAME.svg` and
 * `NAME.png` into `outFolder`, which is made where it is missing. Everything comes from `records` alone.
 * @returns Paths of the files written.
 * @throws {RangeError} when there are no records. */
export async function writeReport(
  records: CellRecord[],
  outFolder: string,
  { title }: ReportOptions,
): Promise<string[]> {
  if (records.length === 0) throw new RangeError("A report needs at least one record: current 0");
  const sections = buildSections(records);
  const files: [name: string, content: string | Uint8Array][] = [];
  const parts = [];
  for (const [i, section] of sections.entries()) {
    const prefix = sections.length > 1 ? `${i + 1}-${section.model}-${section.engine}-` : "";
    const charts = [];
    for (const { name, title, spec } of buildCharts(section, prefix)) {
      const wide = await toSvg(spec(WIDE));
      charts.push({ name, title, wide, narrow: await toSvg(spec(NARROW)) });
      files.push([`${name}.vl.json`, JSON.stringify(spec(WIDE), null, 1) + "\n"]);
      files.push([`${name}.svg`, wide + "\n"], [`${name}.png`, await toPng(wide)]);
    }
    parts.push({ section, ranks: rankings(section), charts });
  }
  const reproduced = reproductionCsv(sections);
  if (reproduced !== null) files.push(["reproduction.csv", reproduced]);
  files.push(
    ["comparison.md", toMarkdown(title, parts)],
    ["comparison.csv", toCsv(sections)],
    ["comparison.tex", toLatex(parts)],
    ["report.html", await toHtml(title, parts)],
  );
  await Deno.mkdir(outFolder, { recursive: true });
  for (const [name, content] of files) await writeAtomically(join(outFolder, name), content);
  return files.map(([name]) => join(outFolder, name));
}
