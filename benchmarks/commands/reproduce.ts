/** `bench reproduce`: runs a cell again from its record, and says what differs.
 *
 * The same weights, data, engine, thread count and libraries give the same plan and the same numbers bit for bit on
 * `wasm` and `cpu`, which are single-threaded. Native TensorFlow divides sums among threads and picks kernels by the
 * processor: it repeats on one machine with equal thread counts. Elsewhere the last digits may differ, and so may the
 * choice between units of almost equal score.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { canonicalJson, sha256OfJson } from "../../core/util/canonical_json.ts";
import { classifyExit } from "../../core/schema/failure.ts";
import { changedUnits } from "../../core/schema/kept_units.ts";
import type { CellRecord, DoneRecord, LatencyTable, PerplexityResult, TaskResult } from "../../core/schema/schema.ts";
import type { TaskDefinition } from "../../datasets/define.ts";
import { definitionHash, selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { tasks as builtIn } from "../../datasets/mod.ts";
import { isTime } from "../../models/latency.ts";
import { harnessCommit } from "../cells/environment.ts";
import type { CellJob } from "../cells/job.ts";
import { latencyPath, readLatency } from "../configuration/latency_table.ts";
import { askedResults, type DataHashes } from "../records/measured.ts";
import { readRunFile, startOf } from "../records/run_file.ts";
import { folderOfRecord, readDone, readRecord, recordPath } from "../records/store.ts";
import { runCellProcess } from "../sweep/cell_process.ts";
import { type Command, textFlag, withTempFolder } from "./command.ts";

/** What two runs of one cell have in common. */
export interface Comparison {
  /** Parts that are equal bit for bit. */
  same: string[];
  /** One line for every part of the results that differs. */
  differs: string[];
  /** One line for every difference of machine and versions, which may explain the others. */
  environment: string[];
}

const isEqual = (a: unknown, b: unknown) => canonicalJson(a ?? null) === canonicalJson(b ?? null);

/** Compares two records of one cell, result by result in their order; times and memory are left out. */
export function compareRecords(before: DoneRecord, after: DoneRecord): Comparison {
  const ofResults = <Result extends PerplexityResult | TaskResult>(
    [own, others]: [Result[], Result[]],
    name: (result: Result) => string,
    difference: (before: Result, after: Result) => string | null,
  ) =>
    own.map((one, i): [string, string | null] => {
      const other = at(others, i);
      const isSameData = one.dataset.sha256 === other.dataset.sha256;
      return [name(one), isSameData ? difference(one, other) : "other data was read"];
    });
  const { kept, changed } = changedUnits(before.plan, after.plan);
  const parts: [what: string, difference: string | null][] = [
    ["dense weights", before.weights.sha256 === after.weights.sha256 ? null : "another model was loaded"],
    ["plan", isEqual(before.plan, after.plan) ? null : `${changed} of ${kept} kept units differ`],
    ["size", isEqual(before.size, after.size) ? null : "parameters or shape differ"],
    ...ofResults([before.perplexity, after.perplexity], ({ corpus }) => `perplexity ${corpus}`, perplexityDifference),
    ...ofResults([before.tasks, after.tasks], ({ task }) => task, taskDifference),
  ];
  const [from, to] = [before.environment, after.environment];
  return {
    same: parts.flatMap(([what, difference]) => difference === null ? [what] : []),
    differs: parts.flatMap(([what, difference]) => difference === null ? [] : [`${what}: ${difference}`]),
    environment: (Object.keys({ ...from, ...to }) as (keyof typeof from)[]).flatMap((key) =>
      from[key] === to[key] ? [] : [`${key}: ${from[key]}, now ${to[key]}`]
    ),
  };
}

function perplexityDifference(before: PerplexityResult, after: PerplexityResult): string | null {
  if (isEqual(before.windowNll, after.windowNll)) return null;
  const largest = Math.max(...before.windowNll.map((nll, i) => Math.abs(nll - (after.windowNll[i] ?? Infinity))));
  return `${before.perplexity}, now ${after.perplexity}; windows differ by up to ${largest.toExponential(1)} nats`;
}

function taskDifference(before: TaskResult, after: TaskResult): string | null {
  const answers = Object.entries(before.outcomes).flatMap(([metric, outcomes]) => {
    const changed = [...outcomes].filter((outcome, i) => outcome !== after.outcomes[metric]?.[i]).length;
    return changed > 0 ? [`${changed} of ${outcomes.length} answers differ (${metric})`] : [];
  });
  // Rolling perplexities have no answers.
  const values = Object.entries(before.metrics).filter(([metric, one]) => !isEqual(one, after.metrics[metric]))
    .map(([metric, { value }]) => `${metric} ${value}, now ${after.metrics[metric]?.value}`);
  const differences = answers.length > 0 ? answers : values;
  return differences.length > 0 ? differences.join(", ") : null;
}

/** What the task files of a record say.
 * @throws {UsageError} when one says something else by now, or a group changed it. */
function definitionsOf({ tasks }: DoneRecord): TaskDefinition[] {
  const paths = new Set(tasks.flatMap(({ definition }) => definition ? [definition.path] : []));
  if (paths.size === 0) return [];
  const { definitions } = selectTasks([...paths], [], [...builtIn.keys()]);
  for (const { task, definition } of tasks) {
    const now = definitions.find(({ config }) => config.task === task);
    if (!definition || now && definitionHash(now) === definition.sha256) continue;
    throw new UsageError(`The task "${task}" of ${definition.path} changed since it was scored: put the old file back`);
  }
  return definitions;
}

/** The results of a record that its cell requests, one per measurement in its order: with the data of its run, or the
 * latest if the run does not name them.
 * @throws {UsageError} when some are missing. */
function ownResults(record: DoneRecord, hashes?: DataHashes): DoneRecord {
  const { cell } = record;
  const found = [hashes, undefined].map((own) => askedResults(record, cell, own)).find(({ perplexity, tasks }) =>
    perplexity.length === cell.perplexity.length && tasks.length === cell.tasks.length
  );
  if (!found) throw new UsageError("The record lacks results that its cell requests: run the cell in another folder");
  return found;
}

/** The table of times that the cell's budget was met by.
 * @throws {UsageError} when the folder has another one. */
function tableOf(out: string, { cell: { budget, latency } }: DoneRecord): LatencyTable | undefined {
  if (budget === undefined || !isTime(budget)) return undefined;
  const table = readLatency(out, budget);
  if (table && sha256OfJson(table) === latency) return table;
  throw new UsageError(
    `"${out}" lacks the table of times of the cell: put a copy of "${latencyPath(out, budget)}" back`,
  );
}

/** Tokens of a batch where a record does not say. */
const UNSAID_TOKENS = 512;

/** Runs the cell of a record in a folder of its own that is removed, without throughput. */
async function runAgain(
  record: DoneRecord,
  { model = record.cell.model, data, layerwise, latency }: Pick<CellJob, "data" | "layerwise" | "latency"> & {
    model?: string;
  },
): Promise<CellRecord> {
  const { cell: { throughput: _timed, ...cell }, environment: { device, threads }, perplexity, tasks } = record;
  return await withTempFolder(async (out) => {
    const named = { id: record.id, cell: { ...cell, model } };
    const tokensOf = ({ batchTokens = UNSAID_TOKENS }: PerplexityResult | TaskResult) => batchTokens;
    const { recorded, status, stderrTail } = await runCellProcess({
      job: {
        ...named,
        out,
        commit: harnessCommit(),
        keepWeights: false,
        logSamples: false,
        hashes: {},
        coordinated: true,
        // Rounding depends on the size of batches.
        batchTokens: { perplexity: perplexity.map(tokensOf), tasks: tasks.map(tokensOf) },
        // A GPU is taken where there is one unless the CPU is named.
        ...cell.engine === "tensorflow" && device.startsWith("cpu") && { device: "cpu" },
        ...{ layerwise, latency, data, taskDefinitions: definitionsOf(record) },
      },
      jobPath: join(out, "job.json"),
      logPath: join(out, "log"),
      threads,
      ffi: cell.engine === "tensorflow",
      cuda: device.startsWith("cuda"),
      signal: new AbortController().signal,
      onPhase: (phase) => console.error(phase),
    });
    if (!recorded) throw new UsageError(classifyExit(status, stderrTail).message);
    return readRecord(recordPath(out, named));
  });
}

const HELP =
  `Runs the cell of a record again, without throughput, and prints which results differ. Results are bit-identical
on wasm with the same versions, and on native engines with the same machine and number of threads.

Usage: deno task bench reproduce DIR/records/NAME.json.gz [FLAGS]

Flags:
  --model PATH    the dense model (default: the path in the record)
  --data DIR      folder with data sets (default: that of the run)

Exit codes: 0 the same results, 1 some differ, 2 the cell cannot be run here`;

/** `bench reproduce RECORD`. */
export const reproduce: Command = {
  usage: "RECORD",
  summary: "run a cell again from its record, and print what differs",
  help: () => HELP,
  flags: { string: ["model", "data"], positional: 1 },
  run: async (flags) => {
    const [path] = flags._;
    if (path === undefined) throw new UsageError("No record given: bench reproduce DIR/records/NAME.json.gz");
    const record = readDone(path);
    const [model, data] = [textFlag(flags, "model"), textFlag(flags, "data")];
    const out = folderOfRecord(path);
    const run = readRunFile(out);
    const asked = {
      model: model === undefined || model === "tiny" ? model : resolve(model),
      data: data === undefined ? run?.config.data : resolve(data),
      layerwise: run?.config.layerwise,
      latency: tableOf(out, record),
    };
    // Paths in the record are those of the folder in which the run was started.
    try {
      Deno.chdir(startOf(out));
    } catch {
      // The folder is gone: paths count from here, and --model and --data give others.
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
