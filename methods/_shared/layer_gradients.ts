/** Gradients of the language-model loss with respect to the linear maps, one layer at a time.
 *
 * A forward pass keeps the input of every layer. The backward pass computes each layer again from its input and hands
 * over that layer's weight gradients before it goes on to the one below. Held are the layer inputs (L N D numbers for N
 * calibration tokens) and the weight gradients of one layer.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { at } from "../../core/util/indexing.ts";
import { LINEAR_NAMES, type LinearName } from "../../models/config.ts";
import type { DecoderModel, DeviceLayer } from "../../models/device.ts";
import { createPass, disposePass, type PassContext, type TokenBatch } from "../../models/layers.ts";
import { disposeTrail, layerBack, layTrail, type Trail } from "./loss_slope.ts";

/** The weights of one layer and their gradients, `[in, out]`. */
export interface LayerGradients {
  weight: Record<LinearName, tf.Tensor>;
  /** Of the mean loss over all scored tokens. */
  mean: Record<LinearName, tf.Tensor>;
  /** Mean over batches of the squared gradient of each batch's own mean loss: with one window a batch, the diagonal
   * empirical Fisher. Empty unless asked for. */
  meanSquare: Partial<Record<LinearName, tf.Tensor>>;
}

/** Options of {@linkcode forEachLayerGradient}. */
export interface LayerGradientOptions {
  model: DecoderModel;
  batches: readonly TokenBatch[];
  squares: boolean;
  /** Gets the gradients of each layer, from the last to the first. The tensors are freed after the promise settles. */
  visit(layer: number, gradients: LayerGradients): Promise<void>;
  report(message: string): void;
  signal: AbortSignal;
}

/** The layer with other weights, in the order of {@linkcode LINEAR_NAMES}. */
const withWeights = (layer: DeviceLayer, weights: readonly tf.Tensor[]): DeviceLayer => ({
  ...layer,
  ...Object.fromEntries(LINEAR_NAMES.map((name, i) => [name, { ...layer[name], weight: at(weights, i) }])),
});

/** Tensors in the order of {@linkcode LINEAR_NAMES}, by name. */
const named = (tensors: readonly tf.Tensor[]) =>
  Object.fromEntries(tensors.map((tensor, i) => [at(LINEAR_NAMES, i), tensor])) as Record<LinearName, tf.Tensor>;

/** Adds `terms` to `sums`, which are empty at first. */
function addTo(sums: tf.Tensor[], terms: readonly tf.Tensor[], map: (term: tf.Tensor) => tf.Tensor): void {
  for (const [i, term] of terms.entries()) {
    const before = sums[i];
    sums[i] = tf.tidy(() => before ? tf.add(before, map(term)) : tf.clone(map(term)));
    before?.dispose();
  }
}

/** Hands the gradients of the causal language-model loss to `visit`, layer by layer.
 *
 * Cost: about four forward passes (the layers twice, their input and weight gradients), and the vocabulary projection
 * with its gradient. */
export async function forEachLayerGradient(options: LayerGradientOptions): Promise<void> {
  const { model, batches, squares, visit, report, signal } = options;
  const scored = ({ batch, length }: TokenBatch) => batch * (length - 1);
  const allScored = batches.reduce((sum, batch) => sum + scored(batch), 0);
  const passes = new Map<string, PassContext>();
  const passFor = (batch: TokenBatch) => {
    const key = `${batch.batch} x ${batch.length}`;
    const pass = passes.get(key) ?? createPass(model.config, batch);
    passes.set(key, pass);
    return pass;
  };
  const trails: Trail[] = [];
  const sums: { mean: tf.Tensor[]; squares: tf.Tensor[] } = { mean: [], squares: [] };
  try {
    for (const [i, batch] of batches.entries()) {
      await giveWay(signal);
      report(`gradients: forward, batch ${i + 1} of ${batches.length}`);
      // Squares need the gradient of each batch's own mean loss.
      trails.push(layTrail(model, batch, passFor(batch), 1 / (squares ? scored(batch) : allScored)));
    }
    for (let l = model.layers.length - 1; l >= 0; l--) {
      report(`gradients: layer ${l + 1} of ${model.layers.length}`);
      const weights = LINEAR_NAMES.map((name) => denseMatrix(at(model.layers, l)[name].weight));
      try {
        for (const [i, batch] of batches.entries()) {
          await giveWay(signal);
          const gradients = layerBack(model, l, at(trails, i), weights, withWeights);
          const share = squares ? scored(batch) / allScored : 1;
          addTo(sums.mean, gradients, (own) => share === 1 ? own : tf.mul(own, share));
          if (squares) addTo(sums.squares, gradients, (own) => tf.square(own));
          tf.dispose(gradients);
        }
        const meanSquare = tf.tidy(() => sums.squares.map((sum) => tf.div(sum, batches.length)));
        tf.dispose(sums.squares.splice(0));
        try {
          await visit(l, { weight: named(weights), mean: named(sums.mean), meanSquare: named(meanSquare) });
        } finally {
          tf.dispose([...meanSquare, ...sums.mean.splice(0)]);
        }
      } finally {
        tf.dispose(weights);
      }
    }
  } finally {
    tf.dispose([...sums.mean, ...sums.squares]);
    trails.forEach(disposeTrail);
    for (const pass of passes.values()) disposePass(pass);
  }
}
