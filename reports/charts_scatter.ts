/** Scatter plots of measured speed: against quality, and against the saving in MACs.
 *
 * @module
 */
import {
  axis,
  barWords,
  colourScale,
  describe,
  layer,
  linesOf,
  nameOf,
  nominal,
  qualityTitle,
  scaleOf,
  shell,
  subject,
} from "./chart_style.ts";
import type { Chart, Spec } from "./document.ts";
import { level, unique } from "./format.ts";
import type { Column } from "./columns.ts";
import { NEUTRAL } from "./palette.ts";
import { boundsOf, type Estimate } from "./estimates.ts";
import { type Row, type Section } from "./sections.ts";
import { meanOf } from "./result_tables.ts";

const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];

/** A value with the ends of its bar. */
interface Bar {
  value: number;
  low: number;
  high: number;
}

interface ScatterPoint {
  x: number;
  xLow: number;
  xHigh: number;
  y: number;
  yLow: number;
  yHigh: number;
  method: string;
  level: string;
  uniform: boolean;
  description: string;
}

function barOf(estimate: Estimate, k = 1): Bar {
  const { value } = estimate;
  const [low, high] = boundsOf(estimate) ?? [value, value];
  return { value: k * value, low: k * low, high: k * high };
}

const pointOf = (row: Row, x: Bar, y: Bar, description: string): ScatterPoint => ({
  ...{ x: x.value, xLow: x.low, xHigh: x.high, y: y.value, yLow: y.low, yHigh: y.high },
  method: row.label,
  level: level(row.asked),
  uniform: row.runs.every(({ size }) => size.layerwiseUniform),
  description,
});

/** Points that no other beats in both directions, from slow to fast. */
export function paretoFront<P extends { x: number; y: number }>(points: P[], lowerIsBetter: boolean): P[] {
  const sign = lowerIsBetter ? -1 : 1;
  const sorted = [...points].sort((a, b) => b.x - a.x || sign * (b.y - a.y));
  let best = -Infinity;
  return sorted.filter(({ y }) => {
    if (sign * y <= best) return false;
    best = sign * y;
    return true;
  }).reverse();
}

/** The range of `values`, widened a little on both sides. */
function roomy(values: number[], log = false): [number, number] {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (log) return [Math.max(low, Number.MIN_VALUE) / 1.12, high * 1.12];
  const room = 0.07 * (high - low || high);
  return [low - room, high + room];
}

/** Bars and points: colour by method, shape by level, hollow where widths differ between layers. */
function scatterLayers(rows: Row[], points: ScatterPoint[], x: Spec, y: Spec): Spec[] {
  const color = {
    field: "method",
    type: "nominal",
    scale: colourScale(linesOf(rows)),
    legend: { title: "method", symbolType: "circle", symbolOpacity: 1, symbolStrokeWidth: 2 },
  };
  const muted = { symbolFillColor: NEUTRAL.muted, symbolStrokeColor: NEUTRAL.muted };
  const levels = unique(rows.map(({ asked }) => level(asked)));
  const shape = nominal("level", levels, SHAPES, { title: "sparsity", ...muted });
  const bars = (encoding: Spec) =>
    layer(points, { type: "rule", strokeWidth: 1.2, opacity: 0.8, aria: false }, { color, ...encoding });
  const marks = (uniform: boolean): Spec[] => {
    const values = points.filter((point) => point.uniform === uniform);
    const fill = uniform ? undefined : NEUTRAL.paper;
    const mark = { type: "point", filled: uniform, fill, opacity: 1, size: 85, strokeWidth: 2 };
    return values.length === 0
      ? []
      : [layer(values, mark, { x, y, color, shape, description: { field: "description" } })];
  };
  return [
    bars({ x: { ...x, field: "xLow" }, x2: { field: "xHigh" }, y }),
    bars({ x, y: { ...y, field: "yLow" }, y2: { field: "yHigh" } }),
    ...marks(true),
    ...marks(false),
  ];
}

function densePoint(x: Spec, y: Spec, point: { x: number; y: number; description: string }): Spec[] {
  const color = NEUTRAL.dense;
  const diamond = { type: "point", shape: "diamond", filled: true, opacity: 1, size: 110, color };
  const text = { type: "text", dx: 9, align: "left", baseline: "middle", text: "dense", fontSize: 12, color };
  return [
    layer([point], diamond, { x, y, description: { field: "description" } }),
    layer([point], text, { x, y }),
  ];
}

/** A row as a point, if it has both values. */
function speedPoint(row: Row, quality: Column, speed: Column): ScatterPoint[] {
  const [own, fast] = [row.values.get(quality.key), row.values.get(speed.key)];
  if (own === undefined || fast === undefined) return [];
  const description = `${describe(row, quality, own)}; ${fast.value.toFixed(1)} ${speed.name} tokens/s`;
  return [pointOf(row, barOf(fast), barOf(own, scaleOf(quality)), description)];
}

/** Quality against measured tokens/s, with the Pareto front. */
export function qualityAgainstSpeed(section: Section, quality: Column, speed: Column, name: string): Chart | null {
  const rows = section.pruned.filter((row) => speedPoint(row, quality, speed).length > 0);
  if (rows.length === 0) return null;
  const isPerplexity = quality.kind === "perplexity";
  const points = rows.flatMap((row) => speedPoint(row, quality, speed));
  const dense = section.dense;
  const references = dense === undefined ? [] : speedPoint(dense, quality, speed);
  const all = [...points, ...references];
  const title = `${isPerplexity ? "Perplexity" : "Accuracy"} against measured ${speed.name} speed`;
  const estimates = rows.flatMap((row) => row.values.get(quality.key) ?? []);
  const subtitle = [
    `${subject(section)} · ${speed.count}`,
    `Line: Pareto front, nothing measured is both faster and better. Hollow: widths differ between layers. ` +
    `${barWords(estimates)} Speed: sample sd over repeats.`,
  ];
  const domainX = roomy(all.flatMap(({ xLow, xHigh }) => [xLow, xHigh]));
  const domainY = roomy(all.flatMap(({ yLow, yHigh }) => [yLow, yHigh]), isPerplexity);
  const x = axis("x", `${speed.name}, tokens/s (measured)`, { nice: false, zero: false, domain: domainX }, TICKS);
  const kind = isPerplexity ? { type: "log" } : { zero: false };
  const y = axis("y", qualityTitle(quality), { nice: false, ...kind, domain: domainY }, TICKS);
  const broad = { strokeWidth: 6, opacity: 0.15, strokeJoin: "round", strokeCap: "round" };
  const front = layer(
    paretoFront(all, isPerplexity).map(({ x, y }) => ({ x, y })),
    { type: "line", color: NEUTRAL.dense, ...broad },
    { x, y, description: { value: "Pareto front" } },
  );
  const layers = [
    front,
    ...scatterLayers(rows, points, x, y),
    ...references.flatMap((reference) => densePoint(x, y, reference)),
  ];
  return {
    name,
    title: `${title}: ${quality.name}`,
    spec: (width) => shell(title, subtitle, width, { layer: layers }),
  };
}

const TICKS = { tickCount: 6 };

/** Measured speed-up against the reduction in MACs: how much of the saving a machine really gives. */
export function speedUpAgainstMacs(section: Section, speed: Column, name: string): Chart | null {
  const timed = section.pruned.flatMap((row) => {
    const up = row.speedUps.get(speed.key);
    return up === undefined ? [] : [{ row, up }];
  });
  if (timed.length === 0) return null;
  const points = timed.map(({ row, up }): ScatterPoint => {
    const x = meanOf(row, ({ size, denseSize }) => denseSize.macs64 / size.macs64);
    const description = `${nameOf(row)}: ${x.toFixed(2)} times fewer MACs, ` +
      `${up.value.toFixed(2)} times the ${speed.name} tokens/s of dense`;
    return pointOf(row, { value: x, low: x, high: x }, barOf(up), description);
  });
  const values = [1, ...points.flatMap(({ x, y }) => [x, y])];
  const [least, most] = [Math.min(...values), Math.max(...values)];
  // Wide intervals must not flatten the chart: what is beyond the points is half of it at most.
  const room = (most - least) / 2;
  const ends = points.flatMap(({ yLow, yHigh }) => [yLow, yHigh]);
  const top = Math.min(Math.max(most, ...ends), most + room) * 1.02;
  const bottom = Math.max(Math.min(least, ...ends), least - room, 0) * 0.98;
  const isCut = ends.some((end) => end < bottom || end > top);
  const title = `Measured ${speed.name} speed-up against saved MACs`;
  const subtitle = [
    `${subject(section)} · ${speed.count}`,
    "Dashed: speed-up equal to the saving. Hollow: widths differ between layers. " +
    barWords(timed.map(({ up }) => up)) + (isCut ? " Bars that reach the edge go on beyond it." : ""),
  ];
  const scale = { nice: false, domain: [bottom, top], zero: false };
  const x = axis("x", "MACs of dense / MACs", scale, TICKS);
  const y = axis("y", `${speed.name} tokens/s over dense (measured)`, { ...scale, clamp: true }, TICKS);
  const diagonal = layer(
    [{ x: bottom, y: bottom }, { x: top, y: top }],
    { type: "line", color: NEUTRAL.dense, strokeDash: [6, 3], strokeWidth: 1.2, aria: false },
    { x, y },
  );
  const layers = [
    diagonal,
    ...scatterLayers(timed.map(({ row }) => row), points, x, y),
    ...densePoint(x, y, { x: 1, y: 1, description: "dense" }),
  ];
  return { name, title, spec: (width) => shell(title, subtitle, width, { layer: layers }) };
}
