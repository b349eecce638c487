/** Calibration statistics on disk, shared by the levels of a sweep.
 *
 * @module
 */
import { join } from "node:path";
import { FileFormatError } from "../../core/util/errors.ts";
import { isThere } from "../../core/util/paths.ts";
import { readTensorFile, writeTensorFile } from "../../core/formats/safetensors.ts";
import type { Statistics } from "../../methods/define.ts";
import { sha256OfJson } from "../../core/util/canonical_json.ts";
import { hashWindows } from "../../models/training/teacher.ts";

/** Statistics of other versions are not read. */
const STATISTICS_VERSION = 4;

/** Everything that statistics depend on besides their key: the weights' hash, engine, seed, method, and the calibration
 * windows as token ids. */
export type CacheScope = { calibration: readonly Int32Array[] } & Record<string, unknown>;

function readStatistics(path: string): Statistics | undefined {
  if (!isThere(path)) return undefined;
  try {
    return Object.fromEntries(readTensorFile(path));
  } catch (error) {
    // Damaged statistics are computed again.
    if (error instanceof FileFormatError) return undefined;
    throw error;
  }
}

/** A `remember` function that keeps statistics in `folder`. If several processes ask for the same ones at the same
 * time, one computes them and the others wait, within `waiting`. */
export function createCache(
  folder: string,
  { calibration, ...others }: CacheScope,
  waiting: <T>(work: () => Promise<T>) => Promise<T> = (work) => work(),
): (key: string, compute: () => Promise<Statistics>, forAll?: boolean) => Promise<Statistics> {
  const own = { schemaVersion: STATISTICS_VERSION, ...others, windows: hashWindows(calibration) };
  return async (key, compute, forAll = false) => {
    const scope = forAll ? { ...own, methodFile: undefined, methodVersion: undefined } : own;
    const name = sha256OfJson({ ...scope, key }).slice(0, 16);
    Deno.mkdirSync(folder, { recursive: true });
    const path = join(folder, `${name}.safetensors`);
    using lock = Deno.openSync(join(folder, `${name}.lock`), { read: true, write: true, create: true });
    await waiting(() => lock.lock(true));
    const known = readStatistics(path);
    if (known) return known;
    const computed = await compute();
    writeTensorFile(path, new Map(Object.entries(computed)), { key });
    return computed;
  };
}
