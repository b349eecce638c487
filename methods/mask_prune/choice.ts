/** What MaskPrune decides from calibration before it learns: how the budget is shared between unit types, by the measured
 * distance of the models that the choices would give, and the values of the masks that stay.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { matMul2d } from "../../core/engine/ops.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import type { PrunePlan } from "../../models/plan.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import { curvatureNames, factorMatrix, inputFactors, slopeFactors } from "../_shared/curvature.ts";
import { diagonalBlocks, invert } from "../_shared/inverse.ts";
import { narrowed, planOfRemoved, removedUnits, type UnitAxis } from "../_shared/learned_units.ts";
import { smallestInSegments } from "../_shared/ranking.ts";
import type { MethodContext } from "../define.ts";
import { type ChoiceContext, damageOf, type Reference } from "./distance.ts";
import { selectionMetric, type UnitMetric } from "./metric.ts";
import type { Options } from "./options.ts";
import { isRepair } from "./settle.ts";
import { finalShapes, type Resource } from "./widths.ts";

/** The plan that keeps the units of highest metric at given shapes. */
export function planOfMetrics(
  config: DecoderConfig,
  axes: readonly UnitAxis[],
  metrics: readonly (readonly UnitMetric[])[],
  shapes: readonly LayerShape[],
): PrunePlan {
  const removed = axes.map((axis, a) =>
    config.layers.map((dense, l) => {
      const count = at(removedUnits(dense, at(shapes, l), axes), a);
      return new Set(smallestInSegments(selectionMetric(at(at(metrics, a), l)), count, axis.segments));
    })
  );
  return planOfRemoved(config, axes, (a, l, unit) => at(at(removed, a), l).has(unit));
}

/** Parts of the cost of removal in h that are tried. */
const REDUNDANCIES = [0, 0.5, 1];

/** Whether the options ask for the cost of removal at all. */
export const knowsRedundancy = ({ redundancy, selection }: Options): boolean =>
  redundancy !== "none" && selection === "metric";

/** Gives `metrics`, [axis][layer], that part of redundancy whose one-shot model of `shapes` stays nearest to the dense one,
 * where it is to be measured; all of it where repair comes before learning (`settle.ts`), since the units that stay then
 * come to stand in for those that go, as the cost of removal takes it. Returns the distance of the model that was chosen,
 * in nats of KL per token; null where there was nothing to measure. */
export async function measureRedundancy(
  context: MethodContext<Options>,
  { axes, metrics, shapes, reference, surprise }: {
    axes: readonly UnitAxis[];
    metrics: readonly (readonly UnitMetric[])[];
    shapes: readonly LayerShape[];
    reference: Reference;
    /** Of the text, in nats per token. */
    surprise: number;
  },
): Promise<number | null> {
  const { model: { config }, options, report } = context;
  if (!knowsRedundancy(options) || options.redundancy === "full") return null;
  const distance = () => damageOf({ ...context, reference }, planOfMetrics(config, axes, metrics, shapes));
  const setAll = (redundancy: number) => metrics.flat().forEach((metric) => metric.redundancy = redundancy);
  const tried: { redundancy: number; distance: number }[] = [];
  for (const redundancy of REDUNDANCIES) {
    setAll(redundancy);
    tried.push({ redundancy, distance: await distance() });
  }
  const words = tried.map(({ redundancy, distance }) => `${redundancy}: ${distance.toFixed(3)}`).join(", ");
  report(`nats from the dense model by the part of redundancy in the metric: ${words}`);
  const nearest = tried.reduce((best, other) => other.distance < best.distance ? other : best);
  const chosen = isRepair(context, { damage: nearest.distance, surprise }) ? at(tried, tried.length - 1) : nearest;
  setAll(chosen.redundancy);
  return chosen.distance;
}

/** Most splits that are measured. */
const MOST_SPLITS = 12;

/** The uniform shape whose one-shot model stays nearest to the dense one: attention widths go downhill from those of the budget's own split, a
 * unit at a time, FFN channels fill what is left. With one type that can move there is one shape. Null where none meets the
 * budget. */
export async function measuredShapes(
  context: ChoiceContext,
  { axes, metrics, resource, target }: {
    axes: readonly UnitAxis[];
    metrics: readonly (readonly UnitMetric[])[];
    resource: Resource;
    target: MethodContext<unknown>["target"];
  },
): Promise<LayerShape[] | null> {
  const { config } = context.model;
  const shapesOf = (removed: readonly number[]) =>
    finalShapes(
      { config, axes, removed: removed.map((count) => config.layers.map(() => count)), resource, target },
      true,
    );
  const start = removedUnits(at(config.layers, 0), at(target.uniform, 0), axes);
  const first = shapesOf(start);
  const isWhole = first && removedUnits(at(config.layers, 0), at(first, 0), axes).every((count) => count === 0);
  if (!first || isWhole || axes.length === 1 || !axes.some(({ type }) => type === "ffn")) return first;
  const seen = new Map<string, number>();
  const distanceOf = async (shapes: LayerShape[]) => {
    const key = JSON.stringify(shapes[0]);
    const known = seen.get(key);
    if (known !== undefined) return known;
    const damage = await damageOf(context, planOfMetrics(config, axes, metrics, shapes));
    seen.set(key, damage);
    context.report(`split ${describe(at(shapes, 0), axes)}: ${damage.toFixed(3)} nats from the dense model`);
    return damage;
  };
  let best = { removed: start, shapes: first, distance: await distanceOf(first) };
  while (seen.size < MOST_SPLITS) {
    const before = best;
    for (const [a, { type, units }] of axes.entries()) {
      if (type === "ffn") continue;
      for (const step of [-1, 1]) {
        const removed = before.removed.map((count, b) => a === b ? count + step : count);
        if (at(removed, a) < 0 || at(removed, a) >= units) continue;
        const shapes = shapesOf(removed);
        const wanted = narrowed(at(config.layers, 0), axes, removed);
        // A split that the budget does not allow comes back as another one.
        if (!shapes || at(shapes, 0).kvGroups !== wanted.kvGroups) continue;
        if (at(shapes, 0).queryHeadsPerGroup !== wanted.queryHeadsPerGroup) continue;
        const distance = await distanceOf(shapes);
        if (distance < best.distance) best = { removed, shapes, distance };
      }
    }
    if (best === before) break;
  }
  return best.shapes;
}

function describe(shape: LayerShape, axes: readonly UnitAxis[]): string {
  const counts: Record<UnitType, number> = {
    "ffn": shape.ffnChannels,
    "kv-groups": shape.kvGroups,
    "query-heads": shape.queryHeadsPerGroup,
  };
  return axes.map(({ type }) => `${counts[type]} ${type}`).join(", ");
}

/** Ridge of the mask values, as a fraction of the curvature of each mask and of their mean. */
const MASK_RIDGE = 1e-2;

/** Values of the FFN masks that stay, by the second-order loss of all masks of a layer together: with d = 1 - m, 1 for what
 * goes, `d^T Q d` with `Q = A o W S W^T` (W [in, out]) is least at `d_K = -Q_KK^-1 Q_KR 1`, K kept and R removed. f32 [kept
 * channels], per layer; layers that keep all channels have ones. */
export async function closedFormMasks(context: MethodContext<unknown>, plan: PrunePlan): Promise<Float32Array[]> {
  const { model: { config, layers }, signal } = context;
  const a = await inputFactors(context);
  const s = await slopeFactors(context);
  const masks: Float32Array[] = [];
  for (const [l, dense] of config.layers.entries()) {
    await giveWay(signal);
    const kept = at(plan.layers, l).ffnChannels;
    if (kept.length === 0 || kept.length === dense.ffnChannels) {
      masks.push(new Float32Array(kept.length).fill(1));
      continue;
    }
    const curvature = tf.tidy(() => {
      const slopes = factorMatrix(s, curvatureNames.slopes(l, "down"));
      const weight = denseMatrix(at(layers, l).down.weight);
      const energy = matMul2d(matMul2d(weight, slopes), weight, false, true);
      return tf.mul(factorMatrix(a, curvatureNames.inputs(l, "down")), energy) as tf.Tensor2D;
    });
    try {
      masks.push(await leastLossMasks(curvature, kept));
    } finally {
      curvature.dispose();
    }
  }
  return masks;
}

/** `1 + (Q_KK + ridge)^-1 Q_KR 1`: curvature [n, n] -> [kept]. */
export async function leastLossMasks(curvature: tf.Tensor2D, kept: readonly number[]): Promise<Float32Array> {
  const n = curvature.shape[0];
  const isKept = new Float32Array(n);
  for (const unit of kept) isKept[unit] = 1;
  const [inner, slope] = tf.tidy(() => {
    const rows = tf.gather(curvature, tf.tensor1d([...kept], "int32"));
    const removed = tf.tensor2d(isKept.map((one) => 1 - one), [n, 1]);
    return [tf.gather(rows, tf.tensor1d([...kept], "int32"), 1), matMul2d(rows, removed)];
  });
  const diagonal = await diagonalBlocks(inner, 1);
  const mean = diagonal.reduce((x, y) => x + y, 0) / kept.length;
  const ridged = tf.tidy(() =>
    tf.add(inner, tf.mul(tf.eye(kept.length), tf.reshape(tf.tensor1d(diagonal.map((x) => MASK_RIDGE * x)), [-1, 1])))
  ) as tf.Tensor2D;
  const { inverse } = await invert(ridged, Math.max(MASK_RIDGE * mean, 1e-30));
  const values = tf.tidy(() => tf.add(1, tf.reshape(matMul2d(inverse, slope), [-1])));
  try {
    return await values.data() as Float32Array;
  } finally {
    tf.dispose([inner, slope, ridged, inverse, values]);
  }
}
