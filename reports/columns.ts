/** One record to its measurements, each with the column it belongs to. Two results share a column only if protocol,
 * data (by hash) and number of examples are equal.
 *
 * @module
 */
import { corpusLabel } from "../core/schema/cell_names.ts";
import { at } from "../core/util/indexing.ts";
import type { DatasetUse, DoneRecord, PerplexityResult, TaskResult, ThroughputResult } from "../core/schema/schema.ts";
import { mean } from "../core/util/stats.ts";
import { counted } from "../core/util/words.ts";
import { listed, percent, sourceName, withSpread } from "./format.ts";

/** What a column holds. */
export interface Column {
  /** Equal for results that may be compared, and for no others. */
  key: string;
  kind: "perplexity" | "task" | "mean-accuracy" | "throughput";
  /** Corpus, task or throughput test. */
  name: string;
  /** `perplexity`, `acc`, `acc_norm`, `tokens/s`. */
  metric: string;
  /** Name for CSV headers, without the unit of throughput; not always unique. */
  slug: string;
  /** Window length, number of examples or windows, and of how many, in words: `n=200 of 2376`. */
  count: string;
  limited: boolean;
  /** The protocol in words, for the details. */
  protocol: string;
  higherIsBetter: boolean;
  /** Whether the column stands in the main table; other metrics of a task are in the CSV. */
  primary: boolean;
  /** Whether values are parts of 1, shown in percent: accuracies, not the perplexities of task files. */
  isFraction: boolean;
  /** Expected value of a guess, for accuracies. */
  chance: number | null;
  /** Window length of a perplexity, in tokens. */
  windowTokens?: number;
  /** Tasks of a mean accuracy. */
  tasks?: readonly string[];
}

/** A value of a quality column as the tables show it. */
export function qualityText(column: Column, value: number): string {
  return column.isFraction ? `${percent(value)} %` : withSpread(value, null, 4, 2).text;
}

/** The metric of a task in tables and means, by task id. */
type PrimaryMetrics = ReadonlyMap<string, string>;

function primaryMetric({ task, metrics }: TaskResult, primaryMetrics: PrimaryMetrics): string {
  const names = Object.keys(metrics);
  return [primaryMetrics.get(task), "acc", names[0]].find((name) => name && names.includes(name)) ?? "acc";
}

/** One result of one run, with the column it belongs to. */
export interface Measurement {
  column: Column;
  value: number;
  stderr: number | null;
  /** One number per window, document or example whose plain mean is the quantity (for perplexity: its logarithm). */
  paired?: number[];
  /** Timed repeats, for throughput. */
  repeats?: {
    sd: number;
    n: number;
    /** Id of the run that was timed: runs of models of one shape share a measurement. */
    timed: string;
    /** Natural logarithms of the speed-ups over the dense model's neighbouring repeats, where repeats alternated. */
    logSpeedUps?: number[];
  };
}

/** What most columns have in common. */
const USUAL = { limited: false, primary: true, isFraction: false, chance: null };

/** How many examples or windows of all were scored. */
const scored = (part: number, total: number) => ({
  count: part < total ? `n=${part} of ${total}` : `n=${part}`,
  limited: part < total,
});

const AVERAGING = {
  a: "mean of window means, per token",
  b: "mean over tokens, per token",
  c: "whole documents, per word",
};

/** Scored windows or documents; the number of documents is not known where only the first were read. */
function windowCount(result: PerplexityResult): { count: string; limited: boolean } {
  const { protocol, windows, windowTokens, maxWindows, tokens, droppedTokens } = result;
  if (protocol === "c") {
    const limited = windows === maxWindows;
    return { count: limited ? `n=first ${windows} documents` : `n=${windows} documents`, limited };
  }
  // A window holds fewer tokens of the text where the model needs others in front.
  const own = (tokens - droppedTokens) / windows;
  const { count, limited } = scored(windows, Math.floor(tokens / own));
  return { count: `L=${windowTokens}, ${count}`, limited };
}

const slugOf = (name: string) => name.replace(/[^\w.-]/g, "_");

function datasetWords({ revision, split, source, sha256 }: DatasetUse): string {
  const at = revision === null ? "" : ` at ${revision}`;
  return `${split} split of ${sourceName(source)}${at}, sha256 ${sha256.slice(0, 12)}`;
}

/** Nats of each window; of each document by its part of all words, where these are known. */
function pairedNll({ protocol, windowNll, documentWords, documents }: PerplexityResult): number[] | undefined {
  if (protocol !== "c") return windowNll;
  if (documentWords === undefined || documents === undefined) return undefined;
  return windowNll.map((nll, i) => nll * windowNll.length * at(documentWords, i) / documents.words);
}

function perplexityMeasurement(result: PerplexityResult): Measurement {
  const { corpus, protocol, windowTokens, windows, dataset, bosPolicy, tokenizerSha256 } = result;
  const name = corpusLabel(corpus);
  const { count, limited } = windowCount(result);
  const identity = [dataset.sha256, dataset.split, protocol, windowTokens, windows, bosPolicy, tokenizerSha256];
  return {
    column: {
      ...USUAL,
      key: JSON.stringify(["perplexity", name, ...identity]),
      kind: "perplexity",
      name,
      metric: protocol === "c" ? "word perplexity" : "perplexity",
      slug: `${slugOf(name)}_${protocol}${windowTokens}_n${windows}`,
      // (a) is the usual one, and the metric of (c) has its own name.
      count: protocol === "b" ? `protocol b, ${count}` : count,
      limited,
      windowTokens,
      protocol:
        `protocol ${protocol} (${AVERAGING[protocol]}), ${count}, BOS: ${bosPolicy}, ${datasetWords(dataset)}, ` +
        `tokenizer ${tokenizerSha256.slice(0, 12)}`,
      higherIsBetter: false,
    },
    value: result.perplexity,
    stderr: result.perplexityStderr,
    paired: pairedNll(result),
  };
}

/** What two results of a task must have in common to be compared. */
function taskIdentity({ task, version, definition, dataset, numFewshot, bosPolicy, samples }: TaskResult): unknown[] {
  const file = definition ? [definition.sha256] : [];
  return [task, version, dataset.sha256, dataset.split, numFewshot, bosPolicy, samples.effective, ...file];
}

/** Whether values of a metric are fractions, unlike some of lm-evaluation-harness. */
const isFraction = (metric: string): boolean => !/perplexity|bits_per_byte/.test(metric);

function outcomeNumbers({ outcomes }: TaskResult, metric: string): number[] | undefined {
  const own = outcomes[metric];
  return own === undefined ? undefined : [...own].map(Number);
}

function taskMeasurements(result: TaskResult, primary: string): Measurement[] {
  const { task, samples, version, numFewshot, bosPolicy, dataset, definition } = result;
  const { count, limited } = scored(samples.effective, samples.original);
  return Object.entries(result.metrics).map(([metric, { value, stderr, higherIsBetter }]) => ({
    column: {
      key: JSON.stringify(["task", ...taskIdentity(result), metric]),
      kind: "task",
      name: task,
      metric,
      slug: `${task}_${metric}_n${samples.effective}`,
      count,
      limited,
      protocol: `task version ${version}, ${numFewshot}-shot, ${count}, BOS: ${bosPolicy}, ${datasetWords(dataset)}`,
      higherIsBetter,
      // A task file that gives `acc_norm` asks for it.
      primary: metric === primary || metric === "acc_norm" && definition !== undefined,
      isFraction: isFraction(metric),
      chance: metric.startsWith("acc") ? result.chance : null,
    },
    value,
    stderr,
    paired: outcomeNumbers(result, metric),
  }));
}

/** Plain mean of the primary metrics of one record's tasks; its standard error takes the tasks as independent. */
function meanAccuracy(results: readonly TaskResult[], primaryMetrics: PrimaryMetrics): Measurement[] {
  const parts = results.flatMap((result) => {
    const name = primaryMetric(result, primaryMetrics);
    const metric = result.metrics[name];
    return metric && name.startsWith("acc") ? [{ result, name, metric, outcomes: outcomeNumbers(result, name) }] : [];
  }).sort((a, b) => a.result.task < b.result.task ? -1 : 1);
  if (parts.length < 2) return [];
  const limited = parts.some(({ result: { samples } }) => samples.effective < samples.original);
  const errors = parts.flatMap(({ metric: { stderr } }) => stderr === null ? [] : [stderr]);
  const outcomes = parts.flatMap(({ outcomes }) => outcomes ? [outcomes] : []);
  const examples = outcomes.flat().length;
  return [{
    column: {
      ...USUAL,
      key: JSON.stringify(["mean-accuracy", ...parts.map(({ result }) => taskIdentity(result))]),
      kind: "mean-accuracy",
      name: "mean accuracy",
      metric: "mean",
      slug: `mean_accuracy_${parts.length}_tasks`,
      count: `${parts.length} tasks${limited ? ", limited" : ""}`,
      limited,
      tasks: parts.map(({ result }) => result.task),
      protocol: `plain mean of ${listed(parts.map(({ result, name }) => `${result.task} ${name}`), "and")}`,
      higherIsBetter: true,
      isFraction: true,
      chance: mean(parts.map(({ result }) => result.chance)),
    },
    value: mean(parts.map(({ metric }) => metric.value)),
    stderr: errors.length < parts.length ? null : Math.hypot(...errors) / parts.length,
    // Weights make every task count the same, however many examples it has.
    paired: outcomes.length < parts.length
      ? undefined
      : outcomes.flatMap((own) => own.map((right) => right * examples / (parts.length * own.length))),
  }];
}

/** Metrics of groups of tasks, beside their tasks and not part of the mean accuracy. */
function groupMeasurements({ groups = [], tasks: results }: DoneRecord): Measurement[] {
  return groups.flatMap(({ group, tasks, metrics }) => {
    const own = results.filter(({ task }) => tasks.includes(task));
    const sum = (pick: (samples: TaskResult["samples"]) => number) =>
      own.reduce((all, one) => all + pick(one.samples), 0);
    const effective = sum((samples) => samples.effective);
    return Object.entries(metrics).map(([metric, { value, stderr, weightBySize }]): Measurement => {
      const outcomes = weightBySize ? own.map((task) => outcomeNumbers(task, metric)) : [undefined];
      return {
        column: {
          ...USUAL,
          ...scored(effective, sum((samples) => samples.original)),
          key: JSON.stringify(["group", group, metric, weightBySize, ...own.map(taskIdentity)]),
          kind: "task",
          name: group,
          metric,
          slug: `${group}_${metric}_n${effective}`,
          protocol: `group of ${own.map(({ task }) => task).join(", ")}, ` +
            `${weightBySize ? "weighted by their examples" : "each weighted alike"}`,
          higherIsBetter: metric.startsWith("acc"),
          isFraction: isFraction(metric),
        },
        value,
        stderr,
        ...outcomes.every((one) => one !== undefined) && { paired: outcomes.flat() },
      };
    });
  });
}

/** Logarithms of the speed-ups of neighbouring repeats; undefined if these did not alternate with the dense model's. */
function logRatios({ samplesMs, denseSamplesMs }: ThroughputResult): number[] | undefined {
  if (denseSamplesMs?.length !== samplesMs.length || samplesMs.length < 2) return undefined;
  return samplesMs.map((ms, i) => Math.log(at(denseSamplesMs, i) / ms));
}

function throughputMeasurement(result: ThroughputResult, { id, environment }: DoneRecord): Measurement {
  const { name, batch, tokensPerS, samplesMs, threads = environment.threads, sharedFrom = id } = result;
  const { device, cpu, library, engine } = result.machine ?? environment;
  const logSpeedUps = logRatios(result);
  return {
    column: {
      ...USUAL,
      key: JSON.stringify(["throughput", name, batch, device, cpu, threads, library, engine]),
      kind: "throughput",
      name,
      metric: "tokens/s",
      slug: `${name}_b${batch}`,
      count: `batch ${batch}, ${device}, ${counted(threads, "thread")}`,
      protocol: `batch ${batch}, ${counted(threads, "thread")}, ${device}, ${cpu}, ${library}`,
      higherIsBetter: true,
    },
    value: tokensPerS.mean,
    stderr: null,
    repeats: { sd: tokensPerS.sd, n: samplesMs.length, timed: sharedFrom, ...logSpeedUps && { logSpeedUps } },
  };
}

/** Everything one run measured. */
export function measurements(record: DoneRecord, primaryMetrics: PrimaryMetrics): Measurement[] {
  return [
    ...record.throughput.map((result) => throughputMeasurement(result, record)),
    ...record.perplexity.map(perplexityMeasurement),
    ...record.tasks.flatMap((result) => taskMeasurements(result, primaryMetric(result, primaryMetrics))),
    ...groupMeasurements(record),
    ...meanAccuracy(record.tasks, primaryMetrics),
  ];
}
