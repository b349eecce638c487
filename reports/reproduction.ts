/** A published table beside ours: which rows are the same experiment, what each says, and by how much they differ.
 *
 * @module
 */
import { join } from "node:path";
import type { Cell, PaperTableId } from "../core/schema/schema.ts";
import { at } from "../core/util/indexing.ts";
import type { GridBlock } from "./document.ts";
import { level, withSpread } from "./format.ts";
import type { Column } from "./measurements.ts";
import { PAPER_TABLE } from "./paper/tables.ts";
import { protocolCaption } from "./protocol.ts";
import { type Estimate, hasRuns, type Row, type Section } from "./rows.ts";
import { NO_VALUE } from "./table.ts";

/** One row of a published table. */
export interface PublishedRow {
  label: string;
  /** Our method's id; empty for the dense model. */
  method: string;
  /** Options that a run must have to be this row. */
  options: Record<string, string>;
  sparsity: number;
  recover: string;
  /** By measure (`ppl:wikitext2:128`, `acc:boolq`, `mean`): perplexities, and accuracies in percent; null: not given. */
  values: Map<string, number | null>;
  source: string;
}

/** Rows of a CSV text whose fields hold no line breaks.
 * @throws {SyntaxError} when a line has another number of fields than the header. */
function parseCsv(text: string): Map<string, string>[] {
  const [header = [], ...lines] = text.trimEnd().split("\n").map((line) =>
    [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^",]*))/g)].map(([, quoted, plain = ""]) =>
      quoted === undefined ? plain : quoted.replaceAll('""', '"')
    )
  );
  return lines.map((fields, i) => {
    if (fields.length !== header.length) {
      throw new SyntaxError(`Line ${i + 2} has ${fields.length} fields, the header has ${header.length}`);
    }
    return new Map(header.map((name, j) => [name, at(fields, j)]));
  });
}

/** Reads the published table `id`.
 * @throws {SyntaxError} when its file is not what `paper/README.md` says. */
export function publishedRows(id: PaperTableId): PublishedRow[] {
  const text = Deno.readTextFileSync(join(import.meta.dirname!, "paper", `${id}.csv`));
  return parseCsv(text).map((fields) => {
    const take = (name: string): string => {
      const field = fields.get(name);
      if (field === undefined) throw new SyntaxError(`${id}.csv has no column "${name}"`);
      fields.delete(name);
      return field;
    };
    const [label, method, options] = [take("label"), take("method"), take("options")];
    const [sparsity, recover, source] = [take("sparsity"), take("recover"), take("source")];
    const values = [...fields].map(([name, field]): [string, number | null] => {
      const value = field === "" ? null : Number(field);
      if (Number.isNaN(value)) throw new SyntaxError(`${id}.csv: ${label}, ${name}: "${field}" is not a number`);
      return [name, value];
    });
    const pairs = options.split(";").filter((pair) => pair !== "").map((pair): [string, string] => {
      const [name = "", value = ""] = pair.split("=");
      return [name, value];
    });
    return {
      label,
      method,
      options: Object.fromEntries(pairs),
      sparsity: Number(sparsity),
      recover,
      values: new Map(values),
      source,
    };
  });
}

/** Whether a cell of ours is the experiment of a published row. */
export function isSameExperiment(row: PublishedRow, cell: Cell): boolean {
  if (row.method === "" || cell.method === null) return row.method === "" && cell.method === null;
  return row.method === cell.method.id && Math.abs(row.sparsity - cell.sparsity) < 1e-9 &&
    row.recover === (cell.recover ?? "") && cell.compensate === undefined &&
    Object.entries(row.options).every(([name, value]) => String(cell.method!.options[name]) === value);
}

/** What a published number is: a perplexity by window length, an accuracy of a task, or the mean over the tasks. */
type Measure =
  | { kind: "ppl"; corpus: string; windowTokens: number }
  | { kind: "task"; task: string; metric: string }
  | { kind: "mean" };

/** Reads a measure of `paper/README.md`: `ppl:wikitext2:128`, `acc:boolq`, `mean`. */
function parseMeasure(name: string): Measure {
  const [kind = "", what = "", window] = name.split(":");
  if (kind === "ppl") return { kind, corpus: what, windowTokens: Number(window) };
  return kind === "mean" ? { kind } : { kind: "task", task: what, metric: kind };
}

/** Whether a column of ours measures what the published measure does; the mean must be over all `tasks` of the table. */
function measures(measure: Measure, column: Column, tasks: number): boolean {
  switch (measure.kind) {
    case "ppl":
      // Published perplexities are per token, not per word.
      return column.kind === "perplexity" && column.metric === "perplexity" && column.name === measure.corpus &&
        column.windowTokens === measure.windowTokens;
    case "mean":
      return column.kind === "mean-accuracy" && column.tasks?.length === tasks;
    case "task":
      return column.kind === "task" && column.name === measure.task && column.metric === measure.metric;
  }
}

/** One number of the paper beside ours. */
export interface ReproducedValue {
  /** As in the published file. */
  measure: string;
  /** Perplexity, or accuracy in percent; null where the run did not measure it. */
  ours: Estimate | null;
  theirs: number | null;
}

/** One row of the paper beside ours. */
export interface ReproducedRow {
  label: string;
  published: PublishedRow;
  row: Row;
  values: ReproducedValue[];
}

/** A published table beside a section's rows. */
export interface Reproduction {
  title: string;
  /** Why this is not the paper's experiment; empty where the run is what the preset says. */
  notThePapers: string[];
  /** What differs even then. */
  differences: string[];
  measures: string[];
  rows: ReproducedRow[];
  /** Published rows that the run has no cell for. */
  missing: string[];
}

/** An accuracy in percent, a perplexity as it is. */
function inUnits({ kind }: Column, estimate: Estimate): Estimate {
  const k = kind === "perplexity" ? 1 : 100;
  return { ...estimate, value: k * estimate.value, spread: estimate.spread === null ? null : k * estimate.spread };
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
export function reproduction(section: Section): Reproduction | null {
  const done = section.rows.flatMap((row) => row.runs);
  const id = done.find(({ paper }) => paper !== undefined)?.paper;
  if (id === undefined) return null;
  const published = publishedRows(id);
  const names = [...new Set(published.flatMap(({ values }) => [...values.keys()]))];
  const tasks = names.filter((name) => parseMeasure(name).kind === "task").length;
  const columnOf = new Map(
    names.map((name) => [name, section.columns.find((column) => measures(parseMeasure(name), column, tasks))] as const),
  );
  const rows = published.flatMap((own): ReproducedRow[] =>
    section.rows.filter((row) => hasRuns(row) && isSameExperiment(own, row.cell)).map((row) => ({
      label: own.label,
      published: own,
      row,
      values: names.map((measure) => {
        const column = columnOf.get(measure);
        const estimate = column && row.values.get(column.key);
        return { measure, ours: estimate ? inUnits(column, estimate) : null, theirs: own.values.get(measure) ?? null };
      }),
    }))
  );
  const found = new Set(rows.map(({ published }) => published));
  return {
    title: PAPER_TABLE[id].title,
    notThePapers: deviations(id, section, [...columnOf.values()].filter((column) => column !== undefined)),
    differences: PAPER_TABLE[id].differences,
    measures: names,
    rows,
    missing: published.filter((row) => !found.has(row)).map(({ label, sparsity }) =>
      sparsity === 0 ? label : `${label} at ${level(sparsity)}`
    ),
  };
}

/** A measure as a heading and a line below it. */
function measureWords(name: string): [string, string] {
  const measure = parseMeasure(name);
  switch (measure.kind) {
    case "ppl":
      return [measure.corpus, `perplexity, L=${measure.windowTokens}`];
    case "mean":
      return ["mean acc.", "%"];
    case "task":
      return [measure.task, `${measure.metric} %`];
  }
}

/** What a reader must know before comparing the two, one sentence each. */
function reproductionNotes({ notThePapers, differences, rows, missing }: Reproduction): string[] {
  const list = (texts: string[]) => texts.join("; ");
  return [
    ...notThePapers.length > 0 ? [`Not the paper's experiment: ${list(notThePapers)}.`] : [],
    "Ours, the paper's, and ours minus the paper's; an en dash stands where one of them is not known.",
    `What differs from the paper in any case: ${list(differences)}.`,
    ...missing.length > 0 ? [`Rows of the paper without a cell of this run: ${missing.join(", ")}.`] : [],
    ...rows.length > 0
      ? [`Published numbers: ${[...new Set(rows.map(({ published }) => published.source))].join("; ")}.`]
      : [],
  ];
}

/** Ours, theirs and the difference as text; an en dash where there is none. */
function reproducedLines({ measure, ours, theirs }: ReproducedValue): string[] {
  const isPerplexity = parseMeasure(measure).kind === "ppl";
  const text = (value: number | undefined | null) => {
    if (value === undefined || value === null) return NO_VALUE;
    return isPerplexity ? withSpread(value, null, 4, 2).text : value.toFixed(1);
  };
  const difference = ours === null || theirs === null ? null : ours.value - theirs;
  return [
    text(ours?.value),
    text(theirs),
    difference === null ? NO_VALUE : `${difference > 0 ? "+" : ""}${difference.toFixed(isPerplexity ? 2 : 1)}`,
  ];
}

/** The published table beside a section's rows as a block; none where the run is set beside no table. */
export function reproductionGrid(section: Section): GridBlock[] {
  const found = reproduction(section);
  if (found === null) return [];
  return [{
    kind: "grid",
    title: `Beside the paper: ${found.title}`,
    caption: protocolCaption(section),
    header: [["in the paper", "ours"], ...found.measures.map(measureWords)],
    numeric: [false, ...found.measures.map(() => true)],
    rows: found.rows.map(({ label, row, values }) => [
      [label, row.asked > 0 ? `${row.label} at ${level(row.asked)}` : row.label],
      ...values.map(reproducedLines),
    ]),
    notes: reproductionNotes(found),
  }];
}
