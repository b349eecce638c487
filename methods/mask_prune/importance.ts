/** Initial scores of MaskPrune: the importance of each unit in the dense model, from calibration data.
 *
 * `fisher` is the sum over calibration sequences of (dL/dm)^2 at m = 1, L the mean cross entropy of the sequence;
 * `wanda` the structured Wanda score. Scores start from `fisher^(1/4) wanda`, from which learning ended lowest on
 * validation text of the bundled model.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { queryHeads, unitCount, UNITS } from "../../models/units.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { type HostMasks, uploadMasks } from "../../models/training/student.ts";
import { inputStatistics, rememberLayers } from "../_shared/calibration.ts";
import { CROSS_ENTROPY } from "../_shared/loss_slope.ts";
import { columnScores, type LayerScores, layerScores, reduceRuns, scoresOfColumns } from "../_shared/scoring.ts";
import type { MethodContext } from "../define.ts";

/** Sum over calibration sequences of the squared gradient of each sequence's mean loss to the masks, at 1: [F], [H] and
 * [G] of every layer. Cost: one backward pass per sequence, without weight gradients. */
function maskFisher(context: MethodContext<unknown>): Promise<LayerScores[]> {
  return rememberLayers(context, "mask Fisher by layer", async () => {
    const { model, calibration, report, signal } = context;
    const { layers } = model.config;
    const sums = layers.map((shape) => layerScores((type) => new Float64Array(unitCount(shape, type))));
    const ones = (length: number) => new Float32Array(length).fill(1);
    const masks = uploadMasks(layers.map((shape): HostMasks => ({
      "ffn": ones(shape.ffnChannels),
      "query-heads": ones(queryHeads(shape)),
    })));
    const variables = masks.flatMap((layer) => [layer.ffn!, layer.queryHeads!]);
    try {
      for (const [i, window] of calibration.entries()) {
        await giveWay(signal);
        report(`mask gradients, sequence ${i + 1} of ${calibration.length}`);
        const given = { model, masks, windows: [window], weights: CROSS_ENTROPY, variables };
        const { gradients } = await batchGradients(given);
        layers.forEach((shape, l) => {
          const [ffn, heads] = [at(gradients, 2 * l), at(gradients, 2 * l + 1)];
          // A group's mask multiplies all of its heads, so its gradient is their sum.
          const slopes = { ffn, queryHeads: heads, kvGroups: reduceRuns(heads, shape.queryHeadsPerGroup) };
          for (const { mask } of Object.values(UNITS)) {
            const own = at(sums, l)[mask];
            // Rounded as it is kept.
            slopes[mask].forEach((g, u) => own[u] = Math.fround(at(own, u) + g * g));
          }
        });
      }
    } finally {
      tf.dispose(variables);
    }
    return sums;
  });
}

/** How much units count, for each layer. */
export interface Importance {
  /** Loss that removing each unit costs, to second order and up to one factor for the model. */
  fisher: LayerScores;
  /** Scores to start from, of mean 0 and deviation 1 in each layer and type. */
  scores: LayerScores;
}

/** The importance of the units of every layer. */
export async function unitImportance(context: MethodContext<unknown>): Promise<Importance[]> {
  const { model, model: { config } } = context;
  const stored = await maskFisher(context);
  const columns = await columnScores(model, await inputStatistics(context), "WIFN");
  return stored.map((fisher, l) => {
    const wanda = scoresOfColumns({ ...at(columns, l), shape: at(config.layers, l), headSize: config.headSize });
    const scores = layerScores((type) => {
      const { mask } = UNITS[type];
      return standardisedLog(fisher[mask].map((f, i) => f ** 0.25 * at(wanda[mask], i)));
    });
    return { fisher, scores };
  });
}

/** Least value that the logarithm tells from 0, as a fraction of the largest. */
const LEAST = 1e-6;

/** log x, shifted and scaled to mean 0 and deviation 1; 0 where all are equal. */
function standardisedLog(values: Float64Array): Float64Array {
  const floor = LEAST * Math.max(...values) || 1;
  const logs = values.map((x) => Math.log(Math.max(x, floor)));
  const mean = logs.reduce((sum, x) => sum + x, 0) / logs.length;
  const deviation = Math.sqrt(logs.reduce((sum, x) => sum + (x - mean) ** 2, 0) / logs.length);
  return logs.map((x) => deviation === 0 ? 0 : (x - mean) / deviation);
}
