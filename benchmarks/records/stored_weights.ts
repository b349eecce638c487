/** Weights that a cell changed, kept beside its record, so that its model can be exported and served as it was measured.
 *
 * @module
 */
import { lookUp } from "../../core/util/indexing.ts";
import { join } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { openSafetensors, writeSafetensors } from "../../core/formats/safetensors.ts";
import type { DoneRecord, StoredWeights } from "../../core/schema/schema.ts";
import { checkTensors } from "../../models/check_tensors.ts";
import {
  type DecoderConfig,
  expectedTensors,
  LINEAR_NAMES,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import type { DecoderModel } from "../../models/device.ts";
import { plannedConfig } from "../../models/plan.ts";
import { hostTensor } from "../../models/surgery.ts";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import { keptFile } from "./kept_file.ts";
import { runPaths } from "./store.ts";

/** Writes every tensor of a pruned model as f32 to `weights/NAME.safetensors` in the run's folder, whole or not at all. All
 * are in host memory at once. */
export async function storeWeights(out: string, named: NamedCell, model: DecoderModel): Promise<StoredWeights> {
  const folder = runPaths(out).weights;
  Deno.mkdirSync(folder, { recursive: true });
  const file = `${cellName(named)}.safetensors`;
  const path = join(folder, file);
  const values = new Map<string, Float32Array>();
  const shapes = expectedTensors(model.config);
  for (const name of shapes.keys()) values.set(name, (await hostTensor(model, name)).data);
  writeSafetensors(path, { shapes, read: (name) => lookUp(values, name), dtype: "F32", metadata: { cell: named.id } });
  return { file, sizeBytes: Deno.statSync(path).size, sha256: sha256OfFiles([path]) };
}

/** The model of a record whose weights were kept: `source`, the dense one, narrowed by the record's plan, with the tensors
 * of the file. Closing it leaves `source` open.
 * @throws {UsageError} when the file is missing.
 * @throws {FileFormatError} when it is not the file that the record names. */
export function openStoredWeights(
  out: string,
  { storedWeights, plan }: DoneRecord & { storedWeights: StoredWeights },
  source: WeightSource,
): WeightSource {
  const path = keptFile(out, storedWeights);
  const file = openSafetensors(path);
  try {
    const biases = LINEAR_NAMES.filter((name) => file.tensors.has(tensorNames.bias(0, name)));
    const config: DecoderConfig = { ...plannedConfig(source.config, plan), biases };
    const shapes = new Map([...file.tensors].map(([name, { shape }]) => [name, shape]));
    checkTensors(config, { path, shapes, storedName: (name) => name, isHarmless: () => false });
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
