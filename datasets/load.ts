/** Finds the file of a data set and reads it: examples of a task, texts of a corpus.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { FileFormatError, UsageError } from "../core/errors.ts";
import type { DatasetUse } from "../core/schema.ts";
import { type Corpus, type DataSource, type Example, PARTS, type Task } from "./define.ts";
import { readRecords } from "./records.ts";

/** A task's examples in the order of the file. */
export interface LoadedTask {
  /** The examples to score: all, or the first `limit`. */
  examples: Example[];
  /** Their records as they stand in the file, for result files that quote them. */
  records: unknown[];
  /** Examples in the whole split. */
  total: number;
  /** Where they come from, for records of results. */
  dataset: DatasetUse;
}

/** A corpus's texts in the order of the file. */
export interface LoadedCorpus {
  /** One text per record. */
  texts: string[];
  /** Where they come from, for records of results. */
  dataset: DatasetUse;
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return false;
    throw error;
  }
}

function hubName({ hub }: DataSource): string {
  return hub ? ` (Hugging Face ${hub.repo}${hub.config ? `, ${hub.config}` : ""})` : "";
}

/** Full path of the first of `names` in the data set's folder, or undefined. */
function findFile(source: DataSource, data: string | undefined, names: readonly string[]): string | undefined {
  const folder = source.folder ? fileURLToPath(source.folder) : data;
  if (folder === undefined) {
    throw new UsageError(
      `"${source.id}" needs its data: give --data a folder that holds ${names.join(" or ")}${hubName(source)}`,
    );
  }
  return names.map((name) => `${folder.replace(/\/+$/, "")}/${name}`).find(isFile);
}

function missing(source: DataSource, split: string, data: string | undefined, names: readonly string[]): UsageError {
  return new UsageError(
    `The ${split} split of "${source.id}" was not found in ${source.folder ? "its folder" : `"${data}"`}: ` +
      `looked for ${names.join(", ")}${hubName(source)}`,
  );
}

const baseName = (path: string) => path.slice(path.lastIndexOf("/") + 1);

function datasetUse(source: DataSource, split: string, file: string, sha256: string): DatasetUse {
  const { id, licence, hub } = source;
  return { id, split, source: file, revision: hub?.revision ?? null, licence, sha256 };
}

/** Reads the scored split of `task` from its own folder or from the folder `data`. Every record is checked, also those
 * after `limit`.
 * @throws {UsageError} when no file is found, or a record is malformed (with file, line and field). */
export async function loadTask<Schema extends z.ZodType>(
  task: Task<Schema>,
  { data, limit }: { data?: string; limit?: number } = {},
): Promise<LoadedTask> {
  const path = findFile(task, data, task.files);
  if (path === undefined) throw missing(task, task.split, data, task.files);
  const { records, sha256 } = await readRecords(path, { record: task.record });
  const examples = records.map(({ line, value }) => {
    try {
      return task.toExample(value);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new FileFormatError(path, `line ${line}: ${error.message}`);
    }
  });
  return {
    examples: examples.slice(0, limit),
    records: records.slice(0, limit).map(({ raw }) => raw),
    total: examples.length,
    dataset: datasetUse(task, task.split, baseName(path), sha256),
  };
}

/** Index of the record nearest to `share` of all before which the file may be cut. */
function cutAt(corpus: Corpus, texts: readonly string[], share: number): number {
  const wanted = Math.round(share * texts.length);
  const mayCut = (i: number) => i === 0 || i === texts.length || (corpus.startsArticle?.(texts[i]) ?? true);
  for (let distance = 0; distance <= texts.length; distance++) {
    for (const index of [wanted + distance, wanted - distance]) {
      if (index >= 0 && index <= texts.length && mayCut(index)) return index;
    }
  }
  return wanted;
}

/** Reads `split` of `corpus` from its own folder or from the folder `data`.
 *
 * `split` names one of the corpus's splits, or `calibration` (the split that calibration is drawn from), or `all` (a
 * file that holds the corpus in one piece). A split without a file of its own is cut from such a file: see
 * {@linkcode PARTS}; the record's `source` then names the lines.
 * @throws {UsageError} when the split is unknown, no file is found, or a record is malformed. */
export async function loadCorpus(
  corpus: Corpus,
  { data, split = corpus.evaluationSplit }: { data?: string; split?: string } = {},
): Promise<LoadedCorpus> {
  const own = corpus.splits[split === "calibration" ? corpus.calibrationSplit : split] ?? [];
  const part = Object.hasOwn(PARTS, split) ? PARTS[split] : undefined;
  const whole = part ? corpus.wholeFiles : [];
  const names = [...own, ...whole];
  if (names.length === 0) {
    const known = [...Object.keys(corpus.splits), "calibration", ...corpus.wholeFiles.length ? ["all"] : []];
    throw new UsageError(`Corpus "${corpus.id}" has no split "${split}": use one of ${known.join(", ")}`);
  }
  const path = findFile(corpus, data, names);
  if (path === undefined) throw missing(corpus, split, data, names);
  const record = z.looseObject({ [corpus.textField]: z.string() });
  const { records, sha256 } = await readRecords(path, {
    record,
    textField: corpus.textField,
    maxRecords: corpus.maxRecords,
  });
  const texts = records.map(({ value }) => value[corpus.textField] as string);
  const file = baseName(path);
  if (!part || own.includes(file)) return { texts, dataset: datasetUse(corpus, split, file, sha256) };

  const [from, to] = part.map((share) => cutAt(corpus, texts, share));
  if (from === to) {
    throw new FileFormatError(path, `has too few articles to cut the split "${split}" from: give --data its own file`);
  }
  const lines = `lines ${records[from].line}-${records[to - 1].line}`;
  return { texts: texts.slice(from, to), dataset: datasetUse(corpus, split, `${file}, ${lines}`, sha256) };
}
