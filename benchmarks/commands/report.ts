/** `bench report`: tables, charts and the HTML page from stored records.
 *
 * @module
 */
import { join } from "node:path";
import type { CellRecord } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { askedRecords, readRunFile } from "../records/run_file.ts";
import { runPaths } from "../records/store.ts";
import { choiceOf, type Command, type Flags, textFlag } from "./command.ts";

/** Files of figures, which are too many to name. */
const FIGURE = /\.(svg|png|vl\.json)$/;

const HELP = `Writes tables, charts and the HTML page of a run from its records. Nothing is measured.

Usage: deno task bench report DIR [FLAGS]

Flags:
  --title TITLE    title of the report (default: the run's name)
  --to FOLDER      folder for the report (default: DIR/report)
  --figures paper  only figures for a paper, in DIR/report/paper: SVG and PDF; titles are in captions.md

Figures for a paper:
  --columns 1|2    width of a figure in page columns (default: 1)
  --methods LIST   methods in the order of the legend; others are left out
  --dots           show every seed as a dot in charts against sparsity`;

/** Names of cells in a note. */
const SHOWN_NAMES = 5;

/** Records of the run in `folder`. `note` is told of unreadable files, of records that do not belong to the run, and of
 * missing cells and results; standard error when absent.
 * @throws {UsageError} when there is no record. */
export function recordsToReport(folder: string, note: (message: string) => void = console.error): CellRecord[] {
  const { records, problems, others, missing, incomplete } = askedRecords(folder);
  for (const { message } of problems) note(message);
  if (others > 0) {
    const words = others === 1 ? "1 record belongs to a cell" : `${others} records belong to cells`;
    note(`${words} that the run in "${folder}" does not include: left out of the report`);
  }
  const resume = "`bench run` with the same flags resumes";
  if (missing.length > 0) note(`Not finished: ${firstNames(missing)}; ${resume}`);
  if (incomplete.length > 0) note(`Some results are missing: ${firstNames(incomplete)}; ${resume}`);
  if (records.length === 0) throw new UsageError(`"${folder}" holds no finished cell yet`);
  return records;
}

/** The first of `labels`, and how many more there are. */
function firstNames(labels: readonly string[]): string {
  const more = labels.length - SHOWN_NAMES;
  return labels.slice(0, SHOWN_NAMES).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Characters of a line: of the variable COLUMNS, else of the terminal, at least a label and a number. */
function tableWidth(): number {
  const set = Number(Deno.env.get("COLUMNS"));
  return Math.max(40, set || (Deno.stdout.isTerminal() ? Deno.consoleSize().columns : 120));
}

/** Prints the tables of the run in `dir`, writes its report to the folder `to`, and prints the next steps.
 * `note` is told what is left out; standard error when absent.
 * @throws {UsageError} when the folder holds no record. */
export async function showReport(
  dir: string,
  { title, to, note }: { title: string; to: string; note?: (message: string) => void },
): Promise<void> {
  const records = recordsToReport(dir, note);
  const { reportOf } = await import("./reports.ts");
  const { renderNextSteps } = await import("../../reports/next_steps.ts");
  const { toTerminal } = await import("../../reports/terminal.ts");
  const { writeFiles } = await import("../../reports/write_report.ts");
  const document = reportOf(records, title);
  const width = tableWidth();
  console.log(toTerminal(document, { width }));
  const written = await writeFiles(document, to);
  const figures = written.filter((path: string) => FIGURE.test(path));
  for (const path of written) if (!figures.includes(path)) console.log(path);
  console.log(`${figures.length} figure files in ${to}\n`);
  console.log(
    renderNextSteps(document.sections.map(({ results }) => results), { run: dir, report: to }, width).trimEnd(),
  );
}

/** Writes the figures of the run in `dir` for a paper as `flags` say, and prints their paths. */
async function writeFigures(dir: string, title: string, to: string, flags: Flags): Promise<void> {
  const { reportOf } = await import("./reports.ts");
  const { writePaperFigures } = await import("../../reports/paper_figures.ts");
  const all = recordsToReport(dir);
  const known = new Set(all.flatMap(({ cell }) => cell.method?.id ?? []));
  const methods = textFlag(flags, "methods")?.split(",").map((id) => choiceOf("methods", id.trim(), [...known]));
  const columns = choiceOf("columns", textFlag(flags, "columns") ?? "1", ["1", "2"]);
  const records = all.filter(({ cell }) => cell.method === null || (methods?.includes(cell.method.id) ?? true));
  const layout = { columns, dots: flags.dots === true };
  for (const path of await writePaperFigures(reportOf(records, title, methods), to, layout)) console.log(path);
}

/** `bench report`. */
export const report: Command = {
  usage: "DIR",
  summary: "rewrite the report of a run from its records",
  help: () => HELP,
  flags: { string: ["title", "to", "figures", "columns", "methods"], boolean: ["dots"], positional: 1 },
  run: async (flags) => {
    const [dir] = flags._;
    if (dir === undefined) throw new UsageError("No run given: bench report DIR");
    const title = textFlag(flags, "title") ?? readRunFile(dir)?.config.name ?? "run";
    const to = textFlag(flags, "to");
    if ("figures" in flags) {
      choiceOf("figures", textFlag(flags, "figures"), ["paper"]);
      await writeFigures(dir, title, to ?? join(runPaths(dir).report, "paper"), flags);
    } else {
      const unused = ["columns", "methods", "dots"].find((name) => flags[name]);
      if (unused) throw new UsageError(`--${unused} has no effect without --figures paper`);
      await showReport(dir, { title, to: to ?? runPaths(dir).report });
    }
    return 0;
  },
};
