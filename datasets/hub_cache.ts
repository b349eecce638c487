/** Data sets in the Hugging Face cache, shared with Python's libraries: its place, and the files of a split. Nothing
 * here uses the network; see `hub_fetch.ts`.
 *
 * @module
 */
import { ifThere } from "../core/util/paths.ts";
import { join } from "node:path";
import type { HubSource } from "./define.ts";

/** Settings from the variables of Python's libraries. */
export interface HubSettings {
  /** Folder of the cache: `HF_HUB_CACHE`, `HF_HOME/hub`, or `huggingface/hub` in the user's cache folder. */
  cache: string;
  /** `HF_ENDPOINT`. */
  endpoint: string;
  /** `HF_HUB_OFFLINE`: no downloads. */
  isOffline: boolean;
  /** `HF_TOKEN`. */
  token?: string;
}

/** Settings from the environment. */
export function hubSettings(env: (name: string) => string | undefined = Deno.env.get): HubSettings {
  const home = env("HOME") ?? env("USERPROFILE") ?? ".";
  const value = (name: string) => env(name)?.trim() || undefined;
  const folder = (name: string) => value(name)?.replace(/^~(?=$|\/)/, home);
  const hfHome = folder("HF_HOME") ?? join(folder("XDG_CACHE_HOME") ?? join(home, ".cache"), "huggingface");
  return {
    cache: folder("HF_HUB_CACHE") ?? folder("HUGGINGFACE_HUB_CACHE") ?? join(hfHome, "hub"),
    endpoint: (value("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, ""),
    isOffline: /^(1|on|yes|true)$/i.test(value("HF_HUB_OFFLINE") ?? ""),
    ...value("HF_TOKEN") !== undefined && { token: value("HF_TOKEN") },
  };
}

/** A split on this machine. */
export interface HubFiles {
  /** Full paths, in the order of the records. */
  paths: string[];
  /** Paths in the repository. */
  names: string[];
  revision: string;
}

/** Branches that are searched in this order if a data set names no commit: the authors' files, then the Hub's
 * conversion to Parquet for data sets that come as a program. */
export const DEFAULT_REVISIONS = ["main", "refs/convert/parquet"] as const;

/** A commit's full name. */
export const COMMIT = /^[0-9a-f]{40}$/;

const SPLIT_WORDS: Record<string, string> = {
  train: "train|training",
  validation: "validation|valid|val|dev",
  test: "test|testing|eval",
};

const DATA_FILE = /\.(parquet|jsonl|json|jsonl\.gz|json\.gz)$/;

/** The files of `split` in a repository, in order; empty if there are none.
 *
 * A file with one of the names `exact` is preferred. Otherwise the rule of Python's `datasets` holds: with a
 * configuration, files in the folder of that name; the split's name as a separate word in a folder's or a file's name.
 * Parquet is preferred to JSON Lines. */
export function selectSplit(
  files: readonly string[],
  { config, split, exact }: { config?: string; split: string; exact: readonly string[] },
): string[] {
  const inConfig = files.filter((file) =>
    DATA_FILE.test(file) && (config === undefined || file.split("/").slice(0, -1).includes(config))
  );
  const named = exact.flatMap((name) => inConfig.filter((file) => file.split("/").pop() === name));
  if (named.length > 0) return named.slice(0, 1);
  const word = new RegExp(`(^|[^a-z0-9])(${SPLIT_WORDS[split] ?? split})([^a-z0-9]|$)`, "i");
  const matching = inConfig.filter((file) => word.test(file)).sort();
  const parquet = matching.filter((file) => file.endsWith(".parquet"));
  return parquet.length > 0 ? parquet : matching;
}

/** Folder of a data set's repository in the cache. */
export function repositoryFolder(cache: string, repo: string): string {
  return join(cache, `datasets--${repo.replaceAll("/", "--")}`);
}

/** All files below `folder` as paths with `/`; none when it does not exist. */
export function listFiles(folder: string, prefix = ""): string[] {
  return ifThere(() => [...Deno.readDirSync(folder)], []).flatMap(({ name, isDirectory }) =>
    isDirectory ? listFiles(join(folder, name), `${prefix}${name}/`) : [`${prefix}${name}`]
  );
}

function cachedCommit(repository: string, revision: string): string | undefined {
  try {
    const commit = Deno.readTextFileSync(join(repository, "refs", revision)).trim();
    return COMMIT.test(commit) ? commit : undefined;
  } catch {
    return undefined;
  }
}

/** Folders of the cached commits of a data set's default branches. */
function cachedSnapshots({ repo }: HubSource, cache: string): { folder: string; commit: string }[] {
  const repository = repositoryFolder(cache, repo);
  return DEFAULT_REVISIONS.flatMap((name) => {
    const commit = cachedCommit(repository, name);
    return commit === undefined ? [] : [{ folder: join(repository, "snapshots", commit), commit }];
  });
}

/** A split of `hub` in the cache, or undefined. `exact`: see {@linkcode selectSplit}. */
export function cachedSplit(
  hub: HubSource,
  { split, exact, cache }: { split: string; exact: readonly string[]; cache: string },
): HubFiles | undefined {
  for (const { folder, commit } of cachedSnapshots(hub, cache)) {
    const names = selectSplit(listFiles(folder), { config: hub.config, split, exact });
    // A cache may lack some of the files that the names count: `test-00000-of-00002.parquet`.
    const [, count = names.length] = /-\d{5}-of-(\d{5})\.parquet$/.exec(names[0] ?? "") ?? [];
    if (names.length === 0 || Number(count) !== names.length) continue;
    return { paths: names.map((name) => join(folder, name)), names, revision: commit };
  }
  return undefined;
}

/** The cached file `name` of the data set `repo`, if there is one. */
export function cachedFile(repo: string, name: string, cache: string): string | undefined {
  const snapshot = cachedSnapshots({ repo }, cache).find(({ folder }) => listFiles(folder).includes(name));
  return snapshot && join(snapshot.folder, name);
}
