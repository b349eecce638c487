/** The records of a task file: from files beside it, the user's data folder, or the Hugging Face cache.
 *
 * @module
 */
import { dirname, isAbsolute, join } from "node:path";
import { z } from "zod";
import { FileFormatError, MissingDataError } from "../../core/util/errors.ts";
import { isFile } from "../../core/util/paths.ts";
import type { DatasetUse } from "../../core/schema/schema.ts";
import type { HubSource } from "../define.ts";
import { cachedFile, cachedSplit, hubSettings, listFiles, selectSplit } from "../hub_cache.ts";
import { readRecords } from "../records.ts";
import type { TaskConfig } from "./config.ts";
import type { DataRow } from "./prompts.ts";

/** Where to look for data sets. */
interface Places {
  data?: string;
  cache?: string;
}

interface Found {
  paths: string[];
  source: string;
  revision: string | null;
}

/** Formats that `dataset_path` may name instead of a data set. */
const FORMATS = ["json", "parquet", "text"];
const LICENCE = "see the data set's card";
const ENDINGS = [".jsonl", ".parquet", ".jsonl.gz", ".json"];

/** `data_files` of one split. */
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

function locate(
  path: string,
  config: TaskConfig,
  split: string,
  { cache = hubSettings().cache }: Places,
): Found | undefined {
  const { dataset_path: name, dataset_name: subset } = config;
  const refuse = (problem: string) => new FileFormatError(path, problem);
  const isLocal = isLocalPath(name);
  const files = dataFiles(config, split);
  if (FORMATS.includes(name) || files) {
    if (!files) throw refuse(`dataset_kwargs.data_files has no file of the split "${split}"`);
    const found = files.map((file) => {
      const [, repo, inner] = HUB_FILE.exec(file) ?? [];
      if (repo !== undefined && inner !== undefined) return cachedFile(repo, inner, cache);
      if (/^\w+:\/\//.test(file)) throw refuse(`"${file}" is not on this machine: download it and name the file`);
      const base = FORMATS.includes(name) || !isLocal ? dirname(path) : join(dirname(path), name);
      const full = isAbsolute(file) ? file : join(base, file);
      if (!isFile(full)) throw new MissingDataError(`${path}: the data file "${full}" does not exist`);
      return full;
    });
    const present = found.filter((file) => file !== undefined);
    return present.length < found.length ? undefined : { paths: present, source: files.join(", "), revision: null };
  }
  if (isLocal) {
    const folder = isAbsolute(name) ? name : join(dirname(path), name);
    const names = selectSplit(listFiles(folder), { ...subset && { config: String(subset) }, split, exact: [] });
    return { paths: names.map((file) => join(folder, file)), source: names.join(", "), revision: null };
  }
  const cached = cachedSplit({ repo: name, ...subset && { config: String(subset) } }, { split, exact: [], cache });
  return cached &&
    { ...cached, source: cached.names.map((file) => `${name}/${file}`).join(", ") };
}

/** The split's files: the user's `TASK-SPLIT.jsonl` or `.parquet` first, then those of the task file.
 * @throws {MissingDataError} that says what was looked for and how to get it. */
function findFiles(path: string, config: TaskConfig, split: string, places: Places): Found {
  const { task, dataset_path: name } = config;
  const own = places.data === undefined
    ? undefined
    : ENDINGS.map((ending) => join(places.data ?? "", `${task}-${split}${ending}`)).find(isFile);
  if (own !== undefined) return { paths: [own], source: own.slice(own.lastIndexOf("/") + 1), revision: null };
  const found = locate(path, config, split, places);
  if (found && found.paths.length > 0) return found;
  const way = hubOf(config)
    ? `download it with bench fetch ${path}`
    : "download its files into the Hub's cache with hf download";
  throw new MissingDataError(
    `The split "${split}" of "${name}" for the task "${task}" (${path}) is not on this machine: ${way}, ` +
      `or give --data a folder with ${task}-${split}.jsonl or .parquet`,
  );
}

/** Rows with the columns of all rows; missing values are null. */
function withAllColumns(rows: readonly DataRow[]): DataRow[] {
  const columns = new Set(rows.flatMap((row) => Object.keys(row)));
  const empty = Object.fromEntries([...columns].map((column) => [column, null]));
  return rows.map((row) => Object.keys(row).length === columns.size ? row : { ...empty, ...row });
}

/** Records of a split with all columns, as in the harness. */
export async function readSplit(
  path: string,
  config: TaskConfig,
  split: string,
  places: Places,
): Promise<{ records: DataRow[]; dataset: DatasetUse }> {
  if (/[[\]+]/.test(split)) throw new FileFormatError(path, `parts of a split are not supported: current "${split}"`);
  const found = findFiles(path, config, split, places);
  const isText = config.dataset_path === "text";
  const { records, sha256 } = await readRecords(found.paths, {
    record: z.record(z.string(), z.unknown()),
    ...isText && { textField: "text" },
  });
  const rows = withAllColumns(records.map(({ value }): DataRow => value));
  // The text after the last line end is not a line.
  if (isText && rows.at(-1)?.text === "") rows.pop();
  const { source, revision } = found;
  return { records: rows, dataset: { id: config.task, split, source, revision, licence: LICENCE, sha256 } };
}
