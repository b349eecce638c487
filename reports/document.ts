/** A report as data: sections of blocks, built once. Markdown, HTML, LaTeX, CSV and the terminal are renderers of it,
 * and add nothing to what it says.
 *
 * @module
 */
import type { Chart } from "./chart_style.ts";
import type { Glance } from "./findings.ts";
import type { Fact } from "./settings.ts";
import type { TableId } from "./notes.ts";
import type { Section } from "./rows.ts";
import type { Table } from "./table.ts";

/** A line of text under the title. */
export interface LineBlock {
  kind: "line";
  text: string;
}

/** What a reader must know before trusting the numbers. */
export interface WarningsBlock {
  kind: "warnings";
  texts: string[];
}

/** Names and texts. */
export interface FactsBlock {
  kind: "facts";
  /** `protocol` stands open in every format; others are details. */
  id: "protocol" | "generations" | "failures" | "measures" | "configuration" | "environment" | "differences";
  title: string;
  facts: Fact[];
}

/** The winners. */
export interface GlanceBlock {
  kind: "glance";
  glance: Glance;
}

/** A table of results. */
export interface TableBlock {
  kind: "table";
  id: TableId;
  title: string;
  /** A few words, for lists of tables. */
  shortCaption: string;
  /** One sentence: under which protocol the table holds. */
  caption: string;
  table: Table;
  /** Meaning of the signs in it. */
  legend: string[];
  notes: string[];
}

/** A table of texts; every cell has one line or more. */
export interface GridBlock {
  kind: "grid";
  title: string;
  caption: string;
  header: string[][];
  /** Which columns are numbers, aligned at the right. */
  numeric: boolean[];
  rows: string[][][];
  notes: string[];
}

/** Figures, as specifications. */
export interface FiguresBlock {
  kind: "figures";
  title: string;
  charts: Chart[];
}

/** A part of a section. */
export type Block = LineBlock | WarningsBlock | FactsBlock | GlanceBlock | TableBlock | GridBlock | FiguresBlock;

/** A title and what is under it. */
export interface BlockSection {
  title: string;
  blocks: Block[];
}

/** What a report says of one model on one engine. */
export interface DocumentSection extends BlockSection {
  /** The rows behind the blocks, for tables of data. */
  results: Section;
}

/** A text with a title. */
export interface BlockDocument<S extends BlockSection = BlockSection> {
  title: string;
  sections: S[];
}

/** The report of a run. */
export type ReportDocument = BlockDocument<DocumentSection>;
