/** MultiPruner: removes step by step what increases the calibration loss least: layers, then groups of FFN channels,
 * then attention units. Every candidate's loss is recomputed after each removal.
 *
 * Paper: Muñoz, Yuan and Jain 2025, arXiv:2501.09949; constants and order from the authors' code
 * (IntelLabs/Hardware-Aware-Automated-Machine-Learning fc29bc7, `MultiPruner/`).
 *
 * Shapes: a unit's place inside its layer is the order of its sum of |W|, f64 [F] over gate and up, [H] over query and
 * [G] over the group's query, key and value. A removal takes the last `step` F channels or the last unit of one layer.
 * The loss is the mean over windows of each window's mean next-token cross entropy; differences below 1e-5 are ties, in
 * which the earlier layer goes.
 *
 * Stages, as parts of the removal: `layers` (the authors: 0.44), then `channels` (0.52), attention units the rest. The
 * authors' code gives 0.1 : 0.9 : 0 to 0.5 : 0.5 : 0 for models with grouped queries.
 *
 * Cost: at each removal, a forward pass over `windows` windows from every layer on that may lose something. The inputs of
 * all layers for these windows are held.
 *
 * Deviations: whole layers go, where the authors remove attention and FFN blocks apart. The parts are of the budget,
 * theirs of all parameters with the embedding. Attention goes as long as it fits, and channels fill the budget. With
 * `uniform`, all layers that stay lose channels and attention units alike, without a search.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { z } from "zod";
import { at } from "../core/util/indexing.ts";
import { UsageError } from "../core/util/errors.ts";
import type { UnitType } from "../core/schema/schema.ts";
import type { DecoderModel } from "../models/device.ts";
import { densePlan, type PrunePlan } from "../models/plan.ts";
import { costOf } from "../models/resource.ts";
import { type LayerShape, layerShape, UNITS, widthOf } from "../models/units.ts";
import { layersByLoss } from "./_shared/depth.ts";
import { createScorer, type Scorer, TIE } from "./_shared/plan_loss.ts";
import { type LayerScores, scoresOfGroups, weightSlots } from "./_shared/scoring.ts";
import { keepWidths, outOfReach } from "./_shared/selection.ts";
import { defineMethod, type Method, type MethodContext } from "./define.ts";

const part = z.number().min(0).max(1);
const options = z.strictObject({
  uniform: z.boolean().default(false).describe("one width for all kept layers; false: searched layer by layer"),
  layers: part.default(0.44).describe("fraction of the removed parameters in whole layers"),
  channels: part.default(0.52).describe("fraction of them in FFN channels; the rest, if any, is in attention units"),
  step: part.default(0.093).describe("fraction of a layer's channels removed per step; the paper's 1024 of 11008"),
  windows: z.number().int().positive().default(16).describe("calibration windows to score each candidate"),
});
type Options = z.infer<typeof options>;

/** Removes what the loss misses least, in three stages. */
export const multipruner: Method<typeof options> = defineMethod({
  id: "multipruner",
  version: 2,
  summary: "Removes layers, then channels, then attention units, always the candidate that raises the loss least",
  source: "Muñoz et al. 2025, arXiv:2501.09949",
  display: { order: 8, colour: "#8B1E3F" },
  kind: "one-shot",
  ownDepth: true,
  needs: { calibration: true, seed: false },
  options,
  uniformLayers: ({ uniform }) => uniform,
  check(_config, _target, { layers, channels }) {
    if (layers + channels <= 1) return;
    throw new UsageError(`layers + channels must be at most 1, the whole removal: current ${layers} + ${channels}`);
  },
  async prune(context) {
    const { model, target, calibration, options, signal } = context;
    if (target.sparsity === 0) return { plan: densePlan(model.config) };
    using scorer = createScorer(model, calibration.slice(0, options.windows), signal);
    return { plan: await removeInStages(context, scorer) };
  },
});

async function removeInStages(context: MethodContext<Options>, scorer: Scorer): Promise<PrunePlan> {
  const { target: { units, whole, budget, freeDepth, dropLayers }, options } = context;
  const search = await startSearch(context, scorer);
  const left = (removed: number) => whole - removed * (whole - budget);
  const hasFfn = units.includes("ffn");
  const attention = units.filter((type) => type !== "ffn");
  if (freeDepth || hasFfn && units.includes("kv-groups")) await search.removeLayers(left(options.layers), dropLayers);
  if (hasFfn) {
    await search.narrow("ffn", left(options.layers + options.channels));
    // One unit of attention is worth many channels, which fill the budget.
    for (const type of attention) await search.narrow(type, budget, budget);
    await search.narrow("ffn", budget);
  }
  for (const type of attention) await search.narrow(type, budget);
  return search.finish();
}

/** Layers that change from `before` to `after` together. */
interface Move {
  layers: number[];
  before: LayerShape;
  after: LayerShape;
}

const isGone = ({ kvGroups }: LayerShape) => kvGroups === 0;

/** Removals, each of which is the cheapest of its candidates. */
async function startSearch(context: MethodContext<Options>, scorer: Scorer) {
  const { model, model: { config }, target, options: { uniform, step, windows }, report } = context;
  const scores = await magnitudes(model);
  /** The first layer that has changed since the scorer last heard of it. */
  let stale = 0;
  let shapes = config.layers.map((shape) => ({ ...shape }));
  const done: Move[] = [];
  const after = (move: Move) => shapes.map((shape, l) => move.layers.includes(l) ? move.after : shape);
  const cost = (given = shapes) => costOf(target.resource, config, given.filter((shape) => !isGone(shape)));
  const planOf = (given: readonly LayerShape[]): PrunePlan => keepWidths(scores, given);

  /** Makes the move that raises the loss least; false if there is none. */
  async function moveOn(moves: readonly Move[]): Promise<boolean> {
    let [best, least] = [moves[0], Infinity];
    if (moves.length > 1) {
      scorer.settle(planOf(shapes), stale);
      stale = config.layers.length;
      for (const move of moves) {
        const loss = await scorer.lossOf(planOf(after(move)), at(move.layers, 0));
        if (loss < least - TIE) [best, least] = [move, loss];
      }
    }
    if (!best) return false;
    shapes = after(best);
    done.push(best);
    stale = Math.min(stale, at(best.layers, 0));
    report(`${Math.round(100 * (1 - cost() / target.whole))} % removed`);
    return true;
  }

  const staying = () => [...shapes.keys()].filter((l) => !isGone(at(shapes, l)));

  return {
    /** Removes `least` layers, then others until at most `goal` is left, as long as that leaves the budget. */
    async removeLayers(goal: number, least: number): Promise<void> {
      const { whole, resource, budget } = target;
      const each = resource.ofLayer(config, at(config.layers, 0));
      let count = least;
      // Sums of times are rounded.
      while (whole - count * each > goal && whole - (count + 1) * each >= (1 - 1e-8) * budget) count++;
      for (const l of await layersByLoss(context, count, windows)) shapes[l] = layerShape(() => 0);
    },

    /** Narrows layers until at most `goal` is left, or each has one unit, as long as that leaves `least`. */
    async narrow(type: UnitType, goal: number, least = 0): Promise<void> {
      const { width } = UNITS[type];
      const channelsAtOnce = uniform ? 1 : Math.max(1, Math.round(step * at(config.layers, 0).ffnChannels));
      const moves = () =>
        (uniform ? [staying()] : staying().map((l) => [l])).flatMap((layers): Move[] => {
          const before = at(shapes, at(layers, 0));
          const smaller = type === "ffn" ? below(before.ffnChannels, channelsAtOnce) : widthOf(before, type) - 1;
          return smaller < 1 ? [] : [{ layers, before, after: { ...before, [width]: smaller } }];
        }).filter((move) => cost(after(move)) >= least);
      while (cost() > goal && await moveOn(moves()));
    },

    /** The plan, with channels of the last removals back as far as they fit. */
    finish(): PrunePlan {
      if (cost() > target.budget) throw outOfReach(target);
      for (const { layers, before, after: { ffnChannels } } of done.reverse()) {
        if (before.ffnChannels === ffnChannels || isGone(at(shapes, at(layers, 0)))) continue;
        let wider = before.ffnChannels;
        const widened = () => shapes.map((shape, l) => layers.includes(l) ? { ...shape, ffnChannels: wider } : shape);
        while (wider > ffnChannels && cost(widened()) > target.budget) wider = below(wider);
        shapes = widened();
        if (wider < before.ffnChannels) break;
      }
      return planOf(shapes);
    },
  };

  /** Next smaller FFN width that the run allows. */
  function below(channels: number, count = 1): number {
    return target.ffnMultiple * Math.floor((channels - count) / target.ffnMultiple);
  }
}

/** Sums of |W| of every layer's units: channels over gate and up, heads over query, groups over query, key and value. */
async function magnitudes(model: DecoderModel): Promise<LayerScores[]> {
  const { headSize, layers } = model.config;
  const slots = await weightSlots(model, (weight) => tf.abs(weight));
  return slots.map((own, l) => {
    const shape = at(layers, l);
    const times = (sums: ArrayLike<number>, factor: number) => Array.from(sums, (sum) => factor * sum);
    const [key, value] = [times(own.key, shape.queryHeadsPerGroup), times(own.value, shape.queryHeadsPerGroup)];
    return scoresOfGroups(
      { ...own, key, value, output: times(own.output, 0), down: times(own.down, 0) },
      shape,
      headSize,
    );
  });
}
