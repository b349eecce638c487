/** Records to sections of one model on one engine in one arithmetic: a row per method and level, a column per
 * measurement that may be compared.
 *
 * @module
 */
import { canonicalJson } from "../core/util/canonical_json.ts";
import { labelCells } from "../core/schema/cell_names.ts";
import { at } from "../core/util/indexing.ts";
import {
  type Arithmetic,
  type Cell,
  type CellRecord,
  type DoneRecord,
  type FailedRecord,
  pruningOf,
} from "../core/schema/schema.ts";
import { baseName, level, unique } from "./format.ts";
import { type Column, measurements } from "./columns.ts";
import { alternatedSpeedUp, type Estimate, estimate, pairedMean, ratio } from "./estimates.ts";
import { colours, type Display, NEUTRAL } from "./palette.ts";

/** What the definitions of methods and tasks say, which reports do not import. */
export interface Definitions {
  /** By method id; methods without one come last, in spare colours. */
  displays: ReadonlyMap<string, Display>;
  /** The metric of a task in tables and means, by task id; `acc` when absent. */
  primaryMetrics: ReadonlyMap<string, string>;
}

/** All runs that differ by their seed only. */
export interface Row {
  /** What a row is: equal for runs of the same settings at the same level, in this run and in others. */
  key: string;
  /** As `key`, but for any level: the rows of one variant are one line of a chart. */
  variant: string;
  /** What people call it; unique among the variants of its section. */
  label: string;
  /** In figures and tables; that of its variant. */
  colour: string;
  /** null: the dense model. */
  methodId: string | null;
  /** Asked fraction of the prunable parameters to remove. */
  asked: number;
  /** The cell of its first record. */
  cell: Cell;
  /** Finished runs, by seed. */
  runs: DoneRecord[];
  seeds: number[];
  failures: FailedRecord[];
  values: Map<string, Estimate>;
  /** The value of each seed, by column. */
  bySeed: Map<string, Map<number, number>>;
  /** What paired tests compare, by column: one number per window, document or example (mean over seeds), scaled so
   * that their plain mean is the quantity of the column (for perplexity: its logarithm). */
  paired: Map<string, number[]>;
  /** Throughput over the dense model's on the same machine, by column. For the dense row it is that of the model over
   * itself, measured in the same way, where repeats alternated. */
  speedUps: Map<string, Estimate>;
}

/** Rows that may be compared: one model (by hash of its weights) on one engine in one arithmetic. */
export interface Section {
  model: string;
  /** Whether this is the bundled model, whose numbers show that the harness works and no more. */
  demonstration: boolean;
  engine: string;
  /** How products were taken. */
  arithmetic: Arithmetic;
  /** null if no cell finished. */
  weightsSha256: string | null;
  columns: Column[];
  speeds: Column[];
  /** Dense first, then by asked level and method. */
  rows: Row[];
  dense?: Row;
  /** Rows of pruned models that have results. */
  pruned: Row[];
  runs: DoneRecord[];
}

/** Everything that determines a cell's model, except level, seed, model, engine and arithmetic. */
function pruning(cell: Cell): object {
  if (cell.method === null) return { method: null };
  const { model: _m, engine: _e, arithmetic: _a, requestEncoding: _r, checkpoint: _c, ...own } = pruningOf(cell);
  const { sparsity: _level, seed: _seed, method, methodFile, ...rest } = own;
  return {
    ...rest,
    method: method && { id: method.id, version: method.version, options: method.options },
    file: methodFile?.sha256,
  };
}

/** Whether a row is the dense model. */
export const isDense = ({ methodId }: Pick<Row, "methodId">): boolean => methodId === null;
/** Whether a row has a finished run. */
export const hasRuns = ({ runs }: Row): boolean => runs.length > 0;

/** The level of `rows` in words; models that were pruned elsewhere had no target. */
export const levelWords = (asked: number, rows: readonly Row[]): string =>
  rows.every(({ cell }) => cell.checkpoint) ? `${level(asked)} removed` : `target ${level(asked)}`;

type RowRecords = Pick<Row, "key" | "variant" | "label" | "cell"> & { records: CellRecord[] };

function buildRow({ records, cell, ...names }: RowRecords, { primaryMetrics }: Definitions): [Row, Column[]] {
  const runs = records.filter((record) => record.state === "done")
    .sort((a, b) => a.cell.seed - b.cell.seed || (a.startedAt < b.startedAt ? -1 : 1));
  const measured = runs.flatMap((run) =>
    measurements(run, primaryMetrics).map((one) => ({ ...one, seed: run.cell.seed }))
  );
  const found = [...Map.groupBy(measured, ({ column }) => column.key)].map(([key, own]) => {
    // Of two runs with the same seed that measured the same thing, the later one counts.
    const bySeed = new Map(own.map((one) => [one.seed, one]));
    return { key, bySeed, perSeed: [...bySeed.values()] };
  });
  /** What `pick` makes of each column's results, by column. */
  const byColumn = <T>(pick: (one: typeof found[number]) => T | undefined) =>
    new Map(found.flatMap((one) => {
      const value = pick(one);
      return value === undefined ? [] : [[one.key, value] as const];
    }));
  const row: Row = {
    ...names,
    colour: NEUTRAL.dense,
    cell,
    methodId: cell.method?.id ?? null,
    asked: cell.method === null ? 0 : cell.sparsity,
    runs,
    seeds: unique(runs.map(({ cell }) => cell.seed)),
    failures: records.filter((record) => record.state === "failed"),
    values: byColumn(({ perSeed }) => estimate(perSeed)),
    bySeed: byColumn(({ bySeed }) => new Map([...bySeed].map(([seed, { value }]) => [seed, value]))),
    paired: byColumn(({ perSeed }) => pairedMean(perSeed)),
    speedUps: byColumn(({ perSeed }) => alternatedSpeedUp(perSeed)),
  };
  return [row, measured.map(({ column }) => column)];
}

const KIND_ORDER = ["throughput", "perplexity", "task", "mean-accuracy"];
/** LLM-Pruner's order of corpora and tasks; names not in it come after, by alphabet. */
const NAME_ORDER = ["wikitext2", "ptb", "c4"].concat(
  ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"],
);
const nameRank = (name: string) => NAME_ORDER.includes(name) ? NAME_ORDER.indexOf(name) : NAME_ORDER.length;

/** Records by row, each with its label. */
function groupRows(records: CellRecord[]): RowRecords[] {
  const variants = Map.groupBy(records, ({ cell }) => canonicalJson(pruning(cell)));
  const cells = [...variants.values()].flatMap(([first]) => first === undefined ? [] : [first.cell]);
  const labels = labelCells(cells);
  return [...variants].flatMap(([variant, own], i) => {
    const byLevel = Map.groupBy(own, ({ cell }) => cell.method === null ? 0 : cell.sparsity);
    return [...byLevel].flatMap(([asked, group]) => {
      const [first] = group;
      if (first === undefined) return [];
      return [{ key: `${asked} ${variant}`, variant, label: at(labels, i), cell: first.cell, records: group }];
    });
  });
}

/** Gives each row that has no alternated speed-up the ratio of its throughput and the dense model's. */
function addRatios(rows: readonly Row[], speeds: readonly Column[]): void {
  const dense = rows.find(isDense);
  for (const { key } of speeds) {
    const base = dense?.values.get(key);
    for (const row of rows) {
      const own = row.values.get(key);
      if (base === undefined || own === undefined || row.speedUps.has(key)) continue;
      row.speedUps.set(key, row === dense ? { ...own, value: 1, spread: null } : ratio(own, base));
    }
  }
}

function buildSection(first: CellRecord, others: CellRecord[], definitions: Definitions): Section {
  const { displays } = definitions;
  const built = groupRows([first, ...others]).map((group) => buildRow(group, definitions));
  const found = new Map(built.flatMap(([, columns]) => columns.map((column) => [column.key, column])));
  const columns = [...found.values()].sort((a, b) =>
    KIND_ORDER.indexOf(a.kind) - KIND_ORDER.indexOf(b.kind) ||
    nameRank(a.name) - nameRank(b.name) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0) ||
    Number(b.primary) - Number(a.primary) ||
    (a.key < b.key ? -1 : 1)
  );
  const speeds = columns.filter(({ kind }) => kind === "throughput");
  const orderOf = ({ methodId }: Row) => displays.get(methodId ?? "")?.order ?? Number.MAX_SAFE_INTEGER;
  const rows = built.map(([row]) => row).sort((a, b) =>
    Number(a.methodId !== null) - Number(b.methodId !== null) || a.asked - b.asked ||
    orderOf(a) - orderOf(b) || (a.label < b.label ? -1 : 1)
  );
  const colourOf = colours(rows, displays);
  for (const row of rows) row.colour = colourOf.get(row.variant) ?? NEUTRAL.dense;
  addRatios(rows, speeds);
  const { model, engine, arithmetic = "exact" } = first.cell;
  const finished = rows.filter(hasRuns);
  const runs = rows.flatMap(({ runs }) => runs);
  return {
    model: baseName(model),
    demonstration: model === "tiny",
    engine,
    arithmetic,
    weightsSha256: runs[0]?.weights.sha256 ?? null,
    columns,
    speeds,
    rows,
    dense: finished.find(isDense),
    pruned: finished.filter((row) => !isDense(row)),
    runs,
  };
}

/** Sections of a run's records, in order of model, engine and arithmetic, with their failed cells. Weights that
 * differ by hash are never in one section. */
export function buildSections(records: readonly CellRecord[], definitions: Definitions): Section[] {
  const inOrder = <T>(groups: Map<string, T>): T[] =>
    [...groups].sort(([a], [b]) => a < b ? -1 : 1).map(([, own]) => own);
  const places = Map.groupBy(
    records,
    ({ cell }) => canonicalJson([cell.model, cell.engine, cell.arithmetic ?? "exact"]),
  );
  return inOrder(places).flatMap((own) => {
    const failed = own.filter((record) => record.state === "failed");
    const done = own.filter((record) => record.state === "done");
    const [start = [], ...rest]: CellRecord[][] = inOrder(Map.groupBy(done, ({ weights }) => weights.sha256));
    return [[...start, ...failed], ...rest].flatMap(([first, ...others]) =>
      first === undefined ? [] : [buildSection(first, others, definitions)]
    );
  });
}
