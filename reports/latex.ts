/** The report as LaTeX tables (booktabs), ready to be `\input` into a paper: protocol, quality, size and cost.
 *
 * @module
 */
import type { FactsBlock, ReportDocument, TableBlock } from "./document.ts";
import { failureKinds, levelGroups, type TableCell, type TableRow } from "./table.ts";

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
  "≤": "$\\leq$",
  "–": "--",
  "…": "\\dots{}",
  "·": "$\\cdot$",
  "“": "``",
  "”": "''",
};

/** Text that LaTeX sets as it is written. Characters no ordinary font has become `?`. */
export function escapeLatex(text: string): string {
  return [...text.replace(/\s+/g, " ")].map((c) => SPECIAL[c] ?? (c > "\u024f" || c < " " ? "?" : c)).join("");
}

const SIGN = { "": "", "*": "$^{*}$", "≈": "$^{\\approx}$", "?": "$^{?}$" };

function cellText({ text, spread, place, sign }: TableCell): string {
  const value = escapeLatex(text);
  const marked = place === 1 ? `\\textbf{${value}}` : place === 2 ? `\\underline{${value}}` : value;
  return marked + (spread === "" ? "" : `\\,{\\scriptsize ${escapeLatex(spread.trim())}}`) + SIGN[sign];
}

/** A failed row says so over the whole width. */
function rowCells({ kind, row, cells }: TableRow): string[] {
  if (kind !== "failed") return cells.map(cellText);
  return [
    ...cells.slice(0, 2).map(cellText),
    `\\multicolumn{${cells.length - 2}}{l}{${escapeLatex(failureKinds(row))}}`,
  ];
}

const line = (cells: string[]) => `    ${cells.join(" & ")} \\\\`;

/** A table with its caption above and its notes below. */
function float(
  { caption, label, columns, body, notes }: {
    caption: string;
    label: string;
    columns: string;
    body: string[];
    notes: string[];
  },
): string {
  return [
    "\\begin{table*}[t]",
    "  \\centering",
    `  \\caption{${escapeLatex(caption)}}`,
    `  \\label{tab:${label}}`,
    "  \\resizebox{\\textwidth}{!}{%",
    `  \\begin{tabular}{${columns}}`,
    "    \\toprule",
    ...body,
    "    \\bottomrule",
    "  \\end{tabular}}",
    ...notes.length === 0
      ? []
      : [`  \\par\\medskip\\parbox{\\textwidth}{\\footnotesize ${escapeLatex(notes.join(" "))}}`],
    "\\end{table*}",
  ].join("\n");
}

function tableText(
  { id, shortCaption, caption, table, legend, notes }: TableBlock,
  warnings: string[],
  suffix: string,
): string {
  const arrow = { higher: " $\\uparrow$", lower: " $\\downarrow$" };
  const heads = table.columns.map(({ header, better }) => escapeLatex(header) + (better ? arrow[better] : ""));
  const details = table.columns.map(({ detail }) => detail === "" ? "" : `{\\scriptsize ${escapeLatex(detail)}}`);
  const groups = levelGroups(table).map((rows) => rows.map((row) => line(rowCells(row))).join("\n"));
  return float({
    caption: `${shortCaption}.`,
    label: `${id}${suffix}`,
    columns: table.columns.map(({ numeric }) => numeric ? "r" : "l").join(""),
    body: [line(heads), line(details), "    \\midrule", groups.join("\n    \\midrule\n")],
    notes: [caption, ...warnings, ...legend, ...notes],
  });
}

/** A table of two columns whose second one breaks its lines. */
const factsText = ({ title, facts }: FactsBlock, of: string, suffix: string): string =>
  float({
    caption: `${title} of ${of}.`,
    label: `protocol${suffix}`,
    columns: "lp{0.8\\textwidth}",
    body: facts.map(({ name, text }) => line([escapeLatex(name), escapeLatex(text)])),
    notes: [],
  });

/** Tables of every section. Needs the packages booktabs and graphicx. */
export function toLatex({ sections }: ReportDocument): string {
  const tables = sections.flatMap(({ title, blocks }, i) => {
    const suffix = sections.length > 1 ? `-${i + 1}` : "";
    const warnings = blocks.flatMap((block) => block.kind === "warnings" ? block.texts : []);
    return blocks.flatMap((block) => {
      if (block.kind === "facts" && block.id === "protocol") return [factsText(block, title, suffix)];
      if (block.kind !== "table" || block.id === "tasks") return [];
      return [tableText(block, block.id === "quality" ? warnings : [], suffix)];
    });
  });
  return ["% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.", ...tables].join("\n\n") + "\n";
}
