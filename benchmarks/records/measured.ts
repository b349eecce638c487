/** The results of a record that match a request: same data, protocol, limit and few-shot examples.
 *
 * @module
 */
import type { NamedCell } from "../../core/schema/cell_names.ts";
import { type Cell, type DoneRecord, ofTask, type PerplexityChoice } from "../../core/schema/schema.ts";
import type { TaskGroup } from "../../datasets/lm_eval/task_files.ts";
import { filePlace } from "../../datasets/text_file.ts";
import { aggregateGroup } from "../evaluation/tasks.ts";
import { doneRecord } from "./store.ts";

/** SHA-256 of the data sets of a run, by use: `perplexity wikitext2/test`, `task arc_easy`, `few-shot arc_easy`. Task
 * files may set the number of examples in the prompt: `shots capitals`. */
export type DataHashes = Readonly<Record<string, string>>;

/** A corpus's name, a user's file without its path. */
const textOf = (corpus: string) => filePlace(corpus) ? `file:#${filePlace(corpus)?.field ?? "text"}` : corpus;

/** A user's text is known by its contents and field, not by its path. Without `hashes` results of any data count. */
function answersPerplexity(choice: PerplexityChoice, hashes?: DataHashes) {
  const { corpus, split, protocol, windowTokens, maxWindows } = choice;
  const readsData = ({ corpus: own, dataset }: DoneRecord["perplexity"][number]) =>
    hashes === undefined ? own === corpus : textOf(own) === textOf(corpus) &&
      dataset.sha256 === hashes[`perplexity ${corpus}/${dataset.split}`];
  return (result: DoneRecord["perplexity"][number]): boolean =>
    readsData(result) && (split ?? result.dataset.split) === result.dataset.split &&
    result.protocol === protocol && result.windowTokens === windowTokens && result.maxWindows === maxWindows;
}

function answersTask(task: string, cell: Cell, hashes?: DataHashes) {
  const [limit = Infinity, numFewshot = 0] = [ofTask(cell.limit, task), ofTask(cell.numFewshot, task)];
  const readsData = ({ dataset, definition, fewshotDataset, numFewshot: own }: DoneRecord["tasks"][number]) => {
    if (hashes === undefined) return definition !== undefined || own === numFewshot;
    const data = [dataset.sha256, ...definition ? [definition.sha256] : []].join(" ");
    return String(own) === (hashes[`shots ${task}`] ?? String(numFewshot)) && data === hashes[`task ${task}`] &&
      fewshotDataset?.sha256 === hashes[`few-shot ${task}`];
  };
  return (result: DoneRecord["tasks"][number]): boolean =>
    result.task === task && readsData(result) && result.samples.effective === Math.min(limit, result.samples.original);
}

/** The latest results of `record` for the throughput that `cell` asks for: prefill and decoding. */
export function throughputOf({ throughput }: Cell, record: DoneRecord): DoneRecord["throughput"] {
  if (!throughput) return [];
  const { prefillTokens, decodeTokens, batch, repeats } = throughput;
  return [`pp${prefillTokens}`, `tg${decodeTokens}`].flatMap((name) =>
    record.throughput.findLast((result) =>
      result.name === name && result.batch === batch && result.samplesMs.length === repeats
    ) ?? []
  );
}

/** `cell` with only those measurements that `record` lacks. */
export function missingMeasurements(cell: Cell, record: DoneRecord, hashes: DataHashes): Cell {
  const { throughput, ...rest } = cell;
  const timed = throughput && throughputOf(cell, record).length === 2;
  return {
    ...rest,
    perplexity: cell.perplexity.filter((choice) => !record.perplexity.some(answersPerplexity(choice, hashes))),
    tasks: cell.tasks.filter((task) => !record.tasks.some(answersTask(task, cell, hashes))),
    ...throughput && !timed && { throughput },
  };
}

/** `cell` without its throughput, which is timed last. */
export function withoutThroughput({ throughput: _timed, ...cell }: Cell): Cell {
  return cell;
}

/** Settings of a run for its cells besides measurements. */
export interface Wanted {
  hashes: DataHashes;
  /** Whether changed weights are stored; either will do when absent. */
  keepWeights?: boolean;
}

/** Whether `record` has everything that `cell` asks for. */
export function isComplete(cell: Cell, record: DoneRecord, { hashes, keepWeights }: Wanted): boolean {
  const isChanged = record.changedWeights && cell.checkpoint === undefined;
  if (keepWeights === true && isChanged && !record.storedWeights) return false;
  const { perplexity, tasks, throughput } = missingMeasurements(cell, record, hashes);
  return perplexity.length + tasks.length === 0 && throughput === undefined;
}

/** Whether a cell finished with everything that it asks for. */
export function isMeasured(out: string, named: NamedCell, wanted: Wanted): boolean {
  const record = doneRecord(out, named);
  return record !== undefined && isComplete(named.cell, record, wanted);
}

/** Groups of a record, for runs that do not define them. */
function recordedGroups({ groups = [] }: DoneRecord): TaskGroup[] {
  return groups.map(({ metrics, ...group }) => ({
    ...group,
    metrics: Object.entries(metrics).map(([metric, { weightBySize }]) => ({ metric, weightBySize })),
  }));
}

/** `record` with the results that `cell` asks for, in the cell's order, and the `groups` whose tasks all have results.
 * Without `hashes` the latest results count, whatever their data. */
export function askedResults(
  record: DoneRecord,
  cell: Cell,
  hashes?: DataHashes,
  groups: readonly TaskGroup[] = recordedGroups(record),
): DoneRecord {
  const { groups: _groups, ...rest } = record;
  const tasks = cell.tasks.flatMap((task) => record.tasks.findLast(answersTask(task, cell, hashes)) ?? []);
  const scored = new Set(tasks.map(({ task }) => task));
  const whole = groups.filter((group) => group.tasks.every((task) => scored.has(task)));
  return {
    ...rest,
    cell,
    perplexity: cell.perplexity.flatMap((choice) =>
      record.perplexity.findLast(answersPerplexity(choice, hashes)) ?? []
    ),
    tasks,
    ...whole.length > 0 && { groups: whole.map((group) => aggregateGroup(group, tasks)) },
    throughput: throughputOf(cell, record),
  };
}
