/** Reports of records, with the methods and tasks that this program knows.
 *
 * @module
 */
import type { CellRecord } from "../../core/schema/schema.ts";
import { tasks } from "../../datasets/mod.ts";
import { listMethods } from "../../methods/mod.ts";
import { buildDocument } from "../../reports/build_document.ts";
import type { ReportDocument } from "../../reports/document.ts";
import { buildSections, type Definitions, type Section } from "../../reports/sections.ts";
import { type TerminalOptions, toTerminal } from "../../reports/terminal.ts";

/** Colours and order of methods, and the primary metric of each task. */
export const definitions = (): Definitions => ({
  displays: new Map(listMethods().flatMap(({ id, display }) => display ? [[id, display]] : [])),
  primaryMetrics: new Map(
    [...tasks.values()].flatMap(({ id, primaryMetric }) => primaryMetric ? [[id, primaryMetric]] : []),
  ),
});

/** Records by model and engine, as rows and columns. */
export const sectionsOf = (records: readonly CellRecord[]): Section[] => buildSections(records, definitions());

/** The report of records.
 * @param order Ids of methods in an order of their own; that of their definitions when absent. */
export function reportOf(records: readonly CellRecord[], title: string, order?: readonly string[]): ReportDocument {
  const known = definitions();
  const asked = order && new Map(order.map((id, i) => [id, { ...known.displays.get(id), order: i }]));
  return buildDocument(records, title, asked ? { ...known, displays: asked } : known);
}

/** Options of {@linkcode writeReport}. */
export interface ReportOptions {
  /** Heading of the Markdown and HTML reports. */
  title: string;
}

/** Writes a report of records into `folder`: `comparison.md`, `.csv` and `.tex`, `report.html`, and every figure as
 * `NAME.vl.json`, `NAME.svg` and `NAME.png`.
 * @returns Paths of the files written.
 * @throws {RangeError} when there are no records. */
export async function writeReport(
  records: readonly CellRecord[],
  folder: string,
  { title }: ReportOptions,
): Promise<string[]> {
  if (records.length === 0) throw new RangeError("A report needs at least one record: current 0");
  // The renderer of charts loads native code, which tables and model cards do without.
  const { writeFiles } = await import("../../reports/write_report.ts");
  return await writeFiles(reportOf(records, title), folder);
}

/** The tables of records as text for a terminal.
 * @returns Lines of at most `width` characters where the method column allows it, ending with a line break. */
export const renderTable = (records: readonly CellRecord[], options: TerminalOptions): string =>
  records.length === 0 ? "No records.\n" : toTerminal(reportOf(records, ""), options);
