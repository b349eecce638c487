/** A report as data: sections of blocks, built once. Markdown, HTML, LaTeX, CSV and the terminal only render it.
 *
 * @module
 */
import type { Section } from "./sections.ts";
import type { Fact } from "./settings.ts";

/** A column of a table. */
export interface TableColumn {
  /** `method`, `asked`, `realised` ..., the key of a measured column, or that of a speed-up. */
  id: string;
  header: string;
  /** Below the header: unit, number of examples, separated by commas. */
  detail: string;
  /** Whether to align at the right. */
  numeric: boolean;
  /** Direction of merit, if any. */
  better: "higher" | "lower" | null;
  /** Order of removal on narrow terminals: 0 is always shown, higher numbers are hidden first. */
  priority: number;
  /** What the column is called where its two lines are one text. */
  title: string;
}

/** A cell of a table. */
export interface TableCell {
  text: string;
  /** ` ± 0.4` over seeds or repeats, ` (0.4)` for the standard error of one run, ` [1.1, 2.8]` for a 95 % interval,
   * or nothing. */
  spread: string;
  /** 1 best, 2 second best of its level, 0 any other. */
  place: 0 | 1 | 2;
  /** `*`: clearly better than every other of its level; `≈`: not clearly worse than the best; `?`: in doubt;
   * `≠`: another time than the one asked for. */
  sign: "*" | "≈" | "?" | "≠" | "";
  /** What to sort by: a number, or a text; null where the row has no value. */
  sort: number | string | null;
  /** Further lines. */
  below: string[];
}

/** A row of a table. */
export interface TableRow {
  /** Level in words; empty for the dense model. */
  group: string;
  /** The method's in figures; null for rows of texts. */
  colour: string | null;
  /** Why nothing but method and level is known: kinds of failures, and their messages, too. */
  failed: { kinds: string; text: string } | null;
  /** As many as the table has columns. */
  cells: TableCell[];
}

/** Rows in their groups, in order. */
export const groupsOf = (
  rows: readonly TableRow[],
): TableRow[][] => [...Map.groupBy(rows, ({ group }) => group).values()];

/** Tables of results, each with notes of its own. */
export type ResultTableId = "quality" | "size" | "cost";

/** A table. */
export interface TableBlock {
  kind: "table";
  id: ResultTableId | "paper" | "comparison";
  title: string;
  /** Under which protocol the table holds; Markdown and HTML, whose sections begin with it, repeat it once. */
  caption: string;
  columns: TableColumn[];
  rows: TableRow[];
  legend: string[];
  notes: string[];
}

/** The winner of one level by one column. */
export interface Finding {
  /** Label of the winner; empty if a range covers all methods. */
  best: string;
  value: string;
  verdict: string;
}

/** The winners in a grid: one line per level, one column per topic. */
export interface GlanceBlock {
  kind: "glance";
  topics: string[];
  /** `level` in words: `target 20 %`. */
  lines: { level: string; findings: (Finding | null)[] }[];
}

/** Names and texts. */
export interface FactsBlock {
  kind: "facts";
  /** Whether it stands open in every format; others are details. */
  isOpen: boolean;
  title: string;
  facts: Fact[];
}

/** A Vega-Lite specification. */
export type Spec = Record<string, unknown>;

/** A figure. */
export interface Chart {
  /** File name without extension. */
  name: string;
  title: string;
  spec: Spec;
  /** A layer with a dot for every seed, where a chart can have one. */
  seeds?: Spec;
}

/** A part of a section: a line under the title, warnings, facts, findings, a table, or figures as specifications. */
export type Block =
  | { kind: "line"; text: string }
  | { kind: "warnings"; texts: string[] }
  | FactsBlock
  | GlanceBlock
  | TableBlock
  | { kind: "figures"; title: string; charts: Chart[] };

/** A title and what is under it. */
export interface BlockSection {
  title: string;
  blocks: Block[];
}

/** A text with a title. */
export interface BlockDocument<S extends BlockSection = BlockSection> {
  title: string;
  sections: S[];
}

/** The report of a run: a section for each model, engine and arithmetic, with the rows behind it for tables of data. */
export type ReportDocument = BlockDocument<BlockSection & { results: Section }>;

/** Every figure of a document. */
export const chartsOf = ({ sections }: ReportDocument): Chart[] =>
  sections.flatMap(({ blocks }) => blocks.flatMap((block) => block.kind === "figures" ? block.charts : []));

/** A cell that is a text alone. */
export const textCell = (text: string, sort: TableCell["sort"] = null, below: string[] = []): TableCell => ({
  text,
  spread: "",
  place: 0,
  sign: "",
  sort,
  below,
});

/** Columns and rows of texts; the first line of a header or cell stands above its others.
 * @param numeric Columns to align at the right. */
export const textTable = (
  header: string[][],
  numeric: (column: number) => boolean,
  rows: string[][][],
): Pick<TableBlock, "columns" | "rows"> => ({
  columns: header.map(([first = "", ...others], i) => ({
    id: first,
    header: first,
    detail: others.join(", "),
    numeric: numeric(i),
    better: null,
    priority: 0,
    title: first,
  })),
  rows: rows.map((cells) => ({
    group: "all",
    colour: null,
    failed: null,
    cells: cells.map(([first = "", ...others]) => textCell(first, first, others.filter((text) => text !== ""))),
  })),
});
