/** The folder of a run: `run.json`, one record per cell, calibration statistics, logs and reports. Files are written
 * under a temporary name and renamed, so that a reader never sees half of one.
 *
 * @module
 */
import { basename, dirname, join, resolve } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { type CellRecord, cellRecordSchema, type DoneRecord, SCHEMA_VERSION } from "../../core/schema/schema.ts";
import { isObject, sha256OfJson } from "../../core/util/canonical_json.ts";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import { describeIssue } from "../../core/util/issues.ts";
import { ifThere, isSystemError } from "../../core/util/paths.ts";
import { writeAtomically } from "../../core/util/write_file.ts";

const PLACES = {
  run: "run.json",
  records: "records",
  cache: "cache",
  latency: "latency",
  weights: "weights",
  lmEval: "lm-eval",
  report: "report",
  logs: "logs",
  jobs: "jobs",
  slurm: "slurm",
  llamaCpp: "throughput-llama.cpp.json",
  lock: ".lock",
};

/** Paths inside a run's folder. */
export function runPaths(out: string): typeof PLACES {
  return Object.fromEntries(Object.entries(PLACES).map(([name, path]) => [name, join(out, path)])) as typeof PLACES;
}

const ENDING = ".json.gz";

/** Path of a cell's record. */
export function recordPath(out: string, named: NamedCell): string {
  return join(runPaths(out).records, cellName(named) + ENDING);
}

/** Pretty JSON with a line end, as all JSON files of a run; a list of numbers takes one line. */
export function toJson(value: unknown): string {
  const text = JSON.stringify(value, null, 2);
  return text.replace(/\[\s+[-+.\deE]+(?:,\s+[-+.\deE]+)*\s+\]/g, (list) => list.replace(/\s+/g, " ")) + "\n";
}

/** Longest text that is read: a short file could otherwise name billions of units. */
const MOST_DIGITS = 2 ** 18;

/** The text of a list of kept units as records store it, half of the bytes of a compressed list: a hexadecimal number
 * whose bit u is set if unit u stays, the empty text for no unit. In Python: `[u for u in range(m.bit_length()) if
 * m >> u & 1]` with `m = int(text or "0", 16)`.
 * @throws {TypeError} when the indices are no whole numbers that ascend from 0 on. */
export function packUnits(units: readonly number[]): string {
  let bits = 0n;
  units.forEach((unit, i) => {
    if (!Number.isInteger(unit) || unit <= (i === 0 ? -1 : at(units, i - 1)) || unit >= 4 * MOST_DIGITS) {
      throw new TypeError(`Kept units must be whole numbers that ascend, below ${4 * MOST_DIGITS}; ${unit} is at ${i}`);
    }
    bits |= 1n << BigInt(unit);
  });
  return bits === 0n ? "" : bits.toString(16);
}

/** The list of a text; undefined when it is none of {@linkcode packUnits}. */
export function unpackUnits(text: string): number[] | undefined {
  if (text.length > MOST_DIGITS || !/^([1-9a-f][0-9a-f]*)?$/.test(text)) return undefined;
  return [...text].reverse().flatMap((digit, d) =>
    [0, 1, 2, 3].filter((bit) => parseInt(digit, 16) >> bit & 1).map((bit) => 4 * d + bit)
  );
}

/** A record with `change` made to every list of units of its plan. The schema refuses anything else. */
function inPlan(record: object, change: (units: unknown) => unknown): object {
  const { plan } = record as Record<string, unknown>;
  if (!isObject(plan) || !Array.isArray(plan.layers)) return record;
  const layers = plan.layers.map((layer: unknown) =>
    isObject(layer) ? Object.fromEntries(Object.entries(layer).map(([type, units]) => [type, change(units)])) : layer
  );
  return { ...record, plan: { ...plan, layers, ..."hidden" in plan && { hidden: change(plan.hidden) } } };
}

/** Writes a record after checking it, so that nothing unreadable is ever stored.
 * @throws {TypeError} when the record does not fit the schema (a defect of the program). */
export function writeRecord(out: string, record: CellRecord): string {
  const parsed = cellRecordSchema.safeParse(record);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => describeIssue(issue, record, () => []));
    throw new TypeError(`A record must fit the schema: ${problems.join("; ")}`);
  }
  const path = recordPath(out, record);
  const stored = inPlan(parsed.data, (units) => Array.isArray(units) ? packUnits(units) : units);
  const text = JSON.stringify({ ...stored, checksum: sha256OfJson(stored) }) + "\n";
  writeAtomically(path, gzipSync(text, { level: 9 }));
  return path;
}

/** The content of a file without its checksum, with units as lists.
 * @throws {FileFormatError} when the checksum is missing or does not fit.
 * @throws {SchemaVersionError} when the record has another schema version. */
function checked(path: string, value: object): object {
  const { checksum, ...record } = value as Record<string, unknown>;
  const { schemaVersion: version } = record;
  // Without a version it is no record at all: the schema says so.
  if (typeof version !== "number") return value;
  if (version !== SCHEMA_VERSION) throw new SchemaVersionError(path, version);
  if (checksum !== sha256OfJson(record)) {
    throw new FileFormatError(path, "does not match its checksum: it was damaged or changed");
  }
  return inPlan(record, (text) => typeof text === "string" ? unpackUnits(text) ?? text : text);
}

/** Largest record that is read, decompressed: a small file could otherwise take all memory. */
const MOST_BYTES = 2 ** 30;

/** The text of a compressed file.
 * @throws {FileFormatError} when it is damaged or larger than any record. */
function unpack(path: string): string {
  const bytes = Deno.readFileSync(path);
  try {
    return gunzipSync(bytes, { maxOutputLength: MOST_BYTES }).toString();
  } catch (error) {
    throw new FileFormatError(path, `cannot be decompressed (${(error as Error).message})`);
  }
}

/** Reads one record.
 * @throws {FileFormatError} that names the fault: damage, a wrong checksum, another schema version. */
export function readRecord(path: string): CellRecord {
  let value: unknown;
  try {
    value = JSON.parse(unpack(path));
    if (typeof value === "object" && value !== null) value = checked(path, value);
  } catch (error) {
    if (error instanceof SyntaxError) throw new FileFormatError(path, `is not JSON (${error.message})`);
    // Endless nesting exhausts the stack.
    if (error instanceof RangeError) throw new FileFormatError(path, `is not a record (${error.message})`);
    throw error;
  }
  const parsed = cellRecordSchema.safeParse(value);
  if (!parsed.success) {
    const { issues } = parsed.error;
    const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : "";
    throw new FileFormatError(path, `is not a record: ${describeIssue(at(issues, 0), value, () => [])}${more}`);
  }
  if (basename(path) !== cellName(parsed.data) + ENDING) {
    throw new FileFormatError(path, `holds the record "${cellName(parsed.data)}" under another name`);
  }
  return parsed.data;
}

/** Folder of the run that the record at `path` is in. */
export const folderOfRecord = (path: string): string => dirname(dirname(resolve(path)));

/** The record at `path`, a file that the user named.
 * @throws {UsageError} when it cannot be read, or its cell failed. */
export function readDone(path: string): DoneRecord {
  let record: CellRecord;
  try {
    record = readRecord(path);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new UsageError(`"${path}" cannot be read (${error.message}): give the file of a record`);
  }
  if (record.state === "done") return record;
  const { message } = record.failure;
  throw new UsageError(`"${path}" is the record of a failed cell, which \`bench run\` retries: ${message}`);
}

/** The record of a finished cell; undefined if it has none that can be read. */
export function doneRecord(out: string, named: NamedCell): DoneRecord | undefined {
  try {
    const record = readRecord(recordPath(out, named));
    return record.state === "done" ? record : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof UsageError) return undefined;
    throw error;
  }
}

/** A record was written by another version of this program. */
export class SchemaVersionError extends FileFormatError {
  constructor(path: string, version: number) {
    super(path, `has record schema version ${version}, this program reads ${SCHEMA_VERSION}: use another folder`);
  }
}

/** The records of a folder, and its damaged files. */
export interface StoredRecords {
  /** By method, sparsity and seed; the dense model first. */
  records: CellRecord[];
  problems: { path: string; message: string }[];
}

/** Reads every record in `out`.
 * @throws {UsageError} when the folder holds no run.
 * @throws {SchemaVersionError} when a record has another schema version. */
export function readRecords(out: string): StoredRecords {
  const stored: StoredRecords = { records: [], problems: [] };
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(runPaths(out).records)];
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory)) throw error;
    throw new UsageError(`"${out}" holds no run: there is no folder "${runPaths(out).records}"`);
  }
  for (const { name, isFile } of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (!isFile || !name.endsWith(ENDING)) continue;
    const path = join(runPaths(out).records, name);
    try {
      stored.records.push(readRecord(path));
    } catch (error) {
      if (error instanceof SchemaVersionError || !(error instanceof FileFormatError)) throw error;
      stored.problems.push({ path, message: error.message });
    }
  }
  const rank = ({ cell }: CellRecord): [string, number, number] => [cell.method?.id ?? "", cell.sparsity, cell.seed];
  stored.records.sort((a, b) => {
    const [x, y] = [rank(a), rank(b)];
    const i = x.findIndex((part, i) => part !== y[i]);
    return i < 0 ? 0 : at(x, i) < at(y, i) ? -1 : 1;
  });
  return stored;
}

/** Renames an unreadable record to `NAME.bad` (`.bad2`, …), so that it is neither used nor lost. Returns the new
 * path. */
export function setAside(path: string): string {
  for (let n = 1;; n++) {
    const aside = `${path}.bad${n === 1 ? "" : n}`;
    if (ifThere(() => Deno.lstatSync(aside), null)) continue;
    Deno.renameSync(path, aside);
    return aside;
  }
}

/** Whether a file of the folder `slurm` names a submitted job array: `JOB.json`. */
export const isSubmission = (name: string): boolean => /^\d+\.json$/.test(name);

/** Removes half-written files of killed processes. The caller holds the folder's lock. Tasks of Slurm do not: if any
 * were submitted, nothing is removed, since they may be writing on other machines. */
export function removeTemporaryFiles(out: string): void {
  const { records, cache, weights, latency, lmEval, slurm } = runPaths(out);
  const entries = (folder: string) => ifThere(() => [...Deno.readDirSync(folder)], []);
  if (entries(slurm).some(({ name }) => isSubmission(name))) return;
  const perCell = [lmEval, cache].flatMap((folder) =>
    entries(folder).filter(({ isDirectory }) => isDirectory).map(({ name }) => join(folder, name))
  );
  // The folder itself may hold exports and files of the user's.
  const own = entries(out).filter(({ name }) => /^run\.json\.\d+\.tmp$/.test(name)).map(({ name }) => join(out, name));
  const inside = [records, cache, weights, latency, ...perCell].flatMap((folder) =>
    entries(folder).filter(({ name }) => /\.\d+\.tmp$/.test(name)).map(({ name }) => join(folder, name))
  );
  for (const path of [...own, ...inside]) Deno.removeSync(path, { recursive: true });
}

function openLock(out: string, path: string): Deno.FsFile {
  const folder = resolve(out);
  if (folder.includes(",")) {
    throw new UsageError(
      `Cannot use "${folder}": Deno's list of writable folders allows no comma. Choose another --out.`,
    );
  }
  try {
    Deno.mkdirSync(out, { recursive: true });
    return Deno.openSync(path, { read: true, write: true, create: true });
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new UsageError(`"${out}" cannot be written (${error.message}): choose another --out`);
  }
}

/** Locks the folder for this process. The operating system releases the lock when the process ends.
 * @throws {UsageError} when another run holds it. */
export function lockFolder(out: string): Disposable {
  const path = runPaths(out).lock;
  const file = openLock(out, path);
  if (!file.tryLockSync(true)) {
    file.close();
    const holder = Deno.readTextFileSync(path).trim();
    throw new UsageError(
      `Another run is writing to "${out}"${holder ? ` (${holder})` : ""}: wait for it or choose another --out`,
    );
  }
  const text = Deno.readTextFileSync(path);
  if (text !== "" && !text.startsWith("process ")) {
    file.close();
    throw new UsageError(`"${path}" belongs to another program: choose another --out`);
  }
  file.truncateSync();
  file.writeSync(
    new TextEncoder().encode(`process ${Deno.pid} on ${Deno.hostname()} since ${new Date().toISOString()}\n`),
  );
  return {
    [Symbol.dispose]: () => {
      file.truncateSync();
      file.close();
    },
  };
}
