/** A published table beside ours: rows of the same experiment, their numbers and differences.
 *
 * @module
 */
import type { PaperTableId } from "../core/schema/schema.ts";
import { type TableBlock, textTable } from "./document.ts";
import { level, NO_VALUE, unique, withSpread } from "./format.ts";
import type { Column } from "./columns.ts";
import { isSameExperiment, PAPER_TABLE, type PublishedRow, publishedRows } from "./paper/published.ts";
import { protocolCaption } from "./protocol.ts";
import { type Estimate } from "./estimates.ts";
import { hasRuns, type Row, type Section } from "./sections.ts";

/** One number of the paper beside ours. */
export interface PairedValue {
  /** As in the published file. */
  measure: string;
  /** Perplexity, or accuracy in percent; null where the run did not measure it. */
  ours: Estimate | null;
  theirs: number | null;
  difference: number | null;
}

/** One row of the paper beside ours. */
export interface PairedRow {
  published: PublishedRow;
  row: Row;
  values: PairedValue[];
}

/** A published table beside a section's rows. */
export interface BesidePaper {
  title: string;
  /** Why this is not the paper's experiment; empty where the run is what the preset says. */
  notThePapers: string[];
  /** What differs even then. */
  differences: string[];
  measures: string[];
  rows: PairedRow[];
  /** Published rows that the run has no cell for. */
  missing: string[];
}

/** A column of ours as published files name it; published perplexities are per token, not per word. */
export function measureOf({ kind, metric, name, windowTokens, tasks }: Column, allTasks: number): string {
  if (kind === "perplexity") return metric === "perplexity" ? `ppl:${name}:${windowTokens}` : "";
  if (kind === "mean-accuracy") return tasks?.length === allTasks ? "mean" : "";
  return kind === "task" ? `${metric}:${name}` : "";
}

function pairedValue(measure: string, column: Column | undefined, row: Row, theirs: number | null): PairedValue {
  const estimate = column && row.values.get(column.key);
  if (estimate === undefined) return { measure, ours: null, theirs, difference: null };
  const k = measure.startsWith("ppl:") ? 1 : 100;
  const { value, spread } = estimate;
  const ours = { ...estimate, value: k * value, spread: spread === null ? null : k * spread };
  return { measure, ours, theirs, difference: theirs === null ? null : ours.value - theirs };
}

/** What makes a run another experiment than the paper's. */
function deviations(id: PaperTableId, section: Section, compared: Column[]): string[] {
  const { model, parameters } = PAPER_TABLE[id];
  const size = section.rows.flatMap(({ runs }) => runs)[0]?.denseSize.parameters;
  return [
    ...size !== parameters
      ? [`the model is "${section.model}" (${size ?? "unknown"} parameters), not ${model} (${parameters})`]
      : [],
    ...compared.some(({ limited }) => limited) ? ["only a part of the data was scored"] : [],
  ];
}

/** Sets the table that the records name beside the section; null where they name none or nothing ran.
 * @throws {SyntaxError} when the file of the table is damaged. */
export function besidePaper(section: Section): BesidePaper | null {
  const id = section.rows.flatMap((row) => row.runs).find(({ paper }) => paper !== undefined)?.paper;
  if (id === undefined) return null;
  const published = publishedRows(id);
  const measures = unique(published.flatMap(({ values }) => [...values.keys()]));
  const tasks = measures.filter((name) => name.startsWith("acc")).length;
  const columnOf = new Map(section.columns.map((column) => [measureOf(column, tasks), column]));
  const rows = published.flatMap((own): PairedRow[] =>
    section.rows.filter((row) => hasRuns(row) && isSameExperiment(own, row.cell)).map((row) => ({
      published: own,
      row,
      values: measures.map((name) => pairedValue(name, columnOf.get(name), row, own.values.get(name) ?? null)),
    }))
  );
  const found = new Set(rows.map(({ published }) => published));
  return {
    title: PAPER_TABLE[id].title,
    notThePapers: deviations(id, section, measures.flatMap((name) => columnOf.get(name) ?? [])),
    differences: PAPER_TABLE[id].differences,
    measures,
    rows,
    missing: published.filter((row) => !found.has(row)).map(({ label, sparsity }) =>
      sparsity === 0 ? label : `${label} at ${level(sparsity)}`
    ),
  };
}

/** A measure as a heading and a line below it. */
function measureWords(name: string): [string, string] {
  const [metric = "", what = "", window] = name.split(":");
  if (metric === "ppl") return [what, `perplexity, L=${window}`];
  return metric === "mean" ? ["mean acc.", "%"] : [what, `${metric} %`];
}

/** Differences between the two experiments, one sentence each. */
function notes({ notThePapers, differences, rows, missing }: BesidePaper): string[] {
  return [
    ...notThePapers.length > 0 ? [`This is not the paper's experiment: ${notThePapers.join("; ")}.`] : [],
    "Each cell shows our number, the paper's, and the difference (ours minus the paper's).",
    ...differences.map((text) => `Difference from the paper: ${text}.`),
    ...missing.length > 0 ? [`This run has no cell for these rows of the paper: ${missing.join(", ")}.`] : [],
    ...unique(rows.map(({ published }) => published.source)).map((source) => `Published numbers: ${source}.`),
  ];
}

/** Ours, theirs and the difference as text; an en dash where there is none. */
function valueLines({ measure, ours, theirs, difference }: PairedValue): string[] {
  const isPerplexity = measure.startsWith("ppl:");
  const text = (value: number | undefined | null) => {
    if (value === undefined || value === null) return NO_VALUE;
    return isPerplexity ? withSpread(value, null, 4, 2).text : value.toFixed(1);
  };
  const sign = difference !== null && difference > 0 ? "+" : "";
  return [
    text(ours?.value),
    text(theirs),
    difference === null ? NO_VALUE : sign + difference.toFixed(isPerplexity ? 2 : 1),
  ];
}

/** The published table beside a section's rows as a block; none where the run is set beside no table. */
export function besidePaperTable(section: Section): TableBlock[] {
  const found = besidePaper(section);
  if (found === null) return [];
  const rows = found.rows.map(({ published, row, values }) => [
    [published.label, row.asked > 0 ? `${row.label} at ${level(row.asked)}` : row.label],
    ...values.map(valueLines),
  ]);
  return [{
    kind: "table",
    id: "paper",
    title: `Beside the paper: ${found.title}`,
    caption: protocolCaption(section),
    ...textTable([["in the paper", "ours"], ...found.measures.map(measureWords)], (column) => column > 0, rows),
    legend: [],
    notes: notes(found),
  }];
}
