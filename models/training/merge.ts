/** From a trained student to plain weights: adapters folded in, kept masks folded in, everything at the dense shape.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import {
  type DecoderConfig,
  type HostTensor,
  isHeadNorm,
  layerNorms,
  LINEAR_NAMES,
  type LinearName,
  linearShape,
  tensorNames,
  writesResidual,
} from "../config.ts";
import { type DecoderModel, type DeviceLinear, mergedWeight } from "../device.ts";
import { spread } from "../host_matrix.ts";
import { keptLayers, type PrunePlan } from "../plan.ts";
import { hostTensor, keptOfLinear } from "../surgery.ts";
import type { HostMasks, ModelMasks } from "./student.ts";

/** Factor of each input row of the output map [H K] or the down map [F] under the masks; null when nothing is masked. */
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

/** The weight with adapter and factors of its rows and columns folded in, `[out, in]`, in host memory. */
async function foldedWeight(
  linear: DeviceLinear,
  rows: Float32Array | null,
  columns: Float32Array | null,
): Promise<Float32Array> {
  const folded = tf.tidy(() => {
    let merged: tf.Tensor2D = mergedWeight(linear);
    if (rows) merged = tf.mul(merged, tf.tensor2d(rows, [rows.length, 1]));
    if (columns) merged = tf.mul(merged, tf.tensor2d(columns, [1, columns.length]));
    return tf.transpose(merged);
  });
  try {
    return await folded.data() as Float32Array;
  } finally {
    folded.dispose();
  }
}

/** Tensors that a trained student changed, by Hugging Face name, at the dense shape, weights `[out, in]`; rows and columns
 * of what was removed are zero. `model` has the shape of `plan`, the masks are at its widths, `dense` is the configuration
 * before pruning. A mask of units becomes a factor on the output or down map's inputs, those of a layer and of hidden
 * dimensions on their outputs; the latter also on embedding and norms. All of this is exact. */
export async function mergedTensors(
  model: DecoderModel,
  { plan, dense, masks = [], hidden }: { plan: PrunePlan; dense: DecoderConfig } & ModelMasks,
): Promise<Record<string, HostTensor>> {
  const tensors = await maskedVectors(model, { plan, dense, masks, hidden });
  for (const [l, from] of keptLayers(plan).entries()) {
    const layer = at(model.layers, l);
    const layerMasks = masks[l] ?? {};
    const heads = at(plan.layers, from).queryHeads.length;
    // A norm after the block would undo a factor before it, so that takes the layer's mask.
    const layerMask = dense.outputNorms ? undefined : layerMasks.layer;
    for (const name of LINEAR_NAMES) {
      const rows = rowFactors(layerMasks, name, dense.headSize, heads);
      const columns = columnFactors(layerMask, name, hidden, model.config.width);
      const isTrained = layer[name].lora !== undefined || layer[name].weight instanceof tf.Variable;
      if (!isTrained && !rows && !columns) continue;
      const shape = linearShape(dense, at(dense.layers, from), name);
      const { inputs, outputs } = keptOfLinear(plan, from, name, dense.headSize);
      const data = spread(await foldedWeight(layer[name], rows, columns), shape, outputs, inputs);
      tensors[tensorNames.weight(from, name)] = { shape, data };
      if (!columns || !layer[name].bias) continue;
      const bias = (await layer[name].bias.data<"float32">()).map((value, i) => value * at(columns, i));
      const [out] = shape;
      tensors[tensorNames.bias(from, name)] = { shape: [out], data: spread(bias, [1, out], [0], outputs) };
    }
  }
  return tensors;
}

/** A tensor with a column per hidden dimension, and what its columns are multiplied by. */
interface MaskedVector {
  /** Its names in the trained and in the dense model. */
  names: [string, string];
  /** Factor on every column. */
  layer?: number;
}

/** Embedding and norms under a mask of the hidden dimensions, and norms of what a block writes under that of their layer. An
 * output projection that is the embedding brings the mask with it, so the final norm takes it only where the two are apart. */
async function maskedVectors(
  model: DecoderModel,
  { plan, dense, masks = [], hidden }: { plan: PrunePlan; dense: DecoderConfig } & ModelMasks,
): Promise<Record<string, HostTensor>> {
  const whole = dense.tiedHead ? [tensorNames.embedding] : [tensorNames.embedding, tensorNames.finalNorm];
  const vectors: MaskedVector[] = [
    ...whole.map((name): MaskedVector => ({ names: [name, name] })),
    ...keptLayers(plan).flatMap((from, l) =>
      layerNorms(dense).filter(([name]) => !isHeadNorm(name)).map(([name]): MaskedVector => ({
        names: [tensorNames.norm(l, name), tensorNames.norm(from, name)],
        layer: name === "attentionOutputNorm" || name === "ffnOutputNorm" ? masks[l]?.layer?.[0] : undefined,
      }))
    ),
  ];
  const tensors: Record<string, HostTensor> = {};
  for (const { names: [name, denseName], layer } of vectors) {
    if (!hidden && layer === undefined) continue;
    const { shape, data } = await hostTensor(model, name);
    const width = shape.at(-1) ?? 0;
    const rows = data.length / width;
    const masked = data.map((value, i) => value * (hidden?.[i % width] ?? 1) * (layer ?? 1));
    tensors[denseName] = {
      shape: shape.length === 1 ? [dense.width] : [rows, dense.width],
      data: spread(masked, [rows, dense.width], undefined, plan.hidden),
    };
  }
  return tensors;
}

/** Replaces the weights of `base` by those of `trained` with its adapters folded in. */
export function mergeInto(base: DecoderModel, trained: DecoderModel): void {
  trained.layers.forEach((layer, l) => {
    for (const name of LINEAR_NAMES) {
      if (!layer[name].lora) continue;
      const merged = mergedWeight(layer[name]);
      const own = at(base.layers, l)[name];
      own.weight.dispose();
      own.weight = merged;
    }
  });
}
