/** The table: sortable, in groups, and with differences from a baseline.
 *
 * @module
 */
import { changeWords, PAIRED_TESTS, verdictWords } from "../../paired_tests.ts";
import { count, level, NO_VALUE, percent, pValue, unique } from "../../format.ts";
import { compareAll, stopComparing } from "./compare.js";
import { columnsOf, FILTERS, rows, valuesOf } from "./data.js";
import { choice, el, fill, swatch } from "./dom.js";
import { nameOf } from "./chart.js";
import { state } from "./state.js";

/** Rows that are drawn at once besides those in sight, and of each later part. */
const AT_ONCE = 15;
const LATER = 50;

/** Rows as a choice, in groups of one run. */
const rowChoices = (list) => list.map((row) => [row.id, nameOf(row), row.filters.run]);

/** What tells rows of one name apart, below the name: settings in which `list` differs. */
function detailsOf(list) {
  const isTimed = columnsOf(list).some(({ kind }) => kind === "throughput");
  const names = ["model", "run", "budget", "recovery", "compensation", "units", ...isTimed ? ["machine"] : []].filter((
    name,
  ) => unique(list.filter(({ methodId }) => methodId).map(({ filters }) => filters[name])).length > 1);
  return ({ filters }) =>
    names.map((name) => filters[name]).filter((text) => text !== "none" && text !== "dense").join(" · ");
}

/** Columns of the table: id, heading, detail below it, text and sort key of a row. */
function tableColumns(list) {
  const measured = (column, { id, title, detail, better }, pick) => ({
    ...{ id, title, detail, better },
    column: pick === "values" ? column : undefined,
    text: (row) => row[pick].get(column.key)?.text ?? NO_VALUE,
    small: (row) => row[pick].get(column.key)?.spread ?? "",
    sort: (row) => row[pick].get(column.key)?.value,
  });
  const ofColumn = (column) => {
    const { id, name, unit, count, higherIsBetter, kind } = column;
    const better = higherIsBetter ? "higher" : "lower";
    const own = measured(column, { id, title: name, detail: `${unit}, ${count}`, better }, "values");
    if (kind !== "throughput") return [own];
    const speedUp = { id: `${id}-speed-up`, title: "speed-up", detail: `${name}, × dense`, better: "higher" };
    return [own, measured(column, speedUp, "speedUps")];
  };
  const plain = (id, title, detail, text, sort) => ({ id, title, detail, text, sort });
  const asked = (row) => row.methodId === null ? NO_VALUE : level(row.asked);
  return [
    ...state.group === "level" ? [] : [plain("asked", "target", "of the budget", asked, (row) => row.asked)],
    ...columnsOf(list).flatMap(ofColumn),
    plain("removed", "removed", "% of prunable", ({ size }) => percent(size.removed), ({ size }) => size.removed),
    plain(
      ...["parameters", "params", "", ({ size }) => count(Math.round(size.parameters)), ({ size }) => size.parameters],
    ),
    plain("seeds", "seeds", "", ({ seeds }) => String(seeds.length), ({ seeds }) => seeds.length),
  ];
}

/** The order in use: the chosen one, or the best of the first quality first. */
function orderOf(all) {
  const first = all.find(({ column }) => column && column.kind !== "throughput");
  return state.sort || (first ? (first.better === "higher" ? "-" : "") + first.id : "");
}

function sorted(list, all) {
  const down = orderOf(all).startsWith("-");
  const id = orderOf(all).replace(/^-/, "");
  const key = id === "label" ? ({ label }) => label : all.find((one) => one.id === id)?.sort;
  if (key === undefined) return list;
  return list.toSorted((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === undefined || y === undefined) return Number(x === undefined) - Number(y === undefined);
    return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
  });
}

const signOf = (result) => ({ better: "better", worse: "worse" })[verdictWords(result)] ?? "";

/** What a test says, below the value. */
const testLines = (column, result) => [
  el("small", { class: signOf(result) }, changeWords(column, result)),
  el(
    "small",
    { class: signOf(result) },
    result.test === "identical" ? "identical" : `${pValue(result)}, ${verdictWords(result)}`,
  ),
];

/** Least height of a line, pixels. */
const LINE = 34;

/** Saves the rows and columns of the table, with fractions and full precision. */
function saveCsv(list, all) {
  const field = (value = "") => /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const names = [
    "row",
    "label",
    ...FILTERS,
    ...all.map(({ title, detail }) => `${title} ${detail}`.trim().replace("%", "fraction")),
  ];
  const lines = sorted(list, all).map((row) => [
    ...[row.id, row.label, ...FILTERS.map((name) => row.filters[name])],
    ...all.map(({ sort }) => sort(row)),
  ]);
  const text = [names, ...lines].map((line) => line.map(field).join(",") + "\r\n").join("");
  const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  el("a", { href, download: "table.csv" }).click();
  URL.revokeObjectURL(href);
}

/** Draws the table of `list`, of which so many pixels are in sight. `change` writes choices and draws again; `pin` is
 * told the id of a row. */
export function drawTable(list, { below, change, pin }) {
  const baseline = rows.find(({ id }) => id === state.baseline);
  const all = tableColumns(list);
  fill(
    "table-controls",
    choice(
      "baseline",
      [["", "none"], ...rowChoices(list.includes(baseline) || !baseline ? list : [baseline, ...list])],
      state.baseline,
      (value) => change({ baseline: value }),
    ),
    choice(
      "group by",
      [["", "nothing"], ...FILTERS.map((name) => [name, name])],
      state.group,
      (group) => change({ group }),
    ),
    el("button", { type: "button", name: "csv", onclick: () => saveCsv(list, all) }, "save as CSV"),
    el("span", { id: "progress", class: "meta", role: "status" }),
  );
  const heading = ({ id, title, detail, better }) => {
    const arrow = { higher: " ↑", lower: " ↓" }[better] ?? "";
    const order = { [id]: "ascending", [`-${id}`]: "descending" }[orderOf(all)] ?? null;
    const next = order === "ascending" ? `-${id}` : id;
    return el(
      "th",
      { scope: "col", class: id === "label" ? "text" : null, "aria-sort": order },
      el(
        "button",
        { type: "button", name: `sort-${id}`, onclick: () => change({ sort: next }) },
        el("span", {}, title + arrow),
        detail ? el("small", {}, detail) : null,
      ),
    );
  };
  const cells = new Map();
  const tests = new Map();
  const detailOf = detailsOf(list);
  const line = (row) => {
    const name = el(
      "button",
      {
        type: "button",
        class: "name",
        name: `pin-${row.id}`,
        "aria-pressed": String(state.pins.includes(row.id)),
        title: "pin or unpin",
        onclick: () => pin(row.id),
      },
      swatch(row),
      row.label,
      el("small", {}, detailOf(row)),
    );
    const own = all.map((one) => {
      const cell = el(
        "td",
        {},
        one.text(row),
        one.small?.(row) ? el("span", { class: "spread" }, one.small(row)) : null,
      );
      if (one.column) {
        const key = `${one.column.id} ${row.id}`;
        cells.set(key, cell);
        if (tests.has(key)) cell.append(...testLines(one.column, tests.get(key)));
      }
      return cell;
    });
    return el(
      "tr",
      {
        class: [row === baseline && "baseline", state.pins.includes(row.id) && "pinned"].filter(Boolean).join(" ") ||
          null,
        "data-id": row.id,
      },
      el("th", { scope: "row", class: "text" }, name),
      own,
    );
  };
  const byGroup = Map.groupBy(sorted(list, all), ({ filters }) => filters[state.group] ?? "");
  const names = state.group === "" ? [""] : valuesOf(state.group).filter((name) => byGroup.has(name));
  const lines = names.flatMap((name) => {
    const own = byGroup.get(name) ?? [];
    const title = el("th", { scope: "rowgroup", class: "text", colspan: String(all.length + 1) });
    title.append(`${state.group}: ${name}`);
    const body = el("tbody", {}, name === "" ? null : el("tr", { class: "group" }, title));
    return own.map((row) => [body, row]);
  });
  const method = { id: "label", title: "method", detail: "" };
  const table = el("table", {}, el("thead", {}, el("tr", {}, heading(method), all.map(heading))));
  drawLines(lines.length, Math.max(0, below) / LINE + AT_ONCE, (i) => {
    const [body, row] = lines[i];
    body.append(line(row));
    if (!body.isConnected) table.append(body);
  });
  fill("table", list.length === 0 ? el("p", { class: "empty" }, "No cell passes these filters.") : table);
  drawNotes(list, baseline);
  compareWith(baseline, list, { cells, tests });
}

/** What is left of the table to draw. */
let rest = () => {};

/** Calls `add` for the first lines now and for the others soon: laying out hundreds of lines takes a while. */
function drawLines(count, first, add) {
  let next = 0;
  const draw = (upTo) => {
    while (next < Math.min(count, upTo)) add(next++);
  };
  const own = rest = () => draw(count);
  const later = () => {
    if (rest !== own || next === count) return;
    draw(next + LATER);
    setTimeout(later, 30);
  };
  draw(first);
  setTimeout(later, 100);
}
addEventListener("beforeprint", () => rest());

function compareWith(baseline, list, { cells, tests }) {
  stopComparing();
  if (!baseline) return;
  const tested = columnsOf(list).filter(({ kind, key }) => kind !== "throughput" && baseline.paired.has(key));
  const progress = document.getElementById("progress");
  let left = tested.length;
  progress.textContent = left > 0 ? "Testing …" : "The baseline has no results for paired tests.";
  compareAll(list, baseline, tested, (column, results) => {
    for (const [row, result] of results) {
      const key = `${column.id} ${row.id}`;
      tests.set(key, result);
      cells.get(key)?.append(...testLines(column, result));
    }
    left--;
    progress.textContent = left === 0 ? "" : `Testing, ${left} columns left …`;
  });
}

/** The protocol of every section in the table, and how it was tested. */
function drawNotes(list, baseline) {
  const sections = [...Map.groupBy(list, ({ section }) => section)];
  const lines = sections.map(([{ run, title, caption }]) =>
    el("p", { class: "caption" }, el("b", {}, `${run}, ${title}. `), caption)
  );
  const notes = [
    "± standard deviation over seeds; (…) standard error of one run over windows or examples; […] 95 % interval.",
    ...baseline
      ? [
        `Differences are those from ${
          nameOf(baseline)
        } of ${baseline.filters.run}, with the interval and the p value of one paired test.`,
        PAIRED_TESTS,
        "Holm's method corrects the tests and intervals of each column together, at 0.05, over the rows of the table.",
      ]
      : ["Choose a baseline to see paired differences with intervals and corrected p values."],
  ];
  fill("table-notes", lines, el("ul", { class: "notes" }, notes.map((note) => el("li", {}, note))));
}
