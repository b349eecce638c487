/** The report as Markdown.
 *
 * @module
 */
import { level } from "./format.ts";
import { measureWords, reproducedText, reproduction, reproductionNotes } from "./reproduction.ts";
import type { Section } from "./rows.ts";
import type { Ranking } from "./significance.ts";
import {
  configurationFacts,
  contextWords,
  environmentFacts,
  generations,
  glance,
  legend,
  protocols,
  warnings,
} from "./summary.ts";
import { buildCostTable, buildQualityTable, buildTaskTable, type Table, type TableCell } from "./table.ts";

/** A figure's file name without extension, and its title. */
export interface ChartLink {
  name: string;
  title: string;
}

/** Text from a record, harmless inside a Markdown table, line or HTML. */
export function escapeMarkdown(text: string): string {
  return text.replace(/[\r\n]+/g, " ").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")
    .replace(/[\\`*_[\]|]/g, "\\$&");
}

function cellText({ text, spread, standing }: TableCell): string {
  const value = escapeMarkdown(text);
  const marked = standing.place === 1 ? `**${value}**` : standing.place === 2 ? `<u>${value}</u>` : value;
  return marked + escapeMarkdown(spread) + escapeMarkdown(standing.sign);
}

/** A table in Markdown; cells must be escaped already. */
export function tableLines(header: string[], numeric: boolean[], body: string[][]): string[] {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [line(header), line(numeric.map((right) => right ? "---:" : "---")), ...body.map(line)];
}

function comparisonLines(table: Table): string[] {
  const header = table.columns.map(({ header, detail, better }) => {
    const arrow = better === "higher" ? " ↑" : better === "lower" ? " ↓" : "";
    return escapeMarkdown(header) + arrow + (detail === "" ? "" : `<br>${escapeMarkdown(detail)}`);
  });
  return tableLines(
    header,
    table.columns.map(({ numeric }) => numeric),
    table.rows.map(({ cells }) => cells.map(cellText)),
  );
}

function glanceLines(section: Section, ranks: Ranking[]): string[] {
  const { topics, lines } = glance(section, ranks);
  if (topics.length === 0 || lines.length === 0) return [];
  const body = lines.map(({ level, findings }) => [
    level,
    ...findings.map((found) => {
      if (found === null) return "–";
      const winner = found.best === "" ? "" : `**${escapeMarkdown(found.best)}** `;
      return winner + escapeMarkdown(found.value) +
        (found.verdict === "" ? "" : `<br>${escapeMarkdown(found.verdict)}`);
    }),
  ]);
  return [...tableLines(["asked", ...topics.map(escapeMarkdown)], ["", ...topics].map(() => false), body), ""];
}

const noteLines = (notes: string[]) => [...notes.map((text) => `- ${escapeMarkdown(text)}`), ""];

const factLines = (facts: { name: string; text: string }[]) =>
  facts.map(({ name, text }) => `- ${escapeMarkdown(name)}: ${escapeMarkdown(text)}`);

function failureLines(section: Section): string[] {
  const failures = section.rows.flatMap(({ label, failures }) => failures.map((record) => ({ label, record })));
  if (failures.length === 0) return [];
  const lines = failures.map(({ label, record: { cell, failure } }) =>
    `- ${escapeMarkdown(label)} at ${Number((100 * cell.sparsity).toFixed(2))} %, seed ${cell.seed}: ${failure.kind}` +
    `${failure.exitCode === null ? "" : ` (exit code ${failure.exitCode})`}: ${escapeMarkdown(failure.message)}`
  );
  return ["### Failed cells", "", ...lines, ""];
}

function generationLines(section: Section): string[] {
  const lines = generations(section).flatMap(({ prompt, texts }) => [
    `After “${escapeMarkdown(prompt)}”, the most probable token each time:`,
    "",
    ...tableLines(
      ["model", "text"],
      [false, false],
      texts.map(({ label, text }) => [escapeMarkdown(label), escapeMarkdown(text)]),
    ),
    "",
  ]);
  return lines.length === 0 ? [] : ["### What the models write", "", ...lines];
}

function reproductionLines(section: Section): string[] {
  const found = reproduction(section);
  if (found === null) return [];
  const header = ["in the paper", "ours", ...found.measures.map((measure) => measureWords(measure).join("<br>"))];
  const body = found.rows.map(({ label, row, values }) => [
    escapeMarkdown(label),
    escapeMarkdown(row.asked > 0 ? `${row.label} at ${level(row.asked)}` : row.label),
    ...values.map((value) => {
      const { ours, theirs, difference } = reproducedText(value);
      return `${ours}<br>${theirs}<br>${difference}`;
    }),
  ]);
  return [
    `### Beside the paper: ${escapeMarkdown(found.title)}`,
    "",
    ...tableLines(header.map((text) => text.replaceAll("_", "\\_")), header.map((_, i) => i > 1), body),
    "",
    ...noteLines(reproductionNotes(found)),
  ];
}

function sectionLines(section: Section, ranks: Ranking[], charts: ChartLink[]): string[] {
  const notes = legend(section);
  const quality = buildQualityTable(section, ranks);
  return [
    `## ${escapeMarkdown(section.model)} on ${section.engine}`,
    "",
    escapeMarkdown(contextWords(section)),
    "",
    ...warnings(section).flatMap((text) => [`> ${escapeMarkdown(text)}`, ">"]).slice(0, -1),
    "",
    ...glanceLines(section, ranks),
    ...(quality === null ? [] : ["### Quality", "", ...comparisonLines(quality), "", ...noteLines(notes.quality)]),
    ...reproductionLines(section),
    "### Size and speed",
    "",
    ...comparisonLines(buildCostTable(section)),
    "",
    ...noteLines(notes.cost),
    ...(charts.length > 0
      ? ["### Charts", "", ...charts.flatMap(({ name, title }) => [`![${escapeMarkdown(title)}](${name}.svg)`, ""])]
      : []),
    ...(section.columns.some(({ primary }) => !primary)
      ? ["### All metrics of the tasks", "", ...comparisonLines(buildTaskTable(section, ranks)), ""]
      : []),
    ...generationLines(section),
    ...failureLines(section),
    "### Protocols and data",
    "",
    ...factLines(protocols(section)),
    "",
    "### Configuration and environment",
    "",
    ...factLines(configurationFacts(section)),
    ...factLines(environmentFacts(section)),
    "",
  ];
}

/** The whole report. Charts are linked by file name.
 * @param parts Sections with their rankings and charts. */
export function toMarkdown(
  title: string,
  parts: { section: Section; ranks: Ranking[]; charts: ChartLink[] }[],
): string {
  return [
    `# ${escapeMarkdown(title)}`,
    "",
    ...parts.flatMap((part) => sectionLines(part.section, part.ranks, part.charts)),
  ]
    .join("\n").replace(/\n{3,}/g, "\n\n").trimEnd() + "\n";
}
