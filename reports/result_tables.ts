/** The tables of results: what each cell says. Columns are in LLM-Pruner's order: ratio, parameters, MACs, memory,
 * throughput, speed-up, perplexity, tasks, average.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { mean } from "../core/util/stats.ts";
import { budgetsOf, budgetWords, metBudget, MOST_OFF, speedsOf } from "./budget.ts";
import type { Column } from "./columns.ts";
import { type ResultTableId, type TableBlock, type TableCell, type TableColumn, textCell } from "./document.ts";
import { headlineColumns } from "./findings.ts";
import { count, level, mebibytes, NO_VALUE, operations, percent, seconds, span, unique, withSpread } from "./format.ts";
import { type Estimate, isDoubtful } from "./estimates.ts";
import { ALPHA, pairedTest } from "./paired_tests.ts";
import { hasRuns, isDense, levelWords, type Row, type Section } from "./sections.ts";
import { type Ranking, standings } from "./significance.ts";

/** Columns and rows of a table of results. */
export type ResultTable = Pick<TableBlock, "columns" | "rows">;

/** A column with one cell per row. */
interface Strip extends TableColumn {
  cell(row: Row): TableCell;
}

/** A column; by default of numbers without a rank. */
const strip = (
  [id, header, detail, priority]: [string, string, string, number],
  cell: Strip["cell"],
  options: Partial<TableColumn> = {},
): Strip => ({ id, header, detail, priority, numeric: true, better: null, title: header, cell, ...options });

/** Mean over a row's finished runs. */
export const meanOf = (row: Row, pick: (run: Row["runs"][number]) => number): number => mean(row.runs.map(pick));

/** A strip of means over a row's runs. */
const meanStrip = (
  head: [string, string, string, number],
  pick: (run: Row["runs"][number]) => number,
  words: (value: number) => string,
): Strip => strip(head, (row) => textCell(words(meanOf(row, pick)), meanOf(row, pick)));

/** An estimate and its spread as text. */
export function measured(estimate: Estimate | undefined, scale: number, digits: [number, number]): TableCell {
  if (estimate === undefined) return textCell(NO_VALUE);
  const { value, spread, interval, spreadOf } = estimate;
  const show = (x: number) => withSpread(value * scale, x * scale, ...digits).spread;
  const error = spread === null ? "" : spreadOf === "stderr" ? ` (${show(spread)})` : ` ± ${show(spread)}`;
  const words = interval ? ` [${interval.map(show).join(", ")}]` : error;
  return { ...textCell(withSpread(value * scale, null, ...digits).text, value), spread: words };
}

const METHOD = strip(["method", "method", "", 0], ({ label }) => textCell(label, label), { numeric: false });
const askedStrip = (section: Section): Strip =>
  strip(
    ["asked", "target", `of ${budgetWords(section).short}`, 0],
    (row) => textCell(isDense(row) || row.cell.checkpoint ? NO_VALUE : level(row.asked), row.asked),
  );
/** What was met of budgets other than parameters. */
function metStrips(section: Section): Strip[] {
  const budgets = budgetsOf(section);
  if (budgets.every((budget) => budget === "parameters")) return [];
  return [strip(["met", "met, %", `of ${budgetWords(section).short}`, 1], (row) => {
    const met = isDense(row) || row.cell.checkpoint ? undefined : metBudget(row, section.speeds);
    if (met === undefined) return textCell(NO_VALUE);
    return { ...textCell(percent(met.part), met.part), ...Math.abs(met.off) > MOST_OFF && { sign: "≠" as const } };
  })];
}
const REMOVED = strip(["realised", "removed, %", "prunable / model", 1], (row) => {
  const prunable = meanOf(row, ({ size }) => size.sparsityOfPrunable);
  return textCell(`${percent(prunable)} / ${percent(meanOf(row, ({ size }) => size.sparsityOfModel))}`, prunable);
});
/** Layers, and FFN channels of each; from the least to the most where they differ. */
const LAYERS = strip(["layers", "layers × FFN", "channels", 7], ({ runs }) => {
  const depths = runs.map(({ size }) => size.layers.length);
  const widths = runs.flatMap(({ size }) => size.layers.map(({ ffnChannels }) => ffnChannels));
  return textCell(`${span(depths)} × ${span(widths)}`, mean(depths) * mean(widths));
});
const SIZES = [
  LAYERS,
  meanStrip(["parameters", "params", "", 4], ({ size }) => size.parameters, (value) => count(Math.round(value))),
  meanStrip(["macs", "MACs", "64 tokens", 8], ({ size }) => size.macs64, operations),
  meanStrip(["weights", "weights", "MiB", 9], ({ size }) => size.weightBytes, mebibytes),
];

function speedStrips(section: Section, column: Column, isFirst: boolean): Strip[] {
  const { key, name } = column;
  const rate = strip([key, name, "tokens/s", 6], ({ values }) => measured(values.get(key), 1, [4, 2]), {
    better: "higher",
  });
  if (section.dense === undefined) return [rate];
  const speedUp = strip([`speed-up ${key}`, "speed-up", `${name}, × dense`, isFirst ? 2 : 3], (row) => {
    const up = row.speedUps.get(key);
    return { ...measured(up, 1, [3, 2]), ...up && !isDense(row) && isDoubtful(up) && { sign: "?" as const } };
  }, { better: "higher", title: `speed-up ${name}` });
  return [rate, speedUp];
}

/** How far below the dense model's accuracy counts as equal. */
const POINT = 0.01;

/** The speed-up of a method at equal accuracy: where the accuracy, interpolated linearly between the dense model and
 * its `levels`, falls below the line. The interval comes from paired tests of accuracy, not corrected. */
function equalAccuracy(dense: Row, levels: readonly Row[], accuracy: Column, speed: Column): TableCell {
  const pruned = levels.flatMap((row) => {
    const speedUp = row.speedUps.get(speed.key)?.value;
    const test = pairedTest(accuracy, row, dense)?.test;
    return speedUp === undefined || !test ? [] : [{ speedUp, mean: test.mean, ...test.interval(ALPHA) }];
  });
  const [first, last] = [pruned.at(0), pruned.at(-1)];
  if (first === undefined || last === undefined) return textCell(NO_VALUE);
  if (first.mean < -POINT) return textCell("not reached", 0);
  const models = [{ speedUp: 1, mean: 0, low: 0, high: 0 }, ...pruned];
  const crossing = (end: "mean" | "low" | "high") => {
    const below = models.findIndex((model) => model[end] < -POINT);
    if (below < 0) return Infinity;
    const [from, to] = [at(models, below - 1), at(models, below)];
    return from.speedUp + (to.speedUp - from.speedUp) * (from[end] + POINT) / (from[end] - to[end]);
  };
  const show = (x: number) => x === Infinity ? `≥ ${last.speedUp.toFixed(2)}` : x.toFixed(2);
  const value = crossing("mean");
  // Where a level is slower than the one before, the ends are the other way round.
  const ends = [crossing("low"), crossing("high")].sort((a, b) => a - b);
  const spread = ends[0] === Infinity ? "" : ` [${ends.map(show).join(", ")}]`;
  return { ...textCell(show(value), Math.min(value, last.speedUp)), spread };
}

/** What each method would need for equal accuracy: the same at all its levels. */
function equalAccuracyStrips({ dense, pruned }: Section, accuracy: Column, speed: Column): Strip[] {
  if (dense === undefined) return [];
  const variants = [...Map.groupBy(pruned, ({ variant }) => variant)];
  const cells = new Map(variants.map(([name, levels]) => [name, equalAccuracy(dense, levels, accuracy, speed)]));
  const cell = ({ variant }: Row) => cells.get(variant) ?? textCell(NO_VALUE);
  const title = `speed-up ${speed.name} at equal accuracy`;
  return [strip(["equal-accuracy", "equal acc.", `${speed.name}, × dense`, 2], cell, { better: "higher", title })];
}

/** Metric and unit of a quality column. */
export function qualityUnit({ kind, metric, isFraction }: Column): string {
  if (kind === "perplexity") return metric.replace("perplexity", "ppl");
  return kind === "task" ? `${metric}${isFraction ? " %" : ""}` : "%";
}

/** A value of a quality column as the tables show it, with its spread: fractions in percent. */
export const qualityCell = ({ key, isFraction }: Column, { values }: Row): TableCell =>
  isFraction ? measured(values.get(key), 100, [3, 1]) : measured(values.get(key), 1, [4, 2]);

/** @param isHeadline Whether the run is about this column: its first perplexity, and its mean or only accuracy. */
function qualityStrip(column: Column, ranks: Ranking[], isHeadline = false): Strip {
  const { key, kind, name, count, higherIsBetter } = column;
  const standing = new Map(ranks.filter((rank) => rank.column === column).flatMap((rank) => [...standings(rank)]));
  const priority = isHeadline ? 1 : kind === "perplexity" ? 4 : 5;
  const header = kind === "mean-accuracy" ? "mean acc." : name;
  return strip([key, header, `${qualityUnit(column)}, ${count}`, priority], (row) => ({
    ...qualityCell(column, row),
    ...standing.get(row),
  }), { better: higherIsBetter ? "higher" : "lower" });
}

const SEEDS = strip(["seeds", "seeds", "", 7], ({ seeds, failures }) => {
  const failed = new Set(failures.map(({ cell }) => cell.seed)).difference(new Set(seeds)).size;
  return textCell(failed > 0 ? `${seeds.length} of ${seeds.length + failed}` : String(seeds.length), seeds.length);
});

const hasSeveralSeeds = ({ rows }: Section) =>
  rows.some(({ seeds, failures, runs }) => seeds.length > 1 || failures.length > 0 && runs.length > 0);

/** Method and level come first in every table: a failed row has nothing but these. */
function assemble(section: Section, rest: Strip[]): ResultTable {
  const { rows } = section;
  const strips = [METHOD, askedStrip(section), ...rest];
  const groups = Map.groupBy(rows.filter((row) => !isDense(row)), ({ asked }) => asked);
  return {
    columns: strips.map(({ cell: _, ...column }) => column),
    rows: rows.map((row) => {
      const texts = (pick: (failure: Row["failures"][number]["failure"]) => string, gap: string) =>
        `failed: ${unique(row.failures.map(({ failure }) => pick(failure))).join(gap)}`;
      return {
        group: isDense(row) ? "" : levelWords(row.asked, groups.get(row.asked) ?? []),
        colour: row.colour,
        failed: hasRuns(row)
          ? null
          : { kinds: texts(({ kind }) => kind, ", "), text: texts(({ kind, message }) => `${kind}: ${message}`, "; ") },
        cells: strips.map((one, i) => hasRuns(row) || i < 2 ? one.cell(row) : textCell(NO_VALUE)),
      };
    }),
  };
}

/** Hours that a row's cells held their device, failed ones too. */
export const deviceHours = ({ runs, failures }: Row): number =>
  [...runs, ...failures].reduce((sum, record) => sum + record.seconds / 3600, 0);

/** The strips of each table after method and level; none where a table would hold nothing. */
const STRIPS: Record<ResultTableId, (section: Section, ranks: Ranking[]) => Strip[]> = {
  // Perplexity, tasks and mean accuracy.
  quality: (section, ranks) => {
    const columns = section.columns.filter(({ kind, primary }) => kind !== "throughput" && primary);
    if (columns.length === 0) return [];
    const accuracy = headlineColumns(section).find(({ kind }) => kind !== "perplexity");
    const headline = [columns.find(({ kind }) => kind === "perplexity"), accuracy];
    const [speed] = budgetsOf(section).some((budget) => budget.endsWith("-ms")) ? speedsOf(section) : [];
    return [
      ...metStrips(section),
      ...speed ? speedStrips(section, speed, true).slice(1) : [],
      ...speed && accuracy ? equalAccuracyStrips(section, accuracy, speed) : [],
      REMOVED,
      ...columns.map((column) => qualityStrip(column, ranks, headline.includes(column))),
      ...hasSeveralSeeds(section) ? [SEEDS] : [],
    ];
  },
  size: (section) => {
    const speeds = section.columns.filter(({ kind }) => kind === "throughput");
    return [
      ...metStrips(section),
      REMOVED,
      ...SIZES,
      ...speeds.flatMap((column, i) => speedStrips(section, column, i === 0)),
    ];
  },
  cost: () => [
    meanStrip(["prune-seconds", "pruning", "s", 1], ({ timings }) => timings.pruneS, seconds),
    meanStrip(["learn-seconds", "learning", "s", 1], ({ timings }) => timings.learnS, seconds),
    meanStrip(["evaluate-seconds", "evaluation", "s", 2], ({ timings }) => timings.evaluateS, seconds),
    strip(
      ["device-hours", "device-hours", "all seeds", 2],
      (row) => textCell(deviceHours(row).toFixed(3), deviceHours(row)),
    ),
    meanStrip(["peak", "peak memory", "MiB", 3], ({ memory }) => memory.peakBytes, mebibytes),
  ],
};

/** A table of results; null where it would hold nothing. */
export function resultTable(id: ResultTableId, section: Section, ranks: Ranking[]): ResultTable | null {
  const strips = STRIPS[id](section, ranks);
  return strips.length === 0 ? null : assemble(section, strips);
}
