/** Downloads splits of data sets from the Hugging Face Hub into the cache that Python's libraries share, in their
 * layout: `blobs/<hash>`, `snapshots/<commit>/<path>` as links to them, and `refs/<branch>`. Every file's checksum is
 * compared with the Hub's; a file with another one is removed.
 *
 * @module
 */
import { datasetInfo, downloadFileToCacheDir, HubApiError, type ListFileEntry, listFiles } from "@huggingface/hub";
import { createHash } from "node:crypto";
import { basename, dirname, join } from "node:path";
import { sha256OfFiles } from "../core/formats/ranged_file.ts";
import { FileFormatError, UsageError } from "../core/util/errors.ts";
import { isSystemError } from "../core/util/paths.ts";
import type { HubSource } from "./define.ts";
import {
  cachedSplit,
  COMMIT,
  DEFAULT_REVISIONS,
  type HubFiles,
  type HubSettings,
  repositoryFolder,
  selectSplit,
} from "./hub_cache.ts";

interface FetchOptions {
  split: string;
  /** Names of files that are preferred to all others; see `selectSplit`. */
  exact: readonly string[];
  settings: HubSettings;
  /** Wait before the second attempt, doubled for the third; 1000 unless given. */
  retryMs?: number;
  report?(message: string): void;
}

const ATTEMPTS = 3;

interface Access {
  hubUrl: string;
  accessToken?: string;
}

function explain(repo: string, endpoint: string, error: unknown): Error {
  if (error instanceof UsageError || isSystemError(error)) return error;
  if (error instanceof HubApiError) {
    const { statusCode } = error;
    if (statusCode === 401 || statusCode === 403) {
      return new UsageError(
        `"${repo}" on ${endpoint} may not be read (${statusCode}): accept its terms there, and set HF_TOKEN`,
      );
    }
    if (statusCode === 404) {
      return new UsageError(
        `${endpoint} has no data set "${repo}" (404); a private one needs HF_TOKEN`,
      );
    }
    return new UsageError(`${endpoint} answered ${statusCode} for "${repo}": ${error.message}`);
  }
  return new UsageError(`"${repo}" cannot be fetched from ${endpoint} (HF_ENDPOINT): ${(error as Error).message}`);
}

/** Files of the repository at `commit`; with a configuration those of its folder, if there is one. */
async function repositoryFiles({ repo, config }: HubSource, commit: string, access: Access): Promise<ListFileEntry[]> {
  const list = (path?: string) =>
    Array.fromAsync(
      listFiles({ ...access, repo: { type: "dataset", name: repo }, revision: commit, path, recursive: true }),
    );
  if (config === undefined) return await list();
  try {
    return await list(config);
  } catch (error) {
    if (!(error instanceof HubApiError && error.statusCode === 404)) throw error;
    return await list();
  }
}

/** Whether a file has the hash that the Hub names: SHA-256 of large files, Git's blob hash of the others. */
function isWhole(path: string, { lfs, oid, size }: ListFileEntry): boolean {
  if (lfs) return sha256OfFiles([path]) === lfs.oid;
  return createHash("sha1").update(`blob ${size}\0`).update(Deno.readFileSync(path)).digest("hex") === oid;
}

/** Brings one file into the cache, whole or not at all.
 * @throws {FileFormatError} when its checksum stays wrong. */
async function fetchFile(
  entry: ListFileEntry,
  { repo, commit, access, options }: { repo: string; commit: string; access: Access; options: FetchOptions },
): Promise<void> {
  const { settings, retryMs = 1000, report } = options;
  for (let attempt = 1;; attempt++) {
    let problem: unknown;
    try {
      const link = await downloadFileToCacheDir({
        ...access,
        // Not Hugging Face's own protocol: mirrors do not offer it.
        ...{ xet: false },
        repo: { type: "dataset", name: repo },
        path: entry.path,
        revision: commit,
        cacheDir: settings.cache,
      });
      if (isWhole(link, entry)) return;
      Deno.removeSync(Deno.realPathSync(link));
      Deno.removeSync(link);
      problem = new FileFormatError(`${repo}/${entry.path}`, "the data does not match the checksum of the Hub");
    } catch (error) {
      problem = error;
    }
    // The Hub would give the same answer again; a broken connection may not break again.
    const isFinal = problem instanceof Deno.errors.NotCapable ||
      problem instanceof HubApiError && problem.statusCode < 500;
    if (isFinal || attempt === ATTEMPTS) throw problem;
    report?.(`${entry.path}: ${(problem as Error).message}; trying again`);
    await new Promise((done) => setTimeout(done, retryMs * 2 ** (attempt - 1)));
  }
}

/** Runs `work` while no other process fetches the same repository. */
async function inTurn<T>(repository: string, work: () => Promise<T>): Promise<T> {
  const path = join(dirname(repository), ".locks", `${basename(repository)}.lock`);
  Deno.mkdirSync(dirname(path), { recursive: true });
  using lock = Deno.openSync(path, { write: true, create: true });
  await lock.lock(true);
  return await work();
}

/** Downloads a split of `hub` into the cache, unless it is there, and returns its files.
 *
 * The commit of the branch is kept under `refs`, so that later runs read the same.
 * @throws {UsageError} when the data set or the split does not exist or may not be read, the Hub cannot
 *   be reached, or `HF_HUB_OFFLINE` is set and the cache lacks the split.
 * @throws {FileFormatError} when a file's checksum stays wrong. */
export async function fetchSplit(hub: HubSource, options: FetchOptions): Promise<HubFiles> {
  const { split, exact, settings, report } = options;
  const { cache, endpoint, isOffline, token } = settings;
  const cached = cachedSplit(hub, { split, exact, cache });
  if (cached) return cached;
  if (isOffline) {
    throw new UsageError(
      `"${hub.repo}" (${split}) is not in the cache "${cache}", and HF_HUB_OFFLINE forbids its download`,
    );
  }
  if (token !== undefined && !token.startsWith("hf_")) throw new UsageError("HF_TOKEN must begin with hf_");
  const access: Access = { hubUrl: endpoint, ...token !== undefined && { accessToken: token } };
  const repository = repositoryFolder(cache, hub.repo);
  const fetchAll = async (): Promise<HubFiles | undefined> => {
    // Another process may have fetched it meanwhile.
    const cached = cachedSplit(hub, { split, exact, cache });
    if (cached) return cached;
    for (const revision of DEFAULT_REVISIONS) {
      const commit = await commitOf(hub.repo, revision, access);
      if (commit === undefined) continue;
      const entries = await repositoryFiles(hub, commit, access);
      const names = selectSplit(entries.map(({ path }) => path), { config: hub.config, split, exact });
      if (names.length === 0) continue;
      for (const entry of names.flatMap((name) => entries.filter(({ path }) => path === name))) {
        report?.(`${hub.repo}: ${entry.path}`);
        await fetchFile(entry, { repo: hub.repo, commit, access, options });
      }
      const ref = join(repository, "refs", revision);
      Deno.mkdirSync(dirname(ref), { recursive: true });
      Deno.writeTextFileSync(ref, commit);
      const snapshot = join(repository, "snapshots", commit);
      return { paths: names.map((name) => join(snapshot, name)), names, revision: commit };
    }
  };
  try {
    const fetched = await inTurn(repository, fetchAll);
    if (fetched) return fetched;
  } catch (error) {
    throw explain(hub.repo, endpoint, error);
  }
  const where = hub.config === undefined ? "" : ` of the configuration "${hub.config}"`;
  throw new UsageError(`"${hub.repo}" on ${endpoint} has no Parquet or JSON Lines file for the ${split} split${where}`);
}

/** The commit of a branch; undefined when it does not exist and is not the main one. */
async function commitOf(repo: string, revision: string, access: Access): Promise<string | undefined> {
  try {
    const { sha } = await datasetInfo({ ...access, name: repo, revision, additionalFields: ["sha"] });
    if (!COMMIT.test(sha)) throw new UsageError(`${access.hubUrl} names the commit "${sha}" of "${repo}"`);
    return sha;
  } catch (error) {
    if (revision !== "main" && error instanceof HubApiError && error.statusCode === 404) return undefined;
    throw error;
  }
}
