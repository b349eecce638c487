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
import { at } from "../core/util/indexing.ts";

/** Puts everything but the decoder layers on the device. The layers are there in {@linkcode eachLayer} alone, and
 * `source` must stay open for it. Free the model with `disposeModel`. */
export async function openLayerwise(source: WeightSource, weights?: WeightForm): Promise<DecoderModel> {
  const { rest, layer } = createUploader(source, weights);
  return {
    config: source.config,
    ...await rest(),
    get layers(): never {
      throw new UsageError("Only one layer of the model is held at a time: leave --layerwise out");
    },
    readLayer: layer,
  };
}

/** What `visit` gives for each layer in turn. A layer that was read for this is freed after its visit. */
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

/** Stands for hidden states that are no longer needed. */
const NOTHING = new Float32Array(0);

/** What happens on the way of {@linkcode forwardByLayers}. */
export interface LayerwiseOptions extends Pick<ForwardOptions, "observe"> {
  /** Called when a batch has passed a layer. */
  after(layer: number, batch: number): Promise<void>;
  /** Called when all batches have passed a layer: the layer's outputs are computed again with the masks it gives, which are
   * then freed, before they go on to the next. */
  narrow?(layer: number): Promise<LayerMasks>;
}

/** Runs batches through one layer after the other, with the numbers of `forward` for each batch. Between layers the hidden
 * states, [B T, D] of each batch, are in host memory. */
export async function forwardByLayers(
  model: DecoderModel,
  batches: readonly TokenBatch[],
  { observe, after, narrow }: LayerwiseOptions,
): Promise<void> {
  const { config } = model;
  const read = async (x: tf.Tensor) => {
    const values = await x.data<"float32">();
    x.dispose();
    return values;
  };
  const run = (input: Float32Array, batch: TokenBatch, entry: [number, DeviceLayer], options: ForwardOptions) =>
    read(tf.tidy(() => {
      const x = tf.tensor2d(input, [batch.batch * batch.length, config.width]);
      return runLayers(model, x, createPass(config, batch), { layers: [entry], ...options });
    }));
  let hidden: Float32Array[] = [];
  for (const { tokens } of batches) hidden.push(await read(embed(model, tokens)));
  await eachLayer(model, async (layer, l) => {
    const outputs: Float32Array[] = [];
    for (const [i, batch] of batches.entries()) {
      outputs.push(await run(at(hidden, i), batch, [l, layer], { observe }));
      if (!narrow) hidden[i] = NOTHING;
      await after(l, i);
    }
    if (narrow) {
      const own = await narrow(l);
      const masks: LayerMasks[] = [];
      masks[l] = own;
      try {
        for (const [i, batch] of batches.entries()) outputs[i] = await run(at(hidden, i), batch, [l, layer], { masks });
      } finally {
        tf.dispose(Object.values(own) as tf.Tensor[]);
      }
    }
    hidden = outputs;
  });
}
