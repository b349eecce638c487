/** What is left of each layer, for methods whose layers differ, and which units went: how far methods agree.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { type Chart, linesOf, nameOf, pruned, shell, type Spec, subject, WIDE } from "./chart_style.ts";
import { level } from "./format.ts";
import { LEVEL_COLOURS, NEUTRAL } from "./palette.ts";
import { UNIT_WORDS } from "./settings.ts";
import type { Row, Section } from "./rows.ts";

type Run = Row["runs"][number];
type LayerWidths = Run["size"]["layers"][number];

const GONE: LayerWidths = { kvGroups: 0, queryHeadsPerGroup: 0, ffnChannels: 0 };

/** What a run kept of each layer of the dense model; a removed layer has width 0. */
function keptOfLayers({ size, denseSize, plan }: Run): LayerWidths[] {
  if (size.layers.length === denseSize.layers.length) return size.layers;
  const left = size.layers.values();
  return plan.layers.map(({ ffnChannels }) => ffnChannels.length === 0 ? GONE : left.next().value ?? GONE);
}

/** A unit type in figures of widths and overlap. */
interface Unit {
  name: string;
  /** File names end in it. */
  slug: string;
  widthOf(layer: LayerWidths): number;
  /** Kept units of a dense layer. */
  kept(layer: Run["plan"]["layers"][number]): readonly number[];
}

/** Unit types that figures tell apart. */
const UNITS: Unit[] = [
  {
    name: UNIT_WORDS.ffn,
    slug: "ffn-channels",
    widthOf: ({ ffnChannels }) => ffnChannels,
    kept: ({ ffnChannels }) => ffnChannels,
  },
  {
    name: UNIT_WORDS["query-heads"],
    slug: "query-heads",
    widthOf: ({ kvGroups, queryHeadsPerGroup }) => kvGroups * queryHeadsPerGroup,
    kept: ({ queryHeads }) => queryHeads,
  },
];

/** A row with the percentages it kept of a unit type, by layer. */
function widthsOf(row: Row, { widthOf }: Unit): number[] {
  const [run] = row.runs;
  if (run === undefined) return [];
  return keptOfLayers(run).map((layer, l) => 100 * widthOf(layer) / widthOf(at(run.denseSize.layers, l)));
}

/** Kept widths of the methods whose layers differ, one panel per method and one line per level; null where every method
 * has equal widths: these are one number, which the tables hold. */
function keptWidths(section: Section, unit: Unit): Chart | null {
  const lines = linesOf(section, pruned(section))
    .filter(({ rows }) => rows.some((row) => new Set(widthsOf(row, unit)).size > 1));
  const values = lines.flatMap(({ label, rows }) =>
    rows.flatMap((row) =>
      widthsOf(row, unit).map((kept, l) => ({
        method: label,
        level: level(row.asked),
        layer: l + 1,
        kept,
        description: nameOf(row),
      }))
    )
  );
  if (values.length === 0) return null;
  const levels = [...new Set(values.map((value) => value.level))];
  const title = `Kept ${unit.name} per layer`;
  return {
    name: `kept-${unit.slug}`,
    title,
    spec: (width) => {
      const columns = Math.min(lines.length, width < WIDE ? 2 : 4);
      const panel = Math.floor((width + (width < WIDE ? 40 : 130)) / Math.max(2, columns)) - 22;
      const subtitle = `${subject(section)} · methods whose layers differ; first seed of each cell; layers from 1`;
      return shell(title, [subtitle], width, {
        width: undefined,
        height: undefined,
        data: { values },
        columns,
        resolve: { axis: { x: "independent" } },
        spacing: 22,
        facet: {
          field: "method",
          type: "nominal",
          sort: lines.map(({ label }) => label),
          header: { title: null, labelLimit: panel + 40 },
        },
        spec: { width: panel, height: 90, ...widthLines(levels) },
      });
    },
  };
}

const widthLines = (levels: string[]): Spec => ({
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
      scale: { domain: levels, range: levels.map((_, i) => at(LEVEL_COLOURS, i % LEVEL_COLOURS.length)) },
      legend: { title: "sparsity", orient: "top", symbolType: "stroke" },
    },
    description: { field: "description" },
  },
});

/** Removed units of a run as `layer unit` keys. */
function removedUnits({ denseSize, plan }: Run, { widthOf, kept }: Unit): Set<string> {
  return new Set(plan.layers.flatMap((layer, l) => {
    const stay = new Set(kept(layer));
    return Array.from({ length: widthOf(at(denseSize.layers, l)) }, (_, unit) => unit)
      .flatMap((unit) => stay.has(unit) ? [] : [`${l} ${unit}`]);
  }));
}

/** Units that both removed as a part of those that either removed (Jaccard); NaN where neither removed any. */
export function overlap(a: ReadonlySet<string>, b: ReadonlySet<string>): number {
  const both = a.intersection(b).size;
  return both / (a.size + b.size - both);
}

/** A matrix of two methods each: which part of the units that either removed both removed. One panel per level. */
function unitOverlap(section: Section, unit: Unit): Chart | null {
  const rows = pruned(section).flatMap((row) => {
    const [run] = row.runs;
    if (run === undefined || run.plan.layers.length !== run.denseSize.layers.length) return [];
    return [{ row, units: removedUnits(run, unit) }];
  }).filter(({ units }) => units.size > 0);
  const levels = [...Map.groupBy(rows, ({ row }) => row.asked)].filter(([, own]) => own.length > 1);
  const shown = levels.flatMap(([, own]) => own.map(({ row }) => row));
  const labels = linesOf(section, shown).map(({ label }) => label);
  const values = levels.flatMap(([asked, own]) =>
    own.flatMap((a, i) =>
      own.slice(0, i).map((b) => {
        const share = Math.round(100 * overlap(a.units, b.units));
        return {
          level: `${level(asked)} asked`,
          a: a.row.label,
          b: b.row.label,
          share,
          description: `${a.row.label} and ${b.row.label}, ${level(asked)} asked: ${share} %`,
        };
      })
    )
  );
  if (values.length === 0) return null;
  const title = `Which ${unit.name} went: agreement of two methods`;
  return {
    name: `overlap-${unit.slug}`,
    title,
    spec: (width) => {
      const columns = Math.min(levels.length, width < WIDE ? 1 : 2);
      const cell = Math.min(46, Math.floor((width < WIDE ? 200 : 330 / columns) / labels.length));
      const subtitle = `${
        subject(section)
      } · of the ${unit.name} that either removed, % that both removed; first seeds`;
      return shell(title, [subtitle], width, {
        width: undefined,
        height: undefined,
        data: { values },
        columns,
        spacing: 24,
        resolve: { axis: { x: "independent", y: "independent" } },
        facet: { field: "level", type: "nominal", sort: null, header: { title: null } },
        spec: {
          width: { step: cell },
          height: { step: Math.max(20, Math.min(cell, 26)) },
          ...matrixLayers(labels, width < WIDE ? 120 : 190),
        },
      });
    },
  };
}

/** Dark where two methods agree, with the number in each field; `labelLimit` in pixels. */
function matrixLayers(labels: string[], labelLimit: number): Spec {
  const place = (field: string, orient: string, names: string[]) => ({
    field,
    type: "nominal",
    scale: { domain: names },
    axis: { title: null, grid: false, domain: false, ticks: false, orient, labelLimit, labelColor: NEUTRAL.ink },
  });
  const encoding = { x: place("b", "bottom", labels.slice(0, -1)), y: place("a", "left", labels.slice(1)) };
  return {
    layer: [
      {
        mark: { type: "rect", stroke: NEUTRAL.paper, strokeWidth: 1 },
        encoding: {
          ...encoding,
          color: {
            field: "share",
            type: "quantitative",
            scale: { domain: [0, 100], range: ["#dfe9f3", "#0b3f75"] },
            legend: null,
          },
          description: { field: "description" },
        },
      },
      {
        mark: { type: "text", fontSize: 11, aria: false },
        encoding: {
          ...encoding,
          text: { field: "share", type: "quantitative" },
          color: { condition: { test: "datum.share > 45", value: "#fefefe" }, value: "#101418" },
        },
      },
    ],
  };
}

/** Every figure of widths and units that the section's records allow. */
export const unitCharts = (section: Section): (Chart | null)[] => [
  ...UNITS.map((unit) => keptWidths(section, unit)),
  ...UNITS.map((unit) => unitOverlap(section, unit)),
];
