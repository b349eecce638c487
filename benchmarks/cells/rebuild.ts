/** The model of a finished cell, from what its run keeps.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import type { Cell, DoneRecord } from "../../core/schema/schema.ts";
import type { WeightSource } from "../../models/config.ts";
import { type DecoderModel, uploadModel } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { pruneModel } from "../../models/surgery.ts";
import { rebuildModel } from "../../models/training/rebuild.ts";
import { compensate } from "../pipeline/prune.ts";
import type { StepOptions } from "../pipeline/step.ts";
import { storedPath } from "../records/run_file.ts";
import { openRebuild, openStoredWeights } from "../records/kept_weights.ts";

/** Opens the pruned checkpoint of a cell of the run in `out`.
 * @throws {UsageError} when it cannot be read, or has another checksum than the cell names. */
export async function openCheckpoint(
  out: string,
  { path, sha256 }: NonNullable<Cell["checkpoint"]>,
): Promise<WeightSource> {
  const { source } = await openModel(storedPath(out, path));
  const { origin } = source;
  if (origin.sha256 === sha256) return source;
  source.close();
  throw new UsageError(`"${path}" was changed since the run: its SHA-256 is ${origin.sha256}, not ${sha256}`);
}

/** Checks that `source` is the dense model of the record.
 * @throws {UsageError} otherwise. */
export function checkSource({ weights }: DoneRecord, { origin: { path, sha256 } }: WeightSource): void {
  if (sha256 === weights.sha256) return;
  throw new UsageError(
    `The model at "${path}" has the SHA-256 ${sha256}, the cell's has ${weights.sha256}: give its path with --model`,
  );
}

/** The model of a record; `dense` itself if nothing was pruned. `dense` was loaded from `source` and stays as it is.
 * @throws {UsageError} when the run kept nothing of the model, or a file is missing.
 * @throws {FileFormatError} when a file is not the one that the record names. */
export async function keptModel(
  out: string,
  record: DoneRecord,
  { dense, source }: { dense: DecoderModel; source: WeightSource },
  step: StepOptions = {},
): Promise<DecoderModel> {
  const { cell, changedWeights, storedWeights, rebuild, plan } = record;
  if (cell.method === null) return dense;
  const whole = cell.checkpoint
    ? await openCheckpoint(out, cell.checkpoint)
    : storedWeights && openStoredWeights(out, { ...record, storedWeights }, source);
  if (whole) {
    try {
      return await uploadModel(whole, cell.weights);
    } finally {
      whole.close();
    }
  }
  if (!changedWeights) return await pruneModel(dense, plan);
  if (!rebuild) {
    throw new UsageError("Cannot rebuild the cell's model: the run did not store it. Run the cell in another folder.");
  }
  const kept = openRebuild(out, { ...record, rebuild }, dense.config);
  step.report?.("rebuild");
  return await rebuildModel(
    dense,
    kept,
    (plan, replaced) =>
      compensate({ model: dense }, { plan, replaced, windows: kept.windows, how: cell.compensate, ...step }),
  );
}
