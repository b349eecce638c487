/** Losses of a model without some of its units or layers.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { targetLogProbs } from "../../models/decoder.ts";
import type { DecoderModel } from "../../models/device.ts";
import { createPass, disposePass, embed, finalStates, type LayerRun, runLayers } from "../../models/layers.ts";
import { keptMasks } from "../../models/masks.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { nextTokens, scoredRows } from "../../models/training/batches.ts";
import { calibrationBatches } from "./calibration.ts";

/** Losses closer than this are equal: engines differ by less. */
export const TIE = 1e-5;

/** Scores plans, each the settled one before some layer `from`. */
export interface Scorer extends Disposable {
  /** Mean over windows of each window's mean next-token cross entropy, in nats. */
  lossOf(plan: PrunePlan, from: number): Promise<number>;
  /** Settles a plan whose layers before `from` are settled. */
  settle(plan: PrunePlan, from: number): void;
}

/** A scorer on whole windows. The inputs of all layers are held, [B T, D] of each batch. */
export function createScorer(model: DecoderModel, windows: readonly Int32Array[], signal: AbortSignal): Scorer {
  const { config } = model;
  const batches = calibrationBatches(windows);
  const passes = batches.map((batch) => createPass(config, batch));
  const inputs = batches.map(({ tokens }) => [embed(model, tokens)]);

  /** A batch through the layers from `from` on. */
  const run = (i: number, plan: PrunePlan, from: number, each?: LayerRun["each"]) =>
    tf.tidy(() => {
      const masks = plan.layers.map((kept, l) => keptMasks(kept, at(config.layers, l)));
      const x = tf.clone(at(at(inputs, i), from));
      // Where no states are asked for, layers that are gone are passed by.
      const layers = model.layers.entries().drop(from).filter(([l]) => each || at(plan.layers, l).kvGroups.length > 0);
      return runLayers(model, x, at(passes, i), { masks, layers, ...each && { each } });
    });

  return {
    async lossOf(plan, from) {
      let sum = 0;
      for (const [i, batch] of batches.entries()) {
        await giveWay(signal);
        const rows = tf.tidy(() => scoredRows(finalStates(model, run(i, plan, from)), batch));
        const { logProbs } = await targetLogProbs(model, rows, nextTokens(batch));
        rows.dispose();
        sum -= logProbs.reduce((a, b) => a + b, 0) / (batch.length - 1);
      }
      return sum / windows.length;
    },
    settle(plan, from) {
      for (const [i, own] of inputs.entries()) {
        tf.dispose(own.splice(from + 1));
        run(i, plan, from, (state) => own.push(tf.keep(state)));
      }
    },
    [Symbol.dispose]() {
      tf.dispose(inputs);
      for (const pass of passes) disposePass(pass);
    },
  };
}
