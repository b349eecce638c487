/** `run.json` in a run's folder: its configuration, model, data and cells.
 *
 * @module
 */
import { isAbsolute, join, relative, resolve } from "node:path";
import { z } from "zod";
import { cellLabels } from "../../core/schema/cell_names.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { type CellRecord, cellSchema, runConfigSchema, SCHEMA_VERSION } from "../../core/schema/schema.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { isThere } from "../../core/util/paths.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import { askedResults, isComplete } from "./measured.ts";
import { readRecords, runPaths, type StoredRecords, toJson } from "./store.ts";

/** A group of tasks with the metrics that it aggregates. */
export const taskGroupSchema = z.strictObject({
  group: z.string(),
  tasks: z.array(z.string()),
  metrics: z.array(z.strictObject({ metric: z.string(), weightBySize: z.boolean() })),
});

/** `run.json`. */
const runFileSchema = z.object({
  schemaVersion: z.number(),
  // Keys of other versions are left out.
  config: runConfigSchema.strip(),
  engine: z.string(),
  fingerprint: z.object({ weights: z.string(), tokenizer: z.string(), data: z.record(z.string(), z.string()) }),
  startedIn: z.string().describe(
    "folder in which the run was started, relative to this file's folder; paths of the configuration count from it",
  ),
  cells: z.array(z.strictObject({ id: z.string(), cell: cellSchema })),
  taskGroups: z.array(taskGroupSchema).optional().describe("groups of the cells' tasks"),
});

/** `run.json`, parsed. */
export type RunFile = z.infer<typeof runFileSchema>;

/** Writes `run.json`.
 * @throws {UsageError} when the folder holds a run of another model, engine or arithmetic. */
export function writeRunFile(
  { config, engine, fingerprint, cells, taskGroups }: Omit<RunFile, "schemaVersion" | "startedIn">,
): void {
  const path = runPaths(config.out).run;
  const stored = readRunFile(config.out);
  if (stored) {
    const differing = [
      stored.fingerprint.weights !== fingerprint.weights && "weights",
      stored.fingerprint.tokenizer !== fingerprint.tokenizer && "tokenizer",
      stored.engine !== engine && `engine (${stored.engine}, now ${engine})`,
      stored.config.arithmetic !== config.arithmetic && "arithmetic",
    ].filter((what) => what !== false);
    if (differing.length > 0) {
      throw new UsageError(
        `"${config.out}" already contains a run with different ${differing.join(", ")}; results cannot be mixed: ` +
          `choose another --out${stored.engine === engine ? "" : `, or --engine ${stored.engine}`}`,
      );
    }
  }
  const startedIn = relative(config.out, Deno.cwd()) || ".";
  const run = { schemaVersion: SCHEMA_VERSION, config, engine, fingerprint, startedIn, cells, taskGroups };
  writeAtomically(path, toJson(run));
}

/** Methods of which the run in `out` has cells of an earlier version than `cells`. */
export function outdatedMethods(out: string, cells: RunFile["cells"]): string[] {
  const now = new Map(cells.flatMap(({ cell: { method } }) => method ? [[method.id, method.version ?? 1]] : []));
  const before = (readRunFile(out)?.cells ?? []).flatMap(({ cell: { method } }) => method ?? []);
  return [...new Set(before.filter(({ id, version = 1 }) => version < (now.get(id) ?? 0)).map(({ id }) => id))];
}

/** Labels of the cells of `run` that have none of `records`. */
export function missingCells(run: RunFile | undefined, records: readonly Pick<CellRecord, "id">[]): string[] {
  const cells = run?.cells ?? [];
  const labels = cellLabels(cells);
  const found = new Set(records.map(({ id }) => id));
  return cells.flatMap(({ id }) => found.has(id) ? [] : labels.get(id) ?? id);
}

/** The records that a run asks for now. */
interface AskedRecords extends StoredRecords {
  /** How many records of other cells there are. */
  others: number;
  /** Labels of its cells that have no record. */
  missing: string[];
  /** Labels of finished cells that lack some of the results. */
  incomplete: string[];
}

/** The records of the cells of the run in `out`, with the results that it asks for. Without `run.json`,
 * all records are asked for. */
export function askedRecords(out: string): AskedRecords {
  const stored = readRecords(out);
  const run = readRunFile(out);
  if (!run) return { ...stored, others: 0, missing: [], incomplete: [] };
  const labels = cellLabels(run.cells);
  const asked = new Map(run.cells.map(({ id, cell }) => [id, cell]));
  const records = stored.records.flatMap((record) => {
    const cell = asked.get(record.id);
    if (cell === undefined) return [];
    if (record.state === "failed") return { ...record, cell };
    return askedResults(record, cell, run.fingerprint.data, run.taskGroups);
  });
  const incomplete = records.filter((record) =>
    record.state === "done" && !isComplete(record.cell, record, { hashes: run.fingerprint.data })
  );
  return {
    ...stored,
    records,
    others: stored.records.length - records.length,
    missing: missingCells(run, records),
    incomplete: incomplete.map(({ id }) => labels.get(id) ?? id),
  };
}

/** A path of a record or configuration of the run in `out`, relative to the current folder. Without
 * `run.json` it is taken from the project's folder. A path to nothing stays as it is. */
export function storedPath(out: string, path: string): string {
  if (path === "tiny" || isAbsolute(path)) return path;
  const base = startOf(out);
  if (base === Deno.cwd()) return path;
  const moved = relative(Deno.cwd(), join(base, path));
  return isThere(moved) ? moved : path;
}

/** Folder in which the run in `out` was started. */
export function startOf(out: string): string {
  const run = readRunFile(out);
  return run === undefined ? ROOT : resolve(out, run.startedIn);
}

/** `run.json` of the folder `out`; undefined if there is none.
 * @throws {FileFormatError} when it is not one of this program's. */
export function readRunFile(out: string): RunFile | undefined {
  const path = runPaths(out).run;
  try {
    return runFileSchema.parse(JSON.parse(Deno.readTextFileSync(path)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    if (!(error instanceof SyntaxError || error instanceof z.ZodError)) throw error;
    throw new FileFormatError(
      path,
      "is damaged or of another version of this program: restore a copy, or remove it and repeat the run's command; " +
        "the records are kept",
    );
  }
}
