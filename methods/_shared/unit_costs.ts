/** What each unit costs when it goes and nothing stands in for it, as optimal brain damage has it (LeCun, Denker and Solla
 * 1990, "Optimal Brain Damage").
 *
 * Removing the columns u of a unit from a map W [in, out] costs `tr(E_uu A_uu)`, E = W S W^T, A the second moment of the map's
 * inputs. S = I gives the squared error of the block's output, S the second moment of the loss's gradient there (K-FAC,
 * `curvature.ts`) the loss to second order, up to one factor for all units: the diagonal of the curvature of the units'
 * masks, from as many samples as there are calibration tokens.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at, entry } from "../../core/util/indexing.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { WRITING_NAMES } from "../../models/config.ts";
import { unitCount, UNITS } from "../../models/units.ts";
import { UNIT_TYPES } from "../../core/schema/schema.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { curvatureNames, factorMatrix, inputFactors, slopeFactors } from "./curvature.ts";
import { diagonalBlocks } from "./inverse.ts";
import { type RemovalError, unitEnergies } from "./removal_order.ts";
import type { LayerScores } from "./scoring.ts";

const costName = (layer: number, type: keyof LayerScores) => `${layer}.${type}.cost`;

/** The cost of every unit alone, the same for all methods and levels of a run: [F], [H] and [G] of every layer. */
export async function unitCosts(context: MethodContext<unknown>, error: RemovalError): Promise<LayerScores[]> {
  const { model, remember, signal } = context;
  const { layers } = model.config;
  const stored = await remember(`costs of units alone, ${error} error`, async () => {
    const a = await inputFactors(context);
    const s = error === "kfac" ? await slopeFactors(context) : null;
    const costs: Statistics = {};
    for (const [l, shape] of layers.entries()) {
      await giveWay(signal);
      for (const site of WRITING_NAMES) {
        const weight = denseMatrix(at(model.layers, l)[site].weight);
        const moment = factorMatrix(a, curvatureNames.inputs(l, site));
        const slopes = s && factorMatrix(s, curvatureNames.slopes(l, site));
        try {
          for (const type of UNIT_TYPES.filter((type) => (type === "ffn") === (site === "down"))) {
            const data = await costsAt({ weight, moment, slopes }, unitCount(shape, type));
            costs[costName(l, UNITS[type].mask)] = { shape: [data.length], data };
          }
        } finally {
          tf.dispose([weight, moment, ...slopes ? [slopes] : []]);
        }
      }
    }
    return costs;
  });
  return layers.map((_, l) => {
    const read = (type: keyof LayerScores) => Float64Array.from(entry(stored, costName(l, type)).data);
    return { ffn: read("ffn"), queryHeads: read("queryHeads"), kvGroups: read("kvGroups") };
  });
}

/** `tr(E_uu A_uu)` of so many units, which share the inputs of a map equally: [units]. */
async function costsAt(
  { weight, moment, slopes }: { weight: tf.Tensor2D; moment: tf.Tensor2D; slopes: tf.Tensor2D | null },
  units: number,
): Promise<Float32Array> {
  const size = moment.shape[0] / units;
  const energies = await unitEnergies(weight, slopes, size);
  const moments = await diagonalBlocks(moment, size);
  const sums = new Float64Array(units);
  for (const [i, energy] of energies.entries()) {
    const unit = Math.floor(i / (size * size));
    sums[unit] = at(sums, unit) + energy * at(moments, i);
  }
  // Rounding may leave a unit that does nothing just below 0.
  return Float32Array.from(sums, (cost) => Math.max(cost, 0));
}
