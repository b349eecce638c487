/** The rows of the page, and what can be shown of them.
 *
 * @module
 */
import { paretoFront } from "../../pareto.ts";
import { unique } from "../../format.ts";

const { columns, sections, failures, published } = globalThis.BENCH;

const unpacked = (packed) =>
  Array.isArray(packed) ? packed : [...packed.codes].map((code) => packed.values[DIGITS[code]]);
const DIGITS = Object.fromEntries(
  [..."0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"].map((code, i) => [code, i]),
);

columns.forEach((column, i) => {
  // Tests look a row's numbers up by the column's key.
  column.key = i;
  const same = columns.slice(0, i).filter(({ slug }) => slug === column.slug).length;
  column.id = same === 0 ? column.slug : `${column.slug}-${same + 1}`;
});

/** Every row, as `Row` of the reports where tests need it. Losses are unpacked when they are first asked for. */
const rows = sections.flatMap((section) =>
  section.rows.map((row) => ({
    ...row,
    section,
    values: new Map(row.values),
    speedUps: new Map(row.speedUps),
    bySeed: new Map(row.bySeed.map(([column, own]) => [column, new Map(own)])),
    paired: lazyMap(row.paired),
  }))
);

function lazyMap(entries) {
  const own = new Map(entries);
  const known = new Map();
  return {
    has: (key) => own.has(key),
    get: (key) => {
      if (!known.has(key) && own.has(key)) known.set(key, unpacked(own.get(key)));
      return known.get(key);
    },
  };
}

/** A number of a row that an axis shows: name, direction of merit, value and interval. */
const plain = (id, title, pick, better = null) => ({
  ...{ id, title, better, kind: "number" },
  point: (row) => {
    const value = pick(row);
    return Number.isFinite(value) ? { value, bounds: null } : undefined;
  },
});

/** Percent for fractions, as tables have them. */
const scaled = (estimate, scale) =>
  estimate && { value: scale * estimate.value, bounds: estimate.bounds?.map((end) => scale * end) ?? null };

function columnAxes(column) {
  const { key, id, name, unit, count, higherIsBetter, kind } = column;
  const scale = column.isFraction ? 100 : 1;
  const words = name.replace(/^pp(?=\d)/, "prefill pp").replace(/^tg(?=\d)/, "decoding tg");
  const own = {
    ...{ id, title: `${words}, ${unit}`, detail: count, column, kind, scale },
    better: higherIsBetter ? "higher" : "lower",
    point: (row) => scaled(row.values.get(key), scale),
  };
  if (kind !== "throughput") return [own];
  const title = `${words} speed-up, × dense`;
  return [own, {
    ...own,
    id: `${id}-speed-up`,
    title,
    kind: "number",
    point: (row) => scaled(row.speedUps.get(key), 1),
  }];
}

/** Everything that a chart can show, by id. */
const axes = new Map([
  plain("removed", "prunable parameters removed, %", ({ size }) => 100 * size.removed, "higher"),
  plain("asked", "target sparsity, %", ({ asked }) => 100 * asked, "higher"),
  plain("parameters", "parameters, millions", ({ size }) => size.parameters / 1e6, "lower"),
  plain("macs", "MACs of 64 tokens, billions", ({ size }) => size.macs / 1e9, "lower"),
  plain("weights", "weights, MiB", ({ size }) => size.weights / 2 ** 20, "lower"),
  plain("tokens", "training tokens", ({ tokens }) => tokens, "lower"),
  plain("prune-s", "pruning, s", ({ cost }) => cost.pruneS, "lower"),
  plain("learn-s", "learning, s", ({ cost }) => cost.learnS, "lower"),
  plain("device-hours", "device-hours, all seeds", ({ cost }) => cost.deviceHours, "lower"),
  ...columns.flatMap(columnAxes),
].map((axis) => [axis.id, axis]));

rows.forEach((row, i) => row.index = i);

/** Axes that some of `shown` have numbers for. */
const axesOf = (shown) => [...axes.values()].filter((axis) => shown.some((row) => axis.point(row) !== undefined));

/** Columns of the main table that some of `shown` have. */
const columnsOf = (shown) =>
  columns.filter(({ key, primary }) => primary && shown.some(({ values }) => values.has(key)));

/** Names by which rows are filtered, in their order. */
const FILTERS = Object.keys(rows[0]?.filters ?? {});

const size = (text) => text === "dense" ? -1 : Number.parseFloat(text.replaceAll(",", ""));

/** Values by filter among all rows: levels by size, other values by how they first occur. */
const values = new Map(FILTERS.map((name) => {
  const all = unique(rows.map(({ filters }) => filters[name]));
  return [name, name === "level" || name === "tokens" ? all.sort((a, b) => size(a) - size(b)) : all];
}));
const valuesOf = (name) => values.get(name);

/** The front of points, for axes that both have a direction of merit. */
const frontOf = (points, x, y) => {
  if (x.better === null || y.better === null) return [];
  const sign = x.better === "lower" ? -1 : 1;
  return paretoFront(points.map((point) => ({ ...point, x: sign * point.x })), y.better === "lower")
    .map((point) => ({ ...point, x: sign * point.x }));
};

export { axes, axesOf, columns, columnsOf, failures, FILTERS, frontOf, published, rows, sections, valuesOf };
