/** The gradient of the language-model loss, taken back through the decoder layers one at a time.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import type { DecoderModel, DeviceLayer } from "../../models/device.ts";
import { embed, finalStates, type PassContext, runLayers, type TokenBatch } from "../../models/layers.ts";
import { nextTokens, scoredRows } from "../../models/training/batches.ts";
import { type LossWeights, vocabularyLoss } from "../../models/training/loss.ts";

/** Next-token cross entropy alone. */
export const CROSS_ENTROPY: LossWeights = { crossEntropy: 1, distillation: 0, temperature: 1, hidden: 0 };

/** Gradient of `scale` times the summed cross entropy of every next token to the last layer's output x: f32 [B T, D] ->
 * [B T, D]. */
function lossSlope(model: DecoderModel, x: tf.Tensor2D, batch: TokenBatch, scale = 1): tf.Tensor2D {
  let terms: tf.Tensor | undefined;
  const loss = (x: tf.Tensor) => {
    const hidden = finalStates(model, scoredRows(x as tf.Tensor2D, batch));
    const onTerms = (sums: tf.Tensor) => terms = sums;
    return vocabularyLoss(model, hidden, { ids: nextTokens(batch) }, { weights: CROSS_ENTROPY, scale, onTerms });
  };
  try {
    return tf.grad(loss)(x) as tf.Tensor2D;
  } finally {
    terms?.dispose();
  }
}

/** State of one batch on the way back through the layers. */
export interface Trail {
  pass: PassContext;
  /** Inputs of the layers not yet gone back through, f32 [B T, D] each. */
  inputs: tf.Tensor2D[];
  /** Gradient of the output of the last of them, f32 [B T, D]. */
  dy: tf.Tensor2D;
}

/** The forward pass of a batch: its trail at the last layer, with the gradient of `scale` times the summed cross
 * entropy. Free it with {@linkcode disposeTrail}. */
export function layTrail(model: DecoderModel, batch: TokenBatch, pass: PassContext, scale = 1): Trail {
  const x = embed(model, batch.tokens);
  const inputs = [x];
  try {
    runLayers(model, x, pass, { each: (state) => inputs.push(state) });
    const dy = lossSlope(model, at(inputs, inputs.length - 1), batch, scale);
    inputs.pop()?.dispose();
    return { pass, inputs, dy };
  } catch (error) {
    tf.dispose(inputs);
    throw error;
  }
}

/** Frees a trail, but not its pass. */
export function disposeTrail({ inputs, dy }: Trail): void {
  tf.dispose([...inputs, dy]);
}

/** Propagates a gradient back through layer `l`, which is recomputed from its input. `variables` stand in for tensors
 * of the layer as `withVariables` says; their gradients are returned, and are the caller's to free. */
export function layerBack(
  model: DecoderModel,
  l: number,
  trail: Trail,
  variables: readonly tf.Tensor[],
  withVariables: (layer: DeviceLayer, variables: readonly tf.Tensor[]) => DeviceLayer,
): tf.Tensor2D[] {
  const x = at(trail.inputs, trail.inputs.length - 1);
  const run = (input: tf.Tensor, ...own: tf.Tensor[]) =>
    runLayers(model, input as tf.Tensor2D, trail.pass, {
      layers: [[l, withVariables(at(model.layers, l), own)]],
      // With it the layer's input is not freed here.
      each: () => {},
    });
  const [dx, ...gradients] = tf.grads(run)([x, ...variables], trail.dy) as [tf.Tensor2D, ...tf.Tensor2D[]];
  trail.inputs.pop();
  tf.dispose([x, trail.dy]);
  trail.dy = dx;
  return gradients;
}

/** Adds what `map` makes of `terms` to `sums`, which are empty at first and the caller's to free. */
export function addTo<Term extends tf.Tensor>(
  sums: tf.Tensor[],
  terms: readonly Term[],
  map: (term: Term) => tf.Tensor,
): void {
  for (const [i, term] of terms.entries()) {
    const before = sums[i];
    sums[i] = tf.tidy(() => before ? tf.add(before, map(term)) : tf.clone(map(term)));
    before?.dispose();
  }
}
