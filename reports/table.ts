/** The tables without a format: what each cell says, for Markdown, LaTeX, HTML and the terminal alike. Columns in
 * LLM-Pruner's order: ratio, parameters, MACs, memory, throughput, speed-up, perplexity, tasks, average.
 *
 * @module
 */
import { mean } from "../core/util/stats.ts";
import { count, level, mebibytes, operations, percent, seconds, withSpread } from "./format.ts";
import type { Column } from "./measurements.ts";
import { type Estimate, hasRuns, isDense, type Row, type Section } from "./rows.ts";
import { type Ranking, type Standing, standings } from "./significance.ts";
import { doubts } from "./speed.ts";

/** A column of a table. */
export interface TableColumn {
  /** `method`, `asked`, `uniform` ..., the key of a measured column, or that of a speed-up. */
  id: string;
  header: string;
  /** Second header line: unit, number of examples. */
  detail: string;
  /** Whether to align at the right. */
  numeric: boolean;
  /** Direction of merit, if any. */
  better: "higher" | "lower" | null;
  /** What goes first when the width is short: 0 stays, higher numbers go earlier. */
  priority: number;
  /** What the column is called where its two lines are one text. */
  title: string;
}

/** A cell of a table. */
export interface TableCell {
  text: string;
  /** ` ± 0.4` over seeds or repeats, ` (0.4)` for the standard error of one run, ` [1.1, 2.8]` for a 95 % interval, or
   * nothing. */
  spread: string;
  place: Standing["place"];
  /** `*` and `≈` as in {@linkcode Standing}; `?`: a speed-up in doubt. */
  sign: Standing["sign"] | "?";
  /** What to sort by: a number, or a text; null where the row has no value. */
  sort: number | string | null;
}

/** A row of a table. */
export interface TableRow {
  kind: "dense" | "pruned" | "failed";
  /** The results that it shows. */
  row: Row;
  /** As many as the table has columns. */
  cells: TableCell[];
}

/** A table of one section. */
export interface Table {
  columns: TableColumn[];
  rows: TableRow[];
}

/** Shown where a row has no result. */
export const NO_VALUE = "–";

const plain = (text: string, sort: TableCell["sort"] = null): TableCell => ({
  text,
  spread: "",
  place: 0,
  sign: "",
  sort,
});
const nothing = plain(NO_VALUE);

function measured(estimate: Estimate | undefined, scale: number, digits: [number, number]): TableCell {
  if (estimate === undefined) return nothing;
  const { value, spread, interval, spreadOf } = estimate;
  const show = (x: number) => withSpread(value * scale, x * scale, ...digits).spread;
  const error = spread === null ? "" : spreadOf === "stderr" ? ` (${show(spread)})` : ` ± ${show(spread)}`;
  const words = interval ? ` [${interval.map(show).join(", ")}]` : error;
  return { ...plain(withSpread(value * scale, null, ...digits).text, value), spread: words };
}

/** A column's header and one cell per row. */
interface Strip {
  column: TableColumn;
  cell(row: Row): TableCell;
}

const fixed = (id: string, header: string, detail: string, priority: number, numeric = true): TableColumn => ({
  id,
  header,
  detail,
  numeric,
  better: null,
  priority,
  title: header,
});

/** Mean over a row's finished runs. */
export const meanOf = (row: Row, pick: (run: Row["runs"][number]) => number): number => mean(row.runs.map(pick));

/** `yes`: equal widths in every layer; biases make it something other than a plain LLaMA all the same. */
function uniformWords({ runs }: Row): string {
  if (!runs.every(({ size }) => size.layerwiseUniform)) return "no";
  return runs.every(({ size }) => size.plainLlama) ? "yes" : "yes, biases";
}

/** A column of means over a row's runs. */
const meanStrip = (
  column: TableColumn,
  pick: (run: Row["runs"][number]) => number,
  words: (value: number) => string,
): Strip => ({
  column,
  cell: (row) => {
    const value = meanOf(row, pick);
    return plain(words(value), value);
  },
});

const methodStrip: Strip = {
  column: fixed("method", "method", "", 0, false),
  cell: ({ label }) => plain(label, label),
};

const askedStrip: Strip = {
  column: fixed("asked", "asked", "of prunable", 0),
  cell: (row) => plain(isDense(row) || row.cell.checkpoint ? NO_VALUE : level(row.asked), row.asked),
};

const realisedStrip: Strip = {
  column: fixed("realised", "removed, %", "prunable / model", 1),
  cell: (row) => {
    const prunable = meanOf(row, ({ size }) => size.sparsityOfPrunable);
    return plain(`${percent(prunable)} / ${percent(meanOf(row, ({ size }) => size.sparsityOfModel))}`, prunable);
  },
};

const uniformStrip: Strip = {
  column: fixed("uniform", "uniform", "layers", 7, false),
  cell: (row) => plain(uniformWords(row), uniformWords(row)),
};

const sizeStrips: Strip[] = [
  meanStrip(fixed("parameters", "params", "", 4), ({ size }) => size.parameters, (value) => count(Math.round(value))),
  meanStrip(fixed("macs", "MACs", "64 tokens", 8), ({ size }) => size.macs64, operations),
  meanStrip(fixed("weights", "weights", "MiB", 9), ({ size }) => size.weightBytes, mebibytes),
];

function throughputStrips(section: Section, column: Column, first: boolean): Strip[] {
  const own: Strip = {
    column: { ...fixed(column.key, column.name, "tokens/s", 6), better: "higher" },
    cell: (row) => measured(row.values.get(column.key), 1, [4, 2]),
  };
  if (!section.rows.some((row) => isDense(row) && hasRuns(row))) return [own];
  const doubtful = doubts(section, column);
  const speedUp: Strip = {
    column: {
      ...fixed(`speed-up ${column.key}`, "speed-up", `${column.name}, × dense`, first ? 2 : 3),
      better: "higher",
      title: `speed-up ${column.name}`,
    },
    cell: (row) => ({
      ...measured(row.speedUps.get(column.key), 1, [3, 2]),
      ...doubtful.has(row) && { sign: "?" as const },
    }),
  };
  return [own, speedUp];
}

/** First of all the columns that the run is about: its first perplexity and its accuracy, be it a mean or that of the
 * only task. */
const qualityPriority = ({ kind }: Column, headline: boolean): number => headline ? 1 : kind === "perplexity" ? 4 : 5;

function qualityUnit(column: Column): string {
  if (column.kind === "perplexity") return column.metric.replace("perplexity", "ppl");
  if (column.kind === "task") return `${column.metric}${column.isFraction ? " %" : ""}`;
  return "%";
}

function qualityStrip(column: Column, ranks: Ranking[], headline = false): Strip {
  const standing = new Map(
    ranks.filter((ranking) => ranking.column === column).flatMap((ranking) => [...standings(ranking)]),
  );
  const header = column.kind === "mean-accuracy" ? "mean acc." : column.name;
  return {
    column: {
      ...fixed(column.key, header, `${qualityUnit(column)}, ${column.count}`, qualityPriority(column, headline)),
      better: column.higherIsBetter ? "higher" : "lower",
    },
    cell: (row) => ({
      ...(column.isFraction
        ? measured(row.values.get(column.key), 100, [3, 1])
        : measured(row.values.get(column.key), 1, [4, 2])),
      ...standing.get(row),
    }),
  };
}

function seedsStrip(rows: Row[]): Strip[] {
  const several = rows.some(({ seeds, failures, runs }) =>
    seeds.length > 1 || (failures.length > 0 && runs.length > 0)
  );
  if (!several) return [];
  return [{
    column: fixed("seeds", "seeds", "", 7),
    cell: ({ seeds, failures }) => {
      const failed = new Set(failures.map(({ cell }) => cell.seed).filter((seed) => !seeds.includes(seed))).size;
      return plain(failed > 0 ? `${seeds.length} of ${seeds.length + failed}` : String(seeds.length), seeds.length);
    },
  }];
}

/** Why a row has no results: kinds and messages of its failures. */
export function failureText({ failures }: Row): string {
  return `failed: ${[...new Set(failures.map(({ failure }) => `${failure.kind}: ${failure.message}`))].join("; ")}`;
}

/** The same without the messages. */
export function failureKinds({ failures }: Row): string {
  return `failed: ${[...new Set(failures.map(({ failure }) => failure.kind))].join(", ")}`;
}

/** Method and level come first in every table: a failed row has nothing but these. */
function assemble(section: Section, rest: Strip[]): Table {
  const strips = [methodStrip, askedStrip, ...rest];
  const rows = section.rows.map((row): TableRow => {
    const kind = !hasRuns(row) ? "failed" : isDense(row) ? "dense" : "pruned";
    const known = (strip: Strip) => kind !== "failed" || strip === methodStrip || strip === askedStrip;
    return { kind, row, cells: strips.map((strip) => known(strip) ? strip.cell(row) : nothing) };
  });
  return { columns: strips.map(({ column }) => column), rows };
}

/** Perplexity, tasks and mean accuracy; null where none was measured. */
export function buildQualityTable(section: Section, ranks: Ranking[]): Table | null {
  const columns = section.columns.filter(({ kind, primary }) => kind !== "throughput" && primary);
  if (columns.length === 0) return null;
  const perplexity = columns.find(({ kind }) => kind === "perplexity");
  const accuracies = columns.filter(({ kind }) => kind !== "perplexity");
  const accuracy = accuracies.find(({ kind }) => kind === "mean-accuracy") ?? accuracies[0];
  const strips = columns.map((column) => qualityStrip(column, ranks, column === perplexity || column === accuracy));
  return assemble(section, [realisedStrip, ...strips, ...seedsStrip(section.rows)]);
}

/** Parameters, MACs, weights, throughput and speed-up. */
export function buildSizeTable(section: Section): Table {
  const speeds = section.columns.filter(({ kind }) => kind === "throughput");
  return assemble(section, [
    realisedStrip,
    ...sizeStrips,
    ...speeds.flatMap((column, i) => throughputStrips(section, column, i === 0)),
    uniformStrip,
  ]);
}

/** Every metric of every task, also those that do not count for the mean accuracy. */
export function buildTaskTable(section: Section, ranks: Ranking[]): Table {
  const tasks = section.columns.filter(({ kind }) => kind === "task");
  return assemble(section, [realisedStrip, ...tasks.map((column) => qualityStrip(column, ranks))]);
}

/** Hours that a row's cells held their device, failed ones too. */
export const deviceHours = ({ runs, failures }: Row): number =>
  [...runs, ...failures].reduce((sum, record) => sum + record.seconds / 3600, 0);

/** Memory of the process, unless every record says that it is a device's; the notes give each record's own words. */
const peakName = ({ rows }: Section): string =>
  rows.flatMap(({ runs }) => runs).every(({ memory }) => /^(GPU memory|buffers of)/.test(memory.measure))
    ? "peak device memory"
    : "peak memory";

/** What a row took: seconds of pruning, learning and evaluation, hours of all its runs, and memory. */
export function buildCostTable(section: Section): Table {
  return assemble(section, [
    meanStrip(fixed("prune-seconds", "pruning", "s", 1), ({ timings }) => timings.pruneS, seconds),
    meanStrip(fixed("learn-seconds", "learning", "s", 1), ({ timings }) => timings.learnS, seconds),
    meanStrip(fixed("evaluate-seconds", "evaluation", "s", 2), ({ timings }) => timings.evaluateS, seconds),
    {
      column: fixed("device-hours", "device-hours", "all seeds", 2),
      cell: (row) => plain(deviceHours(row).toFixed(3), deviceHours(row)),
    },
    meanStrip(fixed("peak", peakName(section), "MiB", 3), ({ memory }) => memory.peakBytes, mebibytes),
  ]);
}

/** Rows in groups of one asked level, the dense row a group of its own. */
export function levelGroups(table: Table): TableRow[][] {
  return [...Map.groupBy(table.rows, ({ row }) => isDense(row) ? "dense" : row.asked).values()];
}
