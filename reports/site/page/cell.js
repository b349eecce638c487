/** One row in full: what was done, how to make it again, widths, training, cost and environment of each seed.
 *
 * @module
 */
import { count, level, mebibytes, operations, seconds } from "../../format.ts";
import { columns } from "./data.js";
import { el, swatch } from "./dom.js";
import { nameOf } from "./chart.js";

const facts = (list) => el("dl", {}, list.flatMap(({ name, text }) => [el("dt", {}, name), el("dd", {}, text)]));

const NS = "http://www.w3.org/2000/svg";
/** An element of a small drawing. */
function draw(name, attributes, ...children) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Lines of points in a box of 300 by 70, each with a title. */
function sparkline(label, lines) {
  const all = lines.flat();
  const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(0, ...ys), Math.max(...ys)];
  const place = ([x, y]) =>
    `${(296 * (x - left) / (right - left || 1) + 2).toFixed(1)},${
      (66 - 64 * (y - low) / (high - low || 1) + 2).toFixed(1)
    }`;
  const drawn = lines.map((points) => draw("polyline", { points: points.map(place).join(" "), class: "line" }));
  return el(
    "figure",
    { class: "small" },
    draw("svg", { viewBox: "0 0 300 70", preserveAspectRatio: "none", role: "img", "aria-label": label }, ...drawn),
    el("figcaption", {}, label),
  );
}

/** Kept widths by layer: a drawing where layers differ, else one number. */
function widths(what, parts) {
  if (parts.length === 0) return null;
  const [low, high] = [Math.min(...parts), Math.max(...parts)].map((part) => (100 * part).toFixed(0));
  if (low === high) return el("p", { class: "meta" }, `${what} kept: ${low} % in every layer`);
  const steps = parts.flatMap((part, l) => [[l, 100 * part], [l + 1, 100 * part]]);
  return sparkline(`${what} kept by layer: ${low} to ${high} %`, [steps]);
}

const command = (text) => el("code", { class: "command", tabindex: "0" }, text);

function seedParts(
  { seed, record, reproduce, exported, ffn, heads, curves, timings, seconds: whole, peak, environment, startedAt },
) {
  const cost = [
    ["pruning", timings.pruneS],
    ["learning", timings.learnS],
    ["evaluation", timings.evaluateS],
    ["whole cell", whole],
  ].map(([name, value]) => `${name} ${seconds(value)} s`).join(", ");
  return el(
    "details",
    { "data-name": `seed ${seed}` },
    el("summary", {}, `seed ${seed}`),
    el("p", { class: "meta" }, "Reproduce this cell and export its model:"),
    command(reproduce),
    command(exported),
    widths("FFN channels", ffn),
    widths("query heads", heads),
    curves.filter(({ points }) => points.length > 1).map(({ stage, points }) =>
      sparkline(
        `${stage}: loss from ${points[0][1].toPrecision(3)} to ${points.at(-1)[1].toPrecision(3)} in ${
          points.at(-1)[0]
        } steps`,
        [points],
      )
    ),
    facts([
      { name: "cost", text: cost },
      { name: "peak memory", text: `${mebibytes(peak.bytes)} MiB (${peak.measure})` },
      { name: "started", text: startedAt },
      ...environment,
    ]),
    el("p", {}, el("a", { href: record }, "record")),
  );
}

/** A card of a pinned row. `unpin` takes it away. */
export function cellCard(row, unpin) {
  const { size, settings, values, cells, section, filters } = row;
  const measured = [...values].map(([column, { text, spread }]) => {
    const { name, unit, count } = columns[column];
    return { name: `${name}, ${unit}`, text: `${text}${spread} · ${count}` };
  });
  return el(
    "article",
    { class: "card cell", "data-id": row.id },
    el("button", {
      type: "button",
      class: "close",
      name: `unpin-${row.id}`,
      "aria-label": `Unpin ${nameOf(row)}`,
      onclick: unpin,
    }, "×"),
    el("h3", {}, swatch(row), nameOf(row)),
    el("p", { class: "meta" }, `${section.title} · ${filters.run} · seeds ${row.seeds.join(", ")}`),
    facts([
      ...measured,
      {
        name: "size",
        text: `${count(Math.round(size.parameters))} parameters, ${operations(size.macs)} MACs, ${
          mebibytes(size.weights)
        } MiB of weights; ${level(size.removed)} of the prunable parameters removed`,
      },
    ]),
    el("details", { "data-name": "settings" }, el("summary", {}, "Settings"), facts(settings)),
    el("details", { "data-name": "protocol" }, el("summary", {}, "Protocol of its run"), facts(section.protocol)),
    cells.map(seedParts),
  );
}
