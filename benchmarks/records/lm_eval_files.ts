/** Results in the files of lm-evaluation-harness 0.4.13, so that scripts written for them read ours:
 * `results_<stamp>.json`, one per cell, and `samples_<task>_<stamp>.jsonl`, one per task. The key `pruning` names the
 * cell and says what was removed; its record has the rest.
 *
 * @module
 */
import { join } from "node:path";
import { floatRepr } from "../../core/util/python_text.ts";
import type { DoneRecord, PerplexityResult, TaskResult } from "../../core/schema/schema.ts";
import type { MetricName, OutputType } from "../../datasets/define.ts";
import { AGGREGATIONS } from "../../datasets/lm_eval/config.ts";
import { FEWSHOT_SEED } from "../../datasets/fewshot.ts";
import { findFileTask, tasks } from "../../datasets/mod.ts";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import { type LmEvalSample, samplesHash } from "./lm_eval_samples.ts";
import { ifThere } from "../../core/util/paths.ts";
import { writeAtomically } from "../../core/util/write_file.ts";

/** Versions of lm-evaluation-harness's tasks that measure what protocol (c) measures on the corpus of the same id. */
const CORPUS_VERSIONS: Record<string, number> = { wikitext: 2, c4: 0 };

/** `started` as in the names of files: local ISO time with microseconds, `-` for `:`. */
export function lmEvalStamp(started: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${started.getFullYear()}-${two(started.getMonth() + 1)}-${two(started.getDate())}`;
  const time = [started.getHours(), started.getMinutes(), started.getSeconds()].map(two).join("-");
  return `${day}T${time}.${String(started.getMilliseconds()).padStart(3, "0")}000`;
}

/** A model's name as the name of its folder. */
export function sanitizeModelName(name: string): string {
  return name.replace(/["<>:/|\\?*[\]]+/g, "__");
}

/** A task in a results file: the fields of a task's result. */
type TaskEntry =
  & Pick<TaskResult, "task" | "numFewshot" | "metrics" | "samples" | "dataset" | "definition">
  & { version: number | null };

type Metrics = Record<string, { value: number; stderr: number | null }>;

const metricValues = (metrics: Metrics): Record<string, number | "N/A"> =>
  Object.fromEntries(
    Object.entries(metrics).flatMap(([name, { value, stderr }]): [string, number | "N/A"][] => [
      [`${name},none`, value],
      [`${name}_stderr,none`, stderr ?? "N/A"],
    ]),
  );

/** The output type that a task's metrics belong to. */
function outputTypeOf(metrics: readonly string[]): OutputType {
  if (metrics.includes("perplexity")) return "loglikelihood";
  return metrics.some((metric) => /_perplexity$|^bits/.test(metric)) ? "loglikelihood_rolling" : "multiple_choice";
}

/** A task's configuration: that of its file, if it has one. Templates of other tasks are functions and are not
 * quoted. */
function taskConfig({ task, version, numFewshot, dataset, definition, metrics }: TaskEntry): Record<string, unknown> {
  const hub = tasks.get(task)?.hub;
  const given = {
    unsafe_code: false,
    description: "",
    target_delimiter: " ",
    fewshot_delimiter: "\n\n",
    fewshot_config: { sampler: "default" },
    output_type: outputTypeOf(Object.keys(metrics)),
    repeats: 1,
    should_decontaminate: false,
  };
  const own = definition && findFileTask(task)?.definition.config;
  if (own) return { ...given, ...own, num_fewshot: numFewshot, metadata: { version } };
  return {
    ...given,
    task,
    dataset_path: hub?.repo ?? dataset.source,
    ...hub?.config === undefined ? {} : { dataset_name: hub.config },
    [dataset.split === "validation" ? "validation_split" : "test_split"]: dataset.split,
    num_fewshot: numFewshot,
    metric_list: Object.entries(metrics).map(([metric, { higherIsBetter }]) => ({
      metric,
      aggregation: metric in AGGREGATIONS ? AGGREGATIONS[metric as MetricName] : "mean",
      higher_is_better: higherIsBetter,
    })),
    metadata: { version },
  };
}

const isRolling = ({ protocol }: PerplexityResult) => protocol === "c";

/** Protocol (c), which is a task of the harness; the two others are not. */
function rollingEntry({ corpus, documents, windows, dataset }: PerplexityResult): TaskEntry {
  const { wordPerplexity, bytePerplexity, bitsPerByte } = documents!;
  const values = { word_perplexity: wordPerplexity, byte_perplexity: bytePerplexity, bits_per_byte: bitsPerByte };
  const metrics = Object.entries(values).map(([metric, value]) =>
    [metric, { value, stderr: null, higherIsBetter: false }] as const
  );
  return {
    task: corpus,
    version: CORPUS_VERSIONS[corpus] ?? null,
    dataset,
    numFewshot: 0,
    samples: { original: windows, effective: windows },
    metrics: Object.fromEntries(metrics),
  };
}

const byName = <Value>(entries: readonly TaskEntry[], value: (entry: TaskEntry) => Value): Record<string, Value> =>
  Object.fromEntries(entries.map((entry) => [entry.task, value(entry)]));

/** The settings of the evaluation, in the harness's words. */
function runConfig(record: DoneRecord, entries: readonly TaskEntry[]): Record<string, unknown> {
  const { cell, environment, size, weights } = record;
  return {
    model: "maskprune-bench",
    model_args: {
      model: cellName(record),
      weights: cell.model,
      method: cell.method?.id ?? "dense",
      ...cell.method?.options,
      sparsity: cell.sparsity,
      seed: cell.seed,
    },
    model_num_parameters: size.parameters,
    model_dtype: "float32",
    model_sha: weights.sha256,
    batch_size: null,
    batch_sizes: [],
    device: environment.device,
    use_cache: null,
    limit: cell.limit ?? null,
    bootstrap_iters: 100_000,
    gen_kwargs: null,
    random_seed: cell.seed,
    numpy_seed: null,
    torch_seed: null,
    fewshot_seed: entries.some(({ numFewshot }) => numFewshot > 0) ? FEWSHOT_SEED : null,
  };
}

/** The results file of a cell. `taskHashes`: {@linkcode samplesHash} of each task whose samples were written. */
export function lmEvalResults(
  record: DoneRecord,
  { taskHashes = {} }: { taskHashes?: Record<string, string> } = {},
): Record<string, unknown> {
  const { environment: { commit, library, device, deno, os, cpu }, groups = [] } = record;
  const entries: TaskEntry[] = [...record.tasks, ...record.perplexity.filter(isRolling).map(rollingEntry)];
  const sorted = entries.toSorted((a, b) => (a.task < b.task ? -1 : 1));
  const name = cellName(record);
  return {
    results: byName(entries, ({ task, metrics, samples }) => ({
      name: task,
      alias: task,
      sample_len: samples.effective,
      ...metricValues(metrics),
    })),
    ...groups.length > 0 && {
      groups: Object.fromEntries(
        groups.map(({ group, metrics }) => [group, { name: group, alias: group, ...metricValues(metrics) }]),
      ),
    },
    group_subtasks: Object.fromEntries(groups.map(({ group, tasks }) => [group, tasks])),
    configs: byName(sorted, taskConfig),
    versions: byName(sorted, ({ version }) => version),
    "n-shot": byName(sorted, ({ numFewshot }) => numFewshot),
    higher_is_better: byName(
      sorted,
      ({ metrics }) => Object.fromEntries(Object.entries(metrics).map(([name, one]) => [name, one.higherIsBetter])),
    ),
    "n-samples": byName(entries, ({ samples: { original, effective } }) => ({ original, effective })),
    config: runConfig(record, entries),
    git_hash: commit,
    date: Date.parse(record.startedAt) / 1000,
    pretty_env_info: [library, device, `Deno ${deno}`, os, cpu].join("\n"),
    transformers_version: "N/A",
    lm_eval_version: "N/A",
    upper_git_hash: null,
    task_hashes: taskHashes,
    model_source: "maskprune-bench",
    model_name: name,
    model_name_sanitized: sanitizeModelName(name),
    system_instruction: null,
    system_instruction_sha: null,
    fewshot_as_multiturn: false,
    chat_template: null,
    chat_template_sha: null,
    total_evaluation_time_seconds: floatRepr(record.seconds),
    pruning: { id: record.id, cell: record.cell, size: record.size, denseSize: record.denseSize },
  };
}

/** Samples of a cell by task. */
export type CellSamples = ReadonlyMap<string, readonly LmEvalSample[]>;

/** Folder of a cell's files in `folder`. */
export function samplesFolder(folder: string, named: NamedCell): string {
  return join(folder, sanitizeModelName(cellName(named)));
}

const namesIn = (folder: string): string[] => ifThere(() => [...Deno.readDirSync(folder)], []).map(({ name }) => name);

/** The latest samples file of a cell and task; undefined if it has none. */
export function samplesFile(folder: string, named: NamedCell, task: string): string | undefined {
  const own = samplesFolder(folder, named);
  const start = `samples_${sanitizeModelName(task)}_`;
  // A stamp begins with a year: other tasks may have names that begin with this one's.
  const found = namesIn(own).filter((name) =>
    name.startsWith(start) && /^\d{4}-[^_]*\.jsonl$/.test(name.slice(start.length))
  );
  const last = found.sort().at(-1);
  return last && join(own, last);
}

/** Writes the results file of a cell, and a samples file for each task of `samples`, into `folder/<name of the cell>`.
 * The names depend on the record alone: writing again replaces them. A cell without results that the harness knows
 * gets no files.
 * @returns the files' paths, results first */
export function writeLmEvalFiles(folder: string, record: DoneRecord, samples: CellSamples = new Map()): string[] {
  if (record.tasks.length === 0 && !record.perplexity.some(isRolling)) return [];
  const own = samplesFolder(folder, record);
  const stamp = lmEvalStamp(new Date(record.startedAt));
  const taskHashes = Object.fromEntries([...samples].map(([task, lines]) => [task, samplesHash(lines)]));
  const files: [name: string, content: string][] = [
    [`results_${stamp}.json`, JSON.stringify(lmEvalResults(record, { taskHashes }), null, 2)],
    ...[...samples].map(([task, lines]): [string, string] => [
      `samples_${sanitizeModelName(task)}_${stamp}.jsonl`,
      lines.map((line) => `${JSON.stringify(line)}\n`).join(""),
    ]),
  ];
  return files.map(([name, content]) => {
    const path = join(own, name);
    writeAtomically(path, content);
    return path;
  });
}
