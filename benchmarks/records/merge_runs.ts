/** Several runs of one model as one: their cells by id, with the files that belong to them.
 *
 * @module
 */
import { basename, join, relative, resolve } from "node:path";
import { canonicalJson } from "../../core/util/canonical_json.ts";
import { UsageError } from "../../core/util/errors.ts";
import { isThere } from "../../core/util/paths.ts";
import { writeFolderWhole } from "../../core/util/write_file.ts";
import { type CellRecord, type RunConfig, SCHEMA_VERSION } from "../../core/schema/schema.ts";
import { samplesFolder } from "./lm_eval_files.ts";
import { readRunFile, type RunFile, startOf } from "./run_file.ts";
import { readRecords, recordPath, runPaths, toJson } from "./store.ts";

/** Lists of a configuration that become one list. */
const JOINED = ["methods", "methodFile", "checkpoints", "sparsity", "dropLayers", "seeds", "perplexity", "tasks"]
  .concat("taskFile") as (keyof RunConfig)[];

/** Settings without effect on results; the first run's are kept. Weights and data are compared by hash. */
const FREE = ["name", "model", "data", "out", "jobs", "device", "throughput", "paper", "keepWeights", "logSamples"]
  .concat("layerwise") as (keyof RunConfig)[];

/** A run that is merged. */
interface Source {
  dir: string;
  run: RunFile;
  cells: RunFile["cells"];
  records: CellRecord[];
}

function readSource(dir: string): Source {
  const run = readRunFile(dir);
  if (run === undefined) throw new UsageError(`"${dir}" holds no run: it has no run.json`);
  const { records, problems: [damaged] } = readRecords(dir);
  if (damaged) throw new UsageError(`Cannot merge "${dir}": ${damaged.message}`);
  const { cells } = run;
  const asked = new Set(cells.map(({ id }) => id));
  return { dir, run, cells, records: records.filter(({ id }) => asked.has(id)) };
}

/** Hash of the times that a run's budget is met by. */
const tableOf = ({ cells }: Pick<RunFile, "cells">): string | undefined =>
  cells.find(({ cell }) => cell.latency)?.cell.latency;

/** What makes the numbers of two runs other ones, in words. */
function differences({ run: a, dir }: Source, { run: b, dir: other }: Source): string[] {
  const data = Object.entries(b.fingerprint.data).filter(([use, sha256]) =>
    sha256 !== (a.fingerprint.data[use] ?? sha256)
  );
  const keys = [...new Set([...Object.keys(a.config), ...Object.keys(b.config)])] as (keyof RunConfig)[];
  const isSettled = (key: keyof RunConfig) =>
    JOINED.includes(key) || FREE.includes(key) || key === "engine" || key === "arithmetic";
  const settings = keys.filter((key) =>
    !isSettled(key) && canonicalJson(a.config[key] ?? null) !== canonicalJson(b.config[key] ?? null)
  );
  // An unset depth cannot stand in a list of depths.
  if ((a.config.dropLayers === undefined) !== (b.config.dropLayers === undefined)) settings.push("dropLayers");
  const folders = startOf(dir) === startOf(other) ? [] : ["folders that they were started in"];
  return [
    ...a.fingerprint.weights === b.fingerprint.weights ? [] : ["weights of the model"],
    ...a.fingerprint.tokenizer === b.fingerprint.tokenizer ? [] : ["tokenizers"],
    ...data.map(([use]) => `data of ${use}`),
    ...tableOf(a) === tableOf(b) ? [] : ["tables of times"],
    ...a.engine === b.engine ? [] : [`engines (${a.engine} and ${b.engine})`],
    ...a.config.arithmetic === b.config.arithmetic ? [] : ["arithmetic"],
    // Paths of methods, tasks and checkpoints are relative to it.
    ...b.config.methodFile ?? b.config.taskFile ?? b.config.checkpoints ? folders : [],
    ...settings.length === 0 ? [] : [`settings (${settings.join(", ")})`],
  ];
}

/** The results of a record: what two machines must agree on, and nothing of times, places and machines. */
function resultsOf(record: CellRecord): string {
  if (record.state === "failed") return "failed";
  const { plan, size, perplexity, tasks } = record;
  return canonicalJson({
    plan,
    size,
    perplexity: perplexity.map(({ seconds: _s, batchTokens: _b, dataset: { sha256 }, ...one }) => ({ ...one, sha256 })),
    tasks: tasks.map(({ seconds: _s, batchTokens: _b, dataset: { sha256 }, fewshotDataset: _f, ...one }) => ({
      ...one,
      definition: one.definition?.sha256 ?? null,
      sha256,
    })),
  });
}

/** A record and the run that it is in. */
interface Found {
  dir: string;
  record: CellRecord;
}

const timesOf = ({ record }: Found): number => record.state === "done" ? record.throughput.length : 0;

/** The record to keep for a cell: a finished one of the first run that has it, with times if one has any.
 * @throws {UsageError} when two finished ones differ. */
function chosen(found: readonly Found[]): Found[] {
  const done = found.filter(({ record }) => record.state === "done").toSorted((a, b) => timesOf(b) - timesOf(a));
  const [first, ...others] = done.length > 0 ? done : found.slice(0, 1);
  if (first === undefined) return [];
  const other = others.find(({ record }) => resultsOf(record) !== resultsOf(first.record));
  if (other === undefined) return [first];
  const paths = [first, other].map(({ dir, record }) => `"${recordPath(dir, record)}"`).join(" and ");
  throw new UsageError(
    `Cannot merge ${paths}: they hold different results or measurements of one cell. Move one of them out of its folder.`,
  );
}

function joinedConfig(sources: readonly Source[], out: string): RunConfig {
  const configs = sources.map(({ run }) => run.config);
  const lists = JOINED.flatMap((key) => {
    const items = configs.flatMap((config) => (config[key] ?? []) as unknown[]);
    const distinct = [...new Map(items.map((item) => [canonicalJson(item), item])).values()];
    if (items.length === 0) return [];
    return [[key, key === "sparsity" || key === "seeds" ? (distinct as number[]).sort((a, b) => a - b) : distinct]];
  });
  return { ...configs[0], ...Object.fromEntries(lists), out };
}

/** The cells of all runs by id, each as it asks for most. All name `model`: reports put models of several paths apart. */
function joinedCells(sources: readonly Source[], model: string): Source["cells"] {
  const asks = ({ cell: { perplexity, tasks, throughput } }: Source["cells"][number]) =>
    perplexity.length + tasks.length + Number(throughput !== undefined);
  const byId = Map.groupBy(sources.flatMap(({ cells }) => cells), ({ id }) => id);
  return [...byId.values()].flatMap((own) => own.toSorted((a, b) => asks(b) - asks(a)).slice(0, 1))
    .map(({ id, cell }) => ({ id, cell: { ...cell, model } }));
}

/** Copies a file or folder; nothing where there is none. */
function copy(from: string, to: string): void {
  if (!isThere(from)) return;
  if (!Deno.statSync(from).isDirectory) return Deno.copyFileSync(from, to);
  Deno.mkdirSync(to, { recursive: true });
  for (const { name } of Deno.readDirSync(from)) copy(join(from, name), join(to, name));
}

function copyCell({ dir, record }: Found, folder: string): void {
  const [from, to] = [runPaths(dir), runPaths(folder)];
  copy(recordPath(dir, record), recordPath(folder, record));
  copy(samplesFolder(from.lmEval, record), samplesFolder(to.lmEval, record));
  if (record.state === "failed") return;
  for (const stored of [record.rebuild, record.storedWeights]) {
    if (stored) copy(join(from.weights, basename(stored.file)), join(to.weights, basename(stored.file)));
  }
}

/** Writes the cells of the runs in `dirs` as one run into the new folder `out`.
 * @returns How many records it holds, and how many cells were in several runs with equal results.
 * @throws {UsageError} when model, data, engine, arithmetic or settings differ, when one cell has different results, or
 * when `out` is not empty. */
export function mergeRuns(out: string, dirs: readonly string[]): { records: number; repeated: number } {
  if (isThere(out) && [...Deno.readDirSync(out)].length > 0) {
    throw new UsageError(`Cannot merge into "${out}": it is not empty. Choose a new folder.`);
  }
  const sources = dirs.map(readSource);
  const [first, ...others] = sources;
  if (first === undefined) throw new UsageError("No run given: bench merge OUT DIR DIR...");
  for (const other of others) {
    const found = differences(first, other);
    if (found.length === 0) continue;
    throw new UsageError(
      `Cannot merge "${first.dir}" and "${other.dir}": different ${found.join(", ")}. ` +
        "`bench site` shows runs side by side.",
    );
  }
  const all = sources.flatMap(({ dir, records }) => records.map((record) => ({ dir, record })));
  const byId = [...Map.groupBy(all, ({ record }) => record.id).values()];
  const kept = byId.flatMap(chosen);
  const groups = sources.flatMap(({ run }) => run.taskGroups ?? []);
  const run: RunFile = {
    schemaVersion: SCHEMA_VERSION,
    config: joinedConfig(sources, out),
    engine: first.run.engine,
    fingerprint: {
      ...first.run.fingerprint,
      data: Object.assign({}, ...sources.map(({ run }) => run.fingerprint.data)),
    },
    startedIn: relative(resolve(out), startOf(first.dir)) || ".",
    cells: joinedCells(sources, first.run.config.model),
    taskGroups: [...new Map(groups.map((group) => [group.group, group])).values()],
  };
  writeFolderWhole(out, (folder) => {
    const { records, weights } = runPaths(folder);
    Deno.mkdirSync(records);
    // A folder without weights tells that none were passed on.
    if (dirs.some((dir) => isThere(runPaths(dir).weights))) Deno.mkdirSync(weights);
    copy(runPaths(first.dir).latency, runPaths(folder).latency);
    for (const found of kept) copyCell(found, folder);
    Deno.writeTextFileSync(runPaths(folder).run, toJson(run));
  });
  return { records: kept.length, repeated: byId.filter(({ length }) => length > 1).length };
}
