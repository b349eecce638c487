/** Options that every step of the pipeline accepts.
 *
 * @module
 */
import type { Statistics } from "../../methods/define.ts";

/** How a step tells of its progress, is stopped, and keeps statistics. */
export interface StepOptions {
  /** Progress in words. */
  report?(message: string): void;
  /** Aborts between batches. */
  signal?: AbortSignal;
  /** As in a method's context; statistics are kept for the call alone by default. */
  remember?(key: string, compute: () => Promise<Statistics>, forAll?: boolean): Promise<Statistics>;
}

/** The options with their defaults. */
export function withDefaults({ report, signal, remember }: StepOptions): Required<StepOptions> {
  const kept = new Map<string, Statistics>();
  return {
    report: report ?? (() => {}),
    signal: signal ?? new AbortController().signal,
    remember: remember ?? (async (key, compute) => {
      const found = kept.get(key) ?? await compute();
      kept.set(key, found);
      return found;
    }),
  };
}
