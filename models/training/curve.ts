/** What a training run went through, step by step.
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
  /** Rows so far. */
  rows: CurveRow[];
  /** Adds the row of a step. */
  add(step: number, result: Pick<StepResult, "terms" | "gradientNorm">, notes?: StepNotes): CurveRow;
  /** Seconds since the curve began, those of earlier processes included. */
  seconds(): number;
}

/** Rounds to six significant digits: records hold thousands of rows. */
const short = (value: number) => Number(value.toPrecision(6));

const shortAll = (values: Record<string, number>) =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, short(value)]));

/** A curve, going on from `earlier` rows of a run that was stopped. */
export function createCurve(earlier: CurveRow[] = []): Curve {
  const rows = [...earlier];
  const before = rows.at(-1)?.seconds ?? 0;
  const start = performance.now();
  const seconds = () => before + (performance.now() - start) / 1000;
  return {
    rows,
    seconds,
    add: (step, { terms, gradientNorm }, { budget, retained, removed, duals, swaps, residual } = {}) => {
      const row: CurveRow = {
        step,
        loss: short(terms.total),
        crossEntropy: short(terms.crossEntropy),
        distillation: short(terms.distillation),
        hidden: short(terms.hidden),
        gradientNorm: short(gradientNorm),
        seconds: short(seconds()),
        memoryBytes: Deno.memoryUsage().rss,
        ...budget !== undefined && { budget: short(budget) },
        ...retained !== undefined && { retained: short(retained) },
        ...removed && { removed: shortAll(removed) },
        ...duals && { duals: shortAll(duals) },
        ...swaps !== undefined && { swaps },
        ...residual !== undefined && { residual: short(residual) },
      };
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
