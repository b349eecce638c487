/** The figures of a section as Vega-Lite specifications: quality against sparsity and against measured speed. A
 * specification holds its data, so it can be redrawn and restyled elsewhere.
 *
 * @module
 */
import { budgetWords, speedsOf } from "./budget.ts";
import {
  axis,
  barWords,
  describe,
  layer,
  methodColour,
  nominal,
  qualityTitle,
  removed,
  scaleOf,
  shell,
} from "./chart_style.ts";
import type { Column } from "./columns.ts";
import type { Chart, Spec } from "./document.ts";
import { boundsOf } from "./estimates.ts";
import { headlineColumns } from "./findings.ts";
import { level, unique } from "./format.ts";
import { NEUTRAL, SHAPES } from "./palette.ts";
import { paretoFront } from "./pareto.ts";
import type { Row, Section } from "./sections.ts";

/** A row by sparsity or speed (x) and quality (y), with the ends of its bars. */
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

/** Rows as points, those that have both values.
 * @param speed What x is: a column of throughput, or the removed percentage. */
function pointsOf(rows: readonly Row[], quality: Column, speed: Column | undefined): Point[] {
  const k = scaleOf(quality);
  return rows.flatMap((row) => {
    const [own, fast] = [row.values.get(quality.key), speed && row.values.get(speed.key)];
    if (own === undefined || speed && fast === undefined) return [];
    const x = fast?.value ?? removed(row);
    const [xLow, xHigh] = fast && boundsOf(fast) || [x, x];
    const [yLow, yHigh] = boundsOf(own) ?? [own.value, own.value];
    const rate = speed ? `; ${x.toFixed(1)} ${speed.name} tokens/s` : "";
    return [{
      ...{ x, xLow, xHigh, y: k * own.value, yLow: k * yLow, yHigh: k * yHigh },
      ...{ method: row.label, level: level(row.asked), description: describe(row, quality, own) + rate },
    }];
  });
}

/** Perplexities above this multiple of the lowest are drawn at the upper edge: a destroyed model would otherwise
 * squeeze all others into one line. */
const MOST_TIMES_LOWEST = 50;

function rangeOf({ kind, chance }: Column, points: readonly Point[]): [low: number, high: number] {
  const all = points.flatMap(({ y, yLow, yHigh }) => [y, yLow, yHigh]);
  if (kind === "perplexity") {
    const low = Math.min(...all.filter((value) => value > 0));
    return [low / 1.12, Math.min(Math.max(...all) * 1.12, Math.min(...points.map(({ y }) => y)) * MOST_TIMES_LOWEST)];
  }
  const values = chance === null ? all : [...all, 100 * chance];
  const low = Math.floor((Math.min(...values) - 1) / 5) * 5;
  return [Math.max(0, low), Math.min(100, Math.ceil((Math.max(...values) + 1) / 5) * 5)];
}

const color = NEUTRAL.dense;
const label = { type: "text", fontSize: 12, color };

/** A horizontal line with its name, such as the dense model's value. */
function referenceLine(text: string, value: number, y: Spec): Spec[] {
  const place = { align: "right", baseline: "bottom", dy: -3, x: "width" };
  return [
    layer([{ y: value }], { type: "rule", color, strokeDash: [6, 3], strokeWidth: 1.2, aria: false }, { y }),
    layer([{ y: value }], { ...label, ...place, text }, { y }),
  ];
}

const densePoint = (point: Point, x: Spec, y: Spec): Spec[] => [
  layer([point], { type: "point", shape: "diamond", filled: true, opacity: 1, size: 110, color }, {
    ...{ x, y, description: { field: "description" } },
  }),
  layer([point], { ...label, dx: 9, align: "left", baseline: "middle", text: "dense" }, { x, y }),
];

/** Quality against the removed part of the budget's resource, one line per method from the dense model; or against
 * measured `speed`, with the Pareto front. Null where no pruned model has the values. */
function qualityFigure(section: Section, quality: Column, name: string, speed?: Column): Chart | null {
  const rows = section.pruned.filter((row) => pointsOf([row], quality, speed).length > 0);
  if (rows.length === 0) return null;
  const points = pointsOf(rows, quality, speed);
  const references = pointsOf(section.dense ? [section.dense] : [], quality, speed);
  const [low, high] = rangeOf(quality, [...points, ...references]);
  const isLog = quality.kind === "perplexity";
  const x = speed
    ? axis("x", `${speed.name}, tokens/s (measured)`, { nice: false, zero: false, padding: 20 }, { tickCount: 6 })
    : axis("x", `${budgetWords(section).long} removed, %`, { zero: true }, { grid: false, tickCount: 6 });
  const scale = { domain: [low, high], nice: false, clamp: true, ...isLog ? { type: "log" } : { zero: false } };
  const y = axis("y", qualityTitle(quality), scale, { tickCount: 6, ...isLog && { format: "~g" } });
  const colour = methodColour(rows);
  const muted = { symbolFillColor: NEUTRAL.muted, symbolStrokeColor: NEUTRAL.muted };
  const shape = speed
    ? nominal("level", unique(points.map(({ level }) => level)), SHAPES, { title: "sparsity", ...muted })
    : { condition: { test: `datum.y > ${high}`, value: "triangle-up" }, value: "circle" };
  const inside = points.filter((point) => point.y <= high)
    .map((point) => ({ ...point, yLow: Math.max(point.yLow, low) }));
  const bars = (encoding: Spec) =>
    layer(inside, { type: "rule", strokeWidth: 1.5, aria: false }, { color: colour, ...encoding });
  const front = paretoFront([...points, ...references], isLog).map(({ x, y }) => ({ x, y }));
  const broad = { color, strokeWidth: 6, opacity: 0.15, strokeJoin: "round", strokeCap: "round", aria: false };
  const starts = references.flatMap((start) =>
    unique(rows.map(({ label }) => label)).map((method) => ({ ...start, method }))
  );
  const layers = [
    ...quality.chance === null ? [] : referenceLine("chance", 100 * quality.chance, y),
    ...speed ? [layer(front, { type: "line", ...broad }, { x, y })] : [
      ...references.flatMap((dense) => referenceLine("dense", dense.y, y)),
      layer([...starts, ...points], { type: "line", strokeWidth: 2 }, { x, y, color: colour }),
    ],
    bars({ x, y: { ...y, field: "yLow" }, y2: { field: "yHigh" } }),
    ...speed ? [bars({ x: { ...x, field: "xLow" }, x2: { field: "xHigh" }, y })] : [],
    layer(points, { type: "point", filled: true, opacity: 1, size: speed ? 85 : 60 }, {
      ...{ x, y, color: colour, shape, description: { field: "description" } },
    }),
    ...speed ? references.flatMap((dense) => densePoint(dense, x, y)) : [],
  ];
  const bySeed = rows.filter(({ seeds }) => seeds.length > 1).flatMap((row) =>
    [...row.bySeed.get(quality.key)!.values()].map((value) => ({
      ...{ method: row.label, x: removed(row), y: scaleOf(quality) * value },
    }))
  );
  const title = `${isLog ? "Perplexity" : "Accuracy"} against ${speed ? `measured ${speed.name} speed` : "sparsity"}`;
  const over = quality.kind === "mean-accuracy" ? "over " : "";
  const notes = [
    ...speed ? ["Line: Pareto front, nothing measured is both faster and better."] : [],
    barWords(rows.flatMap(({ values }) => values.get(quality.key) ?? [])),
    ...speed ? ["Speed: sample sd over repeats."] : [],
    ...points.some(({ y }) => y > high) ? [`${speed ? "Upper edge" : "Triangles"}: above ${high.toFixed(0)}.`] : [],
  ].filter((text) => text !== "");
  const about = speed ? speed.count : `${quality.name} ${over}${quality.count}`;
  const subject = section.demonstration ? "tiny demonstration model" : section.model;
  return {
    ...{ name, title: `${title}: ${quality.name}` },
    spec: shell(title, [`${subject} · ${about}`, notes.join(" ")], { layer: layers }),
    ...!speed && bySeed.length > 0 &&
      { seeds: layer(bySeed, { type: "point", filled: true, size: 14, opacity: 0.7 }, { x, y, color: colour }) },
  };
}

const kindOf = (column: Column) => column.kind === "perplexity" ? "perplexity" : "accuracy";

/** Every figure the section's records allow.
 * @param prefix Begins the file names, for runs with several sections. */
export function buildCharts(section: Section, prefix = ""): Chart[] {
  const headline = headlineColumns(section);
  // Accuracy is what a model is used for; perplexity where no task was scored.
  const quality = headline.find(({ kind }) => kind !== "perplexity") ?? headline[0];
  const fast = quality === undefined
    ? []
    : speedsOf(section).map((speed) => qualityFigure(section, quality, `${kindOf(quality)}-vs-${speed.name}`, speed));
  const sparse = headline.map((column) => {
    const alone = headline.filter((other) => kindOf(other) === kindOf(column)).length === 1;
    return qualityFigure(section, column, `${kindOf(column)}-vs-sparsity${alone ? "" : `-${column.name}`}`);
  });
  const taken = new Set<string>();
  return [...fast, ...sparse].flatMap((chart) =>
    chart === null ? [] : [{ ...chart, name: freeName(prefix + chart.name, taken) }]
  );
}

/** A file name that is not in `taken` yet, which it joins. */
function freeName(text: string, taken: Set<string>): string {
  const base = text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  let name = base;
  for (let i = 2; taken.has(name); i++) name = `${base}-${i}`;
  taken.add(name);
  return name;
}
