/** LLM-Pruner: removes units by a Taylor estimate of the loss without them.
 *
 * Paper: Ma et al. 2023, arXiv:2305.11627, section 3.2, eqs. 3 to 5; dependency groups of section 3.1.
 *
 * Shapes, weights W and gradients G `[out, in]`; slot s is a row of query, key, value, gate and up and a column of
 * output and down, k runs over the other axis:
 *
 * | option      | score                                                                                            |
 * | ----------- | ------------------------------------------------------------------------------------------------ |
 * | `vector`    | a_s = abs(sum_k W_sk G_sk)                                                                       |
 * | `element-1` | a_s = sum_k abs(W_sk G_sk)                                                                       |
 * | `element-2` | a_s = sum_k W_sk^2 F_sk, F the mean of the squared gradients of calibration windows: eq. 5 without its first-order part |
 * | `mix`       | a_s = sum_k abs(W_sk G_sk - W_sk^2 F_sk / 2): eq. 5, "param_mix". It ranks like `element-1`, since the second term is small |
 *
 * G is the gradient of the mean next-token cross entropy over all calibration tokens. A unit's score is the sum of
 * its slots over all matrices that lose them: ffn [L][F], query heads [L][H], key/value groups [L][G].
 *
 * Structures: `block` leaves the first and last layers whole and prunes the others alike. The paper's setting for
 * LLaMA-7B at 50 % is layers 3 to 30 of 32; its code used 4 to 29 for 20 % (`keepFirst=4,keepLast=2`). `uniform`
 * prunes all layers alike.
 *
 * Cost: about four forward passes over calibration; memory for the input of every layer and the gradients of one.
 *
 * Deviations from the authors' code. Calibration data is the same for every method; theirs is 10 windows of 64 tokens
 * of BookCorpus, drawn anew for each of several steps. `--calibration bookcorpus:10:64:distinct-rows` draws them once,
 * and units go in one step. Members of a group are summed, their default. The widths meet a parameter budget, while the
 * code removes a fraction of the groups. With grouped queries the code credits a key/value head with query heads of
 * other groups; here each group is scored by its own heads. One unit of each type stays in every layer. There is no
 * recovery training and no pruning of the hidden size.
 *
 * @module
 */
import { z } from "zod";
import type { DecoderConfig } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import type { BudgetTarget } from "../../models/target.ts";
import { defineMethod, type Method, type MethodContext } from "../define.ts";
import { keepWidths, layerCount, layerRange, twoTierWidths } from "../_shared/selection.ts";
import type { LayerScores } from "../_shared/scoring.ts";
import { rememberLayers } from "../_shared/calibration.ts";
import { type Estimator, ESTIMATORS, taylorScores } from "../_shared/taylor.ts";

const keptCount = layerCount.nullable().default(null);
const options = z.strictObject({
  estimator: z.enum(ESTIMATORS).default("element-1").describe(
    "vector: |sum W G|; element-1: sum |W G|; element-2: sum W^2 F; mix: sum |W G - W^2 F / 2|",
  ),
  structure: z.enum(["block", "uniform"]).default("block").describe(
    "block: first and last layers are not pruned; uniform: every layer alike",
  ),
  keepFirst: keptCount.describe("number of first layers not pruned (block); below 1: a fraction; null: 3 of 32"),
  keepLast: keptCount.describe("number of last layers not pruned (block); below 1: a fraction; null: 1 of 32"),
});
type LlmPrunerOptions = z.infer<typeof options>;

/** Scores of the dense model's units, the same for every budget. */
export function denseScores(context: MethodContext<unknown>, estimator: Estimator): Promise<LayerScores[]> {
  return rememberLayers(context, `taylor ${estimator}`, () => taylorScores(context, estimator));
}

/** Widths of the layers.
 * @throws {UsageError} when the layers that may lose units cannot lose enough. */
function widthsOf(config: DecoderConfig, target: BudgetTarget, options: LlmPrunerOptions): LayerShape[] {
  if (options.structure === "uniform") return target.uniform;
  // Layers that may lose units: the paper's [3, 31) of 32, scaled, unless given.
  const { keepFirst, keepLast } = options;
  const range = layerRange(config.layers.length, { keepFirst: keepFirst ?? 3 / 32, keepLast: keepLast ?? 1 / 32 });
  return twoTierWidths(config, target, range);
}

/** Removes the units with the smallest first- or second-order Taylor score. */
export const llmPruner: Method = defineMethod({
  id: "llm-pruner",
  version: 1,
  summary: "Removes the units with the smallest Taylor estimate of the loss; skips first and last layers (block)",
  source: "Ma et al. 2023, arXiv:2305.11627, section 3.2, eqs. 3 to 5",
  display: { order: 4, colour: "#0072B2" },
  kind: "one-shot",
  needs: { calibration: true },
  options,
  uniformLayers: ({ structure }) => structure === "uniform",
  check: widthsOf,
  async prune(context) {
    const { model: { config }, target, options } = context;
    const widths = widthsOf(config, target, options);
    return { plan: keepWidths(await denseScores(context, options.estimator), widths) };
  },
});
