/** The report for a terminal: protocol, warnings, aligned tables grouped by level, and what was found, never wider than
 * asked.
 *
 * @module
 */
import { styleText } from "node:util";
import type { Block, FactsBlock, GlanceBlock, ReportDocument, TableBlock } from "./document.ts";
import { prunedWords } from "./findings.ts";
import { isDense, levelWords, type Section } from "./rows.ts";
import { failureText, levelGroups, type TableCell, type TableColumn, type TableRow } from "./table.ts";

/** How to draw a report. */
export interface TerminalOptions {
  /** Columns of the terminal. */
  width: number;
  /** Whether to use colours and bold; by default only when standard output is a terminal and NO_COLOR is not set. */
  colour?: boolean;
}

/** Width, and how text is set off. */
interface Pen {
  width: number;
  style(format: Parameters<typeof styleText>[0], text: string): string;
}

const GAP = "  ";

/** Control characters of a record must not steer the terminal. */
// deno-lint-ignore no-control-regex
const harmless = (text: string) => text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ");

const shorten = (text: string, room: number) => text.length > room ? text.slice(0, Math.max(0, room - 1)) + "…" : text;

/** Long labels, such as those with options, must leave room for numbers. */
const MOST_LABEL = 34;

const cellWords = ({ text, spread, sign }: TableCell) =>
  shorten(harmless(text + spread + (sign === "" ? "" : ` ${sign}`)), MOST_LABEL);

/** A column with its cells, one per row of the table. */
interface Strip {
  column: TableColumn;
  width: number;
  cells: Map<TableRow, TableCell>;
}

/** What a failed row shows: its message takes the place of its values. */
const FAILED_COLUMNS: string[] = ["method", "asked"];

function strips({ table: { columns, rows } }: TableBlock): Strip[] {
  return columns.map((column, i) => {
    const cells = new Map(rows.flatMap((row) => {
      const cell = row.cells[i];
      return cell === undefined ? [] : [[row, cell] as const];
    }));
    const shown = [...cells].filter(([{ kind }]) => kind !== "failed" || FAILED_COLUMNS.includes(column.id));
    const texts = [column.header, column.detail, ...shown.map(([, cell]) => cellWords(cell))];
    return { column, width: Math.max(...texts.map((text) => text.length)), cells };
  });
}

/** The columns that fit, less important ones left out first. The level stands in the rules between the groups. */
function fitting(all: Strip[], width: number): Strip[] {
  const kept = all.filter(({ column }) => column.id !== "asked");
  const total = () => kept.reduce((sum, strip) => sum + strip.width, 0) + GAP.length * (kept.length - 1);
  while (total() > width) {
    const least = Math.max(...kept.map(({ column }) => column.priority));
    if (least === 0) break;
    kept.splice(kept.findLastIndex(({ column }) => column.priority === least), 1);
  }
  return kept;
}

/** Breaks `text` into lines of at most `width` characters, those after the first indented. */
export function wrapLine(text: string, width: number, indent: string): string {
  const lines: string[] = [];
  let last = "";
  // A number stays with its unit.
  for (const word of harmless(text).split(/ (?!%)/)) {
    if (last.trim() !== "" && last.length + word.length + 1 > width) {
      lines.push(last);
      last = indent + word;
    } else last = last === "" ? word : `${last} ${word}`;
  }
  return [...lines, last].join("\n");
}

const pad = (text: string, { column, width }: Strip) => column.numeric ? text.padStart(width) : text.padEnd(width);

function rowText(row: TableRow, shown: Strip[], { width, style }: Pen): string {
  const texts = shown.flatMap((strip) => {
    const cell = strip.cells.get(row);
    return cell === undefined ? [] : [{ text: pad(cellWords(cell), strip), best: cell.place === 1 }];
  });
  if (row.kind === "failed") {
    const [name = { text: "" }] = texts;
    const room = Math.max(10, width - name.text.length - GAP.length);
    return name.text + GAP + style("red", shorten(harmless(failureText(row.row)), room));
  }
  return texts.map(({ text, best }) => best ? style(["bold", "green"], text) : text).join(GAP).trimEnd();
}

function tableText(block: TableBlock, pen: Pen): string[] {
  const { width, style } = pen;
  const all = strips(block);
  const shown = fitting(all, width);
  const heads = (pick: (column: TableColumn) => string) =>
    shown.map((strip) => pad(pick(strip.column), strip)).join(GAP).trimEnd();
  const rule = (name: string) => style("dim", name === "" ? "─".repeat(width) : `── ${name} `.padEnd(width, "─"));
  const left = all.filter((strip) => !shown.includes(strip) && strip.column.id !== "asked")
    .map(({ column }) => column.title);
  return [
    "",
    style("bold", block.title),
    style("bold", heads(({ header }) => header)),
    style("dim", heads(({ detail }) => detail)),
    ...levelGroups(block.table).flatMap((rows) => {
      const [first] = rows;
      const name = first === undefined || isDense(first.row)
        ? ""
        : levelWords(first.row.asked, rows.map(({ row }) => row));
      return [rule(name), ...rows.map((row) => rowText(row, shown, pen))];
    }),
    rule(""),
    ...block.legend.map((text) => style("dim", wrapLine(text, width, "  "))),
    ...(left.length > 0
      ? [style("dim", wrapLine(`Not shown at this width: ${left.join("; ")}. --width N shows more.`, width, "  "))]
      : []),
  ];
}

function glanceText(
  { glance: { topics, lines, note } }: GlanceBlock,
  section: Section,
  { width, style }: Pen,
): string[] {
  const found = lines.flatMap(({ level, findings }) =>
    findings.flatMap((own, i) => {
      if (own === null) return [];
      const winner = own.best === "" ? "" : `${own.best} `;
      const verdict = own.verdict === "" ? "" : `; ${own.verdict}`;
      return [`${level}: ${topics[i] ?? ""}: ${winner}${own.value}${verdict}.`];
    })
  );
  const texts = [prunedWords(section), ...found, note].filter((text) => text !== "");
  return ["", style("bold", "Found"), ...texts.map((text) => wrapLine(text, width, "  "))];
}

function factsText({ title, facts }: FactsBlock, { width, style }: Pen): string[] {
  const indent = Math.max(...facts.map(({ name }) => name.length)) + GAP.length;
  return [
    style("bold", title),
    ...facts.map(({ name, text }) => wrapLine(name.padEnd(indent) + text, width, " ".repeat(indent))),
  ];
}

/** Tables of a terminal: quality and cost, and that of sizes where speed was measured. */
const isShown = ({ id, table }: TableBlock): boolean =>
  id === "quality" || id === "cost" || (id === "size" && table.columns.some(({ better }) => better !== null));

/** Blocks of a terminal: what fits there and answers who won. Details and figures are in the files. */
function blockText(block: Block, pen: Pen): string[] {
  const { width, style } = pen;
  if (block.kind === "line") return [style("dim", wrapLine(block.text, width, "  "))];
  if (block.kind === "facts" && block.id === "protocol") return factsText(block, pen);
  if (block.kind === "warnings") return block.texts.map((text) => style("yellow", wrapLine(`! ${text}`, width, "  ")));
  if (block.kind === "table" && isShown(block)) return tableText(block, pen);
  return [];
}

/** A report as text for a terminal.
 * @returns Lines of at most `width` characters where the method column allows it, ending with a line break. */
export function toTerminal({ sections }: ReportDocument, { width, colour }: TerminalOptions): string {
  const coloured = colour ?? (Deno.stdout.isTerminal() && !Deno.noColor);
  const pen: Pen = {
    width,
    style: (format, text) => coloured ? styleText(format, text, { validateStream: false }) : text,
  };
  return sections.map(({ title, results, blocks }) =>
    [
      pen.style("bold", wrapLine(title, width, "  ")),
      ...blocks.flatMap((block) => blockText(block, pen)),
      // What was found stands where the eye ends.
      ...blocks.flatMap((block) => block.kind === "glance" ? glanceText(block, results, pen) : []),
    ].join("\n")
  ).join("\n\n") + "\n";
}
