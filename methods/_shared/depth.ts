/** The order in which whole layers go, and methods on a model without some of its layers.
 *
 * @module
 */
import { at, entry } from "../../core/util/indexing.ts";
import { disposeModel } from "../../models/device.ts";
import { counterparts, keptLayers, planWithoutLayers, type PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { targetFrom } from "../../models/target.ts";
import { layerPlan } from "../../models/units.ts";
import type { MethodContext, PruneResult, Statistics } from "../define.ts";
import { createScorer, TIE } from "./plan_loss.ts";

/** Calibration windows that rank the layers. */
const RANKING_WINDOWS = 8;

/** The first `count` layers in the order of greedy removal: each time the layer without which the loss on the first
 * calibration windows is lowest (arXiv:2501.09949, block removal). Cost: a forward pass over these windows from every
 * remaining layer on, at each removal. */
export async function layersByLoss(
  context: MethodContext<unknown>,
  count: number,
  windows = RANKING_WINDOWS,
): Promise<number[]> {
  if (count === 0) return [];
  const { model, model: { config }, calibration, signal, report, remember } = context;
  using scorer = createScorer(model, calibration.slice(0, windows), signal);
  const order: number[] = [];
  while (order.length < count) {
    // Removals are kept one by one, because the order of a larger count begins with the same ones.
    const kept = await remember(`removal ${order.length + 1} of layers by ${windows} windows`, async () => {
      let [best, least] = [-1, Infinity];
      scorer.settle(planWithoutLayers(config, order), 0);
      for (const l of config.layers.keys()) {
        if (order.includes(l)) continue;
        const loss = await scorer.lossOf(planWithoutLayers(config, [...order, l]), l);
        if (loss < least - TIE) [best, least] = [l, loss];
      }
      report(`layer ${best} goes, ${order.length + 1} of ${count}: loss ${least.toFixed(4)}`);
      return { layer: { shape: [1], data: Float32Array.of(best) } };
    }, true);
    order.push(at(entry(kept, "layer").data, 0));
  }
  return order;
}

/** Tensors by the names of other layers: `to` gives the new index of each. */
function renamed(tensors: Statistics, to: (layer: number) => number): Statistics {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [
      name.replace(/(?<=^model\.layers\.)\d+/, (layer) => String(to(Number(layer)))),
      tensor,
    ]),
  );
}

/** A model without some of its layers, as a method sees it. */
interface AtDepth<Options> extends Disposable {
  /** The context's model has fewer layers and its target the rest of the budget; the teacher is still the whole model.
   * Cached statistics are identified by the layers. */
  inner: MethodContext<Options>;
  /** A result for the whole model. */
  whole(result: PruneResult): PruneResult;
}

/** The context without the layers `removed`. */
export async function atDepth<Options>(
  context: MethodContext<Options>,
  removed: readonly number[],
): Promise<AtDepth<Options>> {
  if (removed.length === 0) return { inner: context, whole: (result) => result, [Symbol.dispose]: () => {} };
  const { model, target, learning, remember } = context;
  const depth = planWithoutLayers(model.config, removed);
  const kept = keptLayers(depth);
  const wholePlan = ({ layers, ...rest }: PrunePlan): PrunePlan => ({
    ...rest,
    layers: depth.layers.map((_, l) => kept.includes(l) ? at(layers, kept.indexOf(l)) : layerPlan(() => [])),
  });
  const base = await pruneModel(model, depth);
  const compensate = learning?.compensate;
  const inner: MethodContext<Options> = {
    ...context,
    model: base,
    target: targetFrom(base.config, target),
    remember: (key, ...rest) => remember(`${key}, without layers ${removed.toSorted((a, b) => a - b)}`, ...rest),
    ...learning && {
      learning: {
        teacher: { model, layers: counterparts(depth) },
        ...learning,
        ...compensate && {
          compensate: async (plan) => renamed(await compensate(wholePlan(plan)), (layer) => kept.indexOf(layer)),
        },
      },
    },
  };
  return {
    inner,
    whole: ({ plan, replaced, ...rest }) => ({
      ...rest,
      plan: wholePlan(plan),
      ...replaced && { replaced: renamed(replaced, (layer) => at(kept, layer)) },
    }),
    [Symbol.dispose]: () => disposeModel(base),
  };
}

/** What `prune` makes of the model without the layers `removed`, as a result for the whole model. */
export async function onDepth<Options>(
  context: MethodContext<Options>,
  removed: readonly number[],
  prune: (inner: MethodContext<Options>) => Promise<PruneResult>,
): Promise<PruneResult> {
  using depth = await atDepth(context, removed);
  return depth.whole(await prune(depth.inner));
}
