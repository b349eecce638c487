/** Downloads splits of data sets from the Hugging Face Hub into the cache that Python's libraries share, in their layout:
 * `blobs/<hash>`, `snapshots/<commit>/<path>` as links to them, and `refs/<branch>`.
 *
 * A file appears in the cache only when its checksum is right; a transfer that breaks off is resumed where it stopped,
 * in the same call or a later one.
 *
 * @module
 */
import { datasetInfo, downloadFile, HubApiError, type ListFileEntry, listFiles } from "@huggingface/hub";
import { createHash, type Hash } from "node:crypto";
import { dirname, join, relative } from "node:path";
import { FileFormatError, UsageError } from "../core/util/errors.ts";
import { isThere } from "../core/util/paths.ts";
import type { HubSource } from "./define.ts";
import {
  cachedSplit,
  COMMIT,
  DEFAULT_REVISIONS,
  type HubFiles,
  type HubSettings,
  repositoryFolder,
  safeName,
  selectSplit,
} from "./hub_cache.ts";

/** What to fetch, and how. */
export interface FetchOptions {
  split: string;
  /** Names of files that are taken before all others; see `selectSplit`. */
  exact: readonly string[];
  settings: HubSettings;
  /** How often a transfer is tried; 5 by default. */
  attempts?: number;
  /** Wait before the second attempt, doubled for each further one; 1000 by default. */
  retryMs?: number;
  /** Called with what is done. */
  report?(message: string): void;
}

/** What a call to the Hub needs. */
interface Access {
  hubUrl: string;
  accessToken?: string;
}

/** The reason of a failed call, as advice. */
function explain(repo: string, endpoint: string, error: unknown): Error {
  if (error instanceof UsageError) return error;
  if (error instanceof HubApiError) {
    const { statusCode } = error;
    if (statusCode === 401 || statusCode === 403) {
      return new UsageError(
        `"${repo}" on ${endpoint} may not be read (${statusCode}): accept its terms there if it has any, and set HF_TOKEN`,
      );
    }
    if (statusCode === 404) {
      return new UsageError(
        `${endpoint} has no data set "${repo}" with that revision (404); a private one needs HF_TOKEN`,
      );
    }
    return new UsageError(`${endpoint} answered ${statusCode} for "${repo}": ${error.message}`);
  }
  if (error instanceof TypeError || error instanceof Deno.errors.NotCapable) {
    return new UsageError(`"${repo}" cannot be fetched from ${endpoint}: ${error.message}`);
  }
  return error as Error;
}

/** Files of the repository at `commit`; with a configuration those of its folder, if there is one. */
async function repositoryFiles(
  { repo, config }: HubSource,
  commit: string,
  access: Access,
): Promise<ListFileEntry[]> {
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

/** The hash that the Hub names a file by: SHA-256 of large files, Git's blob hash of the others. */
function expectedHash({ lfs, oid, size, path }: ListFileEntry): { etag: string; create: () => Hash } {
  if (lfs) return { etag: lfs.oid, create: () => createHash("sha256") };
  if (!oid) throw new UsageError(`The Hub gives no checksum for the file "${path}"`);
  return { etag: oid, create: () => createHash("sha1").update(`blob ${size}\0`) };
}

/** Updates `hash` with the whole file; returns its size. */
function hashOpenFile(file: Deno.FsFile, hash: Hash): number {
  const buffer = new Uint8Array(1 << 20);
  let size = 0;
  file.seekSync(0, Deno.SeekMode.Start);
  for (let count = file.readSync(buffer); count !== null; count = file.readSync(buffer)) {
    hash.update(buffer.subarray(0, count));
    size += count;
  }
  return size;
}

/** Appends what is missing of the entry to `file`.
 * @returns whether the file is complete and right */
async function transfer(
  file: Deno.FsFile,
  entry: ListFileEntry,
  { repo, commit, access }: { repo: string; commit: string; access: Access },
): Promise<boolean> {
  const { etag, create } = expectedHash(entry);
  const size = entry.lfs?.size ?? entry.size;
  const hash = create();
  let done = hashOpenFile(file, hash);
  if (done > size) {
    file.truncateSync(0);
    return false;
  }
  if (done < size) {
    const blob = await downloadFile({
      ...access,
      repo: { type: "dataset", name: repo },
      path: entry.path,
      revision: commit,
      // The plain way with redirects: it can be resumed, and a mirror offers it too.
      xet: false,
    });
    if (!blob) throw new UsageError(`${access.hubUrl} has no file "${entry.path}" in "${repo}"`);
    for await (const chunk of (done === 0 ? blob : blob.slice(done)).stream()) {
      hash.update(chunk);
      done += chunk.length;
      for (let rest = chunk; rest.length > 0;) rest = rest.subarray(file.writeSync(rest));
    }
  }
  return done === size && hash.digest("hex") === etag;
}

const wait = (ms: number) => new Promise((done) => setTimeout(done, ms));

/** Brings one file into the cache.
 * @throws {UsageError} when it cannot be had.
 * @throws {FileFormatError} when its checksum stays wrong. */
async function fetchFile(
  entry: ListFileEntry,
  { repository, repo, commit, access, options }: {
    repository: string;
    repo: string;
    commit: string;
    access: Access;
    options: FetchOptions;
  },
): Promise<void> {
  const { attempts = 5, retryMs = 1000, report } = options;
  const { etag } = expectedHash(entry);
  const blob = join(repository, "blobs", safeName(etag));
  const link = join(repository, "snapshots", commit, safeName(entry.path));
  Deno.mkdirSync(dirname(blob), { recursive: true });
  Deno.mkdirSync(dirname(link), { recursive: true });
  const incomplete = `${blob}.incomplete`;
  using file = Deno.openSync(incomplete, { read: true, write: true, create: true });
  // Two processes that want the same file take turns; the second one then finds it.
  await file.lock(true);
  for (let attempt = 1; !isThere(blob); attempt++) {
    let problem: unknown;
    try {
      if (await transfer(file, entry, { repo, commit, access })) {
        file.syncSync();
        Deno.renameSync(incomplete, blob);
        break;
      }
      problem = new FileFormatError(
        `${repo}/${entry.path}`,
        `what the Hub sends has not the size and checksum that it names (${etag})`,
      );
      file.truncateSync(0);
    } catch (error) {
      problem = error;
      // An answer of the Hub stays the same; a broken connection may not.
      if (error instanceof UsageError || error instanceof Deno.errors.NotCapable) throw error;
      if (error instanceof HubApiError && error.statusCode < 500) throw error;
    }
    if (attempt >= attempts) {
      if (problem instanceof FileFormatError) Deno.removeSync(incomplete);
      throw problem instanceof Error
        ? problem
        : new UsageError(`${repo}/${entry.path}: the transfer broke off: ${problem}`);
    }
    report?.(`${entry.path}: ${problem instanceof Error ? problem.message : problem}; trying again`);
    await wait(retryMs * 2 ** (attempt - 1));
  }
  if (!isThere(link)) {
    try {
      Deno.removeSync(link);
    } catch { /* it was never there */ }
    linkOrCopy(blob, link);
  }
  if (isThere(incomplete)) Deno.removeSync(incomplete);
}

function linkOrCopy(blob: string, link: string): void {
  try {
    Deno.symlinkSync(relative(dirname(link), blob), link);
  } catch {
    // Windows allows links to some users only.
    Deno.copyFileSync(blob, link);
  }
}

/** Fetches a split of `hub` into the cache, unless it is there, and gives its files.
 *
 * Without a pinned revision the commit that the branch has today is taken; it is remembered under `refs`, so that later
 * runs read the same.
 * @throws {UsageError} when the data set, the revision or the split does not exist or may not be read, the Hub cannot be
 * reached, or `HF_HUB_OFFLINE` is set and the cache lacks the split.
 * @throws {FileFormatError} when a file's checksum stays wrong. */
export async function fetchSplit(hub: HubSource, options: FetchOptions): Promise<HubFiles> {
  const { split, exact, settings, report } = options;
  const { cache, endpoint, isOffline, token } = settings;
  const cached = cachedSplit(hub, { split, exact, cache });
  if (cached) return cached;
  if (isOffline) {
    throw new UsageError(
      `"${hub.repo}" (${split}) is not in the cache "${cache}", and HF_HUB_OFFLINE forbids fetching it`,
    );
  }
  if (token !== undefined && !token.startsWith("hf_")) {
    throw new UsageError("HF_TOKEN must begin with hf_");
  }
  const access: Access = { hubUrl: endpoint, ...token === undefined ? {} : { accessToken: token } };
  const repository = repositoryFolder(cache, hub.repo);
  try {
    for (const revision of hub.revision ? [hub.revision] : DEFAULT_REVISIONS) {
      const commit = await commitOf(hub.repo, revision, access, hub.revision !== undefined || revision === "main");
      if (commit === undefined) continue;
      const entries = await repositoryFiles(hub, commit, access);
      const names = selectSplit(entries.map(({ path }) => path), { config: hub.config, split, exact });
      if (names.length === 0) continue;
      for (const name of names) {
        report?.(`${hub.repo}: ${name}`);
        const entry = entries.find(({ path }) => path === name)!;
        await fetchFile(entry, { repository, repo: hub.repo, commit, access, options });
      }
      if (revision !== commit) writeRef(repository, revision, commit);
      const snapshot = join(repository, "snapshots", commit);
      return { paths: names.map((name) => join(snapshot, name)), names, revision: commit };
    }
  } catch (error) {
    throw explain(hub.repo, endpoint, error);
  }
  const where = hub.config === undefined ? "" : ` of the configuration "${hub.config}"`;
  throw new UsageError(`"${hub.repo}" on ${endpoint} has no Parquet or JSON Lines file for the ${split} split${where}`);
}

/** The commit of a branch; undefined when it does not exist and need not. */
async function commitOf(
  repo: string,
  revision: string,
  access: Access,
  isNeeded: boolean,
): Promise<string | undefined> {
  if (COMMIT.test(revision)) return revision;
  try {
    const { sha } = await datasetInfo({ ...access, name: repo, revision, additionalFields: ["sha"] });
    if (!COMMIT.test(sha)) throw new UsageError(`${access.hubUrl} names the commit "${sha}" of "${repo}"`);
    return sha;
  } catch (error) {
    if (!isNeeded && error instanceof HubApiError && error.statusCode === 404) return undefined;
    throw error;
  }
}

function writeRef(repository: string, revision: string, commit: string): void {
  const path = join(repository, "refs", revision);
  Deno.mkdirSync(dirname(path), { recursive: true });
  Deno.writeTextFileSync(path, commit);
}
