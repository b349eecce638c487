/** Scatter plots of measured speed: against quality, and against the saving in MACs.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import {
  barWords,
  type Chart,
  colourScale,
  denseRow,
  describe,
  linesOf,
  nameOf,
  pruned,
  qualityTitle,
  scaleOf,
  shell,
  type Spec,
  subject,
} from "./chart_style.ts";
import { level } from "./format.ts";
import { NEUTRAL } from "./palette.ts";
import type { Column } from "./measurements.ts";
import { boundsOf, type Estimate, type Row, type Section } from "./rows.ts";
import { meanOf } from "./table.ts";

const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];

const linear = (field: string, title: string, scale: Spec) => ({
  field,
  type: "quantitative",
  scale: { nice: false, ...scale },
  axis: { title, tickCount: 6 },
});

/** Colour by method and shape by level, the same two legends in every scatter plot. */
function methodAndLevel(section: Section, rows: Row[]): Spec {
  const levels = [...new Set(rows.map(({ asked }) => level(asked)))];
  return {
    color: {
      field: "method",
      type: "nominal",
      scale: colourScale(linesOf(section, rows)),
      legend: { title: "method", symbolType: "circle", symbolOpacity: 1, symbolStrokeWidth: 2 },
    },
    shape: {
      field: "level",
      type: "nominal",
      scale: { domain: levels, range: levels.map((_, i) => at(SHAPES, i % SHAPES.length)) },
      legend: { title: "sparsity", symbolFillColor: NEUTRAL.muted, symbolStrokeColor: NEUTRAL.muted },
    },
  };
}

interface ScatterPoint {
  method: string;
  level: string;
  x: number;
  xLow: number;
  xHigh: number;
  y: number;
  yLow: number;
  yHigh: number;
  uniform: boolean;
  description: string;
}

function withBounds(estimate: Estimate, k = 1): [value: number, low: number, high: number] {
  const { value } = estimate;
  const [low, high] = boundsOf(estimate) ?? [value, value];
  return [k * value, k * low, k * high];
}

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

function scatterLayers(points: ScatterPoint[], x: Spec, y: Spec, encoding: Spec): Spec[] {
  const of = (base: Spec, field: string) => ({ ...base, field });
  const colour = { color: encoding.color };
  const marks = (uniform: boolean): Spec[] => {
    const values = points.filter((point) => point.uniform === uniform);
    return values.length === 0 ? [] : [{
      data: { values },
      mark: {
        type: "point",
        filled: uniform,
        fill: uniform ? undefined : NEUTRAL.paper,
        opacity: 1,
        size: 85,
        strokeWidth: 2,
      },
      encoding: { x, y, ...encoding, description: { field: "description" } },
    }];
  };
  return [
    {
      data: { values: points },
      mark: { type: "rule", strokeWidth: 1.2, opacity: 0.8, aria: false },
      encoding: { ...colour, x: of(x, "xLow"), x2: { field: "xHigh" }, y },
    },
    {
      data: { values: points },
      mark: { type: "rule", strokeWidth: 1.2, opacity: 0.8, aria: false },
      encoding: { ...colour, x, y: of(y, "yLow"), y2: { field: "yHigh" } },
    },
    ...marks(true),
    ...marks(false),
  ];
}

function densePoint(x: Spec, y: Spec, point: { x: number; y: number; description: string }): Spec[] {
  const mark = { color: NEUTRAL.dense };
  return [
    {
      data: { values: [point] },
      mark: { type: "point", shape: "diamond", filled: true, opacity: 1, size: 110, ...mark },
      encoding: { x, y, description: { field: "description" } },
    },
    {
      data: { values: [point] },
      mark: { type: "text", dx: 9, align: "left", baseline: "middle", text: "dense", fontSize: 12, ...mark },
      encoding: { x, y },
    },
  ];
}

/** A row as a point, if it has both values. */
function speedPoint(row: Row, quality: Column, speed: Column): ScatterPoint[] {
  const [own, fast] = [row.values.get(quality.key), row.values.get(speed.key)];
  if (own === undefined || fast === undefined) return [];
  const [x, xLow, xHigh] = withBounds(fast);
  const [y, yLow, yHigh] = withBounds(own, scaleOf(quality));
  const description = `${describe(row, quality, own)}; ${x.toFixed(1)} ${speed.name} tokens/s`;
  const uniform = row.runs.every(({ size }) => size.layerwiseUniform);
  return [{ method: row.label, level: level(row.asked), x, xLow, xHigh, y, yLow, yHigh, uniform, description }];
}

/** Quality against measured tokens/s, with the Pareto front. */
export function qualityAgainstSpeed(section: Section, quality: Column, speed: Column, name: string): Chart | null {
  const rows = pruned(section).filter((row) => row.values.has(quality.key) && row.values.has(speed.key));
  if (rows.length === 0) return null;
  const lowerIsBetter = quality.kind === "perplexity";
  const points = rows.flatMap((row) => speedPoint(row, quality, speed));
  const dense = denseRow(section);
  const references = dense === undefined ? [] : speedPoint(dense, quality, speed);
  const all = [...points, ...references];
  const front = paretoFront(all, lowerIsBetter);
  const title = `${lowerIsBetter ? "Perplexity" : "Accuracy"} against measured ${speed.name} speed`;
  const estimates = rows.flatMap((row) => row.values.get(quality.key) ?? []);
  return {
    name,
    title: `${title}: ${quality.name}`,
    spec: (width) => {
      const x = linear("x", `${speed.name}, tokens/s (measured)`, {
        zero: false,
        domain: roomy(all.flatMap(({ xLow, xHigh }) => [xLow, xHigh])),
      });
      const domain = roomy(all.flatMap(({ yLow, yHigh }) => [yLow, yHigh]), lowerIsBetter);
      const y = linear("y", qualityTitle(quality), lowerIsBetter ? { type: "log", domain } : { zero: false, domain });
      const subtitle = [
        `${subject(section)} · ${speed.count}`,
        `Line: Pareto front, nothing measured is both faster and better. Hollow: widths differ between layers. ` +
        `${barWords(estimates)} Speed: sample sd over repeats.`,
      ];
      return shell(title, subtitle, width, {
        layer: [
          frontLayer(front, x, y),
          ...scatterLayers(points, x, y, methodAndLevel(section, rows)),
          ...references.flatMap((reference) => densePoint(x, y, reference)),
        ],
      });
    },
  };
}

/** A broad line behind the points. */
const frontLayer = (front: ScatterPoint[], x: Spec, y: Spec): Spec => ({
  data: { values: front.map(({ x, y }) => ({ x, y })) },
  mark: {
    type: "line",
    color: NEUTRAL.dense,
    strokeWidth: 6,
    opacity: 0.15,
    strokeJoin: "round",
    strokeCap: "round",
  },
  encoding: { x, y, description: { value: "Pareto front" } },
});

/** Measured speed-up against the reduction in MACs: how much of the saving a machine really gives. */
export function speedUpAgainstMacs(section: Section, speed: Column, name: string): Chart | null {
  const rows = pruned(section).filter((row) => row.speedUps.has(speed.key));
  if (rows.length === 0) return null;
  const points = rows.flatMap((row): ScatterPoint[] => {
    const up = row.speedUps.get(speed.key);
    if (up === undefined) return [];
    const x = meanOf(row, ({ size, denseSize }) => denseSize.macs64 / size.macs64);
    const [y, yLow, yHigh] = withBounds(up);
    const uniform = row.runs.every(({ size }) => size.layerwiseUniform);
    const description = `${nameOf(row)}: ${x.toFixed(2)} times fewer MACs, ` +
      `${y.toFixed(2)} times the ${speed.name} tokens/s of dense`;
    return [{ method: row.label, level: level(row.asked), x, xLow: x, xHigh: x, y, yLow, yHigh, uniform, description }];
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
  return {
    name,
    title,
    spec: (width) => {
      const x = linear("x", "MACs of dense / MACs", { domain: [bottom, top], zero: false });
      const y = linear("y", `${speed.name} tokens/s over dense (measured)`, {
        domain: [bottom, top],
        zero: false,
        clamp: true,
      });
      return shell(
        title,
        [
          `${subject(section)} · ${speed.count}`,
          "Dashed: speed-up equal to the saving. Hollow: widths differ between layers. " +
          barWords(rows.flatMap((row) => row.speedUps.get(speed.key) ?? [])) +
          (isCut ? " Bars that reach the edge go on beyond it." : ""),
        ],
        width,
        {
          layer: [
            {
              data: { values: [{ x: bottom, y: bottom }, { x: top, y: top }] },
              mark: { type: "line", color: NEUTRAL.dense, strokeDash: [6, 3], strokeWidth: 1.2, aria: false },
              encoding: { x, y },
            },
            ...scatterLayers(points, x, y, methodAndLevel(section, rows)),
            ...densePoint(x, y, { x: 1, y: 1, description: "dense" }),
          ],
        },
      );
    },
  };
}
