/** Quality against size: one line per method from the dense model, labelled at its end.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { monotone } from "../core/util/stats.ts";
import {
  axis,
  barWords,
  describe,
  HEIGHT,
  layer,
  type Line,
  linesOf,
  qualityTitle,
  removed,
  scaleOf,
  shell,
  subject,
} from "./chart_style.ts";
import type { Chart, Spec } from "./document.ts";
import { NEUTRAL } from "./palette.ts";
import type { Column } from "./columns.ts";
import type { Estimate } from "./estimates.ts";
import type { Row, Section } from "./sections.ts";
import { meanOf } from "./result_tables.ts";

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

/** What the lines go along: from the dense model at the left to the smallest at the right. */
const SIZES = {
  sparsity: { title: "prunable parameters removed, %", valueOf: removed, denseOf: () => 0 },
  parameters: {
    title: "parameters, millions",
    valueOf: (row: Row) => meanOf(row, ({ size }) => size.parameters) / 1e6,
    denseOf: (row: Row) => meanOf(row, ({ denseSize }) => denseSize.parameters) / 1e6,
  },
};
/** A measure of size. */
type Size = keyof typeof SIZES;

/** What the layers of one figure share. */
interface Frame {
  column: Column;
  scale: Scale;
  size: Size;
  /** Left and right end of the x axis, the dense model's value and a little beyond the smallest model's. */
  ends: [dense: number, last: number];
  width: number;
  x: Spec;
  y: Spec;
}

/** End of a line: where its label wants to be, in pixels. */
interface LineEnd {
  label: string;
  colour: string;
  x: number;
  y: number;
}

/** Layers with the ends of the lines in them. */
interface Drawn {
  layers: Spec[];
  ends: LineEnd[];
}

/** A horizontal line such as the dense model's value. */
function referenceLine(frame: Frame, label: string, value: number, strokeDash: number[]): Drawn {
  const quality = scaleOf(frame.column) * value;
  const mark = { type: "rule", color: NEUTRAL.dense, strokeDash, strokeWidth: 1.2, aria: false };
  return {
    layers: [layer([{ quality }], mark, { y: { ...frame.y, field: "quality" } })],
    ends: [{ label, colour: NEUTRAL.dense, x: frame.width, y: pixelY(frame.scale, quality) }],
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
function pointOf({ column, scale, size, ends: [dense, last], width }: Frame, { row, estimate }: Valued, shift: number) {
  const k = scaleOf(column);
  const [lowest, highest] = scale.log ? scale.domain : [-Infinity, Infinity];
  const beyond = k * estimate.value > highest;
  const spread = beyond ? 0 : estimate.spread ?? 0;
  const inside = (value: number) => Math.min(Math.max(k * value, lowest), highest);
  const x = SIZES[size].valueOf(row);
  return {
    method: row.label,
    asked: row.asked,
    removed: removed(row),
    x,
    shownAt: x + shift * (last - dense) / width,
    quality: inside(estimate.value),
    low: inside(estimate.value - spread),
    high: inside(estimate.value + spread),
    beyond,
    description: describe(row, column, estimate),
  };
}

/** Line, error bars and points of one method.
 * @param shift Pixels to the right, which keep the error bars of one level apart. */
function methodLine(frame: Frame, { label, colour, rows }: Line, dense: Estimate | undefined, shift: number): Drawn {
  const { column, scale, size, ends: [first, last], width, x, y } = frame;
  const points = valued(rows, column)
    .sort((a, b) => Math.sign(last - first) * (SIZES[size].valueOf(a.row) - SIZES[size].valueOf(b.row)))
    .map((point) => pointOf(frame, point, shift));
  const start = dense === undefined ? [] : [{ method: label, shownAt: first, quality: scaleOf(column) * dense.value }];
  const quality = { ...y, field: "quality" };
  const marks = (beyond: boolean): Spec => {
    const shape = beyond ? { size: 90, shape: "triangle-up" } : { size: 55, shape: "circle" };
    const shown = points.filter((point) => point.beyond === beyond);
    const mark = { type: "point", color: colour, filled: true, opacity: 1, ...shape };
    return layer(shown, mark, { x, y: quality, description: { field: "description" } });
  };
  return {
    layers: [
      layer([...start, ...points], { type: "line", color: colour, strokeWidth: 2 }, {
        x,
        y: quality,
        order: { value: null },
        description: { value: label },
      }),
      layer(points, { type: "rule", color: colour, strokeWidth: 1.5, aria: false }, {
        x,
        y: { ...y, field: "low" },
        y2: { field: "high" },
      }),
      marks(false),
      marks(true),
    ],
    ends: points.slice(-1).map(({ shownAt, quality }) => ({
      label,
      colour,
      x: (shownAt - first) / (last - first) * width,
      y: pixelY(scale, quality),
    })),
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
  const text = { type: "text", align: "left", baseline: "middle", dx: 4, fontSize: 12, limit: 190, color: NEUTRAL.ink };
  return [
    ...values.map((value) =>
      layer([value], { type: "rule", color: value.colour, strokeWidth: 1, strokeDash: [2, 2], aria: false }, {
        x: pixels("fromX"),
        x2: { field: "toX" },
        y: pixels("fromY"),
        y2: { field: "toY" },
      })
    ),
    layer(values, text, { x: pixels("toX"), y: pixels("toY"), text: { field: "label" } }),
  ];
}

/** Quality against size: one line per method from the dense model, labelled at its end. */
export function qualityAgainstSize(section: Section, column: Column, size: Size, name: string): Chart | null {
  const points = valued(section.pruned, column);
  if (points.length === 0) return null;
  const dense = section.dense?.values.get(column.key);
  const estimates = [...points.map(({ estimate }) => estimate), ...dense === undefined ? [] : [dense]];
  const scale = qualityScale(column, estimates);
  const start = Math.max(...points.map(({ row }) => SIZES[size].denseOf(row)));
  const furthest = points.map(({ row }) => SIZES[size].valueOf(row) - start)
    .reduce((far, own) => Math.abs(own) > Math.abs(far) ? own : far, 0);
  const ends: [number, number] = [start, start + (furthest * 1.06 || 1)];
  const lines = linesOf(points.map(({ row }) => row));
  const title = `${column.kind === "perplexity" ? "Perplexity" : "Accuracy"} against ${size}`;
  const isCut = scale.log && estimates.some(({ value }) => value > scale.domain[1]);
  const notes = [
    barWords(estimates),
    ...lines.length > 1 ? ["Points of one level are set a little apart."] : [],
    ...isCut ? [`Triangles: above ${scale.domain[1].toFixed(0)}.`] : [],
  ];
  const over = column.kind === "mean-accuracy" ? "over " : "";
  const subtitle = [`${subject(section)} · ${column.name} ${over}${column.count}`, notes.join(" ").trim()];
  const x = axis("shownAt", SIZES[size].title, { domain: ends, nice: false, zero: false }, {
    grid: false,
    tickCount: 6,
  });
  const kind = scale.log ? { type: "log" } : { zero: false };
  const ticks = scale.log ? { values: logTicks(scale.domain), format: "~g" } : { tickCount: 6 };
  const y = axis("quality", qualityTitle(column), { domain: scale.domain, nice: false, ...kind }, ticks);
  return {
    name,
    title: `${title}: ${column.name}`,
    spec: (width) => {
      const frame: Frame = { column, scale, size, ends, width, x, y };
      const drawn = [
        ...dense === undefined ? [] : [referenceLine(frame, "dense", dense.value, [6, 3])],
        ...column.chance === null ? [] : [referenceLine(frame, "chance", column.chance, [1.5, 3])],
        ...lines.map((line, i) => methodLine(frame, line, dense, 3 * (i - (lines.length - 1) / 2))),
      ];
      const layers = [...drawn.flatMap(({ layers }) => layers), ...endLabels(drawn.flatMap(({ ends }) => ends), width)];
      return shell(title, subtitle, width, { layer: layers });
    },
  };
}
