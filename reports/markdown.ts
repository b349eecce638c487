/** The report as Markdown.
 *
 * @module
 */
import type { Block, BlockDocument, FactsBlock, GlanceBlock, TableBlock, TableCell, TableRow } from "./document.ts";

/** Text from a record, harmless inside a Markdown table, line or HTML. */
function escapeMarkdown(text: string): string {
  return text.replace(/[\r\n]+/g, " ").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")
    .replace(/[\\`*_[\]|]/g, "\\$&");
}

const heading = (title: string): string[] => title === "" ? [] : [`### ${escapeMarkdown(title)}`, ""];
const paragraph = (text: string): string[] => text === "" ? [] : [escapeMarkdown(text), ""];
const list = (texts: string[]): string[] =>
  texts.length === 0 ? [] : [...texts.map((text) => `- ${escapeMarkdown(text)}`), ""];

/** A table in Markdown; cells must be escaped already. */
export function tableLines(header: string[], numeric: boolean[], body: string[][]): string[] {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [line(header), line(numeric.map((right) => right ? "---:" : "---")), ...body.map(line), ""];
}

function cellText({ text, spread, place, sign, below }: TableCell): string {
  const value = escapeMarkdown(text);
  const marked = place === 1 ? `**${value}**` : place === 2 ? `<u>${value}</u>` : value;
  const first = marked + escapeMarkdown(spread) + (sign === "" ? "" : `\u00a0${escapeMarkdown(sign)}`);
  return [first, ...below.map(escapeMarkdown)].join("<br>");
}

/** A failed row says so in the first column after its name and level. */
function rowTexts({ failed, cells }: TableRow): string[] {
  const texts = cells.map(cellText);
  return failed ? texts.with(2, escapeMarkdown(failed.kinds)) : texts;
}

function tableText({ id, title, caption, columns, rows, legend, notes }: TableBlock): string[] {
  const header = columns.map(({ header, detail, better }) => {
    const arrow = better === "higher" ? " ↑" : better === "lower" ? " ↓" : "";
    return escapeMarkdown(header) + arrow + (detail === "" ? "" : `<br>${escapeMarkdown(detail)}`);
  });
  return [
    ...heading(title),
    ...tableLines(header, columns.map(({ numeric }) => numeric), rows.map(rowTexts)),
    ...id === "quality" ? paragraph(caption) : [],
    ...list([...legend, ...notes]),
  ];
}

function glanceText({ topics, lines }: GlanceBlock): string[] {
  const body = lines.map(({ level, findings }) => [
    level,
    ...findings.map((found) => {
      if (found === null) return "–";
      const best = found.best === "" ? "" : `**${escapeMarkdown(found.best)}** `;
      return best + escapeMarkdown(found.value) + (found.verdict === "" ? "" : `<br>${escapeMarkdown(found.verdict)}`);
    }),
  ]);
  const header = ["level", ...topics.map(escapeMarkdown)];
  return tableLines(header, header.map(() => false), body);
}

const factsText = ({ title, facts }: FactsBlock): string[] => [
  ...heading(title),
  ...list(facts.map(({ name, text }) => `${name}: ${text}`)),
];

function blockText(block: Block): string[] {
  switch (block.kind) {
    case "line":
      return paragraph(block.text);
    case "warnings":
      return [...block.texts.flatMap((text) => [`> ${escapeMarkdown(text)}`, ">"]).slice(0, -1), ""];
    case "facts":
      return factsText(block);
    case "glance":
      return glanceText(block);
    case "table":
      return tableText(block);
    case "figures":
      return [
        ...heading(block.title),
        ...block.charts.flatMap(({ name, title }) => [`![${escapeMarkdown(title)}](${name}.svg)`, ""]),
      ];
  }
}

/** The whole report. Charts are linked by file name. */
export function toMarkdown({ title, sections }: BlockDocument): string {
  const parts = sections.flatMap(({ title, blocks }) => [
    ...title === "" ? [] : [`## ${escapeMarkdown(title)}`, ""],
    ...blocks.flatMap(blockText),
  ]);
  return [`# ${escapeMarkdown(title)}`, "", ...parts].join("\n").replace(/\n{3,}/g, "\n\n").trimEnd() + "\n";
}
