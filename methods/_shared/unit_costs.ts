/** The cost of each unit when it is removed and the others stay as they are: optimal brain damage (LeCun, Denker and Solla
 * 1990, "Optimal Brain Damage").
 *
 * Removing the columns u of a unit from a map W [in, out] costs `tr(E_uu A_uu)`, E = W S W^T, A the second moment of the map's
 * inputs. S = I gives the squared error of the block's output. With S the second moment of the loss's gradient there (K-FAC,
 * `curvature.ts`) it is the loss to second order, up to one factor for all units: the diagonal of the curvature of the units'
 * masks.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { matMul2d } from "../../core/engine/ops.ts";
import { at } from "../../core/util/indexing.ts";
import type { MethodContext } from "../define.ts";
import { eachLayerFactors, type MapFactors, type RemovalError } from "./curvature.ts";
import { diagonalBlocks } from "./inverse.ts";
import type { LayerScores } from "./scoring.ts";
import { rememberLayers } from "./stored.ts";

/** The cost of every unit alone, the same for all methods and levels of a run. */
export function unitCosts(context: MethodContext<unknown>, error: RemovalError): Promise<LayerScores[]> {
  const { config: { layers, headSize } } = context.model;
  return rememberLayers(
    context,
    `costs of units alone, ${error} error`,
    () =>
      eachLayerFactors(context, error, async ({ output, down }, l) => ({
        ffn: await costsAlone(down, 1),
        queryHeads: await costsAlone(output, headSize),
        kvGroups: await costsAlone(output, headSize * at(layers, l).queryHeadsPerGroup),
      })),
  );
}

/** `tr(E_uu A_uu)` of every unit, which is `size` columns in a row: [in / size]. */
async function costsAlone(factors: MapFactors, size: number): Promise<Float64Array> {
  const energies = await unitEnergies(factors, size);
  const moments = await diagonalBlocks(factors.a, size);
  const sums = new Float64Array(factors.a.shape[0] / size);
  for (const [i, energy] of energies.entries()) {
    const unit = Math.floor(i / (size * size));
    sums[unit] = at(sums, unit) + energy * at(moments, i);
  }
  // Rounding may leave a unit that does nothing just below 0.
  return sums.map((cost) => Math.max(cost, 0));
}

/** E_uu of every unit: [units, size, size]. */
export async function unitEnergies({ weight, slopes }: MapFactors, size: number): Promise<Float32Array> {
  const [inputs, outputs] = weight.shape;
  const energies = tf.tidy(() => {
    const weighted = slopes ? matMul2d(weight, slopes) : weight;
    if (size === 1) return tf.sum(tf.mul(weighted, weight), 1);
    const rows = (m: tf.Tensor, u: number) => tf.slice(m as tf.Tensor2D, [u * size, 0], [size, outputs]);
    return tf.stack(
      Array.from({ length: inputs / size }, (_, u) => matMul2d(rows(weighted, u), rows(weight, u), false, true)),
    );
  });
  try {
    return await energies.data() as Float32Array;
  } finally {
    energies.dispose();
  }
}
