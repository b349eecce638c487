/** What the reader chose, in the address: a view can be linked.
 *
 * @module
 */
import { axesOf, FILTERS, rows, sections, valuesOf } from "./data.js";

/** The choices: lists of values by filter, and texts of the rest. */
const state = { filters: {}, pins: [] };

/** Choices besides filters and pins, each with its default; axes depend on the rows. */
const CHOICES = {
  ...{ x: "", y: "", logX: "", logY: "", points: "mean", front: "yes", clip: "yes", published: "", colour: "method" },
  ...{ baseline: "", sort: "", group: "level" },
};

/** The model with most rows that is not the bundled demonstration. */
function firstModel() {
  const real = sections.some(({ demonstration }) => !demonstration);
  const counts = Map.groupBy(
    rows.filter(({ section }) => !real || !section.demonstration),
    ({ filters }) => filters.model,
  );
  return [...counts].sort((a, b) => b[1].length - a[1].length)[0]?.[0];
}

/** Reads the address. A filter that names no known value is left out. */
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.filters = {};
  for (const name of FILTERS) {
    const known = valuesOf(name);
    const own = given.getAll(name).filter((value) => known.includes(value));
    if (own.length > 0) state.filters[name] = own;
  }
  if (!given.has("model") && firstModel() !== undefined) state.filters.model = [firstModel()];
  for (const [name, usual] of Object.entries(CHOICES)) state[name] = given.get(name) ?? usual;
  state.pins = given.getAll("pin").filter((id) => rows.some((row) => row.id === id));
}

/** Writes the choices that differ from their defaults into the address. */
function writeAddress() {
  const parts = new URLSearchParams();
  for (const [name, values] of Object.entries(state.filters)) for (const value of values) parts.append(name, value);
  if (!state.filters.model) parts.append("model", "all");
  for (const [name, usual] of Object.entries(CHOICES)) if (state[name] !== usual) parts.set(name, state[name]);
  for (const id of state.pins) parts.append("pin", id);
  history.replaceState(null, "", `#${parts}`);
}

/** Names of the filters that a row does not pass. */
const failed = ({ filters }) =>
  Object.entries(state.filters).flatMap(([name, values]) => values.includes(filters[name]) ? [] : [name]);

/** Rows that pass every filter. The dense model passes all but those of model, engine, arithmetic, machine and run. */
const OF_ALL = ["model", "engine", "arithmetic", "machine", "run"];
const shownRows = () =>
  rows.filter((row) =>
    failed(row).length === 0 || row.methodId === null && !state.filters.method?.length &&
      OF_ALL.every((name) => !state.filters[name] || state.filters[name].includes(row.filters[name]))
  );

/** The axes in use for `shown`: those chosen, or the asked sparsity and the first quality. */
function chosenAxes(shown) {
  const known = axesOf(shown);
  const find = (id, usual) => known.find((axis) => axis.id === id) ?? usual ?? known[0];
  const quality = known.find(({ kind }) => kind === "mean-accuracy") ?? known.find(({ column }) => column);
  const perplexity = known.find(({ kind }) => kind === "perplexity");
  return { known, x: find(state.x, known.find(({ id }) => id === "asked")), y: find(state.y, perplexity ?? quality) };
}

/** Values by filter that rows passing the other filters have. */
function openValues() {
  const open = new Map(FILTERS.map((name) => [name, new Set(state.filters[name])]));
  for (const row of rows) {
    const without = failed(row);
    if (without.length > 1) continue;
    for (const name of without.length === 0 ? FILTERS : without) open.get(name).add(row.filters[name]);
  }
  return new Map(FILTERS.map((name) => [name, valuesOf(name).filter((value) => open.get(name).has(value))]));
}

export { chosenAxes, openValues, readAddress, shownRows, state, writeAddress };
