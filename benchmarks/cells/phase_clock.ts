/** Seconds of a cell by phase. Every moment belongs to one phase, so that the phases add up to the whole.
 *
 * @module
 */
import type { DoneRecord } from "../../core/schema/schema.ts";

/** Seconds by phase, as in a record. */
type Timings = DoneRecord["timings"];
/** A phase that is timed. */
type Phase = "loadS" | "pruneS" | "learnS" | "evaluateS" | "throughputS" | "waitS";

/** A running clock. */
export interface PhaseClock {
  /** Counts for `phase` from now on. */
  enter(phase: Phase): void;
  /** Counts for `phase` during `work`, then again for the phase before. */
  during<T>(phase: Phase, work: () => Promise<T>): Promise<T>;
  /** Seconds of each phase until now. */
  seconds(): Record<Phase, number>;
}

/** A clock that counts for `phase` first. `nowMs` is the time in milliseconds. */
export function createPhaseClock(phase: Phase, nowMs: () => number = () => performance.now()): PhaseClock {
  const total: Record<Phase, number> = { loadS: 0, pruneS: 0, learnS: 0, evaluateS: 0, throughputS: 0, waitS: 0 };
  let current = phase;
  let since = nowMs();
  const enter = (next: Phase) => {
    const now = nowMs();
    total[current] += (now - since) / 1000;
    [current, since] = [next, now];
  };
  return {
    enter,
    during: async (phase, work) => {
      const outer = current;
      enter(phase);
      try {
        return await work();
      } finally {
        enter(outer);
      }
    },
    seconds: () => {
      enter(current);
      return { ...total };
    },
  };
}

/** The timings of a record, with those of its earlier measurements. Seconds that `training` reports are learning and
 * not pruning. */
export function timingsOf(
  spent: Record<Phase, number>,
  training: DoneRecord["training"] = [],
  before?: Timings,
): Timings {
  const reported = training.reduce((sum, { seconds }) => sum + seconds, 0);
  // A training that resumed from a snapshot reports the seconds of an earlier process as well.
  const inPruning = before ? 0 : Math.min(spent.pruneS, Math.max(0, reported - spent.learnS));
  const total = { ...spent, pruneS: spent.pruneS - inPruning, learnS: spent.learnS + inPruning };
  for (const phase of Object.keys(total) as Phase[]) total[phase] += before?.[phase] ?? 0;
  return total;
}
