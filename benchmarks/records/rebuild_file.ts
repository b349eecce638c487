/** What makes a cell's model again, kept in the folder of its run: adapters, kept masks and the windows of compensation, a
 * few per cent of the model's weights. The units that stay are in the record.
 *
 * @module
 */
import { join } from "node:path";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import { FileFormatError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { openSafetensors, writeSafetensors } from "../../core/formats/safetensors.ts";
import type { DoneRecord, StoredRebuild } from "../../core/schema/schema.ts";
import type { DecoderConfig, HostTensor } from "../../models/config.ts";
import { type Rebuild, rebuildOf, rebuildTensors } from "../../models/training/rebuild.ts";
import { keptFile } from "./kept_file.ts";
import { runPaths } from "./store.ts";

/** Name of the calibration windows, [sequences, tokens], token ids as f32, which holds them exactly. */
const WINDOWS = "windows";

/** Writes `weights/NAME.rebuild.safetensors` in the run's folder, whole or not at all. */
export function storeRebuild(out: string, named: NamedCell, rebuild: Rebuild): StoredRebuild {
  const folder = runPaths(out).weights;
  Deno.mkdirSync(folder, { recursive: true });
  const file = `${cellName(named)}.rebuild.safetensors`;
  const path = join(folder, file);
  const tensors = rebuildTensors(rebuild);
  const { windows, learned, recovered } = rebuild;
  const [first] = windows;
  if (first) {
    const data = Float32Array.from(windows.flatMap((ids) => [...ids]));
    tensors.set(WINDOWS, { shape: [windows.length, first.length], data });
  }
  writeSafetensors(path, {
    shapes: new Map([...tensors].map(([name, { shape }]) => [name, shape])),
    read: (name) => tensors.get(name)?.data ?? new Float32Array(),
    dtype: "F32",
    metadata: { cell: named.id },
  });
  const stage = {
    compensated: windows.length > 0,
    ...learned && { learned: learned.scale },
    ...recovered && { recovered: recovered.scale },
  };
  return { file, sizeBytes: Deno.statSync(path).size, sha256: sha256OfFiles([path]), stages: [stage] };
}

/** What {@linkcode storeRebuild} kept for a record of a cell of a model of shape `dense`.
 * @throws {UsageError} when the file is missing.
 * @throws {FileFormatError} when it is not the file that the record names, or does not fit model and plan. */
export function openRebuild(
  out: string,
  { rebuild, plan }: Pick<DoneRecord, "plan"> & { rebuild: StoredRebuild },
  dense: DecoderConfig,
): Rebuild {
  const path = keptFile(out, rebuild);
  const tensors = readTensors(path);
  try {
    const windows = windowsOf(tensors, dense.vocabSize);
    const { compensated, learned, recovered } = at(rebuild.stages, 0);
    if (compensated !== windows.length > 0) {
      throw new RangeError("windows must be there where least squares corrected maps, and only there");
    }
    return rebuildOf({ plan, windows, learned, recovered }, tensors, dense);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new FileFormatError(path, `does not fit the model: ${error.message}; run the cell again in another folder`);
  }
}

function readTensors(path: string): Map<string, HostTensor> {
  const file = openSafetensors(path);
  try {
    return new Map([...file.tensors.keys()].map((name) => [name, file.read(name)]));
  } finally {
    file.close();
  }
}

/** Takes the windows out of `tensors`. */
function windowsOf(tensors: Map<string, HostTensor>, vocabSize: number): Int32Array[] {
  const found = tensors.get(WINDOWS);
  if (!found) return [];
  tensors.delete(WINDOWS);
  const { shape, data } = found;
  if (
    shape.length !== 2 || data.length === 0 || !data.every((id) => Number.isInteger(id) && id >= 0 && id < vocabSize)
  ) {
    throw new RangeError(`windows must be token ids below ${vocabSize} in rows`);
  }
  const [rows, tokens] = [at(shape, 0), at(shape, 1)];
  return Array.from({ length: rows }, (_, i) => Int32Array.from(data.subarray(i * tokens, (i + 1) * tokens)));
}
