/** From a trained student to plain weights: adapters, scales and kept masks folded in. All of it is exact, but for the
 * rounding of every weight in fast arithmetic.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { denseMatrix, inFormOf } from "../../core/engine/matrix.ts";
import { isHeadNorm, layerNorms, LINEAR_NAMES, type LinearName, writesResidual } from "../config.ts";
import { type DecoderModel, type DeviceLayer, mergedWeight } from "../device.ts";
import { queryHeads } from "../units.ts";
import type { HostMasks, ModelMasks } from "./student.ts";

/** Factor of each input row of the output map [H K] or the down map [F] under the masks; null without masks. */
function rowFactors(masks: HostMasks, name: LinearName, headSize: number, heads: number): Float32Array | null {
  if (name === "down") return masks.ffn ?? null;
  const { "query-heads": queryHeads, "kv-groups": kvGroups } = masks;
  if (name !== "output" || (!queryHeads && !kvGroups)) return null;
  const factors = new Float32Array(heads * headSize);
  for (let h = 0; h < heads; h++) {
    const group = kvGroups?.[Math.floor(h * kvGroups.length / heads)] ?? 1;
    factors.fill(group * (queryHeads?.[h] ?? 1), h * headSize, (h + 1) * headSize);
  }
  return factors;
}

/** Factor of each output of the output or down map [D] under the masks of its layer and of the hidden dimensions; null
 * when nothing is masked. */
function columnFactors(
  layer: Float32Array | undefined,
  name: LinearName,
  hidden: Float32Array | undefined,
  width: number,
): Float32Array | null {
  if (!writesResidual(name) || (!hidden && !layer)) return null;
  return (hidden ?? new Float32Array(width).fill(1)).map((value) => value * (layer?.[0] ?? 1));
}

/** Puts `make(old)` in the place of a tensor of an object, and frees the old one. */
function replace<Key extends string>(
  owner: { [K in Key]?: { dispose(): void } },
  key: Key,
  make: () => tf.Tensor,
): void {
  const made = tf.tidy(make);
  owner[key]?.dispose();
  (owner as Record<Key, tf.Tensor>)[key] = made;
}

/** Folds adapters of `trained` and masks into the weights of `base`, which has the same widths and is changed. A mask
 * of units becomes a factor on the output or down map's inputs, masks of layers and hidden dimensions on their outputs;
 * the latter also on embedding and norms. */
export function foldTrained(base: DecoderModel, trained: DecoderModel, { masks = [], hidden }: ModelMasks = {}): void {
  const { config } = base;
  for (const [l, layer] of base.layers.entries()) {
    const own = masks[l] ?? {};
    // A norm after the block would undo a factor before it, so that takes the layer's mask.
    const ofLayer = config.outputNorms ? undefined : own.layer;
    for (const name of LINEAR_NAMES) {
      const linear = layer[name];
      const from = at(trained.layers, l)[name];
      const rows = rowFactors(own, name, config.headSize, queryHeads(at(config.layers, l)));
      const columns = columnFactors(ofLayer, name, hidden, config.width);
      if (!from.lora && !rows && !columns) continue;
      const merged = tf.tidy(() => {
        const whole = mergedWeight(from);
        const scaled: tf.Tensor2D = rows ? tf.mul(whole, tf.tensor2d(rows, [rows.length, 1])) : whole;
        return columns ? tf.mul(scaled, tf.tensor2d(columns, [1, columns.length])) as tf.Tensor2D : scaled;
      });
      // In fast arithmetic all maps of a layer stay in one form, which decoding in one operation needs.
      const weight = inFormOf(merged, linear.weight);
      linear.weight.dispose();
      linear.weight = weight;
      const { bias } = linear;
      if (columns && bias) replace(linear, "bias", () => tf.mul(bias, tf.tensor1d(columns)));
    }
    foldNorms(base, layer, own.layer, hidden);
  }
  if (!hidden) return;
  const factor = hidden;
  base.embedding = base.embedding.map((part) => {
    const masked = tf.tidy(() => tf.mul(denseMatrix(part), tf.tensor2d(factor, [1, factor.length])) as tf.Tensor2D);
    part.dispose();
    return masked;
  });
  // An output projection that is the embedding brings the mask with it.
  if (!config.tiedHead) replace(base, "finalNorm", () => tf.mul(base.finalNorm, tf.tensor1d(factor)));
}

/** Norms of a layer under a mask of the hidden dimensions, and norms of a block's output under the mask of the layer.
 */
function foldNorms(
  { config }: DecoderModel,
  layer: DeviceLayer,
  ofLayer: Float32Array | undefined,
  hidden: Float32Array | undefined,
): void {
  for (const [name] of layerNorms(config)) {
    const gain = layer[name];
    if (!gain || isHeadNorm(name)) continue;
    const whole = name === "attentionOutputNorm" || name === "ffnOutputNorm" ? ofLayer?.[0] : undefined;
    if (!hidden && whole === undefined) continue;
    const factor = hidden ?? new Float32Array(config.width).fill(1);
    replace(layer, name, () => tf.mul(gain, tf.tensor1d(factor.map((value) => value * (whole ?? 1)))));
  }
}
