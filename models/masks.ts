/** Masks of a decoder: of units and whole layers, layer by layer, and of the hidden dimensions; f32.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { rmsNorm } from "../core/engine/ops.ts";
import { type LayerPlan, type LayerShape, queryHeads } from "./units.ts";

/** Masks of one layer. Each multiplies the output of its units, so a zero removes the unit exactly. */
export interface LayerMasks {
  /** [1]: multiplies the output of the attention and the FFN block; a zero removes the layer. */
  layer?: tf.Tensor1D;
  /** [H]: multiplies the output of each query head, before the output projection. */
  queryHeads?: tf.Tensor1D;
  /** [G]: the same, one value for all query heads of a key/value group. */
  kvGroups?: tf.Tensor1D;
  /** [F]: multiplies the gated activation, before the down projection. */
  ffn?: tf.Tensor1D;
}

/** Masks with zeros for removed units; types that keep all units have none. */
export function keptMasks(kept: LayerPlan, shape: LayerShape): LayerMasks {
  const mask = (count: number, units: readonly number[]) => {
    if (units.length === count) return undefined;
    const values = new Float32Array(count);
    for (const unit of units) values[unit] = 1;
    return tf.tensor1d(values);
  };
  const layer = kept.kvGroups.length + kept.ffnChannels.length === 0 ? tf.zeros<tf.Rank.R1>([1]) : undefined;
  const masks = {
    layer,
    queryHeads: mask(queryHeads(shape), kept.queryHeads),
    ffn: mask(shape.ffnChannels, kept.ffnChannels),
  };
  return Object.fromEntries(Object.entries(masks).filter(([, values]) => values));
}

/** A mask of the hidden dimensions, the same in the whole model (Xia et al. 2024, arXiv:2310.06694): it multiplies the
 * output of the embedding, of every RMSNorm, and of the attention and FFN blocks. A mean square is taken over the
 * dimensions that are open, so that a zero removes a dimension exactly. */
export interface HiddenMask {
  /** [D]. */
  mask: tf.Tensor1D;
  /** Entries that are not 0. */
  open: number;
}

/** Scales each head of `x` [N, H K] by the masks. */
export function maskHeads(
  x: tf.Tensor2D,
  masks: LayerMasks | undefined,
  shape: LayerShape,
  headSize: number,
): tf.Tensor2D {
  const { kvGroups: g, queryHeadsPerGroup: r } = shape;
  const n = x.shape[0];
  let heads: tf.Tensor = tf.reshape(x, [n, g, r, headSize]);
  if (masks?.queryHeads) heads = tf.mul(heads, tf.reshape(masks.queryHeads, [1, g, r, 1]));
  if (masks?.kvGroups) heads = tf.mul(heads, tf.reshape(masks.kvGroups, [1, g, 1, 1]));
  return tf.reshape(heads, [n, g * r * headSize]);
}

/** RMSNorm of a residual stream under a hidden mask: x [N, D], 0 where the mask is, gain [D] -> [N, D].
 *
 * With n of D dimensions open, their mean square is D / n times the one over all. This factor goes to the gain and to
 * epsilon, so that the same operation is used. */
export function hiddenNorm(x: tf.Tensor2D, gain: tf.Tensor1D, epsilon: number, hidden?: HiddenMask): tf.Tensor2D {
  if (!hidden) return rmsNorm(x, gain, epsilon);
  // A draw with nothing open gives zeros, not 0 / 0.
  const share = Math.max(1, hidden.open) / x.shape[1];
  return rmsNorm(x, tf.mul(gain, tf.mul(hidden.mask, Math.sqrt(share))), epsilon * share);
}

/** The output of a block, [N, D], under the masks of its layer and of the hidden dimensions. */
export function maskBlock(written: tf.Tensor2D, layer?: tf.Tensor1D, hidden?: HiddenMask): tf.Tensor2D {
  if (!layer && !hidden) return written;
  return tf.mul(written, layer && hidden ? tf.mul(hidden.mask, layer) : layer ?? hidden!.mask);
}
