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
import type { Column, Estimate, Section } from "./rows.ts";

const LABEL_GAP = 15;

/** Spreads labels that would overlap: at least `gap` apart, inside [0, `height`], as near to `wanted` as that allows. */
export function spreadLabels(wanted: number[], gap: number, height: number): number[] {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const placed = [...wanted];
  order.forEach((index, k) => {
    const floor = k === 0 ? 0 : placed[order[k - 1]] + gap;
    placed[index] = Math.max(wanted[index], floor);
  });
  let ceiling = height;
  for (const index of order.toReversed()) {
    placed[index] = Math.min(placed[index], ceiling);
    ceiling = placed[index] - gap;
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

function qualityScale(column: Column, estimates: Estimate[]): Scale {
  const k = scaleOf(column);
  const all = estimates.flatMap(({ value, spread }) => [value, value - (spread ?? 0), value + (spread ?? 0)]);
  if (column.kind === "perplexity") {
    const positive = all.filter((value) => value > 0);
    return { domain: [Math.min(...positive) / 1.12, Math.max(...positive) * 1.12], log: true };
  }
  const values = [...all, ...(column.chance === null ? [] : [column.chance])].map((value) => k * value);
  const low = Math.floor((Math.min(...values) - 1) / 5) * 5;
  return { domain: [Math.max(0, low), Math.min(100, Math.ceil((Math.max(...values) + 1) / 5) * 5)], log: false };
}

function logTicks([low, high]: [number, number]): number[] {
  const ticks: number[] = [];
  const steps = high / low > 40 ? [1] : high / low > 8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
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

/** Quality against realised sparsity: one line per method from the dense model, labelled at its end. */
export function qualityAgainstSparsity(section: Section, column: Column, name: string): Chart | null {
  const rows = pruned(section).filter((row) => row.values.has(column.key));
  if (rows.length === 0) return null;
  const dense = denseRow(section)?.values.get(column.key);
  const estimates = rows.map((row) => row.values.get(column.key)!);
  const scale = qualityScale(column, dense === undefined ? estimates : [...estimates, dense]);
  const k = scaleOf(column);
  const most = Math.max(...rows.map(removed)) * 1.06;
  const { domain, range } = colourScale(section);
  const methods = [...Map.groupBy(rows, ({ label }) => label)]
    .sort((a, b) => domain.indexOf(a[0]) - domain.indexOf(b[0]));
  const title = `${column.kind === "perplexity" ? "Perplexity" : "Accuracy"} against sparsity`;

  const spec = (width: number): Spec => {
    const xEncoding = {
      field: "shownAt",
      type: "quantitative",
      scale: { domain: [0, most], nice: false },
      axis: { title: "prunable parameters removed, %", grid: false, tickCount: 6 },
    };
    const yAxis = yEncoding(scale, qualityTitle(column));
    const ends: { label: string; colour: string; x: number; y: number }[] = [];
    const layers: Spec[] = [];
    const reference = (label: string, value: number, dash: number[]) => {
      layers.push({
        data: { values: [{ quality: k * value }] },
        mark: { type: "rule", color: NEUTRAL.dense, strokeDash: dash, strokeWidth: 1.2 },
        encoding: { y: { ...yAxis, field: "quality" } },
      });
      ends.push({ label, colour: NEUTRAL.dense, x: width, y: pixelY(scale, k * value) });
    };
    if (dense !== undefined) reference("dense", dense.value, [6, 3]);
    if (column.chance !== null) reference("chance", column.chance, [1.5, 3]);
    methods.forEach(([label, own], i) => {
      // Error bars of one level are set 3 pixels apart.
      const shift = (i - (methods.length - 1) / 2) * 3 * most / width;
      const colour = range[domain.indexOf(label)];
      const points = own.map((row) => {
        const estimate = row.values.get(column.key)!;
        const spread = estimate.spread ?? 0;
        const low = k * (estimate.value - spread);
        return {
          method: label,
          asked: row.asked,
          removed: removed(row),
          shownAt: removed(row) + shift,
          quality: k * estimate.value,
          low: scale.log ? Math.max(low, scale.domain[0]) : low,
          high: k * (estimate.value + spread),
          description: describe(row, column, estimate),
        };
      });
      const start = dense === undefined ? [] : [{ method: label, removed: 0, shownAt: 0, quality: k * dense.value }];
      const y = { ...yAxis, field: "quality" };
      layers.push(
        {
          data: { values: [...start, ...points] },
          mark: { type: "line", color: colour, strokeWidth: 2 },
          encoding: { x: xEncoding, y },
        },
        {
          data: { values: points },
          mark: { type: "rule", color: colour, strokeWidth: 1.5 },
          encoding: { x: xEncoding, y: { ...yAxis, field: "low" }, y2: { field: "high" } },
        },
        {
          data: { values: points },
          mark: { type: "point", color: colour, filled: true, opacity: 1, size: 55 },
          encoding: { x: xEncoding, y, description: { field: "description" } },
        },
      );
      const last = points[points.length - 1];
      ends.push({ label, colour, x: last.shownAt / most * width, y: pixelY(scale, last.quality) });
    });
    layers.push(...endLabels(ends, width));
    const bars = barWords(dense === undefined ? estimates : [...estimates, dense]);
    return shell(
      title,
      [
        `${subject(section)} · ${column.name} ${column.kind === "mean-accuracy" ? "over " : ""}${column.count}`,
        bars + (methods.length > 1 ? " Points of one level are set a little apart." : ""),
      ],
      width,
      { layer: layers },
    );
  };
  return { name, title: `${title}: ${column.name}`, spec };
}

/** Labels right of the plot, each tied to the end of its line. Positions are pixels, since both scales are known. */
function endLabels(ends: { label: string; colour: string; x: number; y: number }[], width: number): Spec[] {
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
      mark: { type: "rule", color: ends[i].colour, strokeWidth: 1, strokeDash: [2, 2] },
      encoding: { x: pixels("fromX"), x2: { field: "toX" }, y: pixels("fromY"), y2: { field: "toY" } },
    })),
    {
      data: { values },
      mark: { type: "text", align: "left", baseline: "middle", dx: 4, fontSize: 12, limit: 170, color: NEUTRAL.ink },
      encoding: { x: pixels("toX"), y: pixels("toY"), text: { field: "label" } },
    },
  ];
}
