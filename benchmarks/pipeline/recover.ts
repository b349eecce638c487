/** Recovery of a pruned model: adapters and scales, or scales alone, are trained and folded in.
 *
 * @module
 */
import { createRng } from "../../core/util/rng.ts";
import { counterparts, keptLayers } from "../../models/plan.ts";
import { recoverModel } from "../../models/training/recover.ts";
import type { SnapshotPlace } from "../../models/training/snapshot.ts";
import type { TrainingData } from "./calibrate.ts";
import type { LoadedModel } from "./load.ts";
import type { PrunedModel } from "./prune.ts";
import { type StepOptions, withDefaults } from "./step.ts";

/** How to recover. */
export interface RecoverOptions extends StepOptions {
  /** The model that `pruned` was cut from. */
  dense: LoadedModel;
  training: TrainingData;
  /** Seed of the adapters, which are the same for every method. */
  seed?: number;
  /** Where the training keeps snapshots; without it a stopped one begins again. */
  snapshots?: SnapshotPlace;
}

/** The recovered model. It replaces `pruned`, whose weights are changed.
 * @throws {NumericError} when the loss is not finite. */
export async function recover(
  pruned: PrunedModel,
  { dense, training: { options, windows, remember }, seed = 0, snapshots, ...step }: RecoverOptions,
): Promise<PrunedModel> {
  const { plan } = pruned;
  const { report, parts } = await recoverModel({
    base: pruned.model,
    teacher: dense.model,
    teacherLayers: keptLayers(plan).length < plan.layers.length ? counterparts(plan) : undefined,
    options,
    windows,
    snapshots,
    rng: createRng(seed, "recovery"),
    key: "recovery",
    ...withDefaults({ ...step, remember: remember ?? step.remember }),
  });
  return {
    ...pruned,
    training: [...pruned.training, report],
    changed: true,
    rebuild: pruned.rebuild && { ...pruned.rebuild, trained: parts },
  };
}
