/** The comparison as a LaTeX table (booktabs), ready to be `\input` into a paper.
 *
 * @module
 */
import type { Section } from "./rows.ts";
import type { Ranking } from "./significance.ts";
import { legend, warnings } from "./summary.ts";
import { buildCostTable, buildQualityTable, levelGroups, type Table, type TableCell, type TableRow } from "./table.ts";

const SPECIAL: Record<string, string> = {
  "\\": "\\textbackslash{}",
  "{": "\\{",
  "}": "\\}",
  "$": "\\$",
  "&": "\\&",
  "#": "\\#",
  "%": "\\%",
  "_": "\\_",
  "^": "\\textasciicircum{}",
  "~": "\\textasciitilde{}",
  "<": "\\textless{}",
  ">": "\\textgreater{}",
  "|": "\\textbar{}",
  "±": "$\\pm$",
  "×": "$\\times$",
  "≈": "$\\approx$",
  "–": "--",
  "…": "\\dots{}",
  "·": "$\\cdot$",
};

/** Text that LaTeX sets as it is written. Characters no ordinary font has become `?`. */
export function escapeLatex(text: string): string {
  return [...text.replace(/\s+/g, " ")].map((c) => SPECIAL[c] ?? (c > "\u024f" || c < " " ? "?" : c)).join("");
}

function cellText({ text, spread, standing }: TableCell): string {
  const value = escapeLatex(text);
  const marked = standing.place === 1 ? `\\textbf{${value}}` : standing.place === 2 ? `\\underline{${value}}` : value;
  const sign = standing.sign === "*" ? "$^{*}$" : standing.sign === "≈" ? "$^{\\approx}$" : "";
  return marked + (spread === "" ? "" : `\\,{\\scriptsize ${escapeLatex(spread.trim())}}`) + sign;
}

/** A failed row says so over the whole width. */
function rowCells({ kind, cells }: TableRow): string[] {
  if (kind !== "failed") return cells.map(cellText);
  return [
    cellText(cells[0]),
    cellText(cells[1]),
    `\\multicolumn{${cells.length - 2}}{l}{${escapeLatex(cells[2].text)}}`,
  ];
}

interface TableText {
  table: Table;
  caption: string[];
  label: string;
  notes: string[];
}

function tableText({ table, caption, label, notes }: TableText): string {
  const arrow = { higher: " $\\uparrow$", lower: " $\\downarrow$" };
  const heads = table.columns.map(({ header, better }) => escapeLatex(header) + (better ? arrow[better] : ""));
  const details = table.columns.map(({ detail }) => detail === "" ? "" : `{\\scriptsize ${escapeLatex(detail)}}`);
  const line = (cells: string[]) => `    ${cells.join(" & ")} \\\\`;
  const groups = levelGroups(table).map((rows) => rows.map((row) => line(rowCells(row))).join("\n"));
  return [
    "\\begin{table*}[t]",
    "  \\centering",
    `  \\caption{${escapeLatex(caption.join(" "))}}`,
    `  \\label{tab:${label}}`,
    "  \\resizebox{\\textwidth}{!}{%",
    `  \\begin{tabular}{${table.columns.map(({ numeric }) => numeric ? "r" : "l").join("")}}`,
    "    \\toprule",
    line(heads),
    line(details),
    "    \\midrule",
    groups.join("\n    \\midrule\n"),
    "    \\bottomrule",
    "  \\end{tabular}}",
    `  \\par\\medskip\\parbox{\\textwidth}{\\footnotesize ${escapeLatex(notes.join(" "))}}`,
    "\\end{table*}",
  ].join("\n");
}

function sectionTables(section: Section, ranks: Ranking[], suffix: string): string[] {
  const { quality: qualityNotes, cost: costNotes } = legend(section);
  const quality = buildQualityTable(section, ranks);
  const of = `${section.model} on ${section.engine}`;
  const cost: TableText = {
    table: buildCostTable(section),
    caption: [`Size and speed of ${of}.`],
    label: `cost${suffix}`,
    notes: costNotes,
  };
  if (quality === null) return [tableText(cost)];
  const caption = [`Quality of ${of}.`, ...warnings(section)];
  return [tableText({ table: quality, caption, label: `quality${suffix}`, notes: qualityNotes }), tableText(cost)];
}

/** Two tables per section, quality and cost. Needs the packages booktabs and graphicx. */
export function toLatex(parts: { section: Section; ranks: Ranking[] }[]): string {
  const tables = parts.flatMap(({ section, ranks }, i) =>
    sectionTables(section, ranks, parts.length > 1 ? `-${i + 1}` : "")
  );
  return ["% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.", ...tables].join("\n\n") + "\n";
}
