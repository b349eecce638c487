/** Recovery of a pruned model: the same adapters, loss, data and tokens as learned masks get, so that any method can be
 * compared with them at equal cost (Ma et al. 2023, arXiv:2305.11627, section 3.3, for recovery by LoRA).
 *
 * @module
 */
import { at } from "../../core/indexing.ts";
import type { TrainingReport } from "../../core/schema.ts";
import { LINEAR_NAMES } from "../config.ts";
import { type DecoderModel, mergedWeight } from "../decoder.ts";
import { endRun, finishRun, keepSnapshot, nextStep, noteStep, type RunOptions, startRun } from "./run.ts";

/** Trains adapters on `base`, a pruned model, against the dense `teacher`, and folds them into its weights, which are
 * replaced. Nothing but `base` changes.
 * @throws {UsageError} when the windows do not fit the options.
 * @throws {NumericError} when the loss is not finite. */
export async function recoverModel(options: RunOptions): Promise<TrainingReport> {
  const { run, found } = await startRun(options);
  try {
    found?.restore();
    while (run.step < options.options.steps && options.options.rank > 0) {
      noteStep(run, await nextStep(run));
      await keepSnapshot(run, () => ({ values: null, arrays: new Map() }));
    }
    mergeInto(options.base, run.student.model);
    return finishRun(run, "recovery");
  } finally {
    endRun(run);
  }
}

/** Replaces the weights of `base` by those of `trained` with its adapters folded in. */
function mergeInto(base: DecoderModel, trained: DecoderModel): void {
  trained.layers.forEach((layer, l) => {
    for (const name of LINEAR_NAMES) {
      if (!layer[name].lora) continue;
      const merged = mergedWeight(layer[name]);
      const own = at(base.layers, l)[name];
      own.weight.dispose();
      own.weight = merged;
    }
  });
}
