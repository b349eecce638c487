/** Finds and reads the files of a data set: examples of a task, texts of a corpus.
 *
 * @module
 */
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { FileFormatError, MissingDataError, UsageError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import { isFile } from "../core/util/paths.ts";
import type { DatasetUse } from "../core/schema/schema.ts";
import {
  type AnyTask,
  type Corpus,
  type DataSource,
  type Example,
  type LoadedTask,
  PARTS,
  splitFile,
  type Task,
} from "./define.ts";
import { FEWSHOT_SPLIT, withFewshot } from "./fewshot.ts";
import { cachedSplit, hubSettings } from "./hub_cache.ts";
import { readRecords } from "./records.ts";

/** Where to look for data sets. */
export interface DataPlaces {
  /** Folder of the user; searched first. */
  data?: string;
  /** Hugging Face cache; default that of the environment. */
  cache?: string;
}

/** The files of a split. */
export interface FoundSplit {
  paths: string[];
  /** Their names in records of results. */
  source: string;
  /** Commit on the Hub; null for files of the user or of the project. */
  revision: string | null;
}

/** Names of files, and of their Parquet versions. */
const withParquet = (names: readonly string[]) =>
  names.flatMap((name) => name.endsWith(".jsonl") ? [name, name.replace(/jsonl$/, "parquet")] : [name]);

/** The first file of `folder` with one of `names`, or with that name as Parquet. */
export function fileIn(folder: string | undefined, names: readonly string[]): FoundSplit | undefined {
  if (folder === undefined) return undefined;
  const path = withParquet(names).map((name) => join(folder, name)).find(isFile);
  return path === undefined ? undefined : { paths: [path], source: basename(path), revision: null };
}

/** Finds a split in the data set's own folder, in the user's, then in the Hugging Face cache. `hubSplit`: the split's
 * name on the Hub, if it is there. `names`: possible names of the file. `fetched`: its name for `bench fetch`, default
 * the data set's id.
 * @throws {MissingDataError} that says what was looked for and how to get it. */
export function findSplit(
  { id, folder, hub }: Pick<DataSource, "id" | "folder" | "hub">,
  { data, cache = hubSettings().cache }: DataPlaces,
  { split, names, hubSplit, fetched = id }: {
    split: string;
    names: readonly string[];
    hubSplit?: string;
    fetched?: string;
  },
): FoundSplit {
  const found = fileIn(folder ? fileURLToPath(folder) : data, names);
  if (found) return found;
  const cached = hub && hubSplit !== undefined && cachedSplit(hub, { split: hubSplit, exact: names, cache });
  if (cached) {
    const { paths, names, revision } = cached;
    return { paths, source: names.map((name) => `${hub.repo}/${name}`).join(", "), revision };
  }
  const place = folder ? " in its folder" : data === undefined ? "" : ` in "${data}"`;
  const advice = hub
    ? `; \`bench fetch ${fetched}\` downloads it from Hugging Face ` +
      `(${hub.repo}${hub.config ? `, ${hub.config}` : ""}), or give --data a folder with it`
    : "";
  throw new MissingDataError(
    `The ${split} split of "${id}" was not found${place}: looked for ${withParquet(names).join(", ")}${advice}`,
  );
}

function datasetUse({ id, licence }: DataSource, split: string, found: FoundSplit, sha256: string): DatasetUse {
  return { id, split, source: found.source, revision: found.revision, licence, sha256 };
}

async function readExamples<Schema extends z.ZodType>(
  task: Task<Schema>,
  found: FoundSplit,
): Promise<{ examples: Example[]; records: unknown[]; sha256: string }> {
  const { records, sha256 } = await readRecords(found.paths, { record: task.record });
  const examples = records.map(({ line, value }) => {
    try {
      return task.toExample(value);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new FileFormatError(found.paths.join(", "), `line ${line}: ${error.message}`);
    }
  });
  return { examples, records: records.map(({ raw }) => raw), sha256 };
}

/** Reads the scored split of `task` from its own folder, from the folder `data`, or from the Hugging Face cache. Every
 * record is checked, also those after `limit`. `fewshot`: solved examples of the training split before each context;
 * see `fewshot.ts`.
 * @throws {UsageError} when no file is found, or a record is malformed (with file, line and field). */
export async function loadTask(
  task: AnyTask,
  options: DataPlaces & { limit?: number; fewshot?: number } = {},
): Promise<LoadedTask> {
  if ("load" in task) return await task.load(options);
  const { limit, fewshot = 0, ...places } = options;
  const found = findSplit(task, places, { split: task.split, names: task.files, hubSplit: task.split });
  const all = await readExamples(task, found);
  const loaded: LoadedTask = {
    examples: all.examples.slice(0, limit),
    records: all.records.slice(0, limit),
    total: all.examples.length,
    numFewshot: fewshot,
    dataset: datasetUse(task, task.split, found, all.sha256),
  };
  if (fewshot === 0) return loaded;
  if (task.folder) {
    throw new UsageError(
      `Task "${task.id}" has no training split to draw ${fewshot} examples from: use no examples (0)`,
    );
  }
  const foundTrain = findSplit(task, places, {
    split: FEWSHOT_SPLIT,
    names: [splitFile(task.id, FEWSHOT_SPLIT)],
    hubSplit: FEWSHOT_SPLIT,
    fetched: `${task.id}/${FEWSHOT_SPLIT}`,
  });
  const train = await readExamples(task, foundTrain);
  return {
    ...loaded,
    examples: withFewshot(loaded, train, { count: fewshot, excludes: task.split !== "test" }),
    fewshotDataset: datasetUse(task, FEWSHOT_SPLIT, foundTrain, train.sha256),
  };
}

/** Index of the record nearest to `share` of all where the file may be cut. */
function cutAt(corpus: Corpus, texts: readonly string[], share: number): number {
  const wanted = Math.round(share * texts.length);
  const mayCut = (i: number) => i === 0 || i === texts.length || (corpus.startsArticle?.(at(texts, i)) ?? true);
  for (let distance = 0; distance <= texts.length; distance++) {
    for (const index of [wanted + distance, wanted - distance]) {
      if (index >= 0 && index <= texts.length && mayCut(index)) return index;
    }
  }
  return wanted;
}

/** Reads `split` of `corpus` from its own folder, from the folder `data`, or from the Hugging Face cache.
 *
 * `split` is one of the corpus's splits, `calibration` (its calibration split), or `all` (a file with the whole
 * corpus). A split without a file of its own is cut from the whole file: see {@linkcode PARTS}. The record's `source`
 * then names the lines.
 * @throws {UsageError} when the split is unknown, no file is found, or a record is malformed. */
export async function loadCorpus(
  corpus: Corpus,
  { split = corpus.evaluationSplit, ...places }: DataPlaces & { split?: string } = {},
): Promise<{ texts: string[]; dataset: DatasetUse }> {
  const named = split === "calibration" ? corpus.calibrationSplit : split;
  const own = corpus.splits[named] ?? [];
  const part = Object.hasOwn(PARTS, split) ? PARTS[split] : undefined;
  const { wholeFiles = [] } = corpus;
  const whole = part ? wholeFiles : [];
  const names = [...own, ...whole];
  if (names.length === 0) {
    const known = [...Object.keys(corpus.splits), "calibration", ...wholeFiles.length ? ["all"] : []];
    throw new UsageError(`Corpus "${corpus.id}" has no split "${split}": use one of ${known.join(", ")}`);
  }
  const found = findSplit(corpus, places, { split, names, hubSplit: own.length > 0 ? named : undefined });
  const record = z.looseObject({ [corpus.textField]: z.string() });
  const { records, sha256 } = await readRecords(found.paths, {
    record,
    textField: corpus.textField,
    maxRecords: corpus.maxRecords,
  });
  const texts = records.map(({ value }) => value[corpus.textField] as string);
  const isWhole = part && found.revision === null && !withParquet(own).includes(found.source);
  if (!isWhole) return { texts, dataset: datasetUse(corpus, split, found, sha256) };

  const [from, to] = [cutAt(corpus, texts, part[0]), cutAt(corpus, texts, part[1])];
  if (from === to) {
    throw new FileFormatError(
      found.paths.join(", "),
      `has too few articles for the split "${split}": give --data a file of that split`,
    );
  }
  const source = `${found.source}, lines ${at(records, from).line}-${at(records, to - 1).line}`;
  return { texts: texts.slice(from, to), dataset: datasetUse(corpus, split, { ...found, source }, sha256) };
}
