/** `bench reproduce`: runs a cell again from its record, and says what differs.
 *
 * The same weights, data, engine, thread count and libraries give the same plan and the same numbers bit for bit on `wasm`
 * and `cpu`, which are single-threaded. Native TensorFlow divides sums among threads and takes kernels by the processor's
 * instructions: equal thread counts on one machine repeat, other machines may differ in the last digits, and a plan may
 * then differ in units of almost equal score. WebGPU is as exact as its driver.
 *
 * @module
 */
import type { TaskDefinition } from "../../datasets/define.ts";
import { definitionHash, selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { join, resolve } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { CellRecord, DoneRecord } from "../../core/schema/schema.ts";
import { canonicalJson } from "../../core/schema/cell_names.ts";
import { runCellProcess } from "../sweep/cell_process.ts";
import { type Command, textFlag } from "./command.ts";
import type { CellJob } from "../cells/job.ts";
import { harnessCommit } from "../cells/environment.ts";
import { classifyExit } from "../../core/schema/failure.ts";
import { askedResults, type DataHashes } from "../records/measured.ts";
import { folderOfRecord, readDone, readRecord, recordPath } from "../records/store.ts";
import { readRunFile, startOf } from "../records/run_file.ts";

/** What two runs of one cell have in common. */
export interface Comparison {
  /** Parts that are equal bit for bit. */
  same: string[];
  /** One line for every part of the results that differs. */
  differs: string[];
  /** One line for every difference of machine and versions, which may explain the others. */
  environment: string[];
}

/** Compares two records of one cell, result by result in their order; times and memory are left out. */
export function compareRecords(before: DoneRecord, after: DoneRecord): Comparison {
  const comparison: Comparison = { same: [], differs: [], environment: [] };
  const note = (what: string, difference: string | null) => {
    if (difference === null) comparison.same.push(what);
    else comparison.differs.push(`${what}: ${difference}`);
  };
  note("dense weights", before.weights.sha256 === after.weights.sha256 ? null : "another model was loaded");
  note("plan", planDifference(before, after));
  note("size", canonicalJson(before.size) === canonicalJson(after.size) ? null : "parameters or shape differ");
  before.perplexity.forEach((one, i) => {
    const other = at(after.perplexity, i);
    note(`perplexity ${one.corpus}`, perplexityDifference(one, other));
    comparison.environment.push(...batchDifference(`perplexity ${one.corpus}`, one, other));
  });
  before.tasks.forEach((one, i) => {
    const other = at(after.tasks, i);
    note(one.task, taskDifference(one, other));
    comparison.environment.push(...batchDifference(one.task, one, other));
  });
  if (before.generations) {
    const equal = canonicalJson(before.generations) === canonicalJson(after.generations ?? null);
    note("generated text", equal ? null : "differs");
  }
  const [from, to] = [before.environment, after.environment];
  for (const key of Object.keys(from) as (keyof typeof from)[]) {
    if (from[key] !== to[key]) comparison.environment.push(`${key}: ${from[key]}, now ${to[key]}`);
  }
  return comparison;
}

/** Batches of other sizes round alike only by chance. */
function batchDifference(what: string, before: Batched, after: Batched): string[] {
  const [from, to] = [before.batchTokens, after.batchTokens];
  return from === undefined || from === to ? [] : [`batches of ${what}: ${from} tokens, now ${to} tokens`];
}

type Batched = Pick<DoneRecord["tasks"][number], "batchTokens">;

function planDifference({ plan: before }: DoneRecord, { plan: after }: DoneRecord): string | null {
  if (canonicalJson(before) === canonicalJson(after)) return null;
  let units = 0;
  let changed = 0;
  const compare = (was: number[], is: number[]) => {
    const kept = new Set(is);
    units += was.length;
    changed += was.filter((unit) => !kept.has(unit)).length;
  };
  before.layers.forEach((layer, l) => {
    for (const type of Object.keys(layer) as (keyof typeof layer)[]) {
      compare(layer[type], after.layers[l]?.[type] ?? []);
    }
  });
  compare(before.hidden ?? [], after.hidden ?? []);
  return `${changed} of ${units} kept units are others`;
}

function perplexityDifference(
  before: DoneRecord["perplexity"][number],
  after: DoneRecord["perplexity"][number],
): string | null {
  if (before.dataset.sha256 !== after.dataset.sha256) return "other data was read";
  if (canonicalJson(before.windowNll) === canonicalJson(after.windowNll)) return null;
  const largest = Math.max(...before.windowNll.map((nll, i) => Math.abs(nll - (after.windowNll[i] ?? Infinity))));
  return `${before.perplexity}, now ${after.perplexity}; windows differ by up to ${largest.toExponential(1)} nats`;
}

function taskDifference(before: DoneRecord["tasks"][number], after: DoneRecord["tasks"][number]): string | null {
  if (before.dataset.sha256 !== after.dataset.sha256) return "other data was read";
  const changed = Object.entries(before.outcomes).map(([metric, outcomes]) => {
    const others = [...outcomes].filter((outcome, i) => outcome !== after.outcomes[metric]?.[i]).length;
    return `${others} of ${outcomes.length} answers (${metric})`;
  });
  if (!changed.every((text) => text.startsWith("0 "))) return `${changed.join(", ")} are others`;
  // Rolling perplexities have no answers.
  const others = Object.entries(before.metrics).filter(([metric, one]) =>
    canonicalJson(one) !== canonicalJson(after.metrics[metric] ?? null)
  );
  const values = others.map(([metric, { value }]) => `${metric} ${value}, now ${after.metrics[metric]?.value}`);
  return values.length > 0 ? values.join(", ") : null;
}

/** What the task files of a record say.
 * @throws {UsageError} when one says something else by now, or a group changed it. */
function definitionsOf({ tasks }: DoneRecord): TaskDefinition[] {
  const paths = new Set(tasks.flatMap(({ definition }) => definition ? [definition.path] : []));
  if (paths.size === 0) return [];
  const { definitions } = selectTasks([...paths], []);
  for (const { task, definition } of tasks) {
    const now = definitions.find(({ config }) => config.task === task);
    if (!definition || now && definitionHash(now) === definition.sha256) continue;
    throw new UsageError(
      `The task "${task}" of ${definition.path} is not the one that was scored: put the old file back`,
    );
  }
  return definitions;
}

/** The results of a record that its cell asks for, one for each measurement in its order: those of the data of its run, or
 * the latest where the run does not say, or has other data by now.
 * @throws {UsageError} when some are missing. */
export function ownResults(record: DoneRecord, hashes?: DataHashes): DoneRecord {
  const { cell } = record;
  const found = [hashes, undefined].map((own) => askedResults(record, cell, own)).find(({ perplexity, tasks }) =>
    perplexity.length === cell.perplexity.length && tasks.length === cell.tasks.length
  );
  if (!found) throw new UsageError("The record lacks results that its cell asks for: run the cell in another folder");
  return found;
}

/** Tokens of a batch where a record does not say. */
const UNSAID_TOKENS = 512;

/** Tokens of the batches of each result; rounding depends on them. */
export function recordedBatches({ perplexity, tasks }: DoneRecord): NonNullable<CellJob["batchTokens"]> {
  const tokensOf = ({ batchTokens = UNSAID_TOKENS }: Batched) => batchTokens;
  return { perplexity: perplexity.map(tokensOf), tasks: tasks.map(tokensOf) };
}

/** The device to ask for: a GPU is taken where there is one unless the CPU is named. */
const deviceOf = ({ cell, environment }: DoneRecord) =>
  cell.engine === "tensorflow" && environment.device.startsWith("cpu") ? { device: "cpu" } : {};

/** Runs the cell of a record in a folder of its own that is removed, without throughput. */
async function runAgain(
  record: DoneRecord,
  options: { model?: string; data?: string; layerwise?: boolean },
): Promise<CellRecord> {
  const { throughput: _timed, ...cell } = record.cell;
  const { model = cell.model, data, layerwise } = options;
  const out = Deno.makeTempDirSync();
  try {
    const named = { id: record.id, cell: { ...cell, model } };
    const definitions = definitionsOf(record);
    const job = {
      ...named,
      out,
      commit: harnessCommit(),
      keepWeights: false,
      logSamples: false,
      hashes: {},
      coordinated: true,
      batchTokens: recordedBatches(record),
      ...deviceOf(record),
      ...layerwise === true && { layerwise },
      ...definitions.length > 0 && { taskDefinitions: definitions },
    };
    const { recorded, status, stderrTail } = await runCellProcess({
      job: { ...job, ...data === undefined ? {} : { data } },
      jobPath: join(out, "job.json"),
      logPath: join(out, "log"),
      threads: record.environment.threads,
      ffi: cell.engine === "tensorflow",
      cuda: record.environment.device.startsWith("cuda"),
      signal: new AbortController().signal,
      onPhase: (phase) => console.error(phase),
    });
    if (!recorded) throw new UsageError(classifyExit(status, stderrTail).message);
    return readRecord(recordPath(out, named));
  } finally {
    Deno.removeSync(out, { recursive: true });
  }
}

const HELP =
  `Runs the cell of a record again, without throughput, and says which of its results differ. On wasm the same
versions give the same numbers bit for bit; native engines do on the same machine with as many threads.

Usage: deno task bench reproduce DIR/records/NAME.json.gz [--model PATH] [--data DIR]

Flags:
  --model PATH    where the model lies now (default: as in the record)
  --data DIR      where the data lies now (default: as in the run)

Exit codes: 0 the same results bit for bit, 1 some differ, 2 the cell cannot be run here`;

/** `bench reproduce RECORD`. */
export const reproduce: Command = {
  usage: "RECORD",
  summary: "run a cell again from its record, and say what differs",
  help: () => HELP,
  flags: { string: ["model", "data"], positional: 1 },
  run: async (flags) => {
    const [path] = flags._;
    if (path === undefined) throw new UsageError("A record must be given: bench reproduce DIR/records/NAME.json.gz");
    const record = readDone(path);
    const [model, data] = [textFlag(flags, "model"), textFlag(flags, "data")];
    const out = folderOfRecord(path);
    const run = readRunFile(out);
    const stored = run?.config.data;
    const asked = {
      ...model !== undefined && { model: model === "tiny" ? model : resolve(model) },
      ...(data ?? stored) !== undefined && { data: data === undefined ? stored : resolve(data) },
      ...run && { layerwise: run.config.layerwise },
    };
    // Paths in the record are those of the folder in which the run was started.
    try {
      Deno.chdir(startOf(out));
    } catch {
      // It is gone, or the run was moved: paths count from here, and --model and --data say others.
    }
    const own = ownResults(record, run?.fingerprint.data);
    const again = await runAgain(own, asked);
    if (again.state === "failed") {
      throw new UsageError(`The cell failed (${again.failure.kind}): ${again.failure.message}`);
    }
    const { same, differs, environment } = compareRecords(own, again);
    for (const line of environment) console.log(`environment  ${line}`);
    for (const line of differs) console.log(`differs      ${line}`);
    console.log(`same, bit for bit: ${same.join(", ") || "nothing"}`);
    return differs.length > 0 ? 1 : 0;
  },
};
