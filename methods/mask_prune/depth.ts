/** Layers as an integer of s: how many whole layers go before the widths of the others are learned.
 *
 * Layers go in the order of block influence (Men et al. 2024, arXiv:2403.03853), that of the dense model. For every depth,
 * the widths that then fit the budget are those of the split whose one-shot model stays nearest to the dense one; of all
 * depths the one whose model is nearest is taken. The distance is the KL of the next-token distributions on calibration
 * windows, so a layer goes where it is measured to cost less than the units that it spares. The layers that stay learn
 * masks as if the model had never had others, and all keep one width.
 *
 * Cost, once before the first step: a forward pass of 2048 tokens for every depth and split, and the vocabulary projection
 * of both models. The dense model's metrics rank units of candidates; those of the chosen depth are measured on it again.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { TrainingReport } from "../../core/schema/schema.ts";
import type { DecoderConfig, HostTensor } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { composePlans, counterparts, keptLayers, planWithoutLayers } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { targetFrom } from "../../models/target.ts";
import { layersByInfluence } from "../_shared/layer_influence.ts";
import { unitAxes } from "../_shared/learned_units.ts";
import type { MethodContext, PruneResult, Statistics } from "../define.ts";
import { knowsRedundancy, measuredShapes, planOfMetrics } from "./choice.ts";
import { damageOf, referenceOf } from "./distance.ts";
import { latencyOf, layerLatency } from "./latency.ts";
import { calibratedMetrics } from "./metric.ts";
import type { Options } from "./options.ts";
import { budgetResource, unreachable } from "./widths.ts";

/** What the model that learns was before layers went. */
export interface Depth extends Pick<MethodContext<unknown>, "remember"> {
  /** With all layers. */
  dense: DecoderModel;
  /** Layers that went, ascending. */
  removed: readonly number[];
}

/** What the budget counts, as `budgetResource` takes it; time is measured on the dense model. */
export async function resourceKind(
  context: MethodContext<Options>,
  { dense, remember }: Omit<Depth, "removed">,
): Promise<"parameters" | "macs" | ((shape: LayerShape) => number)> {
  const { resource } = context.options;
  if (resource === "parameters" || resource === "macs") return resource;
  const phase = resource === "prefill-ms" ? "prefill" : "decode";
  return latencyOf(dense.config, await layerLatency({ ...context, model: dense, remember }, phase));
}

/** The layers that go, ascending, none where widths alone do better. Kept with the run's statistics, so that one that was
 * stopped goes on with the same.
 * @throws {UsageError} when no depth meets the budget. */
export async function layersToRemove(context: MethodContext<Options>): Promise<number[]> {
  const { model: { config }, options, target, remember } = context;
  const key = `layers that go, mask-prune ${JSON.stringify({ options, target })}`;
  const { isRemoved } = await remember(key, async () => {
    const removed = new Set(await measureDepths(context));
    const data = Float32Array.from(config.layers, (_, l) => removed.has(l) ? 1 : 0);
    return { isRemoved: { shape: [data.length], data } };
  });
  return config.layers.flatMap((_, l) => isRemoved?.data[l] === 1 ? [l] : []);
}

/** The layers whose removal, with the widths that then fit, leaves the model nearest to the dense one. */
async function measureDepths(context: MethodContext<Options>): Promise<number[]> {
  const { model, options, target, report } = context;
  const { config } = model;
  const plain = context as MethodContext<unknown>;
  const axes = unitAxes(config, target.units);
  const kind = await resourceKind(context, { dense: model, remember: context.remember });
  const metrics = await calibratedMetrics(plain, axes, knowsRedundancy(options));
  const ranked = await layersByInfluence(plain);
  const reference = referenceOf(context);
  let best: { removed: number[]; distance: number } | null = null;
  for (let count = 0; count < ranked.length; count++) {
    const removed = ranked.slice(0, count).sort((x, y) => x - y);
    const outer = planWithoutLayers(config, removed);
    const shallow = pruneModel(model, outer);
    try {
      const own = count === 0 ? target : targetFrom(shallow.config, target);
      const resource = budgetResource(shallow.config, own, kind);
      const kept = metrics.map((axis) => keptLayers(outer).map((l) => at(axis, l)));
      const choice = { ...context, model: shallow, reference };
      const shapes = await measuredShapes(choice, { axes, metrics: kept, resource, target: own });
      if (!shapes) continue;
      const distance = await damageOf(choice, planOfMetrics(shallow.config, axes, kept, shapes));
      const words = count === 0 ? "all layers" : `without layers ${removed.join(", ")}`;
      report(`${words}: ${distance.toFixed(3)} nats from the dense model`);
      if (!best || distance < best.distance) best = { removed, distance };
      // Where all widths fit, fewer layers would only leave the budget unused.
      if (isWhole(shallow.config, shapes)) break;
    } finally {
      disposeModel(shallow);
    }
  }
  if (!best) throw unreachable(context);
  return best.removed;
}

function isWhole({ layers }: DecoderConfig, shapes: readonly LayerShape[]): boolean {
  return JSON.stringify(layers) === JSON.stringify(shapes);
}

/** Tensors of a model's layers under other numbers. */
function renumbered(tensors: Statistics, numberOf: (layer: number) => number | undefined): Statistics {
  return Object.fromEntries(
    Object.entries(tensors).flatMap(([name, tensor]): [string, HostTensor][] => {
      const [whole, before, layer, after] = /^(model\.layers\.)(\d+)(\..*)$/.exec(name) ?? [];
      if (whole === undefined) return [[name, tensor]];
      const number = numberOf(Number(layer));
      return number === undefined ? [] : [[`${before}${number}${after}`, tensor]];
    }),
  );
}

/** The curve of a model of fewer layers as one of the dense model. */
function curveOf({ curve, ...report }: TrainingReport, removed: number, share: number): TrainingReport {
  return {
    ...report,
    curve: curve.map((row) => ({
      ...row,
      ...row.budget !== undefined && { budget: share * row.budget },
      ...row.retained !== undefined && { retained: share * row.retained },
      removed: { ...row.removed, layer: removed },
    })),
  };
}

/** Lets `learn` work on the model without `removed` layers; what it gives is of the whole model. */
export async function withoutLayers(
  context: MethodContext<Options>,
  removed: readonly number[],
  learn: (shallow: MethodContext<Options>, depth: Depth) => Promise<PruneResult>,
): Promise<PruneResult> {
  const { model, target, remember, learning } = context;
  const outer = planWithoutLayers(model.config, removed);
  const kept = keptLayers(outer);
  const place = new Map(kept.map((l, i) => [l, i]));
  const compensate = learning?.compensate;
  const shallow = pruneModel(model, outer);
  try {
    const { plan, replaced, training, ...rest } = await learn({
      ...context,
      model: shallow,
      target: targetFrom(shallow.config, target),
      remember: (key, compute) => remember(`without layers ${removed.join(", ")}: ${key}`, compute),
      ...learning && {
        learning: {
          ...learning,
          teacher: learning.teacher ?? model,
          teacherLayers: counterparts(outer),
          ...compensate && {
            compensate: async (plan) => renumbered(await compensate(composePlans(outer, plan)), (l) => place.get(l)),
          },
        },
      },
    }, { dense: model, remember, removed });
    return {
      ...rest,
      plan: composePlans(outer, plan),
      ...replaced && { replaced: renumbered(replaced, (i) => kept[i]) },
      ...training && {
        training: training.map((report) => curveOf(report, removed.length, kept.length / model.layers.length)),
      },
    };
  } finally {
    disposeModel(shallow);
  }
}
