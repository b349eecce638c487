/** Quality against measured speed, as points.
 *
 * @module
 */
import {
  axis,
  barWords,
  describe,
  layer,
  linesOf,
  methodColour,
  nominal,
  qualityTitle,
  scaleOf,
  shell,
  subject,
} from "./chart_style.ts";
import type { Chart, Spec } from "./document.ts";
import { level, unique } from "./format.ts";
import type { Column } from "./columns.ts";
import { NEUTRAL, SHAPES } from "./palette.ts";
import { boundsOf, type Estimate } from "./estimates.ts";
import { type Row, type Section } from "./sections.ts";
import { paretoFront } from "./pareto.ts";

/** A row by speed (x) and quality (y), with the ends of its bars. */
interface Point {
  x: number;
  xLow: number;
  xHigh: number;
  y: number;
  yLow: number;
  yHigh: number;
  method: string;
  level: string;
  description: string;
}

/** The range of `values`, widened a little on both sides. */
function roomy(values: number[], log = false): [number, number] {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (log) return [Math.max(low, Number.MIN_VALUE) / 1.12, high * 1.12];
  const room = 0.07 * (high - low || high);
  return [low - room, high + room];
}

/** A row as a point, if it has both values. */
function pointsOf(row: Row, quality: Column, speed: Column): Point[] {
  const [own, fast] = [row.values.get(quality.key), row.values.get(speed.key)];
  if (own === undefined || fast === undefined) return [];
  const k = scaleOf(quality);
  const ends = (estimate: Estimate) => boundsOf(estimate) ?? [estimate.value, estimate.value] as const;
  const [[xLow, xHigh], [yLow, yHigh]] = [ends(fast), ends(own)];
  return [{
    ...{ x: fast.value, xLow, xHigh, y: k * own.value, yLow: k * yLow, yHigh: k * yHigh },
    method: row.label,
    level: level(row.asked),
    description: `${describe(row, quality, own)}; ${fast.value.toFixed(1)} ${speed.name} tokens/s`,
  }];
}

/** The dense model with its name. */
function denseLayers(point: Point, x: Spec, y: Spec): Spec[] {
  const color = NEUTRAL.dense;
  const diamond = { type: "point", shape: "diamond", filled: true, opacity: 1, size: 110, color };
  const text = { type: "text", dx: 9, align: "left", baseline: "middle", text: "dense", fontSize: 12, color };
  return [layer([point], diamond, { x, y, description: { field: "description" } }), layer([point], text, { x, y })];
}

/** Quality against measured tokens/s, with the Pareto front: colour by method, shape by level. */
export function qualityAgainstSpeed(section: Section, quality: Column, speed: Column, name: string): Chart | null {
  const rows = section.pruned.filter((row) => pointsOf(row, quality, speed).length > 0);
  if (rows.length === 0) return null;
  const isPerplexity = quality.kind === "perplexity";
  const points = rows.flatMap((row) => pointsOf(row, quality, speed));
  const references = section.dense === undefined ? [] : pointsOf(section.dense, quality, speed);
  const all = [...points, ...references];
  const domainX = roomy(all.flatMap(({ xLow, xHigh }) => [xLow, xHigh]));
  const domainY = roomy(all.flatMap(({ yLow, yHigh }) => [yLow, yHigh]), isPerplexity);
  const ticks = { tickCount: 6 };
  const x = axis("x", `${speed.name}, tokens/s (measured)`, { nice: false, zero: false, domain: domainX }, ticks);
  const kind = isPerplexity ? { type: "log" } : { zero: false };
  const y = axis("y", qualityTitle(quality), { nice: false, ...kind, domain: domainY }, ticks);
  const color = methodColour(linesOf(rows), { symbolType: "circle" });
  const muted = { symbolFillColor: NEUTRAL.muted, symbolStrokeColor: NEUTRAL.muted };
  const shape = nominal("level", unique(points.map(({ level }) => level)), SHAPES, { title: "sparsity", ...muted });
  const bars = (encoding: Spec) =>
    layer(points, { type: "rule", strokeWidth: 1.2, opacity: 0.8, aria: false }, { color, ...encoding });
  const broad = { strokeWidth: 6, opacity: 0.15, strokeJoin: "round", strokeCap: "round", aria: false };
  const layers = [
    layer(
      paretoFront(all, isPerplexity).map(({ x, y }) => ({ x, y })),
      { type: "line", color: NEUTRAL.dense, ...broad },
      { x, y },
    ),
    bars({ x: { ...x, field: "xLow" }, x2: { field: "xHigh" }, y }),
    bars({ x, y: { ...y, field: "yLow" }, y2: { field: "yHigh" } }),
    layer(points, { type: "point", filled: true, opacity: 1, size: 85 }, {
      ...{ x, y, color, shape, description: { field: "description" } },
    }),
    ...references.flatMap((reference) => denseLayers(reference, x, y)),
  ];
  const estimates = rows.flatMap((row) => row.values.get(quality.key) ?? []);
  const title = `${isPerplexity ? "Perplexity" : "Accuracy"} against measured ${speed.name} speed`;
  const subtitle = [
    `${subject(section)} · ${speed.count}`,
    `Line: Pareto front, nothing measured is both faster and better. ${barWords(estimates)} ` +
    "Speed: sample sd over repeats.",
  ];
  return { name, title: `${title}: ${quality.name}`, spec: shell(title, subtitle, { layer: layers }) };
}
