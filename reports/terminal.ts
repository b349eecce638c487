/** The comparison for a terminal: aligned columns, grouped by level, never wider than asked.
 *
 * @module
 */
import { styleText } from "node:util";
import type { CellRecord } from "../core/schema.ts";
import { level } from "./format.ts";
import { buildSections, type Section } from "./rows.ts";
import { rankings } from "./significance.ts";
import { glance, warnings } from "./summary.ts";
import { buildTable, failureText, levelGroups, type Table, type TableRow } from "./table.ts";

/** How to draw a table. */
export interface TerminalOptions {
  /** Columns of the terminal. */
  width: number;
  /** Whether to use colours and bold; by default only when standard output is a terminal and NO_COLOR is not set. */
  colour?: boolean;
}

const GAP = "  ";

/** Control characters of a record must not steer the terminal. */
// deno-lint-ignore no-control-regex
const harmless = (text: string) => text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ");

const shorten = (text: string, room: number) => text.length > room ? text.slice(0, room - 1) + "…" : text;

/** Long labels, such as those with options, must leave room for numbers. */
const MOST_LABEL = 34;

const cellWords = ({ text, spread, standing }: TableRow["cells"][number]) =>
  shorten(harmless(text + spread + (standing.sign === "" ? "" : ` ${standing.sign}`)), MOST_LABEL);

/** Widest text of a column over header lines and cells. */
function columnWidth(table: Table, index: number): number {
  const { header, detail } = table.columns[index];
  const cells = table.rows.filter(({ kind }) => kind !== "failed" || index < 2).map(({ cells }) =>
    cellWords(cells[index])
  );
  return Math.max(...[header, detail, ...cells].map((text) => text.length));
}

/** Indices of the columns that fit, less important ones left out first. */
function fitting(table: Table, widths: number[], width: number): number[] {
  const kept = table.columns.map((_, i) => i).filter((i) => table.columns[i].id !== "asked");
  const total = () => kept.reduce((sum, i) => sum + widths[i], 0) + GAP.length * (kept.length - 1);
  while (total() > width) {
    const least = Math.max(...kept.map((i) => table.columns[i].priority));
    if (least === 0) break;
    kept.splice(kept.findLastIndex((i) => table.columns[i].priority === least), 1);
  }
  return kept;
}

function wrapLine(text: string, width: number, indent: string): string {
  const lines = [""];
  // A number stays with its unit.
  for (const word of harmless(text).split(/ (?!%)/)) {
    const last = lines[lines.length - 1];
    if (last.trim() !== "" && last.length + word.length + 1 > width) lines.push(indent + word);
    else lines[lines.length - 1] = last === "" ? word : `${last} ${word}`;
  }
  return lines.join("\n");
}

function sectionText(section: Section, { width, colour = false }: TerminalOptions): string {
  const style = (format: Parameters<typeof styleText>[0], text: string) =>
    colour ? styleText(format, text, { validateStream: false }) : text;
  const ranks = rankings(section);
  const table = buildTable(section, ranks);
  const widths = table.columns.map((_, i) => columnWidth(table, i));
  const shown = fitting(table, widths, width);
  const pad = (text: string, i: number) => table.columns[i].numeric ? text.padStart(widths[i]) : text.padEnd(widths[i]);
  const row = (own: TableRow) => {
    if (own.kind === "failed") {
      const message = harmless(
        failureText(section.rows.find(({ label, asked }) => label === own.label && asked === own.asked)!),
      );
      const room = Math.max(10, width - widths[0] - GAP.length);
      return pad(cellWords(own.cells[0]), 0) + GAP + style("red", shorten(message, room));
    }
    return shown.map((i) => {
      const cell = own.cells[i];
      const text = pad(cellWords(cell), i);
      return cell.standing.place === 1 ? style(["bold", "green"], text) : text;
    }).join(GAP).trimEnd();
  };
  const rule = (name: string) => style("dim", name === "" ? "─".repeat(width) : `── ${name} `.padEnd(width, "─"));
  const groups = levelGroups(table);
  const title = `${harmless(section.model)} on ${section.engine}`;
  const left = table.columns.filter((column, i) => !shown.includes(i) && column.id !== "asked")
    .map(({ header, detail }) => header === "speed-up" ? `${header} ${detail}` : header);
  const { topics, lines } = glance(section, ranks);
  return [
    style("bold", title),
    ...warnings(section).map((text) => style("yellow", wrapLine(`! ${text}`, width, "  "))),
    "",
    style("bold", shown.map((i) => pad(table.columns[i].header, i)).join(GAP).trimEnd()),
    style("dim", shown.map((i) => pad(table.columns[i].detail, i)).join(GAP).trimEnd()),
    ...groups.flatMap((
      rows,
    ) => [rule(rows[0].label === "dense" ? "" : `${level(rows[0].asked)} asked`), ...rows.map(row)]),
    rule(""),
    ...(left.length > 0 ? [style("dim", wrapLine(`Not shown at this width: ${left.join("; ")}.`, width, "  "))] : []),
    ...lines.flatMap(({ level, findings }) =>
      findings.flatMap((found, i) =>
        found === null || found.best === ""
          ? []
          : [wrapLine(`${level}: ${topics[i]}: ${found.best} ${found.value}; ${found.verdict}.`, width, "  ")]
      )
    ),
  ].join("\n");
}

/** The comparison of a run's records as text for a terminal.
 * @returns Lines of at most `width` characters where the method column allows it, ending with a line break. */
export function renderTable(records: CellRecord[], options: TerminalOptions): string {
  if (records.length === 0) return "No records.\n";
  const colour = options.colour ?? (Deno.stdout.isTerminal() && !Deno.noColor);
  return buildSections(records).map((section) => sectionText(section, { ...options, colour })).join("\n\n") + "\n";
}
