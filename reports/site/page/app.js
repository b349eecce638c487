/** The page over many runs: filters, chart, pinned cells and table from the data beside it.
 *
 * @module
 */
import { SPREAD_WORDS, unique } from "../../format.ts";
import { cellCard } from "./cell.js";
import { drawChart, frontRows, nameOf } from "./chart.js";
import { failures, FILTERS, rows, sections } from "./data.js";
import { check, choice, el, fill } from "./dom.js";
import { examplesOf } from "./examples.js";
import { pairCard } from "./pair.js";
import { chosenAxes, openValues, readAddress, shownRows, state, writeAddress } from "./state.js";
import { drawTable } from "./table.js";

function change(part) {
  Object.assign(state, part);
  writeAddress();
  draw();
}

/** Pins or unpins a row. What was clicked stays where it is in the window, though cards come and go above it. */
function pin(id) {
  const top = () => document.activeElement.getBoundingClientRect().top;
  const before = top();
  state.pins = state.pins.includes(id) ? state.pins.filter((own) => own !== id) : [...state.pins, id];
  change({});
  if (document.activeElement !== document.body) scrollBy(0, top() - before);
}

function setFilter(name, value, isOn) {
  const own = state.filters[name] ?? [];
  state.filters[name] = isOn ? [...own, value] : own.filter((other) => other !== value);
  if (state.filters[name].length === 0) delete state.filters[name];
  change({});
}

function drawFilters(shown) {
  const boxes = [...openValues()].map(([name, values]) => {
    const chosen = state.filters[name] ?? [];
    const open = name === "method" ? values : values.filter((value) => value !== "dense");
    if (open.length < 2 && chosen.length === 0) return null;
    const boxes = values.map((value) =>
      el(
        "label",
        { class: "check" },
        el("input", {
          type: "checkbox",
          name: `filter-${name}`,
          value,
          checked: chosen.includes(value),
          onchange: ({ target }) => setFilter(name, value, target.checked),
        }),
        value,
      )
    );
    const words = chosen.length === 0
      ? "all"
      : chosen.length === 1
      ? chosen[0]
      : `${chosen.length} of ${values.length}`;
    return el(
      "details",
      { class: "filter", "data-name": name },
      el("summary", {}, `${name}: `, el("b", {}, words)),
      el("div", { class: "card menu" }, boxes),
    );
  });
  const reset = el("button", {
    type: "button",
    name: "reset",
    onclick: () => {
      state.filters = {};
      change({});
    },
  }, "clear filters");
  fill(
    "filters",
    boxes,
    reset,
    el("span", { class: "meta", role: "status" }, `${shown.length} of ${rows.length} rows`),
  );
}

function drawAxes({ known, x, y }) {
  const options = known.map((
    { id, title, detail, column },
  ) => [
    id,
    detail ? `${title}, ${detail}` : title,
    column === undefined ? "size and cost" : column.kind === "throughput" ? "speed" : "quality",
  ]);
  const toggle = (label, name, isOn = state[name] === "yes", off = "") =>
    check(label, name, isOn, ({ target }) => change({ [name]: target.checked ? "yes" : off }));
  fill(
    "axes",
    choice("vertical", options, y?.id, (value) => change({ y: value, logY: "" })),
    choice("horizontal", options, x?.id, (value) => change({ x: value, logX: "" })),
    choice("colour", FILTERS.map((name) => [name, name]), state.colour, (colour) => change({ colour })),
    choice(
      "points",
      [["mean", "mean and interval"], ["seeds", "one per seed"]],
      state.points,
      (points) => change({ points }),
    ),
    toggle("log vertical", "logY", state.logY === "" ? y?.kind === "perplexity" : state.logY === "yes", "no"),
    toggle("log horizontal", "logX"),
    toggle("Pareto front", "front", state.front === "yes", "no"),
    toggle("exclude random and magnitude from the scale", "clip", state.clip === "yes", "no"),
    toggle("published numbers", "published"),
  );
}

function drawChartNote(shown, { x, y }) {
  const kinds = unique(shown.flatMap((row) => y?.column && row.values.get(y.column.key)?.spreadOf || []));
  const texts = [
    ...kinds.length > 0 ? [`Bars: ${kinds.map((kind) => SPREAD_WORDS[kind]).join(", ")}.`] : [],
    ...state.clip === "yes" && shown.some(({ methodId }) => methodId === "random" || methodId === "magnitude")
      ? ["The scale excludes random and magnitude; their points may be outside."]
      : [],
    ...unique(shown.map(({ filters }) => filters.model)).length > 1
      ? ["Perplexities of different models cannot be compared."]
      : [],
    ...state.published === "yes"
      ? [
        "Grey: published numbers of other models and protocols, shown if an axis is a level.",
      ]
      : [],
  ];
  const front = state.front === "yes" && x && y ? frontRows(shown, x, y) : [];
  const runs = unique(shown.map(({ filters }) => filters.run)).length;
  const names = front.map((row) => nameOf(row) + (runs > 1 ? ` (${row.filters.run})` : ""));
  fill(
    "chart-note",
    el("p", {}, texts.join(" ")),
    front.length > 0
      ? el("p", {}, `Dashed: Pareto front, no other point is better on both axes: ${names.join("; ")}.`)
      : null,
  );
}

function drawPins() {
  const pinned = state.pins.flatMap((id) => rows.find((row) => row.id === id) ?? []);
  fill(
    "pins",
    pinned.length === 0 ? null : el("h2", {}, "Pinned cells"),
    pinned.length === 1 ? el("p", { class: "meta" }, "Pin a second cell to compare the two.") : null,
    pairCard(pinned),
    examplesOf(pinned),
    el("div", { class: "cards" }, pinned.map((row) => cellCard(row, () => pin(row.id)))),
  );
}

/** A way from the table to the pinned cells, while they are above the window. */
function drawWayToPins() {
  const button = document.getElementById("to-pins");
  button.hidden = state.pins.length === 0 || document.getElementById("pins").getBoundingClientRect().bottom > 0;
  button.textContent = state.pins.length === 1 ? "1 cell pinned ↑" : `${state.pins.length} cells pinned: compare ↑`;
}

function draw() {
  const shown = shownRows();
  // Read before anything is written: the browser would lay the page out twice.
  const width = document.getElementById("chart").clientWidth;
  const below = innerHeight - document.getElementById("table").getBoundingClientRect().top;
  const axes = chosenAxes(shown);
  drawFilters(shown);
  drawAxes(axes);
  drawChartNote(shown, axes);
  drawPins();
  drawTable(shown, { below, change, pin });
  drawChart(shown, axes, { width, pin });
  requestAnimationFrame(drawWayToPins);
}

function start() {
  const cells = rows.reduce((sum, row) => sum + row.cells.length, 0);
  const runs = unique(sections.map(({ run }) => run));
  document.getElementById("summary").textContent = `${cells} cells of ${runs.length} ${
    runs.length === 1 ? "run" : "runs"
  }: ${runs.join(", ")}`;
  if (failures.length > 0) {
    fill(
      "failures",
      el(
        "details",
        { class: "card" },
        el("summary", {}, `Failed cells: ${failures.length}`),
        el("dl", {}, failures.flatMap(({ name, text }) => [el("dt", {}, name), el("dd", {}, text)])),
      ),
    );
  }
  readAddress();
  draw();
  document.getElementById("to-pins").addEventListener("click", () => document.getElementById("pins").scrollIntoView());
  addEventListener("scroll", drawWayToPins, { passive: true });
  addEventListener("hashchange", () => {
    readAddress();
    draw();
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      draw();
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // A menu closes when something else is clicked or Escape is pressed.
  const close = (except) => {
    for (const one of document.querySelectorAll("details.filter[open]")) if (!one.contains(except)) one.open = false;
  };
  addEventListener("click", ({ target }) => target.isConnected && close(target));
  addEventListener("keydown", ({ key }) => key === "Escape" && close(null));
}

start();
