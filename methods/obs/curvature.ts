/** The second Kronecker factor of the curvature of the output and down maps (K-FAC: Martens and Grosse 2015,
 * arXiv:1503.05671): which directions of a block's output change the loss.
 *
 * For a map with input a and output y: A = mean of a a^T and S = mean of g g^T over calibration tokens, g the gradient
 * of a sequence's summed cross entropy to y. A change D of the map then costs about `tr(S D^T A D)` (D [in, out]).
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { matMul2d, readFlat } from "../../core/engine/ops.ts";
import { at } from "../../core/util/indexing.ts";
import { WRITING_NAMES } from "../../models/config.ts";
import type { DeviceLayer } from "../../models/device.ts";
import { createPass, disposePass, type ObservedSite } from "../../models/layers.ts";
import type { MethodContext } from "../define.ts";
import { calibrationBatches } from "../_shared/calibration.ts";
import { addTo, disposeTrail, layerBack, layTrail, type Trail } from "../_shared/loss_slope.ts";

/** S of both maps of each layer: f32 [D D], means over all calibration tokens. One forward and one backward pass a
 * batch: the inputs of all layers for its tokens are held. */
export async function slopeFactors(context: MethodContext<unknown>): Promise<Record<ObservedSite, Float32Array>[]> {
  const { model, report, signal } = context;
  const { width } = model.config;
  const batches = calibrationBatches(context.calibration, { tokensAtOnce: 512 });
  const tokens = batches.reduce((sum, { batch, length }) => sum + batch * length, 0);
  const sums = model.layers.map((): tf.Tensor[] => []);
  try {
    for (const [i, batch] of batches.entries()) {
      await giveWay(signal);
      report(`slopes of the blocks, batch ${i + 1} of ${batches.length}`);
      const pass = createPass(model.config, batch);
      const nothing = WRITING_NAMES.map(() => tf.zeros([batch.batch * batch.length, width]));
      let trail: Trail | undefined;
      try {
        trail = layTrail(model, batch, pass);
        for (let l = model.layers.length - 1; l >= 0; l--) {
          const slopes = layerBack(model, l, trail, nothing, withAdded);
          addTo(at(sums, l), slopes, (slope) => tf.mul(matMul2d(slope, slope, true, false), 1 / tokens));
          tf.dispose(slopes);
        }
      } finally {
        tf.dispose(nothing);
        if (trail) disposeTrail(trail);
        disposePass(pass);
      }
    }
    const values = await readFlat(sums.flat(), "gradients of the blocks' outputs");
    return sums.map((_, l) => ({ output: at(values, 2 * l), down: at(values, 2 * l + 1) }));
  } finally {
    tf.dispose(sums);
  }
}

/** The layer with `added`, [N, D], on the outputs of its {@linkcode WRITING_NAMES}. The gradient of an addend is that
 * of the output, token by token. */
function withAdded(layer: DeviceLayer, added: readonly tf.Tensor[]): DeviceLayer {
  const open = WRITING_NAMES.map((site, i) => {
    const { bias } = layer[site];
    const own = at(added, i);
    return [site, { ...layer[site], bias: bias ? tf.add(bias, own) : own }];
  });
  return { ...layer, ...Object.fromEntries(open) };
}
