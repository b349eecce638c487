/** The two Kronecker factors of the curvature of the output and down maps (K-FAC: Martens and Grosse 2015,
 * arXiv:1503.05671): how the outputs of units vary together, and which directions of a block's output change the loss.
 *
 * For a map with input a and output y: A = mean of a a^T and S = mean of g g^T over calibration tokens, g the gradient
 * of a sequence's summed cross entropy to y. A change D of the map then costs about `tr(S D^T A D)` (D [in, out]).
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { at, entry } from "../../core/util/indexing.ts";
import { matMul2d, readFlat } from "../../core/engine/ops.ts";
import { WRITING_NAMES } from "../../models/config.ts";
import { createPass, disposePass, type ObservedSite, type TokenBatch } from "../../models/layers.ts";
import { eachLayer } from "../../models/layerwise.ts";
import type { DecoderModel, DeviceLayer } from "../../models/device.ts";
import { gramMatrices, gramName } from "../../models/training/least_squares.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { calibrationBatches } from "./calibration.ts";
import { disposeTrail, layerBack, layTrail, type Trail } from "./loss_slope.ts";

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

/** S of both sites of every layer, by {@linkcode curvatureNames}: f32 [D, D], means over all calibration tokens. One
 * forward and one backward pass a batch, one batch at a time: the inputs of all layers for its tokens are held. */
export function slopeFactors(context: MethodContext<unknown>): Promise<Statistics> {
  return context.remember("slope factors", async () => {
    const { model, report, signal } = context;
    const { width } = model.config;
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
        backThrough(model, batch, (layer, site, slope) => add(curvatureNames.slopes(layer, site), slope));
      }
      const names = [...totals.keys()];
      const values = await readFlat([...totals.values()], "gradients of the blocks' outputs");
      return Object.fromEntries(names.map((name, i) => [name, { shape: [width, width], data: at(values, i) }]));
    } finally {
      tf.dispose([...totals.values()]);
    }
  });
}

/** The layer with `added`, [N, D], on what each of {@linkcode WRITING_NAMES} puts out. An addend has the gradient of
 * the output, token by token. */
function withAdded(layer: DeviceLayer, added: readonly tf.Tensor[]): DeviceLayer {
  const open = WRITING_NAMES.map((site, i) => {
    const { bias } = layer[site];
    const own = at(added, i);
    return [site, { ...layer[site], bias: bias ? tf.add(bias, own) : own }];
  });
  return { ...layer, ...Object.fromEntries(open) };
}

/** Hands `visit` the gradients of the outputs of the output and down maps, [N, D], last layer first. They are freed
 * after the call. */
function backThrough(
  model: DecoderModel,
  batch: TokenBatch,
  visit: (layer: number, site: ObservedSite, slope: tf.Tensor2D) => void,
): void {
  const pass = createPass(model.config, batch);
  const nothing = WRITING_NAMES.map(() => tf.zeros([batch.batch * batch.length, model.config.width]));
  let trail: Trail | undefined;
  try {
    trail = layTrail(model, batch, pass);
    for (let layer = model.layers.length - 1; layer >= 0; layer--) {
      const slopes = layerBack(model, layer, trail, nothing, withAdded);
      for (const [i, site] of WRITING_NAMES.entries()) visit(layer, site, at(slopes, i));
      tf.dispose(slopes);
    }
  } finally {
    tf.dispose(nothing);
    if (trail) disposeTrail(trail);
    disposePass(pass);
  }
}

/** What the cost of a removal is measured in: the block's output, or the loss. */
export type RemovalError = "plain" | "kfac";

/** A map's weight, [in, out], and its factors: A, [in, in], and S, [out, out], or null for the identity. */
export interface MapFactors {
  a: tf.Tensor2D;
  weight: tf.Tensor2D;
  slopes: tf.Tensor2D | null;
}

/** What `visit` gives for the factors of each layer's output and down maps; they are freed after it. */
export async function eachLayerFactors<T>(
  context: MethodContext<unknown>,
  error: RemovalError,
  visit: (maps: Record<ObservedSite, MapFactors>, layer: number) => Promise<T>,
): Promise<T[]> {
  const { model, signal } = context;
  const a = await inputFactors(context);
  const s = error === "kfac" ? await slopeFactors(context) : null;
  return await eachLayer(model, async (layer, l) => {
    await giveWay(signal);
    const factors = (site: ObservedSite): MapFactors => ({
      a: factorMatrix(a, curvatureNames.inputs(l, site)),
      weight: denseMatrix(layer[site].weight),
      slopes: s && factorMatrix(s, curvatureNames.slopes(l, site)),
    });
    const maps = { output: factors("output"), down: factors("down") };
    try {
      return await visit(maps, l);
    } finally {
      for (const { a, weight, slopes } of Object.values(maps)) tf.dispose([a, weight, ...slopes ? [slopes] : []]);
    }
  });
}
