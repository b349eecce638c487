/** What learned masks went through: loss, budget, units removed and dual variables by step.
 *
 * @module
 */
import type { CurveRow, RemovedType } from "../core/schema/schema.ts";
import { evenlySpaced } from "../core/util/stats.ts";
import { axis, colourScale, facets, linesOf, nameOf, nominal, subject, WIDE } from "./chart_style.ts";
import type { Chart, Spec } from "./document.ts";
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

/** What a multiplier is the price of: MaskPrune's z and y of the budget and of open masks, Sheared's lambda1 and
 * lambda2 of the distance to the target shape and of its square. */
const DUAL_WORDS: Record<string, string> = {
  z: "price of the budget, z",
  y: "price of open masks, y",
  lambda1: "price of the shape, λ1",
  lambda2: "price of the shape squared, λ2",
};

function dualWords(name: string): string {
  const [symbol = name, ...type] = name.split(" ");
  const unit = UNIT_WORDS[type.join(" ") as RemovedType] ?? type.join(" ");
  return `${DUAL_WORDS[symbol] ?? `multiplier ${symbol}`}${unit === "" ? "" : `, ${unit}`}`;
}

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
    ...keys("duals").map((name) => ({ title: dualWords(name), pick: ({ duals }: CurveRow) => duals?.[name] ?? null })),
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
  const spec = (width: number): Spec => {
    const columns = width < WIDE ? 2 : 3;
    const subtitle = [`${subject(section)} · first seed of each cell; value by step`];
    const resolve = { scale: { y: "independent" }, axis: { x: "independent" } };
    return facets({ title, subtitle, width, values, columns, spacing: 14, resolve }, {
      field: "panel",
      type: "nominal",
      sort: unique(values.map(({ panel }) => panel)),
      header: { title: null, labelFontSize: 11, labelFontWeight: "normal", labelExpr: "split(datum.label, ', ')" },
    }, {
      width: columns === 2 ? Math.floor(width / 2) - 18 : Math.floor(width / 2.4),
      height: 84,
      mark: { type: "line", strokeWidth: 1.6 },
      encoding: {
        x: axis("step", null, { nice: false }, { grid: false, tickCount: 4 }),
        y: axis("value", null, { zero: false }, { tickCount: 4, minExtent: 30 }),
        color: {
          field: "method",
          type: "nominal",
          scale: colourScale(linesOf(rows)),
          legend: { title: "method", symbolType: "stroke" },
        },
        strokeDash: nominal("level", levels, DASHES, { title: "asked sparsity", symbolStrokeColor: NEUTRAL.muted }),
        description: { field: "description" },
      },
    });
  };
  return { name: "training-curves", title, spec };
}
