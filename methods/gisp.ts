/** GISP: removes units in many small steps over the whole model; their first-order importance is recomputed after each.
 *
 * Paper: Wang et al. 2025, arXiv:2510.18030, section 3; constants from the authors' code (uncc-efficient-ai/GISP 1358151,
 * `grad_sp_global.py`).
 *
 * Shapes: importance of a unit = sum of |W dL/dW| over its entries in all matrices that lose them, divided by the size
 * of its block, 3 F for a channel, (2 R + 2) K D for a group and 2 K D for a query head of several, L the mean
 * next-token cross entropy; [F], [H] and [G] of each layer. A step takes 1 / `steps` of the way to 70 % sparsity, 5 %
 * by default. The result is the order of removal, so one trajectory gives all levels of a run.
 *
 * Cost: `steps` times about four forward passes over calibration, on a model that becomes smaller (the authors: 112 steps
 * of 2000 sequences of 256 tokens). A second copy of the model is on the device, and the gradients of one layer.
 *
 * Deviations: 14 steps by default. All layers have the same widths after each step. `uniform=false` is the paper's one
 * ranking, which leaves the first tenth of the layers and the last layer whole as long as the others hold enough. Steps
 * count what the run's budget counts, where the authors count units. With grouped queries, groups are removed with
 * their keys and values, which the authors keep; they divide a query head's sum by 4 K D. One unit of each type stays
 * in a layer. Beyond 70 %, or 95 % of what these units can give, the last importance ranks.
 *
 * @module
 */
import { z } from "zod";
import { giveWay } from "../core/engine/give_way.ts";
import { at } from "../core/util/indexing.ts";
import { UNIT_TYPES } from "../core/schema/schema.ts";
import type { DecoderConfig } from "../models/config.ts";
import { type DecoderModel, disposeModel } from "../models/device.ts";
import { densePlan } from "../models/plan.ts";
import { pruneModel } from "../models/surgery.ts";
import { largestSparsity, resolveTarget } from "../models/target.ts";
import { layerPlan, type LayerShape, layerShape, unitCount, UNITS, widthOf } from "../models/units.ts";
import { defineMethod, type Method, type MethodContext } from "./define.ts";
import { type LayerScores, layerScores } from "./_shared/scoring.ts";
import { globalWidths, keepBest, keepWidths } from "./_shared/selection.ts";
import { rememberLayers } from "./_shared/calibration.ts";
import { taylorScores } from "./_shared/taylor.ts";

const options = z.strictObject({
  uniform: z.boolean().default(true).describe("one width for all layers; false: one ranking over layers and types"),
  steps: z.number().int().positive().default(14).describe("pruning steps to 70 % sparsity; the paper's is 112"),
});
type Options = z.infer<typeof options>;

/** Removes the units of lowest first-order importance, step by step. */
export const gisp: Method<typeof options> = defineMethod({
  id: "gisp",
  version: 2,
  summary: "Removes units in many small steps, by first-order importance of the current model",
  source: "Wang et al. 2025, arXiv:2510.18030, section 3",
  display: { order: 9, colour: "#2F7F8F" },
  kind: "one-shot",
  needs: { calibration: true, seed: false },
  options,
  uniformLayers: ({ uniform }) => uniform,
  async prune(context) {
    const { model: { config }, target, options: { uniform } } = context;
    if (target.sparsity === 0) return { plan: densePlan(config) };
    const order = await removalPlaces(context);
    if (uniform) return { plan: keepBest(order, target) };
    return { plan: keepWidths(order, globalWidths(config, order, target, { pool: "all" })) };
  },
});

/** Sparsity at the end of the steps. */
const DEPTH = 0.7;

/** The place of every unit in the order of removal, in steps: the first to go has the lowest. */
function removalPlaces(context: MethodContext<Options>): Promise<LayerScores[]> {
  const { model, model: { config }, target, options: { uniform, steps }, report, signal } = context;
  const asked = [target.units.join(", "), target.resource.name, target.whole];
  const key = `gisp, ${steps} steps, ${uniform ? "uniform" : "global"}, ${asked.join(", ")}`;
  return rememberLayers(context as MethodContext<unknown>, key, async () => {
    const places = config.layers.map((shape) => layerScores((type) => new Float64Array(unitCount(shape, type))));
    const depth = Math.min(DEPTH, 0.95 * largestSparsity(config, { ...target, ffnMultiple: 1 }));
    let plan = densePlan(config);
    for (let step = 1; step <= steps; step++) {
      await giveWay(signal);
      report(`removal ${step} of ${steps}`);
      const left = await pruneModel(model, plan);
      try {
        const scores = await importance(context, left);
        const widths = widthsAfter(depth * step / steps, left.config, scores, context);
        const kept = keepWidths(scores, widths);
        const ranks = ranksOf(scores);
        const next = config.layers.map(() => layerPlan(() => []));
        for (const [l, layer] of plan.layers.entries()) {
          for (const type of UNIT_TYPES) {
            const { plan: name, mask } = UNITS[type];
            const stays = new Set(at(kept.layers, l)[name]);
            layer[name].forEach((unit, i) => {
              // Units that stay get another place in the next step; after the last they follow in the order of importance.
              at(places, l)[mask][unit] = (stays.has(i) ? steps + 1 : step) + at(at(ranks, l)[mask], i);
              if (stays.has(i)) at(next, l)[name].push(unit);
            });
          }
        }
        plan = { layers: next };
      } finally {
        disposeModel(left);
      }
    }
    return places;
  });
}

/** Importance of the units of `left`, normalised by blocks. */
async function importance(context: MethodContext<Options>, left: DecoderModel): Promise<LayerScores[]> {
  const { headSize, width } = left.config;
  const scores = await taylorScores({ ...context as MethodContext<unknown>, model: left }, "element-1");
  return scores.map(({ ffn, queryHeads, kvGroups }, l) => {
    const perGroup = at(left.config.layers, l).queryHeadsPerGroup;
    return {
      ffn: ffn.map((sum) => sum / (3 * at(context.model.config.layers, l).ffnChannels)),
      queryHeads: queryHeads.map((sum) => sum / (2 * headSize * width)),
      kvGroups: kvGroups.map((sum) => sum / ((2 * perGroup + 2) * headSize * width)),
    };
  });
}

/** Widths of the layers of `left` when `part` of the dense model is gone. */
function widthsAfter(
  part: number,
  left: DecoderConfig,
  scores: readonly LayerScores[],
  { model: { config }, target, options: { uniform } }: MethodContext<Options>,
): LayerShape[] {
  if (uniform) {
    const { uniform } = resolveTarget(config, { ...target, sparsity: part, ffnMultiple: 1, dropLayers: 0 });
    // With fewer groups, more channels would fit the budget than are left.
    return uniform.map((shape, l) =>
      layerShape((type) => Math.min(widthOf(shape, type), widthOf(at(left.layers, l), type)))
    );
  }
  const count = scores.length;
  const isEnd = (l: number) => l < Math.floor(count / 10) || l === count - 1;
  const ranked = scores.map((layer, l) =>
    isEnd(l) ? layerScores((type) => layer[UNITS[type].mask].map(() => Infinity)) : layer
  );
  const budget = (1 - part) * target.whole;
  return globalWidths(left, ranked, { ...target, budget, ffnMultiple: 1 }, { pool: "all" });
}

/** Ranks of all units of a model together, from 0 for the lowest score to 1. */
function ranksOf(scores: readonly LayerScores[]): LayerScores[] {
  const ranks = scores.map((layer) => layerScores((type) => layer[UNITS[type].mask].slice()));
  const units = scores.flatMap((layer, l) =>
    UNIT_TYPES.flatMap((type) =>
      [...layer[UNITS[type].mask]].map((score, i) => ({ l, mask: UNITS[type].mask, i, score }))
    )
  );
  units.sort((a, b) => a.score - b.score).forEach(({ l, mask, i }, place) => {
    at(ranks, l)[mask][i] = place / units.length;
  });
  return ranks;
}
