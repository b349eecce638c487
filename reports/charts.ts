/** The figures of a section as Vega-Lite specifications. A specification holds its data, so it can be redrawn and
 * restyled elsewhere.
 *
 * @module
 */
import { type Chart, colourScale, pruned, shell, subject, WIDE } from "./chart_style.ts";
import { qualityAgainstSparsity } from "./charts_lines.ts";
import { qualityAgainstSpeed, speedUpAgainstMacs } from "./charts_scatter.ts";
import { trainingCurves } from "./charts_training.ts";
import { level } from "./format.ts";
import { LEVEL_COLOURS } from "./palette.ts";
import type { Column } from "./measurements.ts";
import type { Row, Section } from "./rows.ts";
import { headlineColumns } from "./summary.ts";

type LayerWidths = Row["runs"][number]["size"]["layers"][number];

const GONE: LayerWidths = { kvGroups: 0, queryHeadsPerGroup: 0, ffnChannels: 0 };

/** What a run kept of each layer of the dense model; a removed layer has width 0. */
function keptOfLayers({ size, denseSize, plan }: Row["runs"][number]): LayerWidths[] {
  if (size.layers.length === denseSize.layers.length) return size.layers;
  let next = 0;
  return plan.layers.map(({ ffnChannels }) => ffnChannels.length === 0 ? GONE : size.layers[next++]);
}

/** Kept widths of every layer, one panel per method and one line per level. */
function keptWidths(
  section: Section,
  what: string,
  pick: (layer: LayerWidths) => number,
  name: string,
): Chart | null {
  const values = pruned(section).flatMap((row) =>
    keptOfLayers(row.runs[0]).map((layer, l) => ({
      method: row.label,
      level: level(row.asked),
      layer: l + 1,
      kept: 100 * pick(layer) / pick(row.runs[0].denseSize.layers[l]),
      description: `${row.label}, ${level(row.asked)} asked`,
    }))
  );
  if (values.every(({ kept }) => kept === 100)) return null;
  const levels = [...new Set(values.map((value) => value.level))];
  const { domain } = colourScale(section);
  const title = `Kept ${what} per layer`;
  return {
    name,
    title,
    spec: (width) => {
      const columns = Math.min(domain.length, width < WIDE ? 2 : 4);
      const panel = Math.floor((width + (width < WIDE ? 40 : 130)) / columns) - 22;
      return shell(title, [`${subject(section)} · first seed of each cell; layers counted from 1`], width, {
        width: undefined,
        height: undefined,
        data: { values },
        columns,
        resolve: { axis: { x: "independent" } },
        spacing: 22,
        facet: {
          field: "method",
          type: "nominal",
          sort: domain,
          header: {
            title: null,
            labelLimit: panel + 12,
            // Options of a method go on a line of their own.
            labelExpr: "split(replace(datum.label, /\\)$/, ''), ' (')",
          },
        },
        spec: {
          width: panel,
          height: 90,
          mark: { type: "line", interpolate: "step", strokeWidth: 2 },
          encoding: {
            x: {
              field: "layer",
              type: "quantitative",
              scale: { nice: false },
              axis: { title: "layer", grid: false, tickCount: 4, format: "d" },
            },
            y: {
              field: "kept",
              type: "quantitative",
              scale: { domain: [0, 100] },
              axis: { title: "kept, %", tickCount: 4 },
            },
            color: {
              field: "level",
              type: "nominal",
              scale: { domain: levels, range: levels.map((_, i) => LEVEL_COLOURS[i % LEVEL_COLOURS.length]) },
              legend: { title: "asked sparsity", orient: "top", symbolType: "stroke" },
            },
            description: { field: "description" },
          },
        },
      });
    },
  };
}

/** Every figure the section's records allow.
 * @param prefix Begins the file names, for runs with several sections. */
export function buildCharts(section: Section, prefix = ""): Chart[] {
  const headline = headlineColumns(section);
  const speeds = section.columns.filter(({ kind }) => kind === "throughput");
  const kindOf = (column: Column) => column.kind === "perplexity" ? "perplexity" : "accuracy";
  const charts: (Chart | null)[] = headline.map((column) => {
    const alone = headline.filter((other) => kindOf(other) === kindOf(column)).length === 1;
    return qualityAgainstSparsity(section, column, `${kindOf(column)}-vs-sparsity${alone ? "" : `-${column.name}`}`);
  });
  const quality = headline.find(({ kind }) => kind !== "perplexity") ?? headline[0];
  for (const speed of quality === undefined ? [] : speeds) {
    charts.push(qualityAgainstSpeed(section, quality, speed, `${kindOf(quality)}-vs-${speed.name}`));
  }
  for (const speed of speeds) charts.push(speedUpAgainstMacs(section, speed, `speedup-vs-macs-${speed.name}`));
  charts.push(keptWidths(section, "FFN channels", ({ ffnChannels }) => ffnChannels, "kept-ffn-channels"));
  charts.push(keptWidths(
    section,
    "query heads",
    ({ kvGroups, queryHeadsPerGroup }) => kvGroups * queryHeadsPerGroup,
    "kept-query-heads",
  ));
  charts.push(trainingCurves(section));
  const taken = new Set<string>();
  return charts.filter((chart) => chart !== null).map((chart) => {
    const base = fileName(prefix + chart.name);
    let name = base;
    for (let i = 2; taken.has(name); i++) name = `${base}-${i}`;
    taken.add(name);
    return { ...chart, name };
  });
}

const fileName = (text: string) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
