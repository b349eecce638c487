/** From a trained student to plain weights: adapters folded in, kept masks folded in, everything at the dense shape.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import {
  type HostTensor,
  LINEAR_NAMES,
  type LinearName,
  linearShape,
  type LlamaConfig,
  tensorNames,
} from "../config.ts";
import { type DeviceLinear, type LlamaModel, mergedWeight } from "../llama.ts";
import type { PrunePlan } from "../plan.ts";
import { keptIndices } from "../surgery.ts";
import type { HostMasks } from "./student.ts";

/** Factor of each input row of the output map [H K] or the down map [F] under the masks; null when nothing is masked. */
function rowFactors(masks: HostMasks, name: LinearName, headSize: number, heads: number): Float32Array | null {
  if (name === "down") return masks.ffn ?? null;
  const { "query-heads": queryHeads, "kv-groups": kvGroups } = masks;
  if (name !== "output" || (!queryHeads && !kvGroups)) return null;
  const factors = new Float32Array(heads * headSize);
  for (let h = 0; h < heads; h++) {
    const group = kvGroups ? kvGroups[Math.floor(h * kvGroups.length / heads)] : 1;
    factors.fill(group * (queryHeads ? queryHeads[h] : 1), h * headSize, (h + 1) * headSize);
  }
  return factors;
}

/** The weight with adapter and masks folded in, `[out, in]`, in host memory. */
async function foldedWeight(linear: DeviceLinear, factors: Float32Array | null): Promise<Float32Array> {
  const folded = tf.tidy(() => {
    const merged = mergedWeight(linear);
    return tf.transpose(factors ? tf.mul(merged, tf.tensor2d(factors, [factors.length, 1])) : merged);
  });
  try {
    return await folded.data() as Float32Array;
  } finally {
    folded.dispose();
  }
}

/** Puts the rows (axis 0) or columns (axis 1) of a smaller matrix back where they came from; zeros elsewhere. */
function spread(
  values: Float32Array,
  [rows, columns]: [number, number],
  kept: readonly number[],
  axis: 0 | 1,
): Float32Array {
  if (kept.length === (axis === 0 ? rows : columns)) return values;
  const result = new Float32Array(rows * columns);
  if (axis === 0) {
    kept.forEach((row, i) => result.set(values.subarray(i * columns, (i + 1) * columns), row * columns));
    return result;
  }
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < kept.length; i++) result[row * columns + kept[i]] = values[row * kept.length + i];
  }
  return result;
}

/** Linear maps that a trained student changed, by Hugging Face name, `[out, in]` at the dense shape; rows and columns of
 * removed units are zero. `model` has the widths of `plan`, `masks` multiply its units, `dense` is the configuration
 * before pruning. A mask becomes a factor on the output or down map's input, which is exact. */
export async function mergedTensors(
  model: LlamaModel,
  { plan, dense, masks = [] }: { plan: PrunePlan; dense: LlamaConfig; masks?: readonly HostMasks[] },
): Promise<Record<string, HostTensor>> {
  const tensors: Record<string, HostTensor> = {};
  for (const [l, layer] of model.layers.entries()) {
    const kept = plan.layers[l];
    for (const name of LINEAR_NAMES) {
      const factors = rowFactors(masks[l] ?? {}, name, dense.headSize, kept.queryHeads.length);
      const isTrained = layer[name].lora !== undefined || layer[name].weight instanceof tf.Variable;
      if (!isTrained && !factors) continue;
      const shape = linearShape(dense, dense.layers[l], name);
      const axis = name === "output" || name === "down" ? 1 : 0;
      const data = spread(
        await foldedWeight(layer[name], factors),
        shape,
        keptIndices(kept, name, dense.headSize),
        axis,
      );
      tensors[tensorNames.weight(l, name)] = { shape, data };
    }
  }
  return tensors;
}
