/** The report as LaTeX tables (booktabs), ready to be `\input` into a paper: protocol, quality, size and cost.
 *
 * @module
 */
import { groupsOf, type ReportDocument, type TableBlock, type TableCell, type TableRow } from "./document.ts";

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
  "≥": "$\\geq$",
  "≠": "$\\neq$",
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

const SIGN = { "": "", "*": "$^{*}$", "≈": "$^{\\approx}$", "?": "$^{?}$", "≠": "$^{\\neq}$" };

function cellText({ text, spread, place, sign }: TableCell): string {
  const value = escapeLatex(text);
  const marked = place === 1 ? `\\textbf{${value}}` : place === 2 ? `\\underline{${value}}` : value;
  return marked + (spread === "" ? "" : `\\,{\\scriptsize ${escapeLatex(spread.trim())}}`) + SIGN[sign];
}

/** A failed row says so over the whole width. */
function rowCells({ failed, cells }: TableRow): string[] {
  if (failed === null) return cells.map(cellText);
  return [
    ...cells.slice(0, 2).map(cellText),
    `\\multicolumn{${cells.length - 2}}{l}{${escapeLatex(failed.kinds)}}`,
  ];
}

const line = (cells: string[]) => `    ${cells.join(" & ")} \\\\`;

/** A table with its caption above and its notes below. */
function float(caption: string, label: string, columns: string, body: string[], notes: string[]): string {
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

const ARROW = { higher: " $\\uparrow$", lower: " $\\downarrow$" };

function tableText({ columns, rows }: TableBlock): string[] {
  const heads = columns.map(({ header, better }) => escapeLatex(header) + (better ? ARROW[better] : ""));
  const details = columns.map(({ detail }) => detail === "" ? "" : `{\\scriptsize ${escapeLatex(detail)}}`);
  const groups = groupsOf(rows).map((own) => own.map((row) => line(rowCells(row))).join("\n"));
  return [line(heads), line(details), "    \\midrule", groups.join("\n    \\midrule\n")];
}

/** Tables of every section. Needs the packages booktabs and graphicx. */
export function toLatex({ sections }: ReportDocument): string {
  const tables = sections.flatMap(({ title, blocks }, i) => {
    const suffix = sections.length > 1 ? `-${i + 1}` : "";
    const warnings = blocks.flatMap((block) => block.kind === "warnings" ? block.texts : []);
    return blocks.flatMap((block) => {
      if (block.kind === "facts" && block.isOpen) {
        const body = block.facts.map(({ name, text }) => line([escapeLatex(name), escapeLatex(text)]));
        return [float(`${block.title} of ${title}.`, `protocol${suffix}`, "lp{0.8\\textwidth}", body, [])];
      }
      if (block.kind !== "table" || !["quality", "size", "cost"].includes(block.id)) return [];
      const notes = [block.caption, ...block.id === "quality" ? warnings : [], ...block.legend, ...block.notes];
      const columns = block.columns.map(({ numeric }) => numeric ? "r" : "l").join("");
      return [float(`${block.title} of ${title}.`, block.id + suffix, columns, tableText(block), notes)];
    });
  });
  return ["% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.", ...tables].join("\n\n") + "\n";
}
