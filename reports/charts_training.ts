/** What learned masks went through: loss, budget, units removed and dual variables by step.
 *
 * @module
 */
import type { CurveRow, RemovedType } from "../core/schema/schema.ts";
import { evenlySpaced } from "../core/util/stats.ts";
import { axis, facets, linesOf, methodColour, nameOf, nominal, subject, WIDTH } from "./chart_style.ts";
import type { Chart } from "./document.ts";
import { level, unique } from "./format.ts";
import { NEUTRAL } from "./palette.ts";
import { UNIT_WORDS } from "./settings.ts";
import type { Row, Section } from "./sections.ts";

/** A quantity of a step; null where the step does not have it. */
interface Panel {
  title: string;
  pick(row: CurveRow): number | null;
}

const DASHES = [[1, 0], [5, 3], [2, 2], [8, 2, 2, 2]];

/** Most points of a line: a panel is about a hundred pixels wide. */
const POINTS = 100;

/** Steps in which masks were learned; none for other methods. */
const learning = (row: Row): CurveRow[] =>
  evenlySpaced(row.runs[0]?.training?.find(({ stage }) => stage === "learning")?.curve ?? [], POINTS);

/** Of the whole model and not per layer. */
const OF_MODEL: readonly RemovedType[] = ["layer", "hidden"];

const removedWords = (type: RemovedType) =>
  `${UNIT_WORDS[type]} removed${OF_MODEL.includes(type) ? "" : ", per layer"}`;

/** Panels that the curves have numbers for. */
function panels(rows: CurveRow[]): Panel[] {
  const keys = (field: "removed" | "duals") => [...new Set(rows.flatMap((row) => Object.keys(row[field] ?? {})))];
  const all: Panel[] = [
    { title: "training loss", pick: ({ loss }) => loss },
    { title: "budget, part that may stay", pick: ({ budget }) => budget ?? null },
    { title: "part that stays", pick: ({ retained }) => retained ?? null },
    ...(keys("removed") as RemovedType[]).map((type) => ({
      title: removedWords(type),
      pick: ({ removed }: CurveRow) => removed?.[type] ?? null,
    })),
    ...keys("duals").map((name) => ({
      title: `multiplier ${name}`,
      pick: ({ duals }: CurveRow) => duals?.[name] ?? null,
    })),
  ];
  return all.filter(({ pick }) => rows.some((row) => pick(row) !== null));
}

/** One panel per quantity, one line per method and level; null where no method learned. */
export function trainingCurves(section: Section): Chart | null {
  const rows = section.pruned.filter((row) => learning(row).length > 1);
  if (rows.length === 0) return null;
  const levels = unique(rows.map(({ asked }) => level(asked)));
  const values = panels(rows.flatMap(learning)).flatMap(({ title, pick }) =>
    rows.flatMap((row) =>
      learning(row).flatMap((step) => {
        const value = pick(step);
        if (value === null) return [];
        const rounded = Number(value.toPrecision(4));
        const own = { method: row.label, level: level(row.asked), description: nameOf(row) };
        return [{ panel: title, ...own, step: step.step, value: rounded }];
      })
    )
  );
  const title = "Training of learned masks";
  const subtitle = `${subject(section)} · first seed of each cell; value by step`;
  const resolve = { scale: { y: "independent" }, axis: { x: "independent" } };
  const spec = facets({ title, subtitle, values, columns: 3, spacing: 14, resolve }, {
    field: "panel",
    type: "nominal",
    sort: unique(values.map(({ panel }) => panel)),
    header: { title: null, labelFontSize: 11, labelFontWeight: "normal", labelExpr: "split(datum.label, ', ')" },
  }, {
    width: Math.floor(WIDTH / 2.4),
    height: 84,
    mark: { type: "line", strokeWidth: 1.6 },
    encoding: {
      x: axis("step", null, { nice: false }, { grid: false, tickCount: 4 }),
      y: axis("value", null, { zero: false }, { tickCount: 4, minExtent: 30 }),
      color: methodColour(linesOf(rows), { symbolType: "stroke" }),
      strokeDash: nominal("level", levels, DASHES, { title: "asked sparsity", symbolStrokeColor: NEUTRAL.muted }),
      description: { field: "description" },
    },
  });
  return { name: "training-curves", title, spec };
}
