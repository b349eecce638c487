/** Removal of whole layers before units, in order of block influence, and methods on the remaining model.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { readFlat } from "../../core/engine/ops.ts";
import { at } from "../../core/util/indexing.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { createPass, disposePass, embed, runLayers, type TokenBatch } from "../../models/layers.ts";
import { counterparts, keptLayers, planWithoutLayers, type PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { targetFrom } from "../../models/target.ts";
import { layerPlan } from "../../models/units.ts";
import type { MethodContext, PruneResult, Statistics } from "../define.ts";
import { calibrationBatches, rememberLayers } from "./calibration.ts";

/** All layers of the model, the least block influence first (ShortGPT, arXiv:2403.03853, equation 1). */
export async function layersByInfluence(context: MethodContext<unknown>): Promise<number[]> {
  const { model, calibration, signal, report } = context;
  const layers = await rememberLayers(context, "block influence by layer", async () => {
    const batches = calibrationBatches(calibration);
    const sums = new Float64Array(model.layers.length);
    for (const [i, batch] of batches.entries()) {
      await giveWay(signal);
      report(`block influence, batch ${i + 1} of ${batches.length}`);
      const turned = await readFlat(turns(model, batch), "hidden states");
      for (const [l, [value = 0]] of turned.entries()) sums[l] = at(sums, l) + value;
    }
    const tokens = batches.reduce((sum, { batch, length }) => sum + batch * length, 0);
    return Array.from(sums, (sum) => ({ influence: [sum / tokens] }));
  });
  const influence = layers.map((own) => at(own.influence, 0));
  return [...influence.keys()].sort((x, y) => at(influence, x) - at(influence, y) || x - y);
}

/** Sum over the tokens of a batch of `1 - cos(x_l, x_l+1)`: a scalar per layer. */
function turns(model: DecoderModel, batch: TokenBatch): tf.Tensor[] {
  const pass = createPass(model.config, batch);
  try {
    return tf.tidy(() => {
      const states = [embed(model, batch.tokens)];
      runLayers(model, at(states, 0), pass, { each: (state) => states.push(state) });
      return model.layers.map((_, l) => {
        const [before, after] = [at(states, l), at(states, l + 1)];
        const norms = tf.mul(tf.norm(before, 2, 1), tf.norm(after, 2, 1));
        return tf.sum(tf.sub(1, tf.divNoNan(tf.sum(tf.mul(before, after), 1), norms)));
      });
    });
  } finally {
    disposePass(pass);
  }
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
    remember: (key, compute) => remember(`${key}, without layers ${removed.toSorted((a, b) => a - b)}`, compute),
    ...learning && {
      learning: {
        teacher: { model, layers: counterparts(depth), remember },
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
