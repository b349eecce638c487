/** The report for a terminal: protocol, warnings, aligned tables grouped by level, and what was found.
 *
 * @module
 */
import { styleText } from "node:util";
import {
  type Block,
  type FactsBlock,
  type GlanceBlock,
  groupsOf,
  type ReportDocument,
  type TableBlock,
  type TableCell,
  type TableRow,
} from "./document.ts";
import { wrapped } from "./format.ts";

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

const shorten = (text: string, room: number): string =>
  text.length > room ? text.slice(0, Math.max(0, room - 1)) + "…" : text;

/** Long labels, such as those with options, must leave room for numbers. */
const MOST_LABEL = 34;

const cellWords = ({ text, spread, sign }: TableCell) =>
  shorten(harmless(text + spread + (sign === "" ? "" : ` ${sign}`)), MOST_LABEL);

/** A text in lines of at most `width` characters, those after the first indented. */
export const wrapLine = (text: string, width: number, indent: string): string =>
  wrapped(harmless(text), width, indent).join("\n");

/** Widths of a table's columns; a failed row's message takes the place of its values. */
const widthsOf = ({ columns, rows }: TableBlock): number[] =>
  columns.map(({ header, detail }, i) => {
    const cells = rows.flatMap(({ failed, cells }) => failed && i > 1 ? [] : cells.slice(i, i + 1));
    return Math.max(...[header, detail, ...cells.map(cellWords)].map((text) => text.length));
  });

/** Places of the columns that fit, less important ones left out first. The rules between the groups name the level. */
function fitting({ columns }: TableBlock, widths: readonly number[], width: number): number[] {
  const kept = columns.flatMap(({ id }, i) => id === "asked" ? [] : [i]);
  const total = () => kept.reduce((sum, i) => sum + widths[i]!, 0) + GAP.length * (kept.length - 1);
  while (total() > width) {
    const least = Math.max(...kept.map((i) => columns[i]!.priority));
    if (least === 0) break;
    kept.splice(kept.findLastIndex((i) => columns[i]!.priority === least), 1);
  }
  return kept;
}

function tableText(block: TableBlock, { width, style }: Pen): string[] {
  const { columns, rows } = block;
  const widths = widthsOf(block);
  const shown = fitting(block, widths, width);
  const line = (words: (column: number) => string, mark = (text: string, _column: number) => text) =>
    shown.map((i) => {
      const text = words(i);
      return mark(columns[i]!.numeric ? text.padStart(widths[i]!) : text.padEnd(widths[i]!), i);
    }).join(GAP).trimEnd();
  const rule = (name: string) => style("dim", (name === "" ? "" : `── ${name} `).padEnd(width, "─"));
  const rowText = ({ cells, failed }: TableRow) => {
    if (failed) {
      const name = cellWords(cells[0]!).padEnd(widths[0]!);
      const room = Math.max(10, width - name.length - GAP.length);
      return name + GAP + style("red", shorten(harmless(failed.text), room));
    }
    return line(
      (i) => cellWords(cells[i]!),
      (text, i) => cells[i]!.place === 1 ? style(["bold", "green"], text) : text,
    );
  };
  const left = columns.filter(({ id }, i) => id !== "asked" && !shown.includes(i)).map(({ title }) => title);
  const notes = [
    ...block.legend,
    ...left.length > 0 ? [`Not shown at this width: ${left.join("; ")}. A wider terminal shows more.`] : [],
  ];
  return [
    "",
    style("bold", block.title),
    style("bold", line((i) => columns[i]!.header)),
    style("dim", line((i) => columns[i]!.detail)),
    ...groupsOf(rows).flatMap((own) => [rule(own[0]?.group ?? ""), ...own.map(rowText)]),
    rule(""),
    ...notes.map((text) => style("dim", wrapLine(text, width, "  "))),
  ];
}

function glanceText({ topics, lines }: GlanceBlock, { width, style }: Pen): string[] {
  const found = lines.flatMap(({ level, findings }) =>
    findings.flatMap((own, i) => {
      if (own === null) return [];
      const best = own.best === "" ? "" : `${own.best} `;
      return [`${level}: ${topics[i]}: ${best}${own.value}${own.verdict === "" ? "" : `; ${own.verdict}`}.`];
    })
  );
  return ["", style("bold", "Found"), ...found.map((text) => wrapLine(text, width, "  "))];
}

function factsText({ title, facts }: FactsBlock, { width, style }: Pen): string[] {
  const indent = Math.max(...facts.map(({ name }) => name.length)) + GAP.length;
  return [
    style("bold", title),
    ...facts.map(({ name, text }) => wrapLine(name.padEnd(indent) + text, width, " ".repeat(indent))),
  ];
}

/** Tables of a terminal: quality and cost, and that of sizes where speed was measured. */
const isShown = ({ id, columns }: TableBlock): boolean =>
  id === "quality" || id === "cost" || id === "size" && columns.some(({ better }) => better !== null);

/** Blocks of a terminal: what fits there and answers who won. Details and figures are in the files. */
function blockText(block: Block, pen: Pen): string[] {
  const { width, style } = pen;
  if (block.kind === "line") return [style("dim", wrapLine(block.text, width, "  "))];
  if (block.kind === "facts" && block.isOpen) return factsText(block, pen);
  if (block.kind === "warnings") return block.texts.map((text) => style("yellow", wrapLine(`! ${text}`, width, "  ")));
  return block.kind === "table" && isShown(block) ? tableText(block, pen) : [];
}

/** A report as text for a terminal.
 * @returns Lines of at most `width` characters where the method column allows it, ending with a line break. */
export function toTerminal({ sections }: ReportDocument, { width, colour }: TerminalOptions): string {
  const coloured = colour ?? (Deno.stdout.isTerminal() && !Deno.noColor);
  const pen: Pen = {
    width,
    style: (format, text) => coloured ? styleText(format, text, { validateStream: false }) : text,
  };
  return sections.map(({ title, blocks }) =>
    [
      pen.style("bold", wrapLine(title, width, "  ")),
      ...blocks.flatMap((block) => blockText(block, pen)),
      // What was found stands where the eye ends.
      ...blocks.flatMap((block) => block.kind === "glance" ? glanceText(block, pen) : []),
    ].join("\n")
  ).join("\n\n") + "\n";
}
