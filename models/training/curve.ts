/** The curve of a training run, step by step.
 *
 * @module
 */
import type { CurveRow, TrainingReport } from "../../core/schema/schema.ts";
import { evenlySpaced } from "../../core/util/stats.ts";
import type { StepResult } from "./student.ts";

/** Most rows that a report holds. */
const ROWS = 5000;

/** What a step adds to its row besides loss and time. */
export type StepNotes = Partial<
  Pick<CurveRow, "budget" | "retained" | "removed" | "duals" | "swaps" | "residual">
>;

/** A growing curve. */
export interface Curve {
  rows: CurveRow[];
  add(step: number, result: Pick<StepResult, "terms" | "gradientNorm">, notes?: StepNotes): CurveRow;
  /** Seconds since the curve began, including earlier processes. */
  seconds(): number;
}

/** Rounds to six significant digits: records hold thousands of rows. */
const short = (value: number) => Number(value.toPrecision(6));

/** Rounded numbers, at any depth; absent ones are left out. */
const rounded = (values: object): object =>
  Object.fromEntries(
    Object.entries(values).filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name, typeof value === "number" ? short(value) : rounded(value)]),
  );

/** A curve, going on from `earlier` rows of a run that was stopped. */
export function createCurve(earlier: CurveRow[] = []): Curve {
  const rows = [...earlier];
  const before = rows.at(-1)?.seconds ?? 0;
  const start = performance.now();
  const seconds = () => before + (performance.now() - start) / 1000;
  return {
    rows,
    seconds,
    add: (step, { terms: { total: loss, ...terms }, gradientNorm }, notes = {}) => {
      const row = {
        step,
        ...rounded({ loss, ...terms, gradientNorm, seconds: seconds() }),
        memoryBytes: Deno.memoryUsage().rss,
        ...rounded(notes),
      } as CurveRow;
      rows.push(row);
      return row;
    },
  };
}

/** The report of a stage. */
export function trainingReport(
  stage: TrainingReport["stage"],
  curve: Curve,
  { steps, tokens }: { steps: number; tokens: number },
): TrainingReport {
  return { stage, steps, tokens, seconds: short(curve.seconds()), curve: evenlySpaced(curve.rows, ROWS) };
}
