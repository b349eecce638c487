/** Data of the page over many runs: rows, columns and cells, made by the code of the reports.
 *
 * @module
 */
import { cellName, corpusLabel, labelCells } from "../../core/schema/cell_names.ts";
import { type Cell, type DoneRecord, PAPER_TABLES } from "../../core/schema/schema.ts";
import { evenlySpaced } from "../../core/util/stats.ts";
import { measureOf } from "../beside_paper.ts";
import { BUDGET_WORDS } from "../budget.ts";
import type { Column } from "../columns.ts";
import { failureFacts } from "../details.ts";
import { boundsOf, type Estimate } from "../estimates.ts";
import { level, quoted } from "../format.ts";
import { PAPER_TABLE, publishedRows } from "../paper/published.ts";
import { colours } from "../palette.ts";
import { placeWords, protocol, protocolCaption } from "../protocol.ts";
import { deviceHours, meanOf, measured, qualityCell, qualityUnit } from "../result_tables.ts";
import { hasRuns, isDense, type Row, type Section } from "../sections.ts";
import {
  compensationOf,
  environmentOf,
  type Fact,
  recoveryOf,
  SETTINGS,
  settingsOf,
  settingText,
  trainingDone,
} from "../settings.ts";

/** The examples of a task, in a script beside the page. */
export interface LoggedTask {
  task: string;
  file: string;
}

/** A run as the page shows it. */
export interface SiteRun {
  /** Unique among the runs of a page. */
  name: string;
  /** Its folder, for commands. */
  folder: string;
  /** Address of its folder from the page, ending with a slash. */
  address: string;
  sections: readonly Section[];
  /** Tasks with logged examples, by cell id. */
  samples: ReadonlyMap<string, readonly LoggedTask[]>;
}

/** A list of numbers: the distinct ones and a character for each entry, or the numbers where they hardly repeat. */
type Packed = number[] | { values: number[]; codes: string };

const DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/** Packs numbers for the page, which needs no more than nine digits of them. */
function packed(numbers: readonly number[]): Packed {
  const rounded = numbers.map((value) => Number(value.toPrecision(9)));
  const values = [...new Set(rounded)];
  if (values.length > DIGITS.length || 2 * values.length > rounded.length) return rounded;
  const code = new Map(values.map((value, i) => [value, DIGITS.charAt(i)]));
  return { values, codes: rounded.map((value) => code.get(value)).join("") };
}

const rounded = (value: number): number => Number(value.toPrecision(6));

/** What a chart and a test need of an estimate, and how tables write it. */
function valueOf(estimate: Estimate, text: { text: string; spread: string }) {
  const { value, spreadOf, n } = estimate;
  return { value, bounds: boundsOf(estimate)?.map(rounded) ?? null, spreadOf, n, text: text.text, spread: text.spread };
}

/** Most points of a training curve. */
const CURVE_POINTS = 60;

type LayerWidths = DoneRecord["size"]["layers"][number];

const GONE: LayerWidths = { kvGroups: 0, queryHeadsPerGroup: 0, ffnChannels: 0 };

/** What a run kept of each layer of the dense model; a removed layer has width 0. */
function keptOfLayers({ size, denseSize, plan }: DoneRecord): LayerWidths[] {
  if (size.layers.length === denseSize.layers.length) return size.layers;
  const left = size.layers.values();
  return plan.layers.map(({ ffnChannels }) => ffnChannels.length === 0 ? GONE : left.next().value ?? GONE);
}

function cellOf(record: DoneRecord, { folder, address, samples }: SiteRun) {
  const { cell: { seed }, id, startedAt, seconds, timings, memory, training = [], denseSize } = record;
  const name = cellName(record);
  const path = `records/${name}.json.gz`;
  const parts = (kept: (layer: LayerWidths) => number) =>
    keptOfLayers(record).map((layer, l) => rounded(kept(layer) / kept(denseSize.layers[l] ?? layer)));
  return {
    id,
    seed,
    startedAt,
    seconds,
    timings,
    peak: { bytes: memory.peakBytes, measure: memory.measure },
    record: address + path.split("/").map(encodeURIComponent).join("/"),
    reproduce: `deno task bench reproduce ${quoted(`${folder}/${path}`)}`,
    exported: `deno task bench export ${quoted(name)} --run ${quoted(folder)} --format hf`,
    ffn: parts(({ ffnChannels }) => ffnChannels),
    heads: parts(({ kvGroups, queryHeadsPerGroup }) => kvGroups * queryHeadsPerGroup),
    curves: training.map(({ stage, curve }) => ({
      stage,
      points: evenlySpaced(curve, CURVE_POINTS).map(({ step, loss }) => [step, rounded(loss)]),
    })),
    environment: environmentOf(record),
    samples: samples.get(id) ?? [],
  };
}

const UNITS = SETTINGS.find(({ name }) => name === "units")!;

/** By which a reader filters. */
function filtersOf(row: Row, section: Section, { name }: SiteRun): Record<string, string> {
  const { cell: { training, calibration }, runs: [first] } = row;
  const text = training === undefined ? "none" : corpusLabel(training.corpus ?? calibration.corpus);
  return {
    model: section.model,
    run: name,
    method: row.methodId ?? "dense",
    budget: isDense(row) ? "dense" : BUDGET_WORDS[row.cell.budget ?? "parameters"].long,
    level: isDense(row) ? "dense" : level(row.asked),
    recovery: isDense(row) ? "dense" : recoveryOf(row).title || "none",
    compensation: isDense(row) ? "dense" : compensationOf(row).title || "none",
    "training text": text,
    units: isDense(row) ? "dense" : settingText(UNITS, row),
    tokens: trainingDone(first?.training).tokens.toLocaleString("en"),
    engine: section.engine,
    arithmetic: section.arithmetic,
    machine: first ? `${first.environment.device}, ${first.environment.cpu}` : "unknown",
  };
}

function rowOf(
  row: Row,
  { section, run, label, at }: { section: Section; run: SiteRun; label: string; at: (column: Column) => number },
) {
  const mean = (pick: (record: DoneRecord) => number) => meanOf(row, pick);
  const estimates = section.columns.flatMap((column) => {
    const estimate = row.values.get(column.key);
    if (estimate === undefined) return [];
    const text = column.kind === "throughput" ? measured(estimate, 1, [4, 2]) : qualityCell(column, row);
    return [[at(column), valueOf(estimate, text)] as const];
  });
  const speedUps = section.speeds.flatMap((column) => {
    const estimate = row.speedUps.get(column.key);
    return estimate === undefined ? [] : [[at(column), valueOf(estimate, measured(estimate, 1, [3, 2]))] as const];
  });
  return {
    id: `${run.name}:${row.runs[0]?.id}`,
    label,
    methodId: row.methodId,
    asked: row.asked,
    seeds: row.seeds,
    filters: filtersOf(row, section, run),
    size: {
      parameters: mean(({ size }) => size.parameters),
      macs: mean(({ size }) => size.macs64),
      weights: mean(({ size }) => size.weightBytes),
      removed: mean(({ size }) => size.sparsityOfPrunable),
    },
    tokens: mean(({ training }) => trainingDone(training).tokens),
    cost: {
      pruneS: mean(({ timings }) => timings.pruneS),
      learnS: mean(({ timings }) => timings.learnS),
      deviceHours: deviceHours(row),
    },
    values: estimates,
    speedUps,
    bySeed: section.columns.flatMap((column) => {
      const own = row.bySeed.get(column.key);
      return own === undefined || row.seeds.length < 2 ? [] : [[at(column), [...own]] as const];
    }),
    // The mean accuracy's numbers are those of its tasks with weights.
    paired: section.columns.flatMap((column) => {
      const own = column.primary ? row.paired.get(column.key) : undefined;
      return own === undefined ? [] : [[at(column), packed(own)] as const];
    }),
    settings: settingsOf(row),
    cells: row.runs.map((record) => cellOf(record, run)),
  };
}

/** Tasks in the mean of every published table that has one. */
const PUBLISHED_TASKS = 7;

/** Numbers of papers, with their sources and what differs. */
function published() {
  return PAPER_TABLES.flatMap((id) =>
    publishedRows(id).flatMap(({ label, sparsity, values, source }) => {
      const known = [...values].filter(([, value]) => value !== null);
      const { model, title, differences } = PAPER_TABLE[id];
      return known.length === 0 ? [] : [{ label, sparsity, values: known, source, model, title, differences }];
    })
  );
}

/** A cell without the settings that have filters on the page. */
function withoutFiltered(
  { recover: _r, compensate: _c, training: _t, weights: _w, budget: _b, latency: _l, ...cell }: Cell,
): Cell {
  return { ...cell, units: ["ffn", "kv-groups"], calibration: { corpus: "", sequences: 1, tokens: 2 } };
}

/** Names of rows over all runs of a model: a report's names omit options that all its rows share, but other runs may
 * differ. If two rows of a section and level would get one name, they keep their report's. */
function labelsOf(runs: readonly SiteRun[]): Map<Row, string> {
  const sections = runs.flatMap(({ sections }) => sections);
  const models = Map.groupBy(sections, ({ model, weightsSha256 }) => weightsSha256 ?? model);
  const labels = new Map([...models.values()].flatMap((own) => {
    const rows = own.flatMap((section) => section.rows);
    const names = labelCells(rows.map(({ cell }) => withoutFiltered(cell)));
    return rows.map((row, i) => [row, names[i] ?? row.label] as const);
  }));
  const isShared = (row: Row, own: readonly Row[]) =>
    own.some((other) => other !== row && other.asked === row.asked && labels.get(other) === labels.get(row));
  return new Map(
    sections.flatMap((section) =>
      section.rows.map((row) => [row, isShared(row, section.rows) ? row.label : labels.get(row) ?? row.label] as const)
    ),
  );
}

/** One colour per name on the whole page: the first name of a method has its colour, others have spare ones. */
function coloursOf(labels: ReadonlyMap<Row, string>): Map<string, string> {
  // The shortest name of a method is that with most defaults.
  const named = [...labels].map(([{ methodId, colour }, variant]) => ({ methodId, colour, variant }))
    .sort((a, b) => a.variant.length - b.variant.length);
  const displays = new Map(named.toReversed().map(({ methodId, colour }) => [methodId ?? "", { order: 0, colour }]));
  return colours(named, displays);
}

/** The page's data: columns, which rows name by their places, sections of rows, failures and published numbers. Rows
 * without a finished cell are told as failures. */
export function siteData(runs: readonly SiteRun[]): object {
  const columns: (Column & { unit: string; measure: string })[] = [];
  const numbers = new Map<string, number>();
  /** Place of a column among those of the page; columns of equal keys hold comparable numbers. */
  const at = (column: Column): number => {
    const known = numbers.get(column.key);
    if (known !== undefined) return known;
    numbers.set(column.key, columns.length);
    const unit = column.kind === "throughput" ? column.metric : qualityUnit(column);
    return columns.push({ ...column, unit, measure: measureOf(column, PUBLISHED_TASKS) }) - 1;
  };
  const labels = labelsOf(runs);
  const colourOf = coloursOf(labels);
  const failures: Fact[] = [];
  const sections = runs.flatMap((run) =>
    run.sections.map((section) => {
      failures.push(...failureFacts(section).map(({ name, text }) => ({ name: `${run.name}: ${name}`, text })));
      return {
        run: run.name,
        title: `${section.model} on ${placeWords(section)}`,
        weights: section.weightsSha256,
        demonstration: section.demonstration,
        caption: protocolCaption(section),
        protocol: protocol(section),
        rows: section.rows.filter(hasRuns).map((row) => {
          const label = labels.get(row) ?? row.label;
          return { ...rowOf(row, { section, run, label, at }), colour: colourOf.get(label) ?? row.colour };
        }),
      };
    })
  );
  return { columns, sections, failures, published: published() };
}
