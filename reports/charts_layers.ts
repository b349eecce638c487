/** What is left of each layer, for methods whose layers differ.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { axis, facets, linesOf, nameOf, nominal, subject, WIDTH } from "./chart_style.ts";
import type { Chart } from "./document.ts";
import { level, unique } from "./format.ts";
import { LEVEL_COLOURS } from "./palette.ts";
import type { Row, Section } from "./sections.ts";
import { UNIT_WORDS } from "./settings.ts";

type Run = Row["runs"][number];
type LayerWidths = Run["size"]["layers"][number];

const GONE: LayerWidths = { kvGroups: 0, queryHeadsPerGroup: 0, ffnChannels: 0 };

/** What a run kept of each layer of the dense model; a removed layer has width 0. */
export function keptOfLayers({ size, denseSize, plan }: Run): LayerWidths[] {
  if (size.layers.length === denseSize.layers.length) return size.layers;
  const left = size.layers.values();
  return plan.layers.map(({ ffnChannels }) => ffnChannels.length === 0 ? GONE : left.next().value ?? GONE);
}

type WidthOf = (layer: LayerWidths) => number;

/** The percentages that a row kept of a unit type, by layer. */
const widthsOf = ({ runs }: Row, widthOf: WidthOf): number[] =>
  runs.slice(0, 1).flatMap((run) =>
    keptOfLayers(run).map((layer, l) => 100 * widthOf(layer) / widthOf(at(run.denseSize.layers, l)))
  );

/** Kept widths of the methods whose layers differ, one panel per method and one line per level; null where every method
 * has equal widths: these are one number, which the tables hold. */
function keptWidths(section: Section, unit: string, name: string, widthOf: WidthOf): Chart | null {
  const lines = linesOf(section.pruned).filter(({ rows }) =>
    rows.some((row) => unique(widthsOf(row, widthOf)).length > 1)
  );
  const values = lines.flatMap(({ label, rows }) =>
    rows.flatMap((row) => {
      const own = { method: label, level: level(row.asked), description: nameOf(row) };
      return widthsOf(row, widthOf).map((kept, l) => ({ ...own, layer: l + 1, kept }));
    })
  );
  if (values.length === 0) return null;
  const levels = unique(values.map((value) => value.level));
  const title = `Kept ${unit} per layer`;
  const columns = Math.min(lines.length, 4);
  const panel = Math.floor((WIDTH + 130) / Math.max(2, columns)) - 22;
  const subtitle = `${subject(section)} · methods whose layers differ; first seed of each cell`;
  const resolve = { axis: { x: "independent" } };
  const spec = facets({ title, subtitle, values, columns, spacing: 22, resolve }, {
    field: "method",
    type: "nominal",
    sort: lines.map(({ label }) => label),
    header: { title: null, labelLimit: panel + 40 },
  }, {
    width: panel,
    height: 90,
    mark: { type: "line", interpolate: "step", strokeWidth: 2 },
    encoding: {
      x: axis("layer", "layer", { nice: false }, { grid: false, tickCount: 4, format: "d" }),
      y: axis("kept", "kept, %", { domain: [0, 100] }, { tickCount: 4 }),
      color: nominal("level", levels, LEVEL_COLOURS, { title: "sparsity", orient: "top", symbolType: "stroke" }),
      description: { field: "description" },
    },
  });
  return { name, title, spec };
}

/** Figures of the widths of FFN and attention. */
export const widthCharts = (section: Section): (Chart | null)[] => [
  keptWidths(section, UNIT_WORDS.ffn, "kept-ffn-channels", ({ ffnChannels }) => ffnChannels),
  keptWidths(
    section,
    UNIT_WORDS["query-heads"],
    "kept-query-heads",
    ({ kvGroups, queryHeadsPerGroup }) => kvGroups * queryHeadsPerGroup,
  ),
];
