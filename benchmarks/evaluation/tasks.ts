/** Scores of tasks from log-likelihoods, as lm-evaluation-harness measures them: multiple-choice accuracy, the
 * probability of a text after another, and of whole texts.
 *
 * @module
 */
import { NumericError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { codePointLength, splitAtSpaces, utf8Length } from "../../core/util/python_text.ts";
import type { GroupResult, TaskResult } from "../../core/schema/schema.ts";
import { mean, standardError } from "../../core/util/stats.ts";
import type { AnyTask, Example, MetricName, OutputType } from "../../datasets/define.ts";
import { definitionHash, type TaskGroup } from "../../datasets/lm_eval/task_files.ts";
import { loadTask } from "../../datasets/load.ts";
import { anyTask } from "../../datasets/mod.ts";
import { type LogLikelihoodRequest, requestBos, rollingBos } from "./requests.ts";
import { checkFinite, type LogLikelihood, type Scorer } from "./scorer.ts";

/** One example with its scores, one per choice. */
export interface ScoredExample {
  example: Example;
  /** The example's record as in the file. */
  record: unknown;
  scores: LogLikelihood[];
}

/** The kind of request that a task makes. */
export function outputType(task: AnyTask): OutputType {
  return "outputType" in task ? task.outputType : "multiple_choice";
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
    if (value > at(values, best)) best = i;
  });
  return best;
}

/** The divisor of a choice's log-likelihood, per metric. */
const DIVISORS: Record<string, (text: string) => number> = {
  acc: () => 1,
  acc_norm: codePointLength,
  acc_bytes: utf8Length,
};

/** Names of the metrics of `task`: its own, and `acc_bytes` beside `acc_norm`. */
export function metricNames({ metrics }: { metrics: readonly MetricName[] }): MetricName[] {
  return metrics.includes("acc_norm") && !metrics.includes("acc_bytes") ? [...metrics, "acc_bytes"] : [...metrics];
}

/** 1 if the best choice by `metric` is right, else 0. */
export function outcome(metric: string, { example, scores }: Pick<ScoredExample, "example" | "scores">): number {
  const divide = DIVISORS[metric];
  if (!divide) throw new RangeError(`"${metric}" is no accuracy`);
  const values = scores.map(({ logLikelihood }, i) => logLikelihood / divide(at(example.choices, i).text));
  return (example.golds ?? [example.gold]).includes(argmax(values)) ? 1 : 0;
}

/** The divisor of a whole text's log-likelihood, per metric. */
const UNITS: Partial<Record<MetricName, (text: string) => number>> = {
  word_perplexity: (text) => splitAtSpaces(text).length,
  byte_perplexity: utf8Length,
  bits_per_byte: utf8Length,
};

/** An example's part in a metric, as lm-evaluation-harness logs it: 1 or 0 for an accuracy, the log-likelihood for a
 * perplexity, and for whole texts also their words or bytes. */
export function exampleMetric(
  metric: MetricName,
  type: OutputType,
  scored: Pick<ScoredExample, "example" | "scores">,
): number | [logLikelihood: number, units: number] {
  if (type === "multiple_choice") return outcome(metric, scored);
  const { logLikelihood, isGreedy } = at(scored.scores, 0);
  if (metric === "acc") return isGreedy ? 1 : 0;
  const count = UNITS[metric];
  return count ? [logLikelihood, count(at(scored.example.choices, 0).text)] : logLikelihood;
}

/** A metric over all examples. The standard error of a perplexity comes from the mean loss by the delta method; the
 * harness uses bootstrap samples. Perplexities of whole texts have none, as in the harness. */
function totalMetric(metric: MetricName, type: OutputType, scored: readonly ScoredExample[]): TaskMetric {
  const parts = scored.map((one) => exampleMetric(metric, type, one));
  if (metric.startsWith("acc")) {
    const values = parts.map(Number);
    return { value: mean(values), stderr: standardError(values), higherIsBetter: true };
  }
  if (metric === "perplexity") {
    const losses = parts.map((value) => -Number(value));
    const [value, error] = [Math.exp(mean(losses)), standardError(losses)];
    return { value, stderr: error === null ? null : value * error, higherIsBetter: false };
  }
  const [nats, units] = parts.reduce<[number, number]>(
    ([sum, count], part) => Array.isArray(part) ? [sum - part[0], count + part[1]] : [sum, count],
    [0, 0],
  );
  const value = metric === "bits_per_byte" ? nats / units / Math.LN2 : Math.exp(nats / units);
  return { value, stderr: null, higherIsBetter: false };
}

type TaskMetric = TaskResult["metrics"][string];

/** The score of each choice of each example, one after the other. */
async function scoreAll(scorer: Scorer, type: OutputType, examples: readonly Example[]): Promise<LogLikelihood[]> {
  if (type !== "loglikelihood_rolling") return await scorer.loglikelihood(examples.flatMap(requestsOf));
  const texts = examples.map(({ choices }) => at(choices, 0).text);
  const scores = await scorer.loglikelihoodRolling(texts, { bos: "lm-eval" });
  return scores.map(({ logLikelihood }) => ({ logLikelihood, isGreedy: false }));
}

/** Reads a task from the folder `data`, scores its first `limit` examples after `fewshot` solved ones and gives its result with every example's scores.
 * @throws {UsageError} when the task or its data are not found or malformed.
 * @throws {NumericError} when the model's output is not finite. */
export async function measureTask(
  scorer: Scorer,
  id: string,
  { data, limit, fewshot = 0 }: { data?: string; limit?: number; fewshot?: number } = {},
): Promise<{ result: TaskResult; scored: ScoredExample[] }> {
  const start = performance.now();
  const task = anyTask(id);
  const type = outputType(task);
  const loaded = await loadTask(task, { data, limit, fewshot });
  const { examples, records, total, numFewshot, dataset, fewshotDataset } = loaded;
  const scores = await scoreAll(scorer, type, examples);
  let next = 0;
  const scored = examples.map((example, i): ScoredExample => ({
    example,
    record: records[i],
    scores: scores.slice(next, next += example.choices.length),
  }));
  const names = metricNames(task);
  const metrics = Object.fromEntries(names.map((name) => [name, totalMetric(name, type, scored)]));
  for (const [name, { value }] of Object.entries(metrics)) checkFinite(value, `${name} of ${id}`);
  return {
    result: {
      task: task.id,
      version: task.version,
      ..."definition" in task &&
        { definition: { path: task.definition.path, sha256: definitionHash(task.definition) } },
      dataset,
      numFewshot,
      ...fewshotDataset && { fewshotDataset },
      bosPolicy: type === "loglikelihood_rolling" ? rollingBos("lm-eval", scorer.tokenizer) : requestBos(scorer),
      samples: { original: total, effective: examples.length },
      metrics,
      outcomes: Object.fromEntries(
        names.filter((name) => name.startsWith("acc")).map((name) => [
          name,
          scored.map((one) => exampleMetric(name, type, one)).join(""),
        ]),
      ),
      chance: type === "multiple_choice"
        ? mean(
          examples.map(({ choices, gold, golds = [gold] }) =>
            new Set(golds.filter((one) => one >= 0)).size / choices.length
          ),
        )
        : 0,
      batchTokens: scorer.batchTokens(),
      seconds: (performance.now() - start) / 1000,
    },
    scored,
  };
}

/** The metrics of a group over its scored tasks. The mean weights tasks by their examples, or equally. Its standard
 * error is the pooled one, or the one of a mean of independent means; null if a task has none. */
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
