/** Metrics of several tasks together, as lm-evaluation-harness aggregates those of a group.
 *
 * @module
 */
import type { GroupResult, TaskResult } from "../../core/schema/schema.ts";
import type { TaskGroup } from "../../datasets/lm_eval/task_files.ts";

/** The metrics of a group over its scored tasks. The mean counts tasks by their
 * examples, or all alike; its standard error is the pooled one, or that of a mean of independent means, and null where
 * a task has none. */
export function aggregateGroup({ group, tasks, metrics }: TaskGroup, results: readonly TaskResult[]): GroupResult {
  const own = results.filter(({ task }) => tasks.includes(task));
  const totals = metrics.flatMap(({ metric, weightBySize }) => {
    const parts = own.flatMap(({ metrics, samples }) => {
      const found = metrics[metric];
      return found ? [{ ...found, size: samples.effective, weight: weightBySize ? samples.effective : 1 }] : [];
    });
    const sum = (of: (part: (typeof parts)[number]) => number) => parts.reduce((total, part) => total + of(part), 0);
    if (parts.length === 0) return [];
    const value = sum((part) => part.value * part.weight) / sum((part) => part.weight);
    const size = sum((part) => part.size);
    const stderr = parts.some((part) => part.stderr === null)
      ? null
      : weightBySize
      ? Math.sqrt(sum((part) => (part.size - 1) * (part.stderr ?? 0) ** 2 * part.size) / (size - parts.length) / size)
      : Math.sqrt(sum((part) => (part.stderr ?? 0) ** 2)) / parts.length;
    return [[metric, { value, stderr, weightBySize }] as const];
  });
  return { group, tasks, metrics: Object.fromEntries(totals) };
}
