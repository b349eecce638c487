/** The comparison table without a format: what each cell says, for Markdown, LaTeX, HTML and the terminal alike.
 * Columns in LLM-Pruner's order: ratio, parameters, MACs, memory, throughput, speed-up, perplexity, tasks, average.
 *
 * @module
 */
import { mean } from "../core/stats.ts";
import { count, level, mebibytes, operations, percent, withSpread } from "./format.ts";
import type { Column } from "./measurements.ts";
import type { Estimate, Row, Section } from "./rows.ts";
import { type Ranking, type Standing, standings } from "./significance.ts";

/** A column of the table. */
export interface TableColumn {
  /** `method`, `asked`, `uniform` ..., or the key of a measured column. */
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
}

/** A cell of the table. */
export interface TableCell {
  text: string;
  /** ` ± 0.4` over seeds or repeats, ` (0.4)` for the standard error of one run, or nothing. */
  spread: string;
  standing: Standing;
  /** Number to sort by. */
  sort: number | null;
}

/** A row of the table. */
export interface TableRow {
  kind: "dense" | "pruned" | "failed";
  asked: number;
  label: string;
  cells: TableCell[];
}

/** The table of one section. */
export interface Table {
  columns: TableColumn[];
  rows: TableRow[];
}

/** Shown where a row has no result. */
export const NO_VALUE = "–";

const plain = (text: string, sort: number | null = null): TableCell => ({
  text,
  spread: "",
  standing: { place: 0, sign: "" },
  sort,
});
const nothing = plain(NO_VALUE);

function measured(estimate: Estimate | undefined, scale: number, digits: [number, number]): TableCell {
  if (estimate === undefined) return nothing;
  const spreadValue = estimate.spread === null ? null : estimate.spread * scale;
  const { text, spread } = withSpread(estimate.value * scale, spreadValue, ...digits);
  const words = spread === null ? "" : estimate.spreadOf === "stderr" ? ` (${spread})` : ` ± ${spread}`;
  return { ...plain(text, estimate.value), spread: words };
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
});

/** Mean over a row's finished runs. */
export const meanOf = (row: Row, pick: (run: Row["runs"][number]) => number): number => mean(row.runs.map(pick));

/** `yes`: equal widths in every layer; biases make it something other than a plain LLaMA all the same. */
export function uniformWords({ runs }: Row): string {
  if (!runs.every(({ size }) => size.layerwiseUniform)) return "no";
  return runs.every(({ size }) => size.plainLlama) ? "yes" : "yes, biases";
}

function sizeStrips(): Strip[] {
  return [
    {
      column: fixed("asked", "asked", "of prunable", 0),
      cell: (row) => row.methodId === null ? plain(NO_VALUE, 0) : plain(level(row.asked), row.asked),
    },
    {
      column: fixed("realised", "removed, %", "prunable / model", 1),
      cell: (row) => {
        const prunable = meanOf(row, ({ size }) => size.sparsityOfPrunable);
        return plain(`${percent(prunable)} / ${percent(meanOf(row, ({ size }) => size.sparsityOfModel))}`, prunable);
      },
    },
    {
      column: fixed("parameters", "params", "", 4),
      cell: (row) => {
        const value = meanOf(row, ({ size }) => size.parameters);
        return plain(count(Math.round(value)), value);
      },
    },
    {
      column: fixed("macs", "MACs", "64 tokens", 8),
      cell: (row) => {
        const value = meanOf(row, ({ size }) => size.macs64);
        return plain(operations(value), value);
      },
    },
    {
      column: fixed("weights", "weights", "MiB", 9),
      cell: (row) => {
        const value = meanOf(row, ({ size }) => size.weightBytes);
        return plain(mebibytes(value), value);
      },
    },
    {
      column: fixed("peak", "peak mem.", "MiB", 10),
      cell: (row) => {
        const value = meanOf(row, ({ memory }) => memory.peakBytes);
        return plain(mebibytes(value), value);
      },
    },
  ];
}

function throughputStrips(column: Column, hasDense: boolean, first: boolean): Strip[] {
  const own: Strip = {
    column: { ...fixed(column.key, column.name, "tokens/s", 6), better: "higher" },
    cell: (row) => measured(row.values.get(column.key), 1, [4, 2]),
  };
  const speedUp: Strip = {
    column: {
      ...fixed(`speed-up ${column.key}`, "speed-up", `${column.name}, × dense`, first ? 2 : 3),
      better: "higher",
    },
    cell: (row) => measured(row.speedUps.get(column.key), 1, [3, 2]),
  };
  return hasDense ? [own, speedUp] : [own];
}

/** First of all the columns that the run is about: its first perplexity and its accuracy, be it a mean or that of the
 * only task. */
const qualityPriority = ({ kind }: Column, headline: boolean): number => headline ? 1 : kind === "perplexity" ? 4 : 5;

function qualityStrip(column: Column, ranks: Ranking[], headline = false): Strip {
  const standing = new Map(
    ranks.filter((ranking) => ranking.column === column).flatMap((ranking) => [...standings(ranking)]),
  );
  const header = column.kind === "mean-accuracy" ? "mean acc." : column.name;
  const unit = column.kind === "perplexity"
    ? column.metric.replace("perplexity", "ppl")
    : column.kind === "task"
    ? `${column.metric} %`
    : "%";
  return {
    column: {
      ...fixed(
        column.key,
        header,
        `${unit}, ${column.count}`,
        qualityPriority(column, headline),
      ),
      better: column.higherIsBetter ? "higher" : "lower",
    },
    cell: (row) => ({
      ...(column.kind !== "perplexity"
        ? measured(row.values.get(column.key), 100, [3, 1])
        : measured(row.values.get(column.key), 1, [4, 2])),
      standing: standing.get(row) ?? nothing.standing,
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

function assemble(section: Section, strips: Strip[]): Table {
  const rows = section.rows.map((row): TableRow => {
    const kind = row.runs.length === 0 ? "failed" : row.methodId === null ? "dense" : "pruned";
    const cells = strips.map(({ column, cell }) => {
      if (kind !== "failed" || column.id === "method" || column.id === "asked") return cell(row);
      if (column.id !== "realised") return nothing;
      return plain(`failed: ${[...new Set(row.failures.map(({ failure }) => failure.kind))].join(", ")}`);
    });
    return { kind, asked: row.asked, label: row.label, cells };
  });
  return { columns: strips.map(({ column }) => column), rows };
}

const methodStrip: Strip = { column: fixed("method", "method", "", 0, false), cell: ({ label }) => plain(label) };

/** Columns that say which row it is: method, ratio asked and realised. */
const identityStrips = (): Strip[] => [
  methodStrip,
  ...sizeStrips().filter(({ column }) => column.id === "asked" || column.id === "realised"),
];

const uniformStrip: Strip = {
  column: fixed("uniform", "uniform", "layers", 7, false),
  cell: (row) => plain(uniformWords(row)),
};

/** Parameters, MACs, memory, throughput and speed-up. */
function costStrips(section: Section): Strip[] {
  const hasDense = section.rows.some((row) => row.methodId === null && row.runs.length > 0);
  return [
    ...sizeStrips().filter(({ column }) => column.id !== "asked" && column.id !== "realised"),
    ...section.columns.filter(({ kind }) => kind === "throughput")
      .flatMap((column, i) => throughputStrips(column, hasDense, i === 0)),
  ];
}

function qualityStrips(section: Section, ranks: Ranking[]): Strip[] {
  const columns = section.columns.filter(({ kind, primary }) => kind !== "throughput" && primary);
  const perplexity = columns.find(({ kind }) => kind === "perplexity");
  const accuracies = columns.filter(({ kind }) => kind !== "perplexity");
  const accuracy = accuracies.find(({ kind }) => kind === "mean-accuracy") ?? accuracies[0];
  return columns.map((column) => qualityStrip(column, ranks, column === perplexity || column === accuracy));
}

/** Everything in one table, for paper and terminal. */
export function buildTable(section: Section, ranks: Ranking[]): Table {
  const [cost, quality] = [costStrips(section), qualityStrips(section, ranks)];
  return assemble(section, [...identityStrips(), ...cost, ...quality, uniformStrip, ...seedsStrip(section.rows)]);
}

/** Perplexity, tasks and mean accuracy alone; null where none was measured. */
export function buildQualityTable(section: Section, ranks: Ranking[]): Table | null {
  const quality = qualityStrips(section, ranks);
  if (quality.length === 0) return null;
  return assemble(section, [...identityStrips(), ...quality, ...seedsStrip(section.rows)]);
}

/** Size and speed alone. */
export function buildCostTable(section: Section): Table {
  return assemble(section, [...identityStrips(), ...costStrips(section), uniformStrip]);
}

/** Every metric of every task, also those that do not count for the mean accuracy. */
export function buildTaskTable(section: Section, ranks: Ranking[]): Table {
  const tasks = section.columns.filter(({ kind }) => kind === "task");
  return assemble(section, [...identityStrips(), ...tasks.map((column) => qualityStrip(column, ranks))]);
}

/** Rows in groups of one asked level, the dense row a group of its own. */
export function levelGroups(table: Table): TableRow[][] {
  const dense = (row: TableRow) => row.asked === 0 && row.label === "dense";
  return [...Map.groupBy(table.rows, (row) => dense(row) ? "dense" : String(row.asked)).values()];
}
