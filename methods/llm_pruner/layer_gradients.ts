/** Gradients of the language-model loss with respect to the linear maps, one layer at a time.
 *
 * A forward pass keeps the input of every layer; the backward pass computes each layer again from its input and hands
 * over that layer's weight gradients before it goes on to the one below. What is held is the layer inputs
 * (L N D numbers for N calibration tokens) and the weight gradients of one layer, never those of the model.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import type { LinearName } from "../../models/config.ts";
import { createPass, disposePass, type PassContext, runLayers, type TokenBatch } from "../../models/layers.ts";
import type { DecoderModel } from "../../models/device.ts";
import { layTrail, type Trail } from "../_shared/loss_slope.ts";

/** Weight gradients of one layer, `[in, out]`. */
export type LayerGradients = Partial<Record<LinearName, tf.Tensor2D>>;

/** Gradients of one layer at input `x`, for the gradient `dy` of its output: of the input, and of the weights named. */
function layerBackward(
  { model, layer, pass, x, dy, names }: {
    model: DecoderModel;
    layer: number;
    pass: PassContext;
    x: tf.Tensor2D;
    dy: tf.Tensor2D;
    names: readonly LinearName[];
  },
): { dx: tf.Tensor2D; weights: tf.Tensor2D[] } {
  const dense = at(model.layers, layer);
  const run = (input: tf.Tensor, ...weights: tf.Tensor[]) => {
    const replaced = Object.fromEntries(
      names.map((name, i) => [name, { ...dense[name], weight: weights[i] as tf.Tensor2D }]),
    );
    // The layer's input stays the caller's.
    return runLayers(model, input as tf.Tensor2D, pass, {
      layers: [[layer, { ...dense, ...replaced }]],
      each: () => {},
    });
  };
  const given = names.map((name) => denseMatrix(dense[name].weight));
  try {
    const [dx, ...weights] = tf.grads(run)([x, ...given], dy) as [tf.Tensor2D, ...tf.Tensor2D[]];
    return { dx, weights };
  } finally {
    tf.dispose(given);
  }
}

/** Sums over batches of a layer's weight gradients, in the order of the names. */
interface GradientSums {
  mean: tf.Tensor2D[];
  squares: tf.Tensor2D[];
}

/** What becomes of the gradients of the batches; see {@linkcode LayerGradientOptions}. */
export type GradientAverage = "mean" | "mean-square" | "both";

/** One layer back through one batch: moves the trail on and adds the weight gradients, times the batch's share of the mean,
 * and their squares to `sums`, as far as `average` asks for them. */
function stepBack(
  { model, layer, trail, names, average, share, sums }: {
    model: DecoderModel;
    layer: number;
    trail: Trail;
    names: readonly LinearName[];
    average: GradientAverage;
    share: number;
    sums: GradientSums;
  },
): void {
  const x = trail.inputs.pop()!;
  const { dx, weights } = layerBackward({ model, layer, pass: trail.pass, x, dy: trail.dy, names });
  tf.dispose([x, trail.dy]);
  trail.dy = dx;
  const add = (totals: tf.Tensor2D[], i: number, term: () => tf.Tensor2D) => {
    const before = totals[i];
    totals[i] = tf.tidy(() => before ? tf.add<tf.Tensor2D>(before, term()) : tf.clone(term()));
    before?.dispose();
  };
  for (const [i, weight] of weights.entries()) {
    if (average !== "mean-square") add(sums.mean, i, () => share === 1 ? weight : tf.mul<tf.Tensor2D>(weight, share));
    if (average !== "mean") add(sums.squares, i, () => tf.square(weight));
    weight.dispose();
  }
}

/** Options of {@linkcode forEachLayerGradient}. */
export interface LayerGradientOptions {
  /** Dense model. */
  model: DecoderModel;
  /** Calibration batches. */
  batches: readonly TokenBatch[];
  /** Linear maps whose gradients are wanted. */
  names: readonly LinearName[];
  /** `mean`: gradient of the mean loss over all scored tokens. `mean-square`: mean over batches of the squared gradient
   * of each batch's own mean loss; with one window a batch that is the diagonal empirical Fisher. `both`: both. */
  average: GradientAverage;
  /** Gets each layer's results, from the last layer to the first; one that was not asked for is empty. The tensors are
   * freed after the promise settles. */
  visit(layer: number, gradients: { mean: LayerGradients; meanSquare: LayerGradients }): Promise<void>;
  /** Progress in words. */
  report(message: string): void;
  /** Checked between batches. */
  signal: AbortSignal;
}

/** Hands the gradients of the causal language-model loss to `visit`, layer by layer.
 *
 * Cost: about four forward passes (the layers twice, their input and weight gradients), and the vocabulary projection
 * with its gradient. */
export async function forEachLayerGradient(options: LayerGradientOptions): Promise<void> {
  const { model, batches, names, average, visit, report, signal } = options;
  const scored = (batch: TokenBatch) => batch.batch * (batch.length - 1);
  const allScored = batches.reduce((sum, batch) => sum + scored(batch), 0);
  const own = average !== "mean";
  const passes = new Map<string, PassContext>();
  const passFor = (batch: TokenBatch) => {
    const key = `${batch.batch} x ${batch.length}`;
    const pass = passes.get(key) ?? createPass(model.config, batch);
    passes.set(key, pass);
    return pass;
  };
  const trails: Trail[] = [];
  const sums: GradientSums = { mean: [], squares: [] };
  try {
    for (const [i, batch] of batches.entries()) {
      await giveWay(signal);
      report(`gradients: forward, batch ${i + 1} of ${batches.length}`);
      trails.push(layTrail(model, batch, passFor(batch), 1 / (own ? scored(batch) : allScored)));
    }
    for (let layer = model.layers.length - 1; layer >= 0; layer--) {
      report(`gradients: layer ${layer + 1} of ${model.layers.length}`);
      for (const [i, batch] of batches.entries()) {
        await giveWay(signal);
        const share = own ? scored(batch) / allScored : 1;
        stepBack({ model, layer, trail: at(trails, i), names, average, share, sums });
      }
      const [mean, total] = [sums.mean.splice(0), sums.squares.splice(0)];
      const squares = total.map((sum) => tf.tidy(() => tf.div<tf.Tensor2D>(sum, batches.length)));
      tf.dispose(total);
      const named = (tensors: tf.Tensor2D[]): LayerGradients =>
        Object.fromEntries(tensors.map((tensor, i) => [at(names, i), tensor]));
      try {
        await visit(layer, { mean: named(mean), meanSquare: named(squares) });
      } finally {
        tf.dispose([...mean, ...squares]);
      }
    }
  } finally {
    tf.dispose([...sums.mean, ...sums.squares, ...trails.flatMap(({ inputs, dy }) => [...inputs, dy])]);
    for (const pass of passes.values()) disposePass(pass);
  }
}
