/** What can be set of MaskPrune. The paper's constants are not public: defaults were chosen on validation data
 * (`docs/maskprune.md`).
 *
 * @module
 */
import { z } from "zod";

const part = z.number().min(0).max(1);
const rate = z.number().positive();

/** Options of `mask-prune`. */
export const options = z.strictObject({
  uniform: z.boolean().default(true).describe("one width for all layers; false: each layer its own"),
  selection: z.enum(["metric", "magnitude"]).default("metric").describe(
    "rank of a unit: curvature metric times mask, or |mask| alone (the paper's form, weak from a cold start)",
  ),
  redundancy: z.enum(["measured", "full", "none"]).default("measured").describe(
    "full: the metric is the cost of a removal at its turn, by optimal brain surgeon; none: each unit is judged alone; measured: " +
      "one of the two or their mean, whichever's pruned model is nearest to the dense one, and full where the damage is more " +
      "than six times the text's surprise (see course) and weights are not compensated",
  ),
  split: z.enum(["measured", "learned", "fixed"]).default("measured").describe(
    "how the budget is shared between unit types: where the pruned model is measured to stay nearest to the dense one, by the minimax problem, or all removed " +
      "at the same ratio; widths that differ between layers are learned",
  ),
  course: z.enum(["gradual", "at-once"]).optional().describe(
    "whether units go along the ramp or before the first step; absent: along the ramp where the text's surprise, the dense " +
      "model's cross entropy less the entropy of its predictions, is above 0.05 nats per token, so that there is something to " +
      "learn meanwhile",
  ),
  updates: z.enum(["batch", "window"]).optional().describe(
    "a step of the optimiser after every batch of the run, or after every window (while there are at most 240); absent: window " +
      "where the damage is more than six times the text's surprise and weights are not compensated",
  ),
  masks: z.enum(["learned", "hard"]).default("learned").describe("hard: masks stay 0 or 1, only the choice is learned"),
  resource: z.enum(["parameters", "macs", "prefill-ms", "decode-ms"]).default("parameters").describe(
    "what the budget counts: as much of it goes as the sparsity says, and of the parameters at least as much; milliseconds " +
      "of the layers on a prompt, or token by token, are measured on this machine",
  ),
  layers: z.boolean().optional().describe(
    "whole layers go as well, as many as are measured to leave the model nearest to the dense one with the widths that then " +
      "fit the budget; those of least block influence go, before the first step; absent: all stay",
  ),
  hidden: z.number().min(0).optional().describe(
    "weight of the relative error of the hidden states in the first step, the third term of the paper's loss, where the training " +
      "sets none; it falls to 0 over the run; absent: 5 where the damage of removing all units at once, in KL from the dense " +
      "model, is more than 0.5 nats per token or the text holds nothing new, else 0",
  ),
  distillation: z.boolean().default(true).describe("false: cross entropy has the weight of all loss terms"),
  adapters: z.boolean().default(true).describe("false: no low-rank adapters, masks alone learn"),
  regrowth: z.boolean().default(true).describe("a unit that leaves the bottom s starts again at 1"),
  rampStart: part.default(0.03).describe(
    "part of the steps after which the budget begins to fall; where course is absent, of the steps of the first 120 windows at most, or of 60 where that is more",
  ),
  rampEnd: part.default(0.4).describe("part of the steps at which it is reached; likewise"),
  freeze: part.default(0.48).describe("part of the steps after which the structure is fixed; likewise"),
  settleSteps: z.number().int().min(1).default(5).describe("steps before the freeze that rank by |mask|"),
  maskRate: rate.default(0.002).describe("Adam's rate of the masks"),
  frozenMaskRate: z.number().min(0).default(0.005).describe("the same for kept masks after the freeze; 0: they stay"),
  dualRate: rate.default(8).describe("ascent rate of y, on bottom-s as a fraction of a layer's importance"),
  dualStart: z.number().min(0).default(0.5).describe("first value of y"),
  dualCap: rate.default(5).describe("largest value of y"),
  budgetRate: z.number().min(0).default(5).describe("ascent rate of z"),
  augmented: z.number().min(0).default(20).describe("weight of the augmented term, added to z times the excess"),
  widthRate: rate.default(2).describe("rate of the widths, on fractions of the units, over the length of the ramp"),
  shrink: z.number().int().min(0).default(0).describe(
    "FFN channels that were in the bottom s for this many steps are cut from the working model at once; 0: at the freeze",
  ),
  snap: part.default(0.016).describe("FFN widths this near to the budget, as a fraction, are put on it after the ramp"),
}).refine(({ shrink, uniform }) => shrink === 0 || uniform, "shrink needs uniform widths: leave one of the two out")
  .refine(
    ({ course, split, uniform, selection }) =>
      course !== "at-once" || (split !== "learned" && uniform && selection === "metric"),
    "course=at-once removes what the metric ranks at widths that are known: leave out split=learned, uniform=false or " +
      "selection=magnitude",
  )
  .refine(
    ({ selection, masks, redundancy }) => selection === "metric" || (masks === "learned" && redundancy !== "full"),
    "selection=magnitude ranks by learned masks alone: leave out masks=hard or redundancy=full",
  )
  .refine(
    ({ split, uniform }) => uniform || split !== "fixed",
    "split=fixed needs uniform widths: leave one of the two out",
  )
  .refine(
    ({ distillation, hidden = 0 }) => distillation || hidden === 0,
    "hidden is a part of distillation: leave out distillation=false or hidden",
  )
  .refine(
    ({ dualStart, dualCap }) => dualStart <= dualCap,
    "dualStart (0.5 unless given) must be at most dualCap (5 unless given)",
  )
  .refine(
    ({ rampStart, rampEnd, freeze }) => rampStart < rampEnd && rampEnd <= freeze,
    "must have rampStart < rampEnd <= freeze",
  );
/** Options of `mask-prune`, with defaults filled in. */
export type Options = z.infer<typeof options>;
