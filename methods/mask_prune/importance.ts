/** What MaskPrune starts from: how much each unit counts in the dense model, from calibration data.
 *
 * `fisher` is the sum over calibration sequences of (dL/dm)^2 at m = 1, L the mean cross entropy of the sequence;
 * `wanda` the structured Wanda score. Scores start from `fisher^(1/4) wanda`, from which learning ended lowest on
 * validation text of the bundled model.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at, entry } from "../../core/util/indexing.ts";
import type { HostTensor } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { type HostMasks, uploadMasks } from "../../models/training/student.ts";
import { inputStatistics } from "../_shared/calibration.ts";
import { columnScores } from "../_shared/column_metrics.ts";
import { CROSS_ENTROPY } from "../_shared/loss_slope.ts";
import { type LayerScores, scoresOfColumns } from "../_shared/scoring.ts";
import type { MethodContext, Statistics } from "../define.ts";

type Site = keyof LayerScores;

const fisherName = (layer: number, site: Site) => `${layer}.${site}.fisher`;

/** Sum over calibration sequences of the squared gradient of each sequence's mean loss to the masks, at 1: f32 [F], [H]
 * and [G] of every layer. Cost: one backward pass per sequence, without weight gradients. */
function maskFisher(context: MethodContext<unknown>): Promise<Statistics> {
  return context.remember("mask-fisher", async () => {
    const { model, calibration, report, signal } = context;
    const { layers } = model.config;
    const sums = layers.map((shape): Record<Site, Float32Array> => ({
      ffn: new Float32Array(shape.ffnChannels),
      queryHeads: new Float32Array(queryHeads(shape)),
      kvGroups: new Float32Array(shape.kvGroups),
    }));
    const masks = uploadMasks(layers.map((shape): HostMasks => ({
      "ffn": new Float32Array(shape.ffnChannels).fill(1),
      "query-heads": new Float32Array(queryHeads(shape)).fill(1),
    })));
    const variables = masks.flatMap((layer) => [layer.ffn!, layer.queryHeads!]);
    try {
      for (const [i, window] of calibration.entries()) {
        await giveWay(signal);
        report(`mask gradients, sequence ${i + 1} of ${calibration.length}`);
        const { gradients } = await batchGradients({
          model,
          masks,
          windows: [window],
          weights: CROSS_ENTROPY,
          variables,
        });
        layers.forEach((shape, l) => {
          const [ffn, heads, own] = [at(gradients, 2 * l), at(gradients, 2 * l + 1), at(sums, l)];
          ffn.forEach((g, u) => own.ffn[u] = at(own.ffn, u) + g * g);
          heads.forEach((g, u) => own.queryHeads[u] = at(own.queryHeads, u) + g * g);
          // A group's mask multiplies all of its heads, so its gradient is their sum.
          for (let g = 0; g < shape.kvGroups; g++) {
            const r = shape.queryHeadsPerGroup;
            const slope = heads.subarray(g * r, (g + 1) * r).reduce((a, b) => a + b, 0);
            own.kvGroups[g] = at(own.kvGroups, g) + slope * slope;
          }
        });
      }
    } finally {
      tf.dispose(variables);
    }
    return Object.fromEntries(
      sums.flatMap((layer, l) =>
        Object.entries(layer).map(([site, data]): [string, HostTensor] => [
          fisherName(l, site as Site),
          { shape: [data.length], data },
        ])
      ),
    );
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
  return config.layers.map((shape, l) => {
    const wanda = scoresOfColumns({ ...at(columns, l), shape, headSize: config.headSize });
    const fisher = each((site) => Float64Array.from(entry(stored, fisherName(l, site)).data));
    const scores = each((site) => standardisedLog(fisher[site].map((f, i) => f ** 0.25 * at(wanda[site], i))));
    return { fisher, scores };
  });
}

const each = (make: (site: Site) => Float64Array): LayerScores => ({
  ffn: make("ffn"),
  queryHeads: make("queryHeads"),
  kvGroups: make("kvGroups"),
});

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
