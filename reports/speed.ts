/** Which speed-ups are worth believing: timings of one machine vary more than their repeats show.
 *
 * @module
 */
import { canonicalJson } from "../core/util/canonical_json.ts";
import { level, listed } from "./format.ts";
import type { Column } from "./columns.ts";
import { boundsOf, type Estimate } from "./estimates.ts";
import { isDense, type Row, type Section } from "./sections.ts";

/** Why a speed-up is not to be relied upon: 1 lies within its error; models of the same shape, which do the same work,
 * differ by more than theirs; or its interval is {@linkcode MOST_WIDTH} or more wide. */
export type Doubt = "no difference" | "shapes differ" | "wide";

/** Standard deviations that count as the error of repeats that did not alternate. */
const ERRORS = 2;

/** Quotient of the ends of an interval from which it says little. */
const MOST_WIDTH = 4;

/** Most quotient of a speed-up and of the tokens/s behind it; a larger one tells of a machine that changed its pace. */
const MOST_DISAGREEMENT = 1.25;

/** Farthest from 1 that the dense model over itself may lie. */
const MOST_ERROR = 0.05;

/** Between which values a speed-up may lie. */
const rangeOf = (up: Estimate) => boundsOf(up, ERRORS) ?? [-Infinity, Infinity];

/** Whether one speed-up is higher than another by more than the errors of both, each on the side of the other. */
const isAbove = (a: Estimate, b: Estimate): boolean =>
  a.value - b.value > Math.hypot(a.value - rangeOf(a)[0], rangeOf(b)[1] - b.value);

/** Widths of the pruned model: equal for models that compute the same operations. */
const shapeOf = ({ runs: [run] }: Row): string =>
  run === undefined ? "" : canonicalJson([run.size.layers, run.size.hidden ?? null, run.size.plainLlama]);

function isWide(up: Estimate): boolean {
  const [low, high] = rangeOf(up);
  return high >= MOST_WIDTH * low && Number.isFinite(high);
}

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
      else if (isWide(up)) result.set(row, "wide");
    }
  }
  return result;
}

/** What to say of timings that do not hold together, by throughput test. */
export function speedWarnings(section: Section): string[] {
  const dense = section.rows.find(isDense);
  return section.speeds.flatMap(({ key, name }) => {
    const base = dense?.values.get(key)?.value;
    const own = dense?.speedUps.get(key)?.value ?? 1;
    const named = (test: (up: Estimate, rate: number) => boolean) =>
      listed(section.rows.flatMap((row) => {
        const [up, rate] = [row.speedUps.get(key), row.values.get(key)];
        if (isDense(row) || up === undefined || rate === undefined || !test(up, rate.value)) return [];
        return [`${row.label} at ${level(row.asked)}`];
      }));
    const wide = named(isWide);
    const uneven = base === undefined
      ? ""
      : named((up, rate) => Math.abs(Math.log(rate / base / up.value)) > Math.log(MOST_DISAGREEMENT));
    const again = "Time them again on a quiet machine.";
    return [
      ...Math.abs(own - 1) > MOST_ERROR
        ? [`${name}: the dense model over itself is ${own.toFixed(2)}, not 1. Speed-ups have an error of this size.`]
        : [],
      ...wide === ""
        ? []
        : [`${name}: speed-ups with intervals wider than a factor of ${MOST_WIDTH}: ${wide}. ${again}`],
      ...uneven === "" ? [] : [`${name}: speed-up and tokens/s disagree: ${uneven}. ${again}`],
    ];
  });
}
