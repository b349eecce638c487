/** Quality against sparsity: one line per method, labelled at its end.
 *
 * @module
 */
import {
  barWords,
  type Chart,
  colourScale,
  denseRow,
  describe,
  HEIGHT,
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

const LABEL_GAP = 15;

/** Spreads labels that would overlap: at least `gap` apart, inside [0, `height`] where they fit, and with the least
 * sum of squared moves that this allows (isotonic regression by pooling neighbours). */
export function spreadLabels(wanted: number[], gap: number, height: number): number[] {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const blocks: { sum: number; size: number }[] = [];
  order.forEach((index, k) => {
    let block = { sum: wanted[index] - k * gap, size: 1 };
    while (
      blocks.length > 0 && blocks[blocks.length - 1].sum / blocks[blocks.length - 1].size >= block.sum / block.size
    ) {
      const before = blocks.pop()!;
      block = { sum: before.sum + block.sum, size: before.size + block.size };
    }
    blocks.push(block);
  });
  const top = height - (wanted.length - 1) * gap;
  const levels = blocks.flatMap(({ sum, size }) => new Array<number>(size).fill(sum / size));
  const placed = new Array<number>(wanted.length);
  order.forEach((index, k) => placed[index] = Math.min(Math.max(levels[k], 0), Math.max(top, 0)) + k * gap);
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

/** What the layers of one figure share. */
interface Frame {
  column: Column;
  scale: Scale;
  /** Right end of the x axis, percent removed. */
  most: number;
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

/** Line, error bars and points of one method. */
function methodLine(
  { column, scale, most, width, x, y }: Frame,
  { label, colour, rows, dense, shift }: {
    label: string;
    colour: string;
    rows: Row[];
    dense: Estimate | undefined;
    /** Pixels to the right, which keep the error bars of one level apart. */
    shift: number;
  },
): { layers: Spec[]; end: LineEnd } {
  const k = scaleOf(column);
  const points = rows.map((row) => {
    const estimate = row.values.get(column.key)!;
    const spread = estimate.spread ?? 0;
    const [lowest, highest] = scale.log ? scale.domain : [-Infinity, Infinity];
    const inside = (value: number) => Math.min(Math.max(value, lowest), highest);
    return {
      method: label,
      asked: row.asked,
      removed: removed(row),
      shownAt: removed(row) + shift * most / width,
      quality: inside(k * estimate.value),
      low: inside(k * (estimate.value - spread)),
      high: inside(k * (estimate.value + spread)),
      beyond: k * estimate.value > highest,
      description: describe(row, column, estimate),
    };
  });
  const start = dense === undefined ? [] : [{ method: label, removed: 0, shownAt: 0, quality: k * dense.value }];
  const quality = { ...y, field: "quality" };
  const last = points[points.length - 1];
  return {
    layers: [
      {
        data: { values: [...start, ...points] },
        mark: { type: "line", color: colour, strokeWidth: 2 },
        encoding: { x, y: quality, description: { value: label } },
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
    end: { label, colour, x: last.shownAt / most * width, y: pixelY(scale, last.quality) },
  };
}

/** Quality against realised sparsity: one line per method from the dense model, labelled at its end. */
export function qualityAgainstSparsity(section: Section, column: Column, name: string): Chart | null {
  const rows = pruned(section).filter((row) => row.values.has(column.key));
  if (rows.length === 0) return null;
  const dense = denseRow(section)?.values.get(column.key);
  const estimates = [...rows.map((row) => row.values.get(column.key)!), ...(dense === undefined ? [] : [dense])];
  const scale = qualityScale(column, estimates);
  const most = Math.max(...rows.map(removed)) * 1.06 || 1;
  const { domain, range } = colourScale(section);
  const byLabel = Map.groupBy(rows, ({ label }) => label);
  const methods = domain.filter((label) => byLabel.has(label));
  const title = `${column.kind === "perplexity" ? "Perplexity" : "Accuracy"} against sparsity`;
  const notes = [
    barWords(estimates),
    ...(methods.length > 1 ? ["Points of one level are set a little apart."] : []),
    ...(scale.log && estimates.some(({ value }) => value > scale.domain[1])
      ? [`Triangles: above ${scale.domain[1].toFixed(0)}.`]
      : []),
  ];

  const spec = (width: number): Spec => {
    const x = {
      field: "shownAt",
      type: "quantitative",
      scale: { domain: [0, most], nice: false },
      axis: { title: "prunable parameters removed, %", grid: false, tickCount: 6 },
    };
    const frame: Frame = { column, scale, most, width, x, y: yEncoding(scale, qualityTitle(column)) };
    const references = [
      ...(dense === undefined ? [] : [referenceLine(frame, "dense", dense.value, [6, 3])]),
      ...(column.chance === null ? [] : [referenceLine(frame, "chance", column.chance, [1.5, 3])]),
    ];
    const lines = methods.map((label, i) =>
      methodLine(frame, {
        label,
        colour: range[domain.indexOf(label)],
        rows: byLabel.get(label)!,
        dense,
        shift: 3 * (i - (methods.length - 1) / 2),
      })
    );
    const layer = [
      ...references.map((reference) => reference.layer),
      ...lines.flatMap(({ layers }) => layers),
      ...endLabels([...references, ...lines].map(({ end }) => end), width),
    ];
    const over = column.kind === "mean-accuracy" ? "over " : "";
    const subtitle = [`${subject(section)} · ${column.name} ${over}${column.count}`, notes.join(" ").trim()];
    return shell(title, subtitle, width, { layer });
  };
  return { name, title: `${title}: ${column.name}`, spec };
}

/** Labels right of the plot, each tied to the end of its line. Positions are pixels, since both scales are known. */
function endLabels(ends: LineEnd[], width: number): Spec[] {
  const placed = spreadLabels(ends.map(({ y }) => y), LABEL_GAP, HEIGHT);
  const values = ends.map(({ label, x, y }, i) => ({
    label,
    fromX: Math.min(x + 5, width),
    fromY: y,
    toX: width + 14,
    toY: placed[i],
  }));
  const pixels = (field: string) => ({ field, type: "quantitative", scale: null, axis: null });
  return [
    ...values.map((value, i) => ({
      data: { values: [value] },
      mark: { type: "rule", color: ends[i].colour, strokeWidth: 1, strokeDash: [2, 2], aria: false },
      encoding: { x: pixels("fromX"), x2: { field: "toX" }, y: pixels("fromY"), y2: { field: "toY" } },
    })),
    {
      data: { values },
      mark: { type: "text", align: "left", baseline: "middle", dx: 4, fontSize: 12, limit: 190, color: NEUTRAL.ink },
      encoding: { x: pixels("toX"), y: pixels("toY"), text: { field: "label" } },
    },
  ];
}
