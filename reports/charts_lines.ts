/** Quality against sparsity: one line per method, from the dense model.
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
  qualityTitle,
  removed,
  scaleOf,
  shell,
  subject,
} from "./chart_style.ts";
import { budgetWords } from "./budget.ts";
import type { Column } from "./columns.ts";
import type { Chart, Spec } from "./document.ts";
import type { Estimate } from "./estimates.ts";
import { NEUTRAL } from "./palette.ts";
import type { Section } from "./sections.ts";

/** Perplexities above this multiple of the lowest are drawn at the upper edge: a destroyed model would otherwise
 * squeeze all others into one line. */
const MOST_TIMES_LOWEST = 50;

/** Range of the axis, in the units of the chart. */
function rangeOf(column: Column, estimates: readonly Estimate[]): [low: number, high: number] {
  const k = scaleOf(column);
  const all = estimates.flatMap(({ value, spread }) => [value - (spread ?? 0), value, value + (spread ?? 0)]);
  if (column.kind === "perplexity") {
    const lowest = Math.min(...estimates.map(({ value }) => value));
    const low = Math.min(...all.filter((value) => value > 0));
    return [low / 1.12, Math.min(Math.max(...all) * 1.12, lowest * MOST_TIMES_LOWEST)];
  }
  const values = [...all, ...column.chance === null ? [] : [column.chance]].map((value) => k * value);
  const low = Math.floor((Math.min(...values) - 1) / 5) * 5;
  return [Math.max(0, low), Math.min(100, Math.ceil((Math.max(...values) + 1) / 5) * 5)];
}

/** A horizontal line with its name, such as the dense model's value. */
function referenceLine(name: string, quality: number, y: Spec): Spec[] {
  const color = NEUTRAL.dense;
  const text = {
    type: "text",
    text: name,
    align: "right",
    baseline: "bottom",
    dy: -3,
    x: "width",
    fontSize: 12,
    color,
  };
  return [
    layer([{ quality }], { type: "rule", color, strokeDash: [6, 3], strokeWidth: 1.2, aria: false }, { y }),
    layer([{ quality }], text, { y }),
  ];
}

/** Quality against the removed part of the prunable parameters; null where no pruned model has a value. */
export function qualityAgainstSparsity(section: Section, column: Column, name: string): Chart | null {
  const rows = section.pruned.filter(({ values }) => values.has(column.key));
  if (rows.length === 0) return null;
  const k = scaleOf(column);
  const dense = section.dense?.values.get(column.key);
  const estimates = [...rows, ...section.dense ? [section.dense] : []].flatMap(({ values }) =>
    values.get(column.key) ?? []
  );
  const [low, high] = rangeOf(column, estimates);
  const lines = linesOf(rows);
  const points = rows.map((row) => {
    const estimate = row.values.get(column.key)!;
    const spread = estimate.spread ?? 0;
    return {
      ...{ method: row.label, removed: removed(row), quality: k * estimate.value },
      low: Math.max(k * (estimate.value - spread), low),
      high: k * (estimate.value + spread),
      description: describe(row, column, estimate),
    };
  });
  const bySeed = rows.filter(({ seeds }) => seeds.length > 1).flatMap((row) => {
    const own = { method: row.label, removed: removed(row) };
    return [...row.bySeed.get(column.key)!.values()].map((value) => ({ ...own, quality: k * value }));
  });
  const starts = dense ? lines.map(({ label }) => ({ method: label, removed: 0, quality: k * dense.value })) : [];
  const isLog = column.kind === "perplexity";
  const isCut = estimates.some(({ value }) => k * value > high);
  const x = axis("removed", `${budgetWords(section).long} removed, %`, { zero: true }, { grid: false, tickCount: 6 });
  const scale = { domain: [low, high], nice: false, clamp: true, ...isLog ? { type: "log" } : { zero: false } };
  const y = axis("quality", qualityTitle(column), scale, { tickCount: 6, ...isLog && { format: "~g" } });
  const color = methodColour(lines, { symbolType: "circle" });
  const over = column.kind === "mean-accuracy" ? "over " : "";
  const notes = [barWords(estimates), ...isCut ? [`Triangles: above ${high.toFixed(0)}.`] : []];
  const title = `${isLog ? "Perplexity" : "Accuracy"} against sparsity`;
  const layers = [
    ...dense === undefined ? [] : referenceLine("dense", k * dense.value, y),
    ...column.chance === null ? [] : referenceLine("chance", k * column.chance, y),
    layer([...starts, ...points], { type: "line", strokeWidth: 2 }, { x, y, color }),
    layer(points.filter(({ quality }) => quality <= high), { type: "rule", strokeWidth: 1.5, aria: false }, {
      ...{ x, color, y: { ...y, field: "low" }, y2: { field: "high" } },
    }),
    layer(points, { type: "point", filled: true, opacity: 1, size: 60 }, {
      ...{ x, y, color, description: { field: "description" } },
      shape: { condition: { test: `datum.quality > ${high}`, value: "triangle-up" }, value: "circle" },
    }),
  ];
  return {
    name,
    title: `${title}: ${column.name}`,
    spec: shell(title, [`${subject(section)} · ${column.name} ${over}${column.count}`, notes.join(" ").trim()], {
      layer: layers,
    }),
    seeds: layer(bySeed, { type: "point", filled: true, size: 14, opacity: 0.7 }, { x, y, color }),
  };
}
