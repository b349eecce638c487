/** Logged examples of two rows side by side. Their files are loaded when a reader opens them.
 *
 * @module
 */
import { choice, el } from "./dom.js";
import { nameOf } from "./chart.js";
import { pairOf } from "./pair.js";

/** Promises of examples, and what fulfils them, by file. */
const loaded = new Map();
globalThis.addSamples = ({ id, task, examples }) => loaded.get(`${id} ${task}`)?.resolve(examples);

/** The examples of a cell and task. */
function load({ id, file, task }) {
  const key = `${id} ${task}`;
  if (!loaded.has(key)) {
    loaded.set(key, Promise.withResolvers());
    document.head.append(
      el("script", {
        src: `samples/${file}`,
        onerror: () => loaded.get(key).reject(new Error(`${file} cannot be loaded`)),
      }),
    );
  }
  return loaded.get(key).promise;
}

const filesOf = (row) => row.cells[0]?.samples ?? [];
const logged = (row, task) => filesOf(row).find((one) => one.task === task);

/** The first cell of a row as a source of examples of a task. */
const sourceOf = (row, task) => ({ ...logged(row, task), id: row.cells[0].id });

/** Most examples on the page at once. */
const MOST = 50;

/** Which examples to show, by the answers of the first and of the second row. */
const shownOf = (a, b) => ({
  broken: [`${a} right, ${b} wrong`, (x, y) => x.right && !y.right],
  repaired: [`${a} wrong, ${b} right`, (x, y) => !x.right && y.right],
  all: ["all examples", () => true],
});

function choices(example, names) {
  const best = Math.max(...example.logLikelihoods);
  return el(
    "table",
    { class: "choices" },
    example.choices.map((text, i) => {
      const value = example.logLikelihoods[i];
      const marks = [i === example.gold && "right choice", value === best && "highest"].filter(Boolean).join(", ");
      return el(
        "tr",
        { class: i === example.gold ? "gold" : null },
        el("td", {}, text),
        el("td", {}, value.toFixed(2)),
        el("td", {}, marks),
      );
    }),
    el("caption", {}, `${names}: ${example.right ? "right" : "wrong"}`),
  );
}

/** Examples of the first two rows of `pinned` that have a logged task in common; null where there are none. */
export function examplesOf(pinned) {
  const [a, b] = pairOf(pinned.filter((row) => filesOf(row).length > 0).slice(0, 2));
  if (!a || !b) return null;
  const common = filesOf(a).map(({ task }) => task).filter((task) => logged(b, task));
  if (common.length === 0) return null;
  const kinds = shownOf(nameOf(a), nameOf(b));
  const list = el("div", { class: "examples" });
  const view = { task: common[0], show: "broken", search: "" };
  const refresh = async () => {
    list.replaceChildren(el("p", { class: "meta" }, "Loading …"));
    try {
      const [before, after] = await Promise.all([load(sourceOf(a, view.task)), load(sourceOf(b, view.task))]);
      const pairs = before.flatMap((one, i) => after[i]?.context === one.context ? [[one, after[i]]] : []);
      const found = pairs.filter(([x, y]) =>
        kinds[view.show][1](x, y) &&
        `${x.context} ${x.choices.join(" ")}`.toLowerCase().includes(view.search.toLowerCase())
      );
      list.replaceChildren(
        el(
          "p",
          { class: "meta" },
          `${found.length} of ${pairs.length} examples${found.length > MOST ? `, the first ${MOST} shown` : ""}`,
        ),
        ...found.slice(0, MOST).map(([x, y]) =>
          el(
            "article",
            { class: "example" },
            el("p", { class: "context" }, x.context),
            el("div", { class: "pair" }, choices(x, nameOf(a)), choices(y, nameOf(b))),
          )
        ),
      );
    } catch (error) {
      list.replaceChildren(el("p", { class: "warn" }, error.message));
    }
  };
  const change = (part) => {
    Object.assign(view, part);
    refresh();
  };
  return el(
    "details",
    { class: "card", "data-name": "examples", ontoggle: ({ target }) => target.open && refresh() },
    el("summary", {}, `Examples: ${nameOf(a)} (${a.filters.run}) beside ${nameOf(b)} (${b.filters.run})`),
    el(
      "div",
      { class: "controls" },
      choice("task", common.map((task) => [task, task]), view.task, (task) => change({ task })),
      choice("show", Object.entries(kinds).map(([id, [text]]) => [id, text]), view.show, (show) => change({ show })),
      el(
        "label",
        {},
        "search",
        el("input", { type: "search", name: "search", oninput: ({ target }) => change({ search: target.value }) }),
      ),
    ),
    list,
  );
}
