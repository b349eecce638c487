/** The report as Markdown.
 *
 * @module
 */
import type { Block, BlockDocument, FactsBlock, GlanceBlock, GridBlock, TableBlock } from "./document.ts";
import { failureKinds, type TableCell, type TableRow } from "./table.ts";

/** Text from a record, harmless inside a Markdown table, line or HTML. */
export function escapeMarkdown(text: string): string {
  return text.replace(/[\r\n]+/g, " ").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")
    .replace(/[\\`*_[\]|]/g, "\\$&");
}

function cellText({ text, spread, place, sign }: TableCell): string {
  const value = escapeMarkdown(text);
  const marked = place === 1 ? `**${value}**` : place === 2 ? `<u>${value}</u>` : value;
  return marked + escapeMarkdown(spread) + (sign === "" ? "" : `\u00a0${escapeMarkdown(sign)}`);
}

/** A table in Markdown; cells must be escaped already. */
function tableLines(header: string[], numeric: boolean[], body: string[][]): string[] {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [line(header), line(numeric.map((right) => right ? "---:" : "---")), ...body.map(line), ""];
}

/** A failed row says so in the first column after its name. */
function rowTexts({ kind, row, cells }: TableRow): string[] {
  const texts = cells.map(cellText);
  return kind === "failed" ? texts.with(2, escapeMarkdown(failureKinds(row))) : texts;
}

const noteLines = (notes: string[]) =>
  notes.length === 0 ? [] : [...notes.map((text) => `- ${escapeMarkdown(text)}`), ""];

function comparisonLines({ title, caption, table: { columns, rows }, legend, notes }: TableBlock): string[] {
  const header = columns.map(({ header, detail, better }) => {
    const arrow = better === "higher" ? " ↑" : better === "lower" ? " ↓" : "";
    return escapeMarkdown(header) + arrow + (detail === "" ? "" : `<br>${escapeMarkdown(detail)}`);
  });
  return [
    `### ${escapeMarkdown(title)}`,
    "",
    ...tableLines(header, columns.map(({ numeric }) => numeric), rows.map(rowTexts)),
    escapeMarkdown(caption),
    "",
    ...noteLines([...legend, ...notes]),
  ];
}

function glanceLines({ glance: { topics, lines, note } }: GlanceBlock): string[] {
  const body = lines.map(({ level, findings }) => [
    level,
    ...findings.map((found) => {
      if (found === null) return "–";
      const winner = found.best === "" ? "" : `**${escapeMarkdown(found.best)}** `;
      return winner + escapeMarkdown(found.value) +
        (found.verdict === "" ? "" : `<br>${escapeMarkdown(found.verdict)}`);
    }),
  ]);
  return [
    ...tableLines(["level", ...topics.map(escapeMarkdown)], ["", ...topics].map(() => false), body),
    escapeMarkdown(note),
    "",
  ];
}

function gridLines({ title, caption, header, numeric, rows, notes }: GridBlock): string[] {
  const cell = (lines: string[]) => lines.filter((line) => line !== "").map(escapeMarkdown).join("<br>");
  return [
    ...title === "" ? [] : [`### ${escapeMarkdown(title)}`, ""],
    ...tableLines(header.map(cell), numeric, rows.map((row) => row.map(cell))),
    ...caption === "" ? [] : [escapeMarkdown(caption), ""],
    ...noteLines(notes),
  ];
}

const factLines = ({ title, facts }: FactsBlock): string[] => [
  `### ${escapeMarkdown(title)}`,
  "",
  ...facts.map(({ name, text }) => `- ${escapeMarkdown(name)}: ${escapeMarkdown(text)}`),
  "",
];

function blockLines(block: Block): string[] {
  switch (block.kind) {
    case "line":
      return [escapeMarkdown(block.text), ""];
    case "warnings":
      return [...block.texts.flatMap((text) => [`> ${escapeMarkdown(text)}`, ">"]).slice(0, -1), ""];
    case "facts":
      return factLines(block);
    case "glance":
      return glanceLines(block);
    case "table":
      return comparisonLines(block);
    case "grid":
      return gridLines(block);
    case "figures":
      return [
        `### ${escapeMarkdown(block.title)}`,
        "",
        ...block.charts.flatMap(({ name, title }) => [`![${escapeMarkdown(title)}](${name}.svg)`, ""]),
      ];
  }
}

/** The whole report. Charts are linked by file name. */
export function toMarkdown({ title, sections }: BlockDocument): string {
  const parts = sections.flatMap(({ title, blocks }) => [
    ...title === "" ? [] : [`## ${escapeMarkdown(title)}`, ""],
    ...blocks.flatMap(blockLines),
  ]);
  return [`# ${escapeMarkdown(title)}`, "", ...parts].join("\n").replace(/\n{3,}/g, "\n\n").trimEnd() + "\n";
}
