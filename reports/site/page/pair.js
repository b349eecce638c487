/** The first two pinned rows against each other: paired tests, and the examples whose answers changed.
 *
 * @module
 */
import { changeWords, PAIRED_TESTS, verdictWords } from "../../paired_tests.ts";
import { pValue, unique } from "../../format.ts";
import { nameOf } from "./chart.js";
import { comparePair, testedColumns } from "./compare.js";
import { el } from "./dom.js";

/** The two rows of a comparison, from which and to which changes are told: the dense model first, else as pinned. */
export const pairOf = (pinned) => pinned.toSorted((a, b) => Number(a.methodId !== null) - Number(b.methodId !== null));

/** Name of a row, with its run where the other row is of another. */
const fullName = (row, other) => nameOf(row) + (row.filters.run === other.filters.run ? "" : ` (${row.filters.run})`);

/** Places of the examples that every seed of `a` answers right and every seed of `b` wrong. */
const lost = (a, b) => a.flatMap((right, i) => right === 1 && b[i] === 0 ? [i] : []);

const numbered = (what, places) => [
  el("dt", {}, `${what}: ${places.length}`),
  el("dd", {}, places.length === 0 ? "none" : `examples ${places.join(", ")}`),
];

/** Which examples of a task changed, by their numbers in its data from 0. */
function changedExamples({ name, count, key }, a, b) {
  const [before, after] = [a.paired.get(key), b.paired.get(key)];
  return el(
    "details",
    { "data-name": `changed ${name} ${count}` },
    el("summary", {}, `${name}: ${lost(before, after).length} broken, ${lost(after, before).length} repaired`),
    el("dl", {}, numbered("broken", lost(before, after)), numbered("repaired", lost(after, before))),
  );
}

const SIGNS = { better: "better", worse: "worse" };

/** A row of the table, whose last cells wait for the test. */
function line(column, a, b) {
  const value = (row) => {
    const { text, spread } = row.values.get(column.key);
    return el("td", {}, text, el("span", { class: "spread" }, spread));
  };
  const [change, verdict] = [el("td", {}, "…"), el("td", { class: "text" })];
  const name = el(
    "th",
    { scope: "row", class: "text" },
    column.name,
    el("small", {}, `${column.unit}, ${column.count}`),
  );
  return { change, verdict, row: el("tr", {}, name, value(a), value(b), change, verdict) };
}

/** A card of the first two of `pinned`; null where they share no windows or examples. */
export function pairCard(pinned) {
  const [a, b] = pairOf(pinned.slice(0, 2));
  const tested = b ? testedColumns(a, b) : [];
  if (tested.length === 0) return null;
  const [from, to] = [fullName(a, b), fullName(b, a)];
  const lines = new Map(tested.map((column) => [column, line(column, a, b)]));
  comparePair(b, a, tested).then((results) => {
    for (const [column, result] of results) {
      const { change, verdict } = lines.get(column);
      const words = verdictWords(result);
      change.replaceChildren(changeWords(column, result));
      verdict.replaceChildren(result.test === "identical" ? words : `${words}, ${pValue(result)}`);
      verdict.classList.toggle(SIGNS[words] ?? "plain", true);
    }
  });
  const heads = ["", from, to, "difference", `${to} is`];
  const tasks = tested.filter(({ kind }) => kind === "task");
  const captions = unique([a, b].map(({ section }) => section)).map(({ run, title, caption }) =>
    el("p", { class: "caption" }, el("b", {}, `${run}, ${title}. `), caption)
  );
  return el(
    "article",
    { class: "card cell", "data-name": "pair" },
    el("h3", {}, `${to} against ${from}`),
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el("tr", {}, heads.map((text, i) => el("th", { scope: "col", class: i === 4 ? "text" : null }, text))),
        ),
        el("tbody", {}, [...lines.values()].map(({ row }) => row)),
      ),
    ),
    tasks.length > 0
      ? el(
        "p",
        { class: "meta" },
        `Broken: every seed of ${from} is right, every seed of ${to} wrong. Numbers count from 0.`,
      )
      : null,
    tasks.map((column) => changedExamples(column, a, b)),
    el("p", { class: "meta" }, `${PAIRED_TESTS} Holm's method corrects the tests of this table together, at 0.05.`),
    captions,
  );
}
