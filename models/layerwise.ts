/** Models with one decoder layer on the device at a time: each layer is read from the checkpoint, used and freed.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { UsageError } from "../core/util/errors.ts";
import type { WeightSource } from "./config.ts";
import { createUploader, type DecoderModel, type DeviceLayer, disposeLayer, type WeightForm } from "./device.ts";
import type { LayerMasks } from "./masks.ts";
import { createPass, embed, type ForwardOptions, runLayers, type TokenBatch } from "./layers.ts";
import { at, lookUp } from "../core/util/indexing.ts";

/** Puts everything but the decoder layers on the device. Only {@linkcode eachLayer} reads the layers, so `source` must
 * stay open for it. Free the model with `disposeModel`. */
export function openLayerwise(source: WeightSource, weights?: WeightForm): DecoderModel {
  const { rest, layer } = createUploader(source, weights);
  return {
    config: source.config,
    ...rest(),
    get layers(): never {
      throw new UsageError("Only one layer of the model is on the device at a time: leave out --layerwise");
    },
    readLayer: layer,
  };
}

/** The results of `visit` for each layer in turn. A layer that is read from the checkpoint is freed after its visit. */
export async function eachLayer<T>(
  model: DecoderModel,
  visit: (layer: DeviceLayer, l: number) => T | Promise<T>,
): Promise<T[]> {
  const results: T[] = [];
  for (let l = 0; l < model.config.layers.length; l++) {
    const layer = model.readLayer ? await model.readLayer(l) : at(model.layers, l);
    try {
      results.push(await visit(layer, l));
    } finally {
      if (model.readLayer) disposeLayer(layer);
    }
  }
  return results;
}

/** Options of one run of a batch through one layer. */
export interface LayerRunOptions extends Pick<ForwardOptions, "observe"> {
  masks?: LayerMasks;
  /** Of the same widths, in place of the layer that is visited. */
  inPlace?: DeviceLayer;
}

/** Runs batch `i` through the layer that is visited. The last run of a batch gives the input of the next layer. */
export type RunBatch = (i: number, options: LayerRunOptions) => Promise<void>;

/** Runs batches through one layer after the other, with the numbers of `forward` for each batch: `visit` runs each
 * batch once, or again if `keepInputs` is set. Between layers the hidden states, [B T, D] of each batch, are in host
 * memory. */
export async function forwardByLayers(
  model: DecoderModel,
  batches: readonly TokenBatch[],
  visit: (l: number, run: RunBatch, layer: DeviceLayer) => Promise<void>,
  { keepInputs = false }: { keepInputs?: boolean } = {},
): Promise<void> {
  const { config } = model;
  const read = async (x: tf.Tensor) => {
    const values = await x.data<"float32">();
    x.dispose();
    return values;
  };
  let inputs = new Map<number, Float32Array>();
  for (const [i, { tokens }] of batches.entries()) inputs.set(i, await read(embed(model, tokens)));
  await eachLayer(model, async (layer, l) => {
    const outputs = new Map<number, Float32Array>();
    const run: RunBatch = async (i, { observe, masks, inPlace = layer }) => {
      const input = lookUp(inputs, i);
      if (!keepInputs) inputs.delete(i);
      const output = tf.tidy(() => {
        const batch = at(batches, i);
        const x = tf.tensor2d(input, [batch.batch * batch.length, config.width]);
        const layers = [[l, inPlace]] as const;
        return runLayers(model, x, createPass(config, batch), {
          layers,
          ...observe && { observe },
          ...masks && { masks: Object.assign([], { [l]: masks }) },
        });
      });
      outputs.set(i, await read(output));
    };
    await visit(l, run, layer);
    inputs = outputs;
  });
}
