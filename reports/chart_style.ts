/** What every figure shares: frame, fonts, colours and words.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { budgetWords, realised } from "./budget.ts";
import { level, SPREAD_WORDS, unique, wrapped } from "./format.ts";
import { FONT, NEUTRAL } from "./palette.ts";
import { type Column, qualityText } from "./columns.ts";
import type { Spec } from "./document.ts";
import { boundsOf, type Estimate } from "./estimates.ts";
import type { Row } from "./sections.ts";

/** Frame, title and style around a figure's layers. */
export const shell = (title: string, subtitle: string[], body: Spec): Spec => ({
  $schema: "https://vega.github.io/schema/vega-lite/v6.json",
  title: { text: wrapped(title, 60), subtitle: subtitle.flatMap((line) => wrapped(line, 86)) },
  background: NEUTRAL.paper,
  padding: 12,
  width: 400,
  height: 290,
  ...body,
  config: {
    font: FONT,
    title: {
      anchor: "start",
      frame: "bounds",
      fontSize: 15,
      fontWeight: 600,
      color: NEUTRAL.ink,
      subtitleColor: NEUTRAL.muted,
      subtitleFontSize: 11,
      subtitlePadding: 5,
      offset: 14,
    },
    view: { stroke: null },
    axis: {
      domainColor: NEUTRAL.line,
      tickColor: NEUTRAL.line,
      gridColor: NEUTRAL.grid,
      labelColor: NEUTRAL.muted,
      labelFontSize: 11,
      titleColor: NEUTRAL.ink,
      titleFontSize: 12,
      titleFontWeight: "normal",
      titlePadding: 8,
    },
    legend: {
      labelColor: NEUTRAL.ink,
      labelFontSize: 12,
      titleColor: NEUTRAL.muted,
      titleFontSize: 11,
      titleFontWeight: "normal",
      symbolSize: 80,
      labelLimit: 220,
    },
  },
});

/** Marks at values of their own. */
export const layer = (values: readonly unknown[], mark: Spec, encoding: Spec): Spec => ({
  data: { values },
  mark,
  encoding,
});

/** A quantitative axis. */
export const axis = (field: string, title: string | null, scale: Spec, options: Spec): Spec => ({
  field,
  type: "quantitative",
  scale,
  axis: { title, ...options },
});

/** Distinct names, each with a value of `range`, whose values come again where names are more. */
export const nominal = (field: string, domain: string[], range: readonly unknown[], legend: Spec): Spec => ({
  field,
  type: "nominal",
  scale: { domain, range: domain.map((_, i) => at(range, i % range.length)) },
  legend,
});

/** Colour per method. */
export function methodColour(rows: readonly Row[]): Spec {
  const colours = new Map(rows.map(({ label, colour }) => [label, colour]));
  const legend = { title: "method", symbolOpacity: 1, symbolType: "circle" };
  return nominal("method", [...colours.keys()], [...colours.values()], legend);
}

/** Percent of the budget's resource really removed, mean over seeds. */
export const removed = (row: Row): number => 100 * realised(row);

/** What the error bars of these estimates are, in words. */
export function barWords(estimates: Estimate[]): string {
  const kinds = unique(estimates.filter((own) => boundsOf(own) !== null).map(({ spreadOf }) => spreadOf));
  const words = (Object.keys(SPREAD_WORDS) as Estimate["spreadOf"][]).filter((kind) => kinds.includes(kind))
    .map((kind) =>
      kind === "stderr" && kinds.includes("seeds") ? "standard error of one seed elsewhere" : SPREAD_WORDS[kind]
    );
  return words.length === 0 ? "" : `Bars: ${words.join(", ")}.`;
}

/** A quality value as plotted: accuracies in percent. */
export const scaleOf = (column: Column): number => column.kind === "perplexity" ? 1 : 100;

/** Axis title of a quality. */
export function qualityTitle(column: Column): string {
  if (column.kind === "perplexity") return `${column.name} ${column.metric} ↓ (log scale)`;
  return column.kind === "mean-accuracy" ? "mean accuracy, %" : `${column.name} ${column.metric}, %`;
}

/** Tooltip of a point. */
export function describe(row: Row, column: Column, estimate: Estimate): string {
  const { spread, spreadOf, n } = estimate;
  const kind = spreadOf === "stderr" ? "standard error" : `sample sd over ${n} ${spreadOf}`;
  const error = spread === null ? "" : ` ± ${qualityText(column, spread)} (${kind})`;
  const name = row.cell.checkpoint ? row.label : `${row.label}, target ${level(row.asked)}`;
  return `${name}, ${removed(row).toFixed(1)} % of ${budgetWords({ rows: [row] }).short} removed: ` +
    qualityText(column, estimate.value) + error;
}
