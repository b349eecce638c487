/** The chart: one point per row or seed, with intervals, the Pareto front and published numbers.
 *
 * @module
 */
import { expressionInterpreter } from "vega-interpreter";
import { LEVEL_COLOURS, SHAPES } from "../../palette.ts";
import { level, unique } from "../../format.ts";
import { frontOf, published, rows } from "./data.js";
import { el, fill } from "./dom.js";
import { state } from "./state.js";

const { vega, vegaLite } = globalThis;

/** Methods whose numbers stretch a scale. */
const POOR = ["random", "magnitude"];

/** Vega calls the handler of tooltips for marks that have one; the page writes its text itself. */
const TOOLTIP = { value: "shown" };

const hasBudgets = unique(rows.map(({ filters }) => filters.budget)).filter((budget) => budget !== "dense").length > 1;

/** A row in words, with what its level is a part of where rows differ in that. */
const nameOf = ({ label, asked, methodId, filters }) =>
  methodId === null ? label : `${label} at ${level(asked)}${hasBudgets ? ` of ${filters.budget}` : ""}`;

/** Rows that no other of `list` beats on both axes. */
export const frontRows = (list, x, y) =>
  frontOf(
    list.flatMap((row) => {
      const [px, py] = [x.point(row), y.point(row)];
      return px && py ? [{ row, x: px.value, y: py.value }] : [];
    }),
    x,
    y,
  ).map(({ row }) => row);

/** Text of a number on an axis. */
const shown = (axis, row, value) => {
  const own = axis.column && axis.kind !== "number" ? row.values.get(axis.column.key) : undefined;
  return own && value === undefined
    ? own.text + own.spread
    : Number((value ?? axis.point(row)?.value).toPrecision(4)).toString();
};

/** What all of `names` begin with, up to a dash or slash. */
function commonStart([first = "", ...others]) {
  let length = first.length;
  for (const other of others) while (!other.startsWith(first.slice(0, length))) length--;
  return others.length === 0 ? "" : first.slice(0, length).replace(/[^-/]*$/, "");
}

/** Points of a row: its mean with intervals, or one for each seed. */
function pointsOf(row, x, y, shape) {
  const [px, py] = [x.point(row), y.point(row)];
  if (px === undefined || py === undefined) return [];
  const base = { row: row.index, colour: row.filters[state.colour] ?? row.label, shape: row.filters[shape] };
  if (state.colour === "method") base.colour = row.label;
  const seeds = state.points === "seeds" && y.column ? row.bySeed.get(y.column.key) : undefined;
  if (seeds) return [...seeds].map(([seed, value]) => ({ ...base, seed, x: px.value, y: y.scale * value }));
  const [[xLow, xHigh], [yLow, yHigh]] = [px, py].map(({ value, bounds }) => bounds ?? [value, value]);
  return [{ ...base, x: px.value, y: py.value, xLow, xHigh, yLow, yHigh }];
}

/** Published numbers on these axes: of the same corpus or task, where the other axis is a level. */
function publishedPoints(x, y) {
  if (state.published !== "yes" || !["asked", "removed"].includes(x.id) || !y.column?.measure) return [];
  const wanted = y.column.measure.replace(/^(ppl:.*):\d+$/, "$1");
  return published.flatMap(({ values, sparsity, ...paper }, i) =>
    values.filter(([measure]) => measure === y.column.measure || measure.replace(/:\d+$/, "") === wanted)
      .map(([measure, value]) => ({ x: 100 * sparsity, y: value, paper: i, measure, ...paper }))
  );
}

/** Rows of `points` that do not count for the scale. */
const leftOut = (points) => {
  const isPoor = ({ row }) => POOR.includes(rows[row].methodId);
  return state.clip === "yes" && !points.every(isPoor) ? points.filter(isPoor).map(({ row }) => row) : [];
};

/** Colours of the page's style sheet, until the reader's system turns dark or light. */
let ink;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => ink = undefined);
function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "muted", "dense", "line", "grid", "card", "accent"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Range of an axis: all values, and of their intervals what takes at most a quarter more. */
function domainOf(points, isLog) {
  const [to, from] = isLog ? [Math.log, Math.exp] : [Number, Number];
  const known = (list) => list.map(to).filter(Number.isFinite);
  const values = known(points.map(({ value }) => value));
  if (values.length === 0) return undefined;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const span = high - low || Math.abs(high) || 1;
  const ends = known(points.flatMap(({ low, high }) => [low, high]));
  return [
    from(Math.max(Math.min(low, ...ends), low - span / 4) - 0.04 * span),
    from(Math.min(Math.max(high, ...ends), high + span / 4) + 0.04 * span),
  ];
}

/** The Vega-Lite specification. */
function specOf(points, x, y, width) {
  ink ??= colours();
  const others = publishedPoints(x, y);
  const without = new Set(leftOut(points));
  const scaled = points.filter(({ row }) => !without.has(row));
  const isLog = { x: state.logX === "yes", y: state.logY === "" ? y.kind === "perplexity" : state.logY === "yes" };
  const ends = (axis) => [
    ...scaled.map((p) => ({ value: p[axis], low: p[`${axis}Low`] ?? p[axis], high: p[`${axis}High`] ?? p[axis] })),
    ...others.map((p) => ({ value: p[axis], low: p[axis], high: p[axis] })),
  ];
  const channel = (name, axis) => ({
    field: name,
    type: "quantitative",
    scale: {
      type: isLog[name] ? "log" : "linear",
      domain: domainOf(ends(name), isLog[name]),
      nice: false,
      zero: false,
    },
    axis: { title: axis.title + (isLog[name] ? " (log scale)" : ""), tickCount: 6 },
  });
  const [cx, cy] = [channel("x", x), channel("y", y)];
  const names = unique(points.map(({ colour }) => colour));
  const byName = new Map(
    points.map(({ colour, row }) => [colour, rows[row].methodId === null ? ink.dense : rows[row].colour]),
  );
  const range = names.map((name, i) =>
    state.colour === "method" ? byName.get(name) : LEVEL_COLOURS[i % LEVEL_COLOURS.length]
  );
  const color = {
    field: "colour",
    type: "nominal",
    scale: { domain: names, range },
    legend: { title: state.colour, symbolType: "circle", symbolOpacity: 1 },
  };
  const kinds = unique(points.map(({ shape }) => shape));
  const shape = {
    ...{ field: "shape", type: "nominal" },
    scale: { domain: kinds, range: kinds.map((_, i) => SHAPES[i % SHAPES.length]) },
    legend: kinds.length > 1 ? { title: null, symbolFillColor: ink.muted, symbolStrokeColor: ink.muted } : null,
  };
  const rule = (encoding) => ({ mark: { type: "rule", opacity: 0.6, clip: true }, encoding });
  const isShown = (value, isLog) => Number.isFinite(value) && (!isLog || value > 0);
  const shown = (list) => list.filter((p) => isShown(p.x, isLog.x) && isShown(p.y, isLog.y));
  const pinned = points.filter(({ row }) => state.pins.includes(rows[row].id));
  const layers = [
    ...others.length > 0
      ? [{
        data: { values: shown(others) },
        mark: { type: "point", filled: true, color: ink.muted, opacity: 0.55, size: 60 },
        encoding: { x: cx, y: cy, tooltip: TOOLTIP },
      }]
      : [],
    ...state.front === "yes"
      ? [{
        data: { values: shown(frontOf(points, x, y)) },
        mark: { type: "line", color: ink.muted, strokeDash: [4, 4], clip: true },
        encoding: { x: cx, y: cy, order: { field: "x", type: "quantitative" } },
      }]
      : [],
    ...points.some(({ yLow, yHigh }) => yLow !== yHigh)
      ? [rule({ x: cx, y: { ...cy, field: "yLow" }, y2: { field: "yHigh" }, color })]
      : [],
    ...points.some(({ xLow, xHigh }) => xLow !== xHigh)
      ? [rule({ y: cy, x: { ...cx, field: "xLow" }, x2: { field: "xHigh" }, color })]
      : [],
    {
      mark: { type: "point", filled: true, opacity: 0.95, size: 75, clip: true, cursor: "pointer" },
      encoding: { x: cx, y: cy, color, shape, tooltip: TOOLTIP },
    },
    ...pinned.length > 0
      ? [{
        data: { values: pinned },
        mark: { type: "point", size: 230, strokeWidth: 2, color: ink.accent, clip: true },
        encoding: { x: cx, y: cy, tooltip: TOOLTIP },
      }]
      : [],
  ];
  const narrow = width < 600;
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    // Vega makes this the label for screen readers.
    description: `${y.title} against ${x.title}: ${points.length} points. The table has the same numbers.`,
    background: null,
    width: width - 26,
    // Below the plot or beside it, the legend has 18 pixels for each name.
    height: narrow ? 360 + 18 * (names.length + kinds.length) : Math.max(440, 60 + 18 * (names.length + kinds.length)),
    autosize: { type: "fit", contains: "padding" },
    data: { values: shown(points) },
    layer: layers,
    config: {
      font: "system-ui, sans-serif",
      // Nothing in the data is invalid, and the table reads better aloud: both would be asked of every mark.
      mark: { invalid: null, aria: false },
      view: { stroke: null },
      axis: {
        domainColor: ink.line,
        tickColor: ink.line,
        gridColor: ink.grid,
        labelColor: ink.muted,
        titleColor: ink.ink,
        titleFontWeight: "normal",
        labelFontSize: 11,
        titleFontSize: 12,
      },
      legend: {
        ...{
          labelColor: ink.ink,
          titleColor: ink.muted,
          titleFontWeight: "normal",
          labelFontSize: 12,
          labelLimit: narrow ? width - 100 : 250,
          symbolLimit: 40,
        },
        ...narrow && { orient: "bottom", columns: 1, layout: { bottom: { anchor: "start", direction: "vertical" } } },
      },
    },
  };
}

/** Lines of the tooltip of a point. */
function lines(datum, x, y) {
  if (datum.paper !== undefined) {
    const [, , window] = datum.measure.split(":");
    return [
      `${datum.label}: ${datum.y}`,
      datum.source,
      `Not directly comparable: ${datum.model}${window ? `, windows of ${window} tokens` : ""}`,
      ...datum.differences.slice(0, 2),
    ];
  }
  const row = rows[datum.row];
  return [
    nameOf(row) + (datum.seed === undefined ? "" : `, seed ${datum.seed}`),
    `${y.title}: ${shown(y, row, datum.seed === undefined ? undefined : datum.y)}`,
    `${x.title}: ${shown(x, row)}`,
    ...["run", "recovery", "compensation"].map((name) => `${name}: ${row.filters[name]}`),
    "Click to pin.",
  ];
}

/** The view on the page, which the next one replaces. */
let view;
let wanted = 0;

/** Draws the chart of `list`. `pin` is told the id of a row whose point was clicked. */
export async function drawChart(list, { x, y }, { width, pin }) {
  const turn = ++wanted;
  const pruned = list.filter(({ methodId }) => methodId !== null);
  const shape =
    ["budget", "run", "recovery", "level"].find((name) =>
      name !== state.colour && unique(pruned.map(({ filters }) => filters[name])).length > 1
    ) ?? "level";
  const points = x && y ? list.flatMap((row) => pointsOf(row, x, y, shape)) : [];
  const start = commonStart(unique(points.map((point) => point.shape)));
  for (const point of points) point.shape = point.shape.slice(start.length);
  hideTooltip();
  if (points.length === 0) {
    view?.finalize();
    view = undefined;
    fill("chart", el("p", { class: "empty" }, "No cell has both numbers: choose other axes or filters."));
    return;
  }
  const { spec } = vegaLite.compile(specOf(points, x, y, width));
  const next = new vega.View(vega.parse(spec, null, { ast: true }), {
    renderer: "canvas",
    expr: expressionInterpreter,
  });
  next.tooltip((_handler, event, item, value) => value ? showTooltip(event, lines(item.datum, x, y)) : hideTooltip());
  next.addEventListener("click", (_event, item) => item?.datum?.row !== undefined && pin(rows[item.datum.row].id));
  const holder = el("div", { class: "plot" });
  next.initialize(holder);
  await next.runAsync();
  if (turn !== wanted) return next.finalize();
  view?.finalize();
  view = next;
  fill("chart", holder);
}

/** The chart's points on the screen, for tests and scripts: row id and place of each. */
globalThis.chartPoints = () => {
  const box = document.querySelector("#chart canvas").getBoundingClientRect();
  const { left: aside = 0, top: above = 0 } = view.padding();
  const [left, top] = [view.origin()[0] + aside, view.origin()[1] + above];
  const found = [];
  const walk = (item, dx, dy) => {
    for (const group of item.items ?? []) {
      if (item.marktype === "symbol" && group.datum?.row !== undefined && group.datum.seed === undefined) {
        found.push({
          id: rows[group.datum.row].id,
          x: box.left + left + dx + group.x,
          y: box.top + top + dy + group.y,
        });
      }
      if (group.items) { for (const inner of group.items) walk(inner, dx + (group.x ?? 0), dy + (group.y ?? 0)); }
    }
  };
  walk(view.scenegraph().root, 0, 0);
  return found;
};

function showTooltip(event, texts) {
  const box = document.getElementById("tooltip");
  box.replaceChildren(...texts.map((text, i) => el(i === 0 ? "b" : "span", {}, text)));
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  box.style.top = `${event.clientY + height + 20 > innerHeight ? event.clientY - height - 10 : event.clientY + 14}px`;
}

function hideTooltip() {
  document.getElementById("tooltip").hidden = true;
}

export { nameOf };
