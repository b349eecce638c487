/** Multiple-choice accuracy from log-likelihoods, as lm-evaluation-harness measures it.
 *
 * @module
 */
import { NumericError } from "../../core/errors.ts";
import { codePointLength, utf8Length } from "../../core/python_text.ts";
import type { TaskResult } from "../../core/schema.ts";
import { mean, standardError } from "../../core/stats.ts";
import type { Example, Task } from "../../datasets/define.ts";
import { loadTask } from "../../datasets/load.ts";
import { getTask } from "../../datasets/mod.ts";
import type { LogLikelihoodRequest } from "./requests.ts";
import type { LogLikelihood, Scorer } from "./scorer.ts";

/** Options of {@linkcode measureTask}. */
export interface TaskOptions {
  /** Folder with data sets. */
  data?: string;
  /** Only the first examples are scored. */
  limit?: number;
  /** Solved examples in the prompt; 0 by default. */
  fewshot?: number;
}

/** One example with its scores, one per choice. */
export interface ScoredExample {
  /** What was asked. */
  example: Example;
  /** The example's record as it stands in the file. */
  record: unknown;
  /** Score of each choice. */
  scores: LogLikelihood[];
}

/** The requests of an example, one per choice. */
export function requestsOf({ prefix = "", choices }: Example): LogLikelihoodRequest[] {
  return choices.map(({ context, continuation }) => ({ context: prefix + context, continuation }));
}

/** Index of the highest value; the first of equal ones, as numpy's `argmax`.
 * @throws {NumericError} on NaN, which would "answer" something. */
export function argmax(values: readonly number[]): number {
  let best = 0;
  values.forEach((value, i) => {
    if (Number.isNaN(value)) throw new NumericError(`Choice ${i} has no score: current NaN`);
    if (value > values[best]) best = i;
  });
  return best;
}

/** What a choice's log-likelihood is divided by, per metric. */
const DIVISORS: Record<string, (text: string) => number> = {
  acc: () => 1,
  acc_norm: codePointLength,
  acc_bytes: utf8Length,
};

/** Names of the metrics of `task`: its own, and `acc_bytes` wherever there is `acc_norm`. */
export function metricNames({ metrics }: Pick<Task, "metrics">): string[] {
  return metrics.includes("acc_norm") ? [...metrics, "acc_bytes"] : [...metrics];
}

/** Whether the example is answered rightly by `metric`: 1 or 0. */
export function outcome(metric: string, { example, scores }: Pick<ScoredExample, "example" | "scores">): number {
  const divide = DIVISORS[metric];
  const values = scores.map(({ logLikelihood }, i) => logLikelihood / divide(example.choices[i].text));
  return argmax(values) === example.gold ? 1 : 0;
}

/** Scores a task and gives its result with every example's scores.
 * @throws {UsageError} when the task or its data are not found or malformed.
 * @throws {NumericError} when the model's output is not finite. */
export async function measureTask(
  scorer: Scorer,
  id: string,
  { data, limit, fewshot = 0 }: TaskOptions = {},
): Promise<{ result: TaskResult; scored: ScoredExample[] }> {
  const start = performance.now();
  const task = getTask(id);
  const { examples, records, total, dataset, fewshotDataset } = await loadTask(task, { data, limit, fewshot });
  const scores = await scorer.logLikelihood(examples.flatMap(requestsOf));
  let next = 0;
  const scored = examples.map((example, i): ScoredExample => ({
    example,
    record: records[i],
    scores: scores.slice(next, next += example.choices.length),
  }));
  const outcomes = metricNames(task).map((name) => [name, scored.map((one) => outcome(name, one))] as const);
  return {
    result: {
      task: task.id,
      version: task.version,
      dataset,
      numFewshot: fewshot,
      ...fewshotDataset && { fewshotDataset },
      bosPolicy: scorer.bosPolicy,
      samples: { original: total, effective: examples.length },
      metrics: Object.fromEntries(outcomes.map(([name, values]) => [name, {
        value: mean(values),
        stderr: standardError(values),
        higherIsBetter: true,
      }])),
      outcomes: Object.fromEntries(outcomes.map(([name, values]) => [name, values.join("")])),
      chance: mean(examples.map(({ choices }) => 1 / choices.length)),
      seconds: (performance.now() - start) / 1000,
    },
    scored,
  };
}
