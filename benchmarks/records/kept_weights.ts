/** Files of a cell's model beside its record: all weights, or the parts that rebuild the model. The parts are adapters,
 * kept masks and the windows of compensation, a few per cent of the weights. The units that stay are in the record.
 *
 * @module
 */
import { basename, join } from "node:path";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { openSafetensors, readTensorFile, writeTensorFile } from "../../core/formats/safetensors.ts";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import type { DoneRecord, StoredRebuild, StoredWeights } from "../../core/schema/schema.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { checkTensors } from "../../models/check_tensors.ts";
import {
  type DecoderConfig,
  type HostTensor,
  LINEAR_NAMES,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import type { DecoderModel } from "../../models/device.ts";
import { plannedConfig } from "../../models/plan.ts";
import { hostTensors } from "../../models/surgery.ts";
import { type Rebuild, rebuildOf, rebuildTensors } from "../../models/training/rebuild.ts";
import { runPaths } from "./store.ts";

/** Writes tensors as f32 to `weights/NAME.ENDING` in the run's folder, whole or not at all. */
function store(out: string, named: NamedCell, ending: string, tensors: ReadonlyMap<string, HostTensor>): StoredWeights {
  const folder = runPaths(out).weights;
  Deno.mkdirSync(folder, { recursive: true });
  const file = `${cellName(named)}.${ending}`;
  const path = join(folder, file);
  writeTensorFile(path, tensors, { cell: named.id });
  return { file, sizeBytes: Deno.statSync(path).size, sha256: sha256OfFiles([path]) };
}

/** Path of a file of {@linkcode store}.
 * @throws {UsageError} when the file is missing.
 * @throws {FileFormatError} when it is not the one that the record names. */
function pathOf(out: string, { file, sha256: named }: StoredWeights): string {
  const path = join(runPaths(out).weights, basename(file));
  const sha256 = sha256OfFiles([path]);
  if (sha256 === named) return path;
  throw new FileFormatError(
    path,
    `has the SHA-256 ${sha256}, the record names ${named}: run the cell again in another folder`,
  );
}

/** Keeps every tensor of a pruned model. All are in host memory at once. */
export async function storeWeights(out: string, named: NamedCell, model: DecoderModel): Promise<StoredWeights> {
  return store(out, named, "safetensors", await hostTensors(model));
}

/** The model of a record whose weights were kept: the dense `source`, narrowed by the record's plan, with the file's
 * tensors. Closing it leaves `source` open.
 * @throws {UsageError} when the file is missing.
 * @throws {FileFormatError} when it is not the file that the record names. */
export function openStoredWeights(
  out: string,
  { storedWeights, plan }: DoneRecord & { storedWeights: StoredWeights },
  source: WeightSource,
): WeightSource {
  const path = pathOf(out, storedWeights);
  const file = openSafetensors(path);
  try {
    const biases = LINEAR_NAMES.filter((name) => file.tensors.has(tensorNames.bias(0, name)));
    const config: DecoderConfig = { ...plannedConfig(source.config, plan), biases };
    checkTensors(config, { path, tensors: file.tensors, storedName: (name) => name, isHarmless: () => false });
    return {
      config,
      origin: { ...source.origin, dtypes: ["F32"] },
      read: (name) => {
        if (!file.tensors.has(name)) throw new UsageError(`${path}: has no tensor "${name}"`);
        return file.read(name);
      },
      close: () => file.close(),
    };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Name of the calibration windows, [sequences, tokens], token ids as f32, which holds them exactly. */
const WINDOWS = "windows";

/** Keeps the parts that rebuild a model. */
export function storeRebuild(out: string, named: NamedCell, rebuild: Rebuild): StoredRebuild {
  const tensors = rebuildTensors(rebuild);
  const { windows, trained } = rebuild;
  const [first] = windows;
  if (first) {
    const data = Float32Array.from(windows.flatMap((ids) => [...ids]));
    tensors.set(WINDOWS, { shape: [windows.length, first.length], data });
  }
  const stage = { compensated: windows.length > 0, ...trained && { scale: trained.scale } };
  return { ...store(out, named, "rebuild.safetensors", tensors), stages: [stage] };
}

/** The parts that {@linkcode storeRebuild} kept for a record of a model of shape `dense`.
 * @throws {UsageError} when the file is missing.
 * @throws {FileFormatError} when it is not the file that the record names, or does not fit model and plan. */
export function openRebuild(
  out: string,
  { rebuild, plan }: Pick<DoneRecord, "plan"> & { rebuild: StoredRebuild },
  dense: DecoderConfig,
): Rebuild {
  const path = pathOf(out, rebuild);
  const tensors = readTensorFile(path);
  try {
    const windows = windowsOf(tensors, dense.vocabSize);
    const { compensated, scale } = at(rebuild.stages, 0);
    if (compensated !== windows.length > 0) {
      throw new RangeError("windows must be there where least squares corrected maps, and only there");
    }
    return rebuildOf({ plan, windows, scale }, tensors, dense);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new FileFormatError(path, `does not fit the model: ${error.message}; run the cell again in another folder`);
  }
}

/** Takes the windows out of `tensors`. */
function windowsOf(tensors: Map<string, HostTensor>, vocabSize: number): Int32Array[] {
  const found = tensors.get(WINDOWS);
  if (!found) return [];
  tensors.delete(WINDOWS);
  const { shape: [rows = 0, tokens = 0, ...more], data } = found;
  const isId = (id: number) => Number.isInteger(id) && id >= 0 && id < vocabSize;
  if (tokens === 0 || more.length > 0 || data.length === 0 || !data.every(isId)) {
    throw new RangeError(`windows must be token ids below ${vocabSize} in rows`);
  }
  return Array.from({ length: rows }, (_, i) => Int32Array.from(data.subarray(i * tokens, (i + 1) * tokens)));
}
