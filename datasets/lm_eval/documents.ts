/** The records of a task file: from files beside it, the user's data folder, or the Hugging Face cache.
 *
 * @module
 */
import { dirname, isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import { FileFormatError, MissingDataError } from "../../core/util/errors.ts";
import { isFile } from "../../core/util/paths.ts";
import type { DatasetUse } from "../../core/schema/schema.ts";
import type { HubSource } from "../define.ts";
import { cachedFile, hubSettings, listFiles, selectSplit } from "../hub_cache.ts";
import { type DataPlaces, fileIn, findSplit, type FoundSplit } from "../load.ts";
import { readRecords } from "../records.ts";
import type { TaskConfig } from "./config.ts";
import type { DataRow } from "./prompts.ts";

/** Formats that `dataset_path` may name instead of a data set. */
const FORMATS = ["json", "parquet", "text"];

function dataFiles({ dataset_kwargs: kwargs }: TaskConfig, split: string): string[] | undefined {
  const files = kwargs?.data_files;
  if (!files) return undefined;
  if (typeof files === "string" || Array.isArray(files)) return split === "train" ? [files].flat() : undefined;
  const own = Object.hasOwn(files, split) ? files[split] : undefined;
  return own === undefined ? undefined : [own].flat();
}

/** `hf://datasets/OWNER/NAME/PATH` -> repository and path. */
const HUB_FILE = /^hf:\/\/datasets\/([^/]+\/[^/@]+)(?:@[^/]+)?\/(.+)$/;

/** The data set on the Hub; undefined if files or a folder hold the records. */
export function hubOf(
  { dataset_path: repo, dataset_name: subset, dataset_kwargs: kwargs }: TaskConfig,
): HubSource | undefined {
  if (FORMATS.includes(repo) || kwargs?.data_files || isLocalPath(repo)) return undefined;
  return { repo, ...subset && { config: String(subset) } };
}

const isLocalPath = (path: string) => isAbsolute(path) || /^\.\.?(\/|$)/.test(path);

/** The files that `data_files` names; undefined if the cache lacks one. */
function namedFiles(path: string, config: TaskConfig, split: string, cache: string): FoundSplit | undefined {
  const { dataset_path: name } = config;
  const refuse = (problem: string) => new FileFormatError(path, problem);
  const files = dataFiles(config, split);
  if (!files) throw refuse(`dataset_kwargs.data_files has no file of the split "${split}"`);
  const base = FORMATS.includes(name) || !isLocalPath(name) ? dirname(path) : join(dirname(path), name);
  const paths = files.flatMap((file) => {
    const [, repo, inner] = HUB_FILE.exec(file) ?? [];
    if (repo !== undefined && inner !== undefined) return cachedFile(repo, inner, cache) ?? [];
    if (/^\w+:\/\//.test(file)) throw refuse(`"${file}" is not on this machine: download it and name the file`);
    const full = resolve(base, file);
    if (!isFile(full)) throw new MissingDataError(`${path}: the data file "${full}" does not exist`);
    return full;
  });
  return paths.length < files.length ? undefined : { paths, source: files.join(", "), revision: null };
}

/** The split's files in a local folder; undefined if there are none. */
function folderFiles(path: string, config: TaskConfig, split: string): FoundSplit | undefined {
  const { dataset_path: name, dataset_name: subset } = config;
  const folder = resolve(dirname(path), name);
  const names = selectSplit(listFiles(folder), { ...subset && { config: String(subset) }, split, exact: [] });
  if (names.length === 0) return undefined;
  return { paths: names.map((file) => join(folder, file)), source: names.join(", "), revision: null };
}

/** The split's files: the user's `TASK-SPLIT.jsonl` or `.parquet` first, then those of the task file.
 * @throws {MissingDataError} that says what was looked for and how to get it. */
function findFiles(path: string, config: TaskConfig, split: string, places: DataPlaces): FoundSplit {
  const { task, dataset_path: name, dataset_kwargs: kwargs } = config;
  const names = [".jsonl", ".jsonl.gz", ".json"].map((ending) => `${task}-${split}${ending}`);
  const hub = hubOf(config);
  if (hub) return findSplit({ id: task, hub }, places, { split, names, hubSplit: split, fetched: path });
  const { data, cache = hubSettings().cache } = places;
  const found = fileIn(data, names) ??
    (FORMATS.includes(name) || kwargs?.data_files
      ? namedFiles(path, config, split, cache)
      : folderFiles(path, config, split));
  if (found) return found;
  throw new MissingDataError(
    `The split "${split}" of "${name}" for the task "${task}" (${path}) is not on this machine: download its files ` +
      `into the Hub's cache with hf download, or give --data a folder with ${task}-${split}.jsonl or .parquet`,
  );
}

/** Records of a split with the columns of all, as in the harness; missing values are null. */
export async function readSplit(
  path: string,
  config: TaskConfig,
  split: string,
  places: DataPlaces,
): Promise<{ records: DataRow[]; dataset: DatasetUse }> {
  if (/[[\]+]/.test(split)) throw new FileFormatError(path, `parts of a split are not supported: current "${split}"`);
  const found = findFiles(path, config, split, places);
  const isText = config.dataset_path === "text";
  const { records, sha256 } = await readRecords(found.paths, {
    record: z.record(z.string(), z.unknown()),
    ...isText && { textField: "text" },
  });
  const columns = new Set(records.flatMap(({ value }) => Object.keys(value)));
  const empty = Object.fromEntries([...columns].map((column) => [column, null]));
  const rows: DataRow[] = records.map(({ value }) =>
    Object.keys(value).length === columns.size ? value : { ...empty, ...value }
  );
  // The text after the last line end is not a line.
  if (isText && rows.at(-1)?.text === "") rows.pop();
  const { source, revision } = found;
  return {
    records: rows,
    dataset: { id: config.task, split, source, revision, licence: "see the data set's card", sha256 },
  };
}
