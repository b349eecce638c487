/** Which speed-ups are worth believing: timings of one machine vary more than their repeats show.
 *
 * @module
 */
import { canonicalJson } from "../core/schema/cell_names.ts";
import type { Column } from "./measurements.ts";
import { boundsOf, type Estimate, isDense, type Row, type Section } from "./rows.ts";

/** Why a speed-up is not to be relied upon: 1 lies within its error, or models of the same shape, which do the same
 * work, differ by more than theirs. */
export type Doubt = "no difference" | "shapes differ";

/** Standard deviations that count as the error of repeats that did not alternate. */
const ERRORS = 2;

/** Between which values a speed-up may lie. */
const rangeOf = (up: Estimate) => boundsOf(up, ERRORS) ?? [-Infinity, Infinity];

/** Whether one speed-up is higher than another by more than the errors of both, each on the side of the other. */
const isAbove = (a: Estimate, b: Estimate): boolean =>
  a.value - b.value > Math.hypot(a.value - rangeOf(a)[0], rangeOf(b)[1] - b.value);

/** Widths of the pruned model: equal for models that compute the same operations. */
const shapeOf = ({ runs: [run] }: Row): string =>
  run === undefined ? "" : canonicalJson([run.size.layers, run.size.hidden ?? null, run.size.plainLlama]);

/** Rows of `section` whose speed-up by `column` is in doubt, and why. */
export function doubts(section: Section, column: Column): Map<Row, Doubt> {
  const measured = section.rows.flatMap((row) => {
    const up = isDense(row) ? undefined : row.speedUps.get(column.key);
    return up === undefined ? [] : [{ row, up }];
  });
  const result = new Map<Row, Doubt>();
  for (const same of Map.groupBy(measured, ({ row }) => shapeOf(row)).values()) {
    const uneven = same.some((a) => same.some((b) => isAbove(a.up, b.up)));
    for (const { row, up } of same) {
      const [low, high] = rangeOf(up);
      if (uneven) result.set(row, "shapes differ");
      else if (low <= 1 && 1 <= high) result.set(row, "no difference");
    }
  }
  return result;
}

/** What a section's marked speed-ups say, for the notes; empty where none is marked. */
export function doubtNotes(section: Section): string[] {
  const columns = section.columns.filter(({ kind }) => kind === "throughput");
  const kinds = new Set(columns.flatMap((column) => [...doubts(section, column).values()]));
  return [
    ...kinds.has("no difference") ? ["1 lies within its error"] : [],
    ...kinds.has("shapes differ")
      ? ["models of the same shape, which do the same work, differ by more than their errors"]
      : [],
  ];
}
