/** The figures of a section as Vega-Lite specifications. A specification holds its data, so it can be redrawn and
 * restyled elsewhere.
 *
 * @module
 */
import { speedsOf } from "./budget.ts";
import type { Chart } from "./document.ts";
import { qualityAgainstSparsity } from "./charts_lines.ts";
import { qualityAgainstSpeed } from "./charts_scatter.ts";
import { headlineColumns } from "./findings.ts";
import type { Column } from "./columns.ts";
import type { Section } from "./sections.ts";

const kindOf = (column: Column) => column.kind === "perplexity" ? "perplexity" : "accuracy";

/** Every figure the section's records allow.
 * @param prefix Begins the file names, for runs with several sections. */
export function buildCharts(section: Section, prefix = ""): Chart[] {
  const headline = headlineColumns(section);
  // Accuracy is what a model is used for; perplexity where no task was scored.
  const quality = headline.find(({ kind }) => kind !== "perplexity") ?? headline[0];
  const fast = quality === undefined
    ? []
    : speedsOf(section).map((speed) =>
      qualityAgainstSpeed(section, quality, speed, `${kindOf(quality)}-vs-${speed.name}`)
    );
  const sparse = headline.map((column) => {
    const alone = headline.filter((other) => kindOf(other) === kindOf(column)).length === 1;
    const name = `${kindOf(column)}-vs-sparsity${alone ? "" : `-${column.name}`}`;
    return qualityAgainstSparsity(section, column, name);
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
