/** Block influence: how far each layer turns the residual stream.
 *
 * Source: ShortGPT (Men et al. 2024, arXiv:2403.03853), equation 1: `BI_l = 1 - E[cos(x_l, x_l+1)]`, the mean over
 * calibration tokens. Cost: one forward pass, once for a run.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { createPass, disposePass, embed, runLayers, type TokenBatch } from "../../models/layers.ts";
import type { DecoderModel } from "../../models/device.ts";
import type { MethodContext } from "../define.ts";
import { calibrationBatches } from "./calibration.ts";
import { readFlat } from "../../core/engine/ops.ts";

/** All layers of the model, that of least influence first. */
export async function layersByInfluence(context: MethodContext<unknown>): Promise<number[]> {
  const influence = await influences(context);
  return [...influence.keys()].sort((x, y) => at(influence, x) - at(influence, y) || x - y);
}

/** Block influence of every layer: f32 [layers]. */
async function influences(context: MethodContext<unknown>): Promise<Float32Array> {
  const { model, calibration, signal, report, remember } = context;
  const found = await remember("block influence", async () => {
    const batches = calibrationBatches(calibration);
    const sums = new Float64Array(model.layers.length);
    for (const [i, batch] of batches.entries()) {
      await giveWay(signal);
      report(`block influence, batch ${i + 1} of ${batches.length}`);
      const turned = await readFlat(turns(model, batch), "hidden states");
      for (const [l, [value = 0]] of turned.entries()) sums[l] = at(sums, l) + value;
    }
    const tokens = batches.reduce((sum, { batch, length }) => sum + batch * length, 0);
    return { influence: { shape: [sums.length], data: Float32Array.from(sums, (sum) => sum / tokens) } };
  });
  return found.influence?.data ?? new Float32Array();
}

/** Sum over the tokens of a batch of `1 - cos(x_l, x_l+1)`: a scalar per layer. */
function turns(model: DecoderModel, batch: TokenBatch): tf.Tensor[] {
  const pass = createPass(model.config, batch);
  try {
    return tf.tidy(() => {
      const states = [embed(model, batch.tokens)];
      runLayers(model, at(states, 0), pass, { each: (state) => states.push(state) });
      return model.layers.map((_, l) => {
        const [before, after] = [at(states, l), at(states, l + 1)];
        const norms = tf.mul(tf.norm(before, 2, 1), tf.norm(after, 2, 1));
        return tf.sum(tf.sub(1, tf.divNoNan(tf.sum(tf.mul(before, after), 1), norms)));
      });
    });
  } finally {
    disposePass(pass);
  }
}
