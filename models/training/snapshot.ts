/** Snapshots of a training run on disk: a killed run resumes and ends with the same result.
 *
 * @module
 */
import { ifThere } from "../../core/util/paths.ts";
import { join } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { readTensorFile, writeTensorFile } from "../../core/formats/safetensors.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import type { HostTensor } from "../config.ts";

/** Everything that a run needs to resume. */
export interface Snapshot {
  /** What the run is; a snapshot of another run is not used. */
  key: string;
  step: number;
  /** Plain values; must survive JSON. */
  state: unknown;
  /** Arrays, f32. */
  tensors: Map<string, HostTensor>;
}

/** Where snapshots go, and how often. */
export interface SnapshotPlace {
  /** Folder of this run alone. */
  folder: string;
  /** Steps from one snapshot to the next. */
  everySteps: number;
  /** Keeps what the last step left (adapters and masks, no moments), so that the model can be made again without a
   * step. */
  keepsLast?: boolean;
}

const INDEX = "latest.json";

/** Writes a snapshot atomically: first the arrays, then the index that names their file; then removes older arrays.
 * Whenever the process ends, the folder has one complete snapshot or none. */
export function saveSnapshot(folder: string, { key, step, state, tensors }: Snapshot): void {
  Deno.mkdirSync(folder, { recursive: true });
  const file = `step-${step}.safetensors`;
  writeTensorFile(join(folder, file), tensors);
  writeAtomically(join(folder, INDEX), JSON.stringify({ key, step, file, state }));
  for (const { name } of Deno.readDirSync(folder)) {
    if (/^step-\d+\.safetensors$/.test(name) && name !== file) Deno.removeSync(join(folder, name));
  }
}

/** The last snapshot of the run `key` in `folder`; null when there is none that can be read. */
export function loadSnapshot(folder: string, key: string): Snapshot | null {
  try {
    const index = JSON.parse(Deno.readTextFileSync(join(folder, INDEX)));
    if (index?.key !== key) return null;
    return { key, step: index.step, state: index.state, tensors: readTensorFile(join(folder, index.file)) };
  } catch (error) {
    // A run can always begin again.
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError || error instanceof UsageError) {
      return null;
    }
    throw error;
  }
}

/** Removes the snapshots of a run that ended. */
export function removeSnapshots(folder: string): void {
  ifThere(() => Deno.removeSync(folder, { recursive: true }), undefined);
}
