/** Records to rows: sections of one model on one engine in one arithmetic, one row per method and level, one column per measurement
 * that may be compared.
 *
 * @module
 */
import { canonicalJson, labelCells } from "../core/schema/cell_names.ts";
import { at } from "../core/util/indexing.ts";
import {
  type Arithmetic,
  type Cell,
  type CellRecord,
  type DoneRecord,
  type FailedRecord,
  pruningOf,
} from "../core/schema/schema.ts";
import { mean, sampleSd, studentT95 } from "../core/util/stats.ts";
import { baseName, level } from "./format.ts";
import { type Column, type Measurement, measurements, withFolders } from "./columns.ts";
import { colours, type Display, NEUTRAL } from "./palette.ts";

/** What the definitions of methods and tasks say, which reports do not import. */
export interface Definitions {
  /** By method id; methods without one come last, in spare colours. */
  displays: ReadonlyMap<string, Display>;
  /** The metric that stands for a task in tables and means, by task id; `acc` when absent. */
  primaryMetrics: ReadonlyMap<string, string>;
}

/** A value with its spread. */
export interface Estimate {
  value: number;
  /** Sample standard deviation over seeds or repeats, or standard error of one run; null if unknown. */
  spread: number | null;
  /** In the place of a spread: a 95 % interval, whose ends need not be equally far from the value. */
  interval?: readonly [low: number, high: number];
  spreadOf: "seeds" | "stderr" | "repeats" | "interval";
  /** Number of seeds or repeats. */
  n: number;
}

/** The ends of an estimate's interval, or so many spreads below and above it; null where neither is known. */
export const boundsOf = (
  { value, spread, interval }: Estimate,
  spreads = 1,
): readonly [low: number, high: number] | null =>
  interval ?? (spread === null ? null : [value - spreads * spread, value + spreads * spread]);

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
  /** What paired tests compare, by column: one number per window, document or example (mean over seeds), scaled so that
   * their plain mean is the quantity of the column (for perplexity: its logarithm). */
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
  /** Dense first, then by asked level and method. */
  rows: Row[];
}

/** Mean and sample standard deviation of all repeats of several runs, from each run's own. */
function poolRepeats(runs: { value: number; repeats: { sd: number; n: number } }[]): Estimate {
  const n = runs.reduce((sum, { repeats }) => sum + repeats.n, 0);
  const value = runs.reduce((sum, run) => sum + run.value * run.repeats.n, 0) / n;
  const squares = runs.reduce(
    (sum, { value: own, repeats }) => sum + (repeats.n - 1) * repeats.sd ** 2 + repeats.n * (own - value) ** 2,
    0,
  );
  return { value, spread: n > 1 ? Math.sqrt(squares / (n - 1)) : null, spreadOf: "repeats", n };
}

/** Measurements of repeats, each once, whoever shares it. */
function timings(perSeed: Measurement[]): { value: number; repeats: NonNullable<Measurement["repeats"]> }[] {
  const timed = perSeed.flatMap(({ value, repeats }) => repeats && repeats.n > 0 ? [{ value, repeats }] : []);
  return [...new Map(timed.map((one) => [one.repeats.timed, one])).values()];
}

function estimate(perSeed: Measurement[]): Estimate {
  const timed = timings(perSeed);
  if (timed.length > 0) return poolRepeats(timed);
  const values = perSeed.map(({ value }) => value);
  const [first] = perSeed;
  if (first !== undefined && values.length === 1) {
    return { value: first.value, spread: first.stderr, spreadOf: "stderr", n: 1 };
  }
  return { value: mean(values), spread: sampleSd(values), spreadOf: "seeds", n: values.length };
}

/** Mean over seeds of each window's or example's number; null where a seed lacks them. */
function pairedMean(perSeed: Measurement[]): number[] | null {
  const [first = [], ...others] = perSeed.map(({ paired }) => paired ?? []);
  if (first.length === 0 || others.some(({ length }) => length !== first.length)) return null;
  return first.map((value, i) => mean([value, ...others.map((own) => at(own, i))]));
}

/** Speed-up from repeats that alternated with the dense model's: the geometric mean of the ratios of neighbours, with
 * the 95 % interval that Student's t gives their logarithms; undefined where some did not alternate. */
function alternatedSpeedUp(perSeed: Measurement[]): Estimate | undefined {
  const logs = timings(perSeed).map(({ repeats }) => repeats.logSpeedUps);
  if (logs.length === 0 || logs.some((own) => own === undefined)) return undefined;
  const all = logs.flatMap((own) => own ?? []);
  const center = mean(all);
  const half = studentT95(all.length - 1) * sampleSd(all) / Math.sqrt(all.length);
  return {
    value: Math.exp(center),
    spread: null,
    interval: [Math.exp(center - half), Math.exp(center + half)],
    spreadOf: "interval",
    n: all.length,
  };
}

/** Ratio of two independent throughputs; relative standard deviations add in quadrature (delta method). */
function ratio(own: Estimate, dense: Estimate): Estimate {
  const value = own.value / dense.value;
  const spread = own.spread === null || dense.spread === null
    ? null
    : value * Math.hypot(own.spread / own.value, dense.spread / dense.value);
  return { value, spread, spreadOf: "repeats", n: Math.min(own.n, dense.n) };
}

/** Everything that decides a cell's model, but for level and seed and for what its section has: model, engine, arithmetic,
 * and how requests are encoded. */
function pruning(cell: Cell): object {
  if (cell.method === null) return { method: null };
  const { model: _m, engine: _e, arithmetic: _a, requestEncoding: _r, checkpoint: _c, ...own } = pruningOf(cell);
  const { sparsity: _level, seed: _seed, method, methodFile, ...rest } = own;
  return { ...rest, method: method && { id: method.id, options: method.options }, file: methodFile?.sha256 };
}

/** Whether a row is the dense model. */
export const isDense = ({ methodId }: Pick<Row, "methodId">): boolean => methodId === null;
/** Whether a row has a finished run. */
export const hasRuns = ({ runs }: Row): boolean => runs.length > 0;

/** The level of `rows` in words: of models that were pruned elsewhere, nothing was asked. */
export const levelWords = (asked: number, rows: readonly Row[]): string =>
  `${level(asked)} ${rows.every(({ cell }) => cell.checkpoint) ? "removed" : "asked"}`;

function buildRow(
  { key, variant, label, cell, records }: Pick<Row, "key" | "variant" | "label" | "cell"> & { records: CellRecord[] },
  { primaryMetrics }: Definitions,
): { row: Row; columns: Column[] } {
  const runs = records.filter((record) => record.state === "done")
    .sort((a, b) => a.cell.seed - b.cell.seed || (a.startedAt < b.startedAt ? -1 : 1));
  // Of two runs with the same seed that measured the same thing, the later one counts.
  const found = new Map<string, { column: Column; perSeed: Map<number, Measurement> }>();
  for (const run of runs) {
    for (const measurement of measurements(run, primaryMetrics)) {
      const entry = found.get(measurement.column.key) ?? { column: measurement.column, perSeed: new Map() };
      entry.perSeed.set(run.cell.seed, measurement);
      found.set(measurement.column.key, entry);
    }
  }
  const { method, sparsity } = cell;
  const paired = [...found].flatMap(([key, { perSeed }]) => {
    const numbers = pairedMean([...perSeed.values()]);
    return numbers === null ? [] : [[key, numbers] as const];
  });
  const row: Row = {
    key,
    variant,
    label,
    colour: NEUTRAL.dense,
    cell,
    methodId: method?.id ?? null,
    asked: method === null ? 0 : sparsity,
    runs,
    seeds: [...new Set(runs.map(({ cell }) => cell.seed))],
    failures: records.filter((record) => record.state === "failed"),
    values: new Map([...found].map(([key, { perSeed }]) => [key, estimate([...perSeed.values()])])),
    bySeed: new Map([...found].map(([key, { perSeed }]) => [
      key,
      new Map([...perSeed].map(([seed, { value }]) => [seed, value])),
    ])),
    paired: new Map(paired),
    speedUps: new Map([...found].flatMap(([key, { perSeed }]) => {
      const own = alternatedSpeedUp([...perSeed.values()]);
      return own === undefined ? [] : [[key, own]];
    })),
  };
  return { row, columns: [...found.values()].map(({ column }) => column) };
}

const KIND_ORDER = ["throughput", "perplexity", "task", "mean-accuracy"];
/** LLM-Pruner's order of corpora and tasks; names not in it come after, by alphabet. */
const NAME_ORDER = ["wikitext2", "ptb", "c4"].concat(
  ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"],
);
const nameRank = (name: string) => NAME_ORDER.includes(name) ? NAME_ORDER.indexOf(name) : NAME_ORDER.length;

/** Records by row, each with its label. */
function groupRows(records: CellRecord[]): Parameters<typeof buildRow>[0][] {
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

function buildSection(first: CellRecord, others: CellRecord[], definitions: Definitions): Section {
  const records = [first, ...others];
  const built = groupRows(records).map((group) => buildRow(group, definitions));
  const columns = new Map<string, Column>();
  for (const { columns: own } of built) for (const column of own) columns.set(column.key, column);
  const { displays } = definitions;
  const orderOf = ({ methodId }: Row) => displays.get(methodId ?? "")?.order ?? Number.MAX_SAFE_INTEGER;
  const rows = built.map(({ row }) => row).sort((a, b) =>
    Number(a.methodId !== null) - Number(b.methodId !== null) || a.asked - b.asked ||
    orderOf(a) - orderOf(b) || (a.label < b.label ? -1 : 1)
  );
  const colourOf = colours(rows, displays);
  for (const row of rows) row.colour = colourOf.get(row.variant) ?? NEUTRAL.dense;
  const dense = rows.find(isDense);
  for (const row of rows) {
    for (const [key, own] of row.values) {
      const base = columns.get(key)?.kind === "throughput" ? dense?.values.get(key) : undefined;
      if (base === undefined || row.speedUps.has(key)) continue;
      row.speedUps.set(key, row === dense ? { ...own, value: 1, spread: null } : ratio(own, base));
    }
  }
  const { model, engine, arithmetic = "exact" } = first.cell;
  const done = records.find((record) => record.state === "done");
  return {
    model: baseName(model),
    demonstration: model === "tiny",
    engine,
    arithmetic,
    weightsSha256: done?.weights.sha256 ?? null,
    columns: withFolders([...columns.values()]).sort((a, b) =>
      KIND_ORDER.indexOf(a.kind) - KIND_ORDER.indexOf(b.kind) ||
      nameRank(a.name) - nameRank(b.name) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0) ||
      Number(b.primary) - Number(a.primary) ||
      (a.key < b.key ? -1 : 1)
    ),
    rows,
  };
}

/** Sections of a run's records, in order of model, engine and arithmetic, whose failed cells join them. Records of one model whose weights differ by hash are never put into one section. */
export function buildSections(records: readonly CellRecord[], definitions: Definitions): Section[] {
  const places = Map.groupBy(
    records,
    ({ cell }) => canonicalJson([cell.model, cell.engine, cell.arithmetic ?? "exact"]),
  );
  return [...places].sort(([a], [b]) => a < b ? -1 : 1).flatMap(([, own]) => {
    const failed = own.filter((record) => record.state === "failed");
    const bySha = Map.groupBy(
      own.filter((record) => record.state === "done"),
      (record) => record.weights.sha256,
    );
    const groups: CellRecord[][] = [...bySha].sort(([a], [b]) => a < b ? -1 : 1).map(([, group]) => group);
    const [start = [], ...rest] = groups;
    return [[...start, ...failed], ...rest].flatMap(([first, ...others]) =>
      first === undefined ? [] : [buildSection(first, others, definitions)]
    );
  });
}
