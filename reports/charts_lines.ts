/** Quality against size: one line per method from the dense model, labelled at its end.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { monotone } from "../core/util/stats.ts";
import {
  barWords,
  type Chart,
  denseRow,
  describe,
  HEIGHT,
  type Line,
  linesOf,
  pruned,
  qualityTitle,
  removed,
  scaleOf,
  shell,
  type Spec,
  subject,
} from "./chart_style.ts";
import { NEUTRAL } from "./palette.ts";
import type { Column } from "./measurements.ts";
import type { Estimate, Row, Section } from "./rows.ts";
import { meanOf } from "./table.ts";

const LABEL_GAP = 15;

/** Spreads labels that would overlap: at least `gap` apart, inside [0, `height`] where they fit, and with the least
 * sum of squared moves that this allows. */
export function spreadLabels(wanted: number[], gap: number, height: number): number[] {
  const order = wanted.map((value, index) => ({ value, index })).sort((a, b) => a.value - b.value);
  const levels = monotone(order.map(({ value }, k) => value - k * gap));
  const top = height - (wanted.length - 1) * gap;
  const placed = new Array<number>(wanted.length).fill(0);
  for (const [k, { index }] of order.entries()) {
    placed[index] = Math.min(Math.max(at(levels, k), 0), Math.max(top, 0)) + k * gap;
  }
  return placed;
}

interface Scale {
  domain: [number, number];
  log: boolean;
}

const pixelY = ({ domain: [low, high], log }: Scale, value: number) => {
  const f = log ? Math.log : (x: number) => x;
  return HEIGHT * (1 - (f(value) - f(low)) / (f(high) - f(low)));
};

/** Perplexities above this multiple of the lowest are drawn at the upper edge: a destroyed model would otherwise
 * squeeze all others into one line. */
const MOST_TIMES_LOWEST = 50;

function qualityScale(column: Column, estimates: Estimate[]): Scale {
  const k = scaleOf(column);
  const all = estimates.flatMap(({ value, spread }) => [value, value - (spread ?? 0), value + (spread ?? 0)]);
  if (column.kind === "perplexity") {
    const lowest = Math.min(...estimates.map(({ value }) => value));
    const low = Math.min(...all.filter((value) => value > 0));
    return { domain: [low / 1.12, Math.min(Math.max(...all) * 1.12, lowest * MOST_TIMES_LOWEST)], log: true };
  }
  const values = [...all, ...(column.chance === null ? [] : [column.chance])].map((value) => k * value);
  const low = Math.floor((Math.min(...values) - 1) / 5) * 5;
  return { domain: [Math.max(0, low), Math.min(100, Math.ceil((Math.max(...values) + 1) / 5) * 5)], log: false };
}

function logTicks([low, high]: [number, number]): number[] {
  const ticks: number[] = [];
  const steps = high / low > 200 ? [1] : high / low > 8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  for (let decade = 10 ** Math.floor(Math.log10(low)); decade <= high; decade *= 10) {
    ticks.push(...steps.map((step) => step * decade).filter((tick) => tick >= low && tick <= high));
  }
  return ticks;
}

function yEncoding(scale: Scale, title: string): Spec {
  return {
    type: "quantitative",
    scale: { domain: scale.domain, nice: false, ...(scale.log ? { type: "log" } : { zero: false }) },
    axis: { title, ...(scale.log ? { values: logTicks(scale.domain), format: "~g" } : { tickCount: 6 }) },
  };
}

/** What the lines go along: from the dense model at the left to the smallest at the right. */
export interface SizeAxis {
  /** File names end in it. */
  name: string;
  /** `sparsity`, `parameters`. */
  what: string;
  title: string;
  valueOf(row: Row): number;
  dense(section: Section): number;
}

/** Percent of the prunable parameters removed. */
export const SPARSITY: SizeAxis = {
  name: "sparsity",
  what: "sparsity",
  title: "prunable parameters removed, %",
  valueOf: removed,
  dense: () => 0,
};

/** Millions of parameters, fewer to the right. */
export const PARAMETERS: SizeAxis = {
  name: "parameters",
  what: "parameters",
  title: "parameters, millions",
  valueOf: (row) => meanOf(row, ({ size }) => size.parameters) / 1e6,
  dense: (section) =>
    Math.max(...pruned(section).map((row) => meanOf(row, ({ denseSize }) => denseSize.parameters))) / 1e6,
};

/** What the layers of one figure share. */
interface Frame {
  column: Column;
  scale: Scale;
  axis: SizeAxis;
  /** Left and right end of the x axis, the dense model's value and a little beyond the smallest model's. */
  ends: [dense: number, last: number];
  width: number;
  x: Spec;
  y: Spec;
}

/** Pixels right of the left end. */
const pixelX = ({ ends: [dense, last], width }: Frame, value: number) => (value - dense) / (last - dense) * width;

/** End of a line: where its label wants to be, in pixels. */
interface LineEnd {
  label: string;
  colour: string;
  x: number;
  y: number;
}

/** A horizontal line such as the dense model's value. */
function referenceLine(frame: Frame, label: string, value: number, dash: number[]): { layer: Spec; end: LineEnd } {
  const quality = scaleOf(frame.column) * value;
  return {
    layer: {
      data: { values: [{ quality }] },
      mark: { type: "rule", color: NEUTRAL.dense, strokeDash: dash, strokeWidth: 1.2, aria: false },
      encoding: { y: { ...frame.y, field: "quality" } },
    },
    end: { label, colour: NEUTRAL.dense, x: frame.width, y: pixelY(frame.scale, quality) },
  };
}

/** A row with its value of the figure's column. */
interface Valued {
  row: Row;
  estimate: Estimate;
}

/** Rows that have a value of `column`. */
const valued = (rows: readonly Row[], column: Column): Valued[] =>
  rows.flatMap((row) => {
    const estimate = row.values.get(column.key);
    return estimate === undefined ? [] : [{ row, estimate }];
  });

/** A row as a point; values beyond the scale are drawn at its edge, without an error bar. */
function pointOf({ column, scale, axis, ends: [dense, last], width }: Frame, { row, estimate }: Valued, shift: number) {
  const k = scaleOf(column);
  const [lowest, highest] = scale.log ? scale.domain : [-Infinity, Infinity];
  const beyond = k * estimate.value > highest;
  const spread = beyond ? 0 : estimate.spread ?? 0;
  const inside = (value: number) => Math.min(Math.max(value, lowest), highest);
  const x = axis.valueOf(row);
  return {
    method: row.label,
    asked: row.asked,
    removed: removed(row),
    x,
    shownAt: x + shift * (last - dense) / width,
    quality: inside(k * estimate.value),
    low: inside(k * (estimate.value - spread)),
    high: inside(k * (estimate.value + spread)),
    beyond,
    description: describe(row, column, estimate),
  };
}

/** Line, error bars and points of one method.
 * @param shift Pixels to the right, which keep the error bars of one level apart. */
function methodLine(
  frame: Frame,
  { label, colour, rows }: Line,
  dense: Estimate | undefined,
  shift: number,
): { layers: Spec[]; ends: LineEnd[] } {
  const { column, scale, axis, ends, x, y } = frame;
  const own = valued(rows, column).sort((a, b) =>
    Math.sign(ends[1] - ends[0]) * (axis.valueOf(a.row) - axis.valueOf(b.row))
  );
  const points = own.map((point) => pointOf(frame, point, shift));
  const k = scaleOf(column);
  const start = dense === undefined ? [] : [{ method: label, shownAt: ends[0], quality: k * dense.value }];
  const quality = { ...y, field: "quality" };
  return {
    layers: [
      {
        data: { values: [...start, ...points] },
        mark: { type: "line", color: colour, strokeWidth: 2 },
        encoding: { x, y: quality, order: { value: null }, description: { value: label } },
      },
      {
        data: { values: points },
        mark: { type: "rule", color: colour, strokeWidth: 1.5, aria: false },
        encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" } },
      },
      ...[false, true].map((beyond) => ({
        data: { values: points.filter((point) => point.beyond === beyond) },
        mark: {
          type: "point",
          color: colour,
          filled: true,
          opacity: 1,
          size: beyond ? 90 : 55,
          shape: beyond ? "triangle-up" : "circle",
        },
        encoding: { x, y: quality, description: { field: "description" } },
      })),
    ],
    ends: points.slice(-1).map((last) => ({
      label,
      colour,
      x: pixelX(frame, last.shownAt),
      y: pixelY(scale, last.quality),
    })),
  };
}

/** Layers of a figure `width` pixels wide. */
function layersOf(frame: Frame, lines: readonly Line[], dense: Estimate | undefined): Spec[] {
  const { column } = frame;
  const references = [
    ...(dense === undefined ? [] : [referenceLine(frame, "dense", dense.value, [6, 3])]),
    ...(column.chance === null ? [] : [referenceLine(frame, "chance", column.chance, [1.5, 3])]),
  ];
  const drawn = lines.map((line, i) => methodLine(frame, line, dense, 3 * (i - (lines.length - 1) / 2)));
  return [
    ...references.map((reference) => reference.layer),
    ...drawn.flatMap(({ layers }) => layers),
    ...endLabels([...references.map(({ end }) => end), ...drawn.flatMap(({ ends }) => ends)], frame.width),
  ];
}

/** Quality against size: one line per method from the dense model, labelled at its end. */
export function qualityAgainstSize(section: Section, column: Column, axis: SizeAxis, name: string): Chart | null {
  const points = valued(pruned(section), column);
  if (points.length === 0) return null;
  const dense = denseRow(section)?.values.get(column.key);
  const estimates = [...points.map(({ estimate }) => estimate), ...(dense === undefined ? [] : [dense])];
  const scale = qualityScale(column, estimates);
  const start = axis.dense(section);
  const furthest = points.map(({ row }) => axis.valueOf(row) - start)
    .reduce((far, own) => Math.abs(own) > Math.abs(far) ? own : far, 0);
  const ends: [number, number] = [start, start + (furthest * 1.06 || 1)];
  const lines = linesOf(section, points.map(({ row }) => row));
  const title = `${column.kind === "perplexity" ? "Perplexity" : "Accuracy"} against ${axis.what}`;
  const notes = [
    barWords(estimates),
    ...(lines.length > 1 ? ["Points of one level are set a little apart."] : []),
    ...(scale.log && estimates.some(({ value }) => value > scale.domain[1])
      ? [`Triangles: above ${scale.domain[1].toFixed(0)}.`]
      : []),
  ];
  const over = column.kind === "mean-accuracy" ? "over " : "";
  const subtitle = [`${subject(section)} · ${column.name} ${over}${column.count}`, notes.join(" ").trim()];
  return {
    name,
    title: `${title}: ${column.name}`,
    spec: (width) => {
      const x = {
        field: "shownAt",
        type: "quantitative",
        scale: { domain: ends, nice: false, zero: false },
        axis: { title: axis.title, grid: false, tickCount: 6 },
      };
      const frame: Frame = { column, scale, axis, ends, width, x, y: yEncoding(scale, qualityTitle(column)) };
      return shell(title, subtitle, width, { layer: layersOf(frame, lines, dense) });
    },
  };
}

/** Labels right of the plot, each tied to the end of its line. Positions are pixels, since both scales are known. */
function endLabels(ends: LineEnd[], width: number): Spec[] {
  const placed = spreadLabels(ends.map(({ y }) => y), LABEL_GAP, HEIGHT);
  const values = ends.map(({ label, colour, x, y }, i) => ({
    label,
    colour,
    fromX: Math.min(x + 5, width),
    fromY: y,
    toX: width + 14,
    toY: at(placed, i),
  }));
  const pixels = (field: string) => ({ field, type: "quantitative", scale: null, axis: null });
  return [
    ...values.map((value) => ({
      data: { values: [value] },
      mark: { type: "rule", color: value.colour, strokeWidth: 1, strokeDash: [2, 2], aria: false },
      encoding: { x: pixels("fromX"), x2: { field: "toX" }, y: pixels("fromY"), y2: { field: "toY" } },
    })),
    {
      data: { values },
      mark: { type: "text", align: "left", baseline: "middle", dx: 4, fontSize: 12, limit: 190, color: NEUTRAL.ink },
      encoding: { x: pixels("toX"), y: pixels("toY"), text: { field: "label" } },
    },
  ];
}
