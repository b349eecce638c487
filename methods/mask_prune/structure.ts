/** The number of layers that MaskPrune removes before units, if the run does not set it.
 *
 * Layers are ranked by greedy removal (`layersByLoss()`). Candidates are numbers of layers; the widths of the others fill
 * the budget. Each is cut by the initial scores, trained for a part of the run's steps, and judged by its cross entropy
 * on the calibration windows, which are drawn apart from those of training. The better ones are trained again for longer
 * (successive halving: Jamieson and Talwalkar 2016, arXiv:1502.07943), because the loss before training does not predict
 * the loss after it.
 *
 * Cost: the ranking, and at most 1.5 times the run's steps on models that are cut already.
 *
 * @module
 */
import { at, entry } from "../../core/util/indexing.ts";
import { evenlySpaced } from "../../core/util/stats.ts";
import { counted } from "../../core/util/words.ts";
import type { TrainingReport } from "../../core/schema/schema.ts";
import { disposeModel } from "../../models/device.ts";
import { densePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { mostLayers } from "../../models/target.ts";
import { recoverModel } from "../../models/training/recover.ts";
import { hashWindows } from "../../models/training/teacher.ts";
import { atDepth, layersByLoss } from "../_shared/depth.ts";
import { createScorer } from "../_shared/plan_loss.ts";
import { keepWidths } from "../_shared/selection.ts";
import type { MethodContext } from "../define.ts";
import { unitImportance } from "./importance.ts";

/** Rounds of the search: how many of the candidates take part, and what part of the run's steps each trains. */
const ROUNDS = [{ most: 5, part: 1 / 6 }, { most: 2, part: 1 / 3 }];

/** The layers to remove, in the requested or the best number, and the training that the search took. */
export async function chooseDepth(
  context: MethodContext<unknown>,
): Promise<{ removed: number[]; searched: TrainingReport[] }> {
  const { target, learning, model: { config }, report } = context;
  if (!target.freeDepth || !learning) return { removed: [], searched: [] };
  const ranked = await layersByLoss(context, mostLayers(config, target));
  const { batch, tokens, steps: all } = learning.options;
  const possible = Array.from({ length: ranked.length + 1 }, (_, n) => n).slice(target.dropLayers);
  let depths = evenlySpaced(possible, at(ROUNDS, 0).most);
  const cost = { steps: 0, seconds: 0 };
  for (const { most, part } of ROUNDS) {
    if (depths.length === 1) break;
    const steps = Math.max(1, Math.round(part * all));
    const tried: { depth: number; loss: number }[] = [];
    for (const depth of depths.slice(0, most)) {
      const { loss, seconds } = await trial(context, ranked.slice(0, depth), steps);
      report(`structure: without ${counted(depth, "layer")}, ${counted(steps, "step")}, loss ${loss.toFixed(4)}`);
      tried.push({ depth, loss });
      cost.steps += steps;
      cost.seconds += seconds;
    }
    depths = tried.sort((a, b) => a.loss - b.loss || a.depth - b.depth).map(({ depth }) => depth);
  }
  const searched: TrainingReport = { stage: "search", ...cost, tokens: cost.steps * batch * tokens, curve: [] };
  return { removed: ranked.slice(0, at(depths, 0)), searched: cost.steps === 0 ? [] : [searched] };
}

/** Cuts and trains the model without the layers `removed`, and gives its loss on calibration text in nats per token. A
 * cell that was stopped does not try a candidate again. */
async function trial(
  context: MethodContext<unknown>,
  removed: readonly number[],
  steps: number,
): Promise<{ loss: number; seconds: number }> {
  using depth = await atDepth(context, removed);
  const { inner } = depth;
  const { model, target, calibration, learning, rng, signal, report } = inner;
  if (!learning) throw new RangeError("A trial needs a learning context");
  const options = {
    ...learning.options,
    steps,
    // Without recovery only a choice is learned; the trial trains scales instead.
    recover: learning.options.recover === "none" ? "scales" as const : learning.options.recover,
  };
  const decisive = { options, windows: hashWindows(learning.windows), target };
  const kept = await inner.remember(`mask-prune trial ${JSON.stringify(decisive)}`, async () => {
    const importance = await unitImportance(inner);
    const small = await pruneModel(model, keepWidths(importance.map(({ scores }) => scores), target.uniform));
    try {
      const { report: training } = await recoverModel({
        base: small,
        teacher: learning.teacher?.model ?? model,
        teacherLayers: learning.teacher?.layers,
        options,
        windows: learning.windows,
        rng: rng("structure"),
        key: "structure",
        remember: context.remember,
        report: (message) => report(`structure: without ${counted(removed.length, "layer")}, ${message}`),
        signal,
      });
      using scorer = createScorer(small, calibration, signal);
      const loss = await scorer.lossOf(densePlan(small.config), 0);
      return { trial: { shape: [2], data: Float32Array.of(loss, training.seconds) } };
    } finally {
      disposeModel(small);
    }
  });
  const { data } = entry(kept, "trial");
  return { loss: at(data, 0), seconds: at(data, 1) };
}
