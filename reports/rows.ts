/** Records to rows: sections of one model on one engine, one row per method and level, one column per measurement
 * that may be compared.
 *
 * @module
 */
import type { Cell, CellRecord, DoneRecord, FailedRecord } from "../core/schema.ts";
import { mean, sampleSd } from "../core/stats.ts";
import { baseName, type Column, type Measurement, measurements } from "./measurements.ts";
import { methodRank } from "./palette.ts";

/** A value with its spread. */
export interface Estimate {
  value: number;
  /** Sample standard deviation over seeds or repeats, or standard error of one run; null if unknown. */
  spread: number | null;
  spreadOf: "seeds" | "stderr" | "repeats";
  /** Number of seeds or repeats. */
  n: number;
}

/** All runs of one method at one level. */
export interface Row {
  label: string;
  /** null: the dense model. */
  methodId: string | null;
  /** Asked fraction of the prunable parameters to remove. */
  asked: number;
  /** Finished runs, by seed. */
  runs: DoneRecord[];
  seeds: number[];
  failures: FailedRecord[];
  values: Map<string, Estimate>;
  /** What paired tests compare, by column: one number per window or example (mean over seeds), scaled so that their
   * plain mean is the quantity of the column (for perplexity: nats per token). */
  paired: Map<string, number[]>;
  /** Throughput over the dense model's on the same machine, by column. */
  speedUps: Map<string, Estimate>;
}

/** Rows that may be compared: one model (by hash of its weights) on one engine. */
export interface Section {
  model: string;
  /** Whether this is the bundled model, whose numbers show that the harness works and no more. */
  demonstration: boolean;
  engine: string;
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

function estimate(perSeed: Measurement[]): Estimate {
  const timed = perSeed.flatMap(({ value, repeats }) => repeats && repeats.n > 0 ? [{ value, repeats }] : []);
  if (timed.length > 0) return poolRepeats(timed);
  const values = perSeed.map(({ value }) => value);
  if (values.length === 1) return { value: values[0], spread: perSeed[0].stderr, spreadOf: "stderr", n: 1 };
  return { value: mean(values), spread: sampleSd(values), spreadOf: "seeds", n: values.length };
}

/** Mean over seeds of each window's or example's number; null where a seed lacks them. */
function pairedMean(perSeed: Measurement[]): number[] | null {
  const all = perSeed.map(({ paired }) => paired ?? []);
  if (all[0].length === 0 || all.some(({ length }) => length !== all[0].length)) return null;
  return all[0].map((_, i) => mean(all.map((own) => own[i])));
}

/** Ratio of two independent throughputs; relative standard deviations add in quadrature (delta method). */
function ratio(own: Estimate, dense: Estimate): Estimate {
  const value = own.value / dense.value;
  const spread = own.spread === null || dense.spread === null
    ? null
    : value * Math.hypot(own.spread / own.value, dense.spread / dense.value);
  return { value, spread, spreadOf: "repeats", n: Math.min(own.n, dense.n) };
}

/** Fields of a cell that say what is pruned or what is measured, not how it is pruned. */
const NOT_OPTIONS = new Set(
  ["model", "engine", "method", "methodFile", "sparsity", "seed", "perplexity", "tasks", "limit", "throughput"],
);

/** Nested values as flat `name: text` pairs. */
function flatten(name: string, value: unknown): [string, string][] {
  if (Array.isArray(value)) {
    return [[
      name,
      value.every((item) => typeof item === "string") ? value.join("+") : JSON.stringify(value),
    ]];
  }
  if (typeof value !== "object" || value === null) return [[name, String(value)]];
  return Object.entries(value).flatMap(([key, inner]) => flatten(name === "" ? key : `${name}.${key}`, inner));
}

/** Everything that decides how a cell is pruned. */
function planOptions(cell: Cell): Record<string, string> {
  const rest = Object.fromEntries(Object.entries(cell).filter(([name]) => !NOT_OPTIONS.has(name)));
  const file = cell.methodFile ? { file: cell.methodFile.sha256.slice(0, 8) } : {};
  return Object.fromEntries([...flatten("", cell.method?.options ?? {}), ...flatten("", { ...rest, ...file })]);
}

/** The value of option `name` that more than half of the variants have, if all have one: it needs no mention. */
function usualValue(variants: Record<string, string>[], name: string): string | undefined {
  const values = variants.map((options) => options[name]);
  if (values.includes(undefined as unknown as string)) return undefined;
  return values.find((value) => 2 * values.filter((other) => other === value).length > values.length);
}

/** A label per cell: the method's id, and where a method occurs with several options, those that are not the usual ones. */
function labeller(cells: Cell[]): (cell: Cell) => string {
  const variants = new Map<string, Map<string, Record<string, string>>>();
  for (const cell of cells) {
    if (cell.method === null) continue;
    const options = planOptions(cell);
    const own = variants.get(cell.method.id) ?? new Map();
    variants.set(cell.method.id, own.set(JSON.stringify(options), options));
  }
  return (cell) => {
    if (cell.method === null) return "dense";
    const own = [...variants.get(cell.method.id)!.values()];
    const options = Object.entries(planOptions(cell)).filter(([name, value]) => value !== usualValue(own, name));
    const shown = options.filter(([name, value]) => own.some((other) => other[name] !== value))
      .map(([name, value]) => `${name}=${value}`);
    return cell.method.id + (shown.length > 0 ? ` (${shown.join(", ")})` : "");
  };
}

function buildRow(label: string, records: CellRecord[]): { row: Row; columns: Column[] } {
  const runs = records.filter((record) => record.state === "done")
    .sort((a, b) => a.cell.seed - b.cell.seed || (a.startedAt < b.startedAt ? -1 : 1));
  // Of two runs with the same seed that measured the same thing, the later one counts.
  const found = new Map<string, { column: Column; perSeed: Map<number, Measurement> }>();
  for (const run of runs) {
    for (const measurement of measurements(run)) {
      const entry = found.get(measurement.column.key) ?? { column: measurement.column, perSeed: new Map() };
      entry.perSeed.set(run.cell.seed, measurement);
      found.set(measurement.column.key, entry);
    }
  }
  const { method, sparsity } = records[0].cell;
  const paired = [...found].flatMap(([key, { perSeed }]) => {
    const numbers = pairedMean([...perSeed.values()]);
    return numbers === null ? [] : [[key, numbers] as const];
  });
  const row: Row = {
    label,
    methodId: method?.id ?? null,
    asked: method === null ? 0 : sparsity,
    runs,
    seeds: [...new Set(runs.map(({ cell }) => cell.seed))],
    failures: records.filter((record) => record.state === "failed"),
    values: new Map([...found].map(([key, { perSeed }]) => [key, estimate([...perSeed.values()])])),
    paired: new Map(paired),
    speedUps: new Map(),
  };
  return { row, columns: [...found.values()].map(({ column }) => column) };
}

const KIND_ORDER = ["throughput", "perplexity", "task", "mean-accuracy"];
/** LLM-Pruner's order of corpora and tasks; names not in it come after, by alphabet. */
const NAME_ORDER = ["wikitext2", "ptb", "c4"].concat(
  ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"],
);
const nameRank = (name: string) => NAME_ORDER.includes(name) ? NAME_ORDER.indexOf(name) : NAME_ORDER.length;

function buildSection(records: CellRecord[]): Section {
  const label = labeller(records.map(({ cell }) => cell));
  const groups = Map.groupBy(records, (record) => {
    const own = label(record.cell);
    return own === "dense" ? own : `${record.cell.sparsity} ${own}`;
  });
  const built = [...groups.values()].map((group) => buildRow(label(group[0].cell), group));
  const columns = new Map<string, Column>();
  for (const { columns: own } of built) for (const column of own) columns.set(column.key, column);
  const rows = built.map(({ row }) => row).sort((a, b) =>
    Number(a.methodId !== null) - Number(b.methodId !== null) || a.asked - b.asked ||
    methodRank(a.methodId ?? "") - methodRank(b.methodId ?? "") || (a.label < b.label ? -1 : 1)
  );
  const dense = rows.find((row) => row.methodId === null);
  for (const row of rows) {
    for (const [key, own] of row.values) {
      const base = columns.get(key)!.kind === "throughput" ? dense?.values.get(key) : undefined;
      if (base === undefined) continue;
      row.speedUps.set(key, row === dense ? { ...own, value: 1, spread: null } : ratio(own, base));
    }
  }
  const { model, engine } = records[0].cell;
  const done = records.find((record) => record.state === "done");
  return {
    model: baseName(model),
    demonstration: model === "tiny",
    engine,
    weightsSha256: done?.weights.sha256 ?? null,
    columns: [...columns.values()].sort((a, b) =>
      KIND_ORDER.indexOf(a.kind) - KIND_ORDER.indexOf(b.kind) ||
      nameRank(a.name) - nameRank(b.name) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0) ||
      Number(b.primary) - Number(a.primary) ||
      (a.key < b.key ? -1 : 1)
    ),
    rows,
  };
}

/** Sections of a run's records, in order of model and engine. Failed cells join the section of their model and
 * engine. Records of one model whose weights differ by hash are never put into one section. */
export function buildSections(records: CellRecord[]): Section[] {
  const places = Map.groupBy(records, ({ cell }) => JSON.stringify([cell.model, cell.engine]));
  const sections: Section[] = [];
  for (const place of [...places.keys()].sort()) {
    const own = places.get(place)!;
    const failed = own.filter((record) => record.state === "failed");
    const bySha = Map.groupBy(
      own.filter((record) => record.state === "done"),
      (record) => record.weights.sha256,
    );
    const groups = [...bySha.keys()].sort().map((sha): CellRecord[] => bySha.get(sha)!);
    if (groups.length === 0) groups.push([]);
    groups[0].push(...failed);
    for (const group of groups) sections.push(buildSection(group));
  }
  return sections;
}
