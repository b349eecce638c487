/** Calibration statistics on disk, so that the levels of a sweep share them.
 *
 * @module
 */
import { join } from "node:path";
import { FileFormatError } from "../../core/util/errors.ts";
import { entry } from "../../core/util/indexing.ts";
import { isThere } from "../../core/util/paths.ts";
import { openSafetensors, writeSafetensors } from "../../core/formats/safetensors.ts";
import type { Statistics } from "../../methods/define.ts";
import { sha256OfJson } from "../../core/schema/cell_names.ts";
import { sha256OfWindows } from "../../models/training/teacher.ts";

/** Statistics of another version are computed again. */
const STATISTICS_VERSION = 4;

/** What statistics depend on besides their key. */
export interface CacheScope {
  /** SHA-256 of the weights, hex. */
  weights: string;
  engine: string;
  seed: number;
  /** Calibration windows, token ids. */
  calibration: readonly Int32Array[];
  /** SHA-256 of the method's file, hex, if it is the user's own. */
  methodFile?: string;
}

function readStatistics(path: string): Statistics | undefined {
  if (!isThere(path)) return undefined;
  try {
    const file = openSafetensors(path);
    try {
      return Object.fromEntries(file.tensors.keys().map((name) => [name, file.read(name)]));
    } finally {
      file.close();
    }
  } catch (error) {
    // A cache may be made again.
    if (error instanceof FileFormatError) return undefined;
    throw error;
  }
}

/** A `remember` function for methods that keeps statistics in `folder`. Processes that ask for the same statistics at
 * the same time compute them once: the others wait, in `waiting`. */
export function createCache(
  folder: string,
  { weights, engine, seed, calibration, methodFile }: CacheScope,
  waiting: <T>(work: () => Promise<T>) => Promise<T> = (work) => work(),
): (key: string, compute: () => Promise<Statistics>) => Promise<Statistics> {
  const scope = {
    schemaVersion: STATISTICS_VERSION,
    weights,
    engine,
    seed,
    windows: sha256OfWindows(calibration),
    methodFile,
  };
  return async (key, compute) => {
    const name = sha256OfJson({ ...scope, key }).slice(0, 16);
    Deno.mkdirSync(folder, { recursive: true });
    const path = join(folder, `${name}.safetensors`);
    using lock = Deno.openSync(join(folder, `${name}.lock`), { read: true, write: true, create: true });
    await waiting(() => lock.lock(true));
    const known = readStatistics(path);
    if (known) return known;
    const computed = await compute();
    writeSafetensors(path, {
      shapes: new Map(Object.entries(computed).map(([name, { shape }]) => [name, shape])),
      read: (name) => entry(computed, name).data,
      dtype: "F32",
      metadata: { key },
    });
    return computed;
  };
}
