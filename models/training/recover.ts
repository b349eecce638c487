/** Recovery of a pruned model with the adapters, scales, loss, data and tokens of learned methods, so that all methods
 * are compared at equal cost (Ma et al. 2023, arXiv:2305.11627, section 3.3, for recovery by LoRA).
 *
 * @module
 */
import type { TrainingReport } from "../../core/schema/schema.ts";
import { endRun, finishRun, keepSnapshot, nextStep, noteStep, type RunOptions, startRun } from "./run.ts";
import { foldParts, type TrainedParts, trainedParts } from "./rebuild.ts";

/** Trains adapters or scales, as the options say, on `base`, a pruned model, against the dense `teacher`, and folds
 * `parts` into its weights, which are replaced. Nothing but `base` changes.
 * @throws {UsageError} when the windows do not fit the options.
 * @throws {NumericError} when the loss is not finite. */
export async function recoverModel(options: RunOptions): Promise<{ report: TrainingReport; parts: TrainedParts }> {
  const { run, found } = await startRun(options);
  try {
    found?.restore();
    while (run.step < options.options.steps) {
      noteStep(run, await nextStep(run));
      await keepSnapshot(run, () => ({ values: null, arrays: new Map() }));
    }
    const parts = await trainedParts(run.student);
    foldParts(options.base, parts);
    return { report: finishRun(run, "recovery"), parts };
  } finally {
    endRun(run);
  }
}
