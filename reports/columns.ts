/** One record to its measurements, each with the column it belongs to. Two results share a column only if protocol,
 * data (by hash) and number of examples are equal.
 *
 * @module
 */
import { corpusLabel } from "../core/schema/cell_names.ts";
import { at } from "../core/util/indexing.ts";
import type { DoneRecord, PerplexityResult, TaskResult, ThroughputResult } from "../core/schema/schema.ts";
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
  /** Whether only a part of the data was scored. */
  limited: boolean;
  /** The protocol in words, for the details. */
  protocol: string;
  higherIsBetter: boolean;
  /** Whether the column stands in the main table; other metrics of a task are in the CSV and the full table. */
  primary: boolean;
  /** Whether values are parts of 1, shown in percent: accuracies, not the perplexities of task files. */
  isFraction: boolean;
  /** Expected value of a guess, for accuracies. */
  chance: number | null;
  /** Corpus of a perplexity as the run names it. */
  corpus?: string;
  /** Window length of a perplexity, in tokens. */
  windowTokens?: number;
  /** Tasks of a mean accuracy. */
  tasks?: readonly string[];
}

/** A value of a quality column as the tables show it. */
export function qualityText(column: Column, value: number): string {
  return column.isFraction ? `${percent(value)} %` : withSpread(value, null, 4, 2).text;
}

/** The metric that stands for a task in tables and means, by task id. */
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

const ofTotal = (part: number, total: number) => part < total ? `n=${part} of ${total}` : `n=${part}`;

const AVERAGING = {
  a: "mean of window means, per token",
  b: "mean over tokens, per token",
  c: "whole documents, per word",
};

/** Window length, and scored windows or documents of how many, in words; the number of documents is not known where
 * only the first were read. */
function windowCount(
  { protocol, windows, windowTokens, maxWindows, tokens, droppedTokens }: PerplexityResult,
): { count: string; limited: boolean } {
  if (protocol !== "c") {
    // A window holds fewer tokens of the text where the model needs others in front.
    const own = (tokens - droppedTokens) / windows;
    const all = Math.floor(tokens / own);
    return { count: `L=${windowTokens}, ${ofTotal(windows, all)}`, limited: windows < all };
  }
  const limited = windows === maxWindows;
  return { count: limited ? `n=first ${windows} documents` : `n=${windows} documents`, limited };
}

/** The name of a corpus in CSV headers, as long as itself. */
const slugOf = (name: string) => name.replace(/[^\w.-]/g, "_");

/** The columns of a section, where text files of one name have as many of their folders before it as tell them apart. */
export function withFolders(columns: readonly Column[]): Column[] {
  return columns.map((column) => {
    const { name, corpus } = column;
    if (corpus === undefined) return column;
    const others = columns.flatMap((own) => own.name !== name || own.corpus === corpus ? [] : own.corpus ?? []);
    const isAlone = (folders: number) =>
      others.every((other) => corpusLabel(other, folders) !== corpusLabel(corpus, folders));
    const label = corpusLabel(corpus, [0, 1, 2, 3].find(isAlone));
    return { ...column, name: label, slug: slugOf(label) + column.slug.slice(name.length) };
  });
}

function perplexityMeasurement(result: PerplexityResult): Measurement {
  const { corpus, protocol, windowTokens, windows, dataset } = result;
  const { count, limited } = windowCount(result);
  const name = corpusLabel(corpus);
  return {
    column: {
      key: JSON.stringify([
        "perplexity",
        name,
        dataset.sha256,
        dataset.split,
        protocol,
        windowTokens,
        windows,
        result.bosPolicy,
        result.tokenizerSha256,
      ]),
      kind: "perplexity",
      name,
      corpus,
      metric: protocol === "c" ? "word perplexity" : "perplexity",
      slug: `${slugOf(name)}_${protocol}${windowTokens}_n${windows}`,
      count,
      limited,
      windowTokens,
      protocol: `protocol ${protocol} (${AVERAGING[protocol]}), ${count}, ` +
        `BOS: ${result.bosPolicy}, ${datasetWords(dataset)}, tokenizer ${result.tokenizerSha256.slice(0, 12)}`,
      higherIsBetter: false,
      isFraction: false,
      primary: true,
      chance: null,
    },
    value: result.perplexity,
    stderr: result.perplexityStderr,
    paired: pairedNll(result),
  };
}

/** Nats of each window; of each document by its part of all words, which older records do not say. */
function pairedNll({ protocol, windowNll, documentWords, documents }: PerplexityResult): number[] | undefined {
  if (protocol !== "c") return windowNll;
  if (documentWords === undefined || documents === undefined) return undefined;
  return windowNll.map((nll, i) => nll * windowNll.length * at(documentWords, i) / documents.words);
}

function datasetWords(dataset: DoneRecord["tasks"][number]["dataset"]): string {
  const revision = dataset.revision === null ? "" : ` at ${dataset.revision}`;
  return `${dataset.split} split of ${sourceName(dataset.source)}${revision}, sha256 ${dataset.sha256.slice(0, 12)}`;
}

/** What two results of a task must have in common to be compared. */
export function taskIdentity(result: TaskResult): unknown[] {
  const { task, version, definition, dataset, numFewshot, bosPolicy, samples } = result;
  const file = definition ? [definition.sha256] : [];
  return [task, version, dataset.sha256, dataset.split, numFewshot, bosPolicy, samples.effective, ...file];
}

function taskMeasurements(result: TaskResult, primaryMetrics: PrimaryMetrics): Measurement[] {
  const { samples } = result;
  const primary = primaryMetric(result, primaryMetrics);
  return Object.entries(result.metrics).map(([metric, { value, stderr, higherIsBetter }]) => ({
    column: {
      key: JSON.stringify(["task", ...taskIdentity(result), metric]),
      kind: "task" as const,
      name: result.task,
      metric,
      slug: `${result.task}_${metric}_n${samples.effective}`,
      count: ofTotal(samples.effective, samples.original),
      limited: samples.effective < samples.original,
      protocol: `task version ${result.version}, ${result.numFewshot}-shot, ` +
        `${ofTotal(samples.effective, samples.original)}, BOS: ${result.bosPolicy}, ${datasetWords(result.dataset)}`,
      higherIsBetter,
      primary: metric === primary,
      isFraction: isFraction(metric),
      chance: metric.startsWith("acc") ? result.chance : null,
    },
    value,
    stderr,
    paired: outcomeNumbers(result, metric),
  }));
}

/** Whether values of a metric are parts of 1, unlike those of some of lm-evaluation-harness. */
export const isFraction = (metric: string): boolean => !/perplexity|bits_per_byte/.test(metric);

function outcomeNumbers({ outcomes }: TaskResult, metric: string): number[] | undefined {
  const own = outcomes[metric];
  return own === undefined ? undefined : [...own].map(Number);
}

/** Plain mean of the primary metrics of one record's tasks; its standard error takes the tasks as independent. */
function meanAccuracyMeasurement(all: TaskResult[], primaryMetrics: PrimaryMetrics): Measurement[] {
  const primaryOf = (task: TaskResult) => primaryMetric(task, primaryMetrics);
  const tasks = all.filter((task) => primaryOf(task).startsWith("acc"));
  if (tasks.length < 2) return [];
  const sorted = [...tasks].sort((a, b) => a.task < b.task ? -1 : 1);
  const metrics = sorted.flatMap((task) => task.metrics[primaryOf(task)] ?? []);
  if (metrics.length < sorted.length) return [];
  const limited = sorted.some(({ samples }) => samples.effective < samples.original);
  const variances = metrics.map(({ stderr }) => stderr === null ? null : stderr ** 2);
  const known = variances.filter((variance) => variance !== null);
  const outcomes = sorted.flatMap((task) => {
    const own = outcomeNumbers(task, primaryOf(task));
    return own === undefined ? [] : [own];
  });
  const examples = outcomes.reduce((sum, own) => sum + own.length, 0);
  return [{
    column: {
      key: JSON.stringify(["mean-accuracy", ...sorted.map(taskIdentity)]),
      kind: "mean-accuracy",
      name: "mean accuracy",
      metric: "mean",
      slug: `mean_accuracy_${sorted.length}_tasks`,
      count: `${sorted.length} tasks${limited ? ", limited" : ""}`,
      limited,
      tasks: sorted.map(({ task }) => task),
      protocol: `plain mean of ${listed(sorted.map((task) => `${task.task} ${primaryOf(task)}`), "and")}`,
      higherIsBetter: true,
      isFraction: true,
      primary: true,
      chance: mean(sorted.map(({ chance }) => chance)),
    },
    value: mean(metrics.map(({ value }) => value)),
    stderr: known.length < variances.length ? null : Math.sqrt(known.reduce((a, b) => a + b, 0)) / sorted.length,
    // Weights make every task count the same, however many examples it has.
    paired: outcomes.length < sorted.length
      ? undefined
      : outcomes.flatMap((own) => own.map((right) => right * examples / (sorted.length * own.length))),
  }];
}

/** Logarithms of the speed-ups of neighbouring repeats; undefined where they did not alternate with the dense model's. */
function logRatios({ samplesMs, denseSamplesMs }: ThroughputResult): number[] | undefined {
  if (denseSamplesMs === undefined || denseSamplesMs.length !== samplesMs.length || samplesMs.length < 2) {
    return undefined;
  }
  return samplesMs.map((ms, i) => Math.log(at(denseSamplesMs, i) / ms));
}

function throughputMeasurements(record: DoneRecord): Measurement[] {
  return record.throughput.map((result) => {
    const { name, batch, tokensPerS, samplesMs, threads = record.environment.threads, sharedFrom = record.id } = result;
    const { device, cpu, library, engine } = result.machine ?? record.environment;
    const logSpeedUps = logRatios(result);
    return {
      column: {
        key: JSON.stringify(["throughput", name, batch, device, cpu, threads, library, engine]),
        kind: "throughput" as const,
        name,
        metric: "tokens/s",
        slug: `${name}_b${batch}`,
        count: `batch ${batch}, ${device}, ${counted(threads, "thread")}`,
        limited: false,
        protocol: `batch ${batch}, ${counted(threads, "thread")}, ${device}, ${cpu}, ${library}`,
        higherIsBetter: true,
        isFraction: false,
        primary: true,
        chance: null,
      },
      value: tokensPerS.mean,
      stderr: null,
      repeats: { sd: tokensPerS.sd, n: samplesMs.length, timed: sharedFrom, ...logSpeedUps && { logSpeedUps } },
    };
  });
}

/** Metrics of groups of tasks; they stand beside their tasks and have no part in the mean accuracy. */
function groupMeasurements({ groups = [], tasks: results }: DoneRecord): Measurement[] {
  return groups.flatMap(({ group, tasks, metrics }) => {
    const own = results.filter(({ task }) => tasks.includes(task));
    const effective = own.reduce((sum, { samples }) => sum + samples.effective, 0);
    const original = own.reduce((sum, { samples }) => sum + samples.original, 0);
    return Object.entries(metrics).map(([metric, { value, stderr, weightBySize }]) => {
      const outcomes = weightBySize ? own.map((task) => outcomeNumbers(task, metric)) : [undefined];
      return {
        column: {
          key: JSON.stringify(["group", group, metric, weightBySize, ...own.map(taskIdentity)]),
          kind: "task" as const,
          name: group,
          metric,
          slug: `${group}_${metric}_n${effective}`,
          count: ofTotal(effective, original),
          limited: effective < original,
          protocol: `group of ${own.map(({ task }) => task).join(", ")}, ` +
            `${weightBySize ? "weighted by their examples" : "each weighted alike"}`,
          higherIsBetter: metric.startsWith("acc"),
          isFraction: isFraction(metric),
          primary: true,
          chance: null,
        },
        value,
        stderr,
        ...outcomes.every((own) => own !== undefined) && { paired: outcomes.flat() },
      };
    });
  });
}

/** Everything one run measured. */
export function measurements(record: DoneRecord, primaryMetrics: PrimaryMetrics): Measurement[] {
  return [
    ...throughputMeasurements(record),
    ...record.perplexity.map(perplexityMeasurement),
    ...record.tasks.flatMap((result) => taskMeasurements(result, primaryMetrics)),
    ...groupMeasurements(record),
    ...meanAccuracyMeasurement(record.tasks, primaryMetrics),
  ];
}
