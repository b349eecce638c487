/** Second-order statistics of what the units feed: how their outputs vary together, and which directions of a block's
 * output the loss feels. The two Kronecker factors of the curvature of the output and down maps (K-FAC: Martens and
 * Grosse 2015, arXiv:1503.05671).
 *
 * For a map with input a and output y: A = mean of a a^T and S = mean of g g^T over calibration tokens, g the gradient of
 * a sequence's summed cross entropy to y. A change D of the map then costs about `tr(S D^T A D)` (D [in, out]).
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at, entry } from "../../core/util/indexing.ts";
import { matMul2d, readFlat } from "../../core/engine/ops.ts";
import { WRITING_NAMES } from "../../models/config.ts";
import {
  createPass,
  disposePass,
  type ObservedSite,
  type PassContext,
  runLayers,
  type TokenBatch,
} from "../../models/layers.ts";
import type { DecoderModel, DeviceLayer } from "../../models/device.ts";
import { gramMatrices, gramName } from "../../models/training/least_squares.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { calibrationBatches } from "./calibration.ts";
import { layTrail, type Trail } from "./loss_slope.ts";

/** Names of the two factors of one site: f32 [in, in] and [D, D]. */
export const curvatureNames = {
  inputs: gramName,
  slopes: (layer: number, site: ObservedSite) => `${layer}.${site}.slopes`,
};

/** A of both sites of every layer: the Gram matrices that least-squares compensation uses too. Held in host memory and
 * in the cache: 4 F^2 + 4 (H K)^2 bytes a layer (10.8 MB for SmolLM2-135M; 552 MB for a 7 B model). */
export function inputFactors(context: MethodContext<unknown>): Promise<Statistics> {
  const { model, calibration, report, signal } = context;
  return context.remember("gram matrices", () => gramMatrices(model, calibration, { report, signal }));
}

/** A factor by its name, on the device: the caller's to free. */
export function factorMatrix(factors: Statistics, name: string): tf.Tensor2D {
  const { shape, data } = entry(factors, name);
  return tf.tensor2d(data, shape as [number, number]);
}

/** Gradients of one layer at input x for the gradient `dy` of its output: of x, and of what its maps put out. */
function layerSlopes(
  { model, layer, pass, x, dy }: {
    model: DecoderModel;
    layer: number;
    pass: PassContext;
    x: tf.Tensor2D;
    dy: tf.Tensor2D;
  },
): { dx: tf.Tensor2D } & Record<ObservedSite, tf.Tensor2D> {
  const dense = at(model.layers, layer);
  // What is added to a map's result has that result's gradient, token by token.
  const withAdded = (name: ObservedSite, added: tf.Tensor) => {
    const { bias } = dense[name];
    return { ...dense[name], bias: (bias ? tf.add(bias, added) : added) as tf.Tensor1D };
  };
  const run = (input: tf.Tensor, output: tf.Tensor, down: tf.Tensor) => {
    const open: DeviceLayer = { ...dense, output: withAdded("output", output), down: withAdded("down", down) };
    return runLayers(model, input as tf.Tensor2D, pass, { layers: [[layer, open]], each: () => {} });
  };
  const nothing = [0, 1].map(() => tf.zeros([x.shape[0], model.config.width]));
  try {
    const [dx, output, down] = tf.grads(run)([x, ...nothing], dy) as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D];
    return { dx, output, down };
  } finally {
    tf.dispose(nothing);
  }
}

/** S of both sites of every layer, by {@linkcode curvatureNames}: f32 [D, D], means over all calibration tokens. One
 * forward and one backward pass a batch, one batch at a time: the inputs of all layers for its tokens are held. */
export function slopeFactors(context: MethodContext<unknown>): Promise<Statistics> {
  return context.remember("slope factors", async () => {
    const { model, report, signal } = context;
    const batches = calibrationBatches(context.calibration, { tokensAtOnce: 512 });
    const tokens = batches.reduce((sum, { batch, length }) => sum + batch * length, 0);
    const totals = new Map<string, tf.Tensor>();
    const add = (name: string, slope: tf.Tensor2D) => {
      const before = totals.get(name);
      totals.set(
        name,
        tf.keep(tf.tidy(() => {
          const square = tf.mul(matMul2d(slope, slope, true, false), 1 / tokens);
          return before ? tf.add(before, square) : square;
        })),
      );
      before?.dispose();
    };
    try {
      for (const [i, batch] of batches.entries()) {
        await giveWay(signal);
        report(`slopes of the blocks, batch ${i + 1} of ${batches.length}`);
        backThrough(model, batch, (layer, slopes) => {
          for (const site of WRITING_NAMES) add(curvatureNames.slopes(layer, site), slopes[site]);
        });
      }
      const names = [...totals.keys()];
      const values = await readFlat([...totals.values()], "gradients of the blocks' outputs");
      const shape = [model.config.width, model.config.width];
      return Object.fromEntries(names.map((name, i) => [name, { shape, data: at(values, i) }]));
    } finally {
      tf.dispose([...totals.values()]);
    }
  });
}

/** Hands `visit` the gradients to what the output and the down map put out, last layer first: [N, D] each. They are freed
 * after the call. */
function backThrough(
  model: DecoderModel,
  batch: TokenBatch,
  visit: (layer: number, slopes: Record<ObservedSite, tf.Tensor2D>) => void,
): void {
  const pass = createPass(model.config, batch);
  let trail: Trail | undefined;
  try {
    trail = layTrail(model, batch, pass);
    for (let layer = model.layers.length - 1; layer >= 0; layer--) {
      const x = at(trail.inputs, layer);
      const { dx, ...slopes } = layerSlopes({ model, layer, pass, x, dy: trail.dy });
      trail.inputs.pop();
      visit(layer, slopes);
      tf.dispose([x, trail.dy, slopes.output, slopes.down]);
      trail.dy = dx;
    }
  } finally {
    if (trail) tf.dispose([...trail.inputs, trail.dy]);
    disposePass(pass);
  }
}
