/** The table of times that a budget in time is met by.
 *
 * @module
 */
import { currentEngine } from "../../core/engine/engine.ts";
import type { LatencyTable } from "../../core/schema/schema.ts";
import { canonicalJson } from "../../core/util/canonical_json.ts";
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { disposeModel } from "../../models/device.ts";
import { attentionWeights } from "../../models/latency.ts";
import { pruneModel } from "../../models/surgery.ts";
import { type LayerPlan, layerPlan, type LayerShape } from "../../models/units.ts";
import { modelPasses, type ThroughputChoice, timeInTurns, watchOtherCores } from "../timing/throughput.ts";
import type { LoadedModel } from "./load.ts";

/** A model to time: all layers alike. */
type Shape = LayerShape & { layers: number };

const denseShape = ({ layers }: DecoderConfig): Shape => ({ ...at(layers, 0), layers: layers.length });

/** What is timed beside the dense model: half of the layers, narrower FFNs, less attention. */
export function timedShapes(config: DecoderConfig): Shape[] {
  const dense = denseShape(config);
  const { kvGroups: G, queryHeadsPerGroup: R, ffnChannels: F } = dense;
  const attention = [[Math.ceil(G / 2), R], [1, R], [1, 1]] as const;
  const shapes = [
    { ...dense, layers: Math.ceil(dense.layers / 2) },
    ...[3 / 4, 1 / 2, 1 / 4, 1 / 16].map((part) => ({ ...dense, ffnChannels: Math.max(1, Math.round(part * F)) })),
    ...attention.map(([kvGroups, queryHeadsPerGroup]) => ({ ...dense, kvGroups, queryHeadsPerGroup })),
  ];
  const distinct = new Map(shapes.map((shape) => [canonicalJson(shape), shape]));
  distinct.delete(canonicalJson(dense));
  return [...distinct.values()];
}

/** The plan that keeps the first layers and the first units of each. */
function planOf({ layers }: DecoderConfig, { layers: depth, kvGroups, queryHeadsPerGroup, ffnChannels }: Shape) {
  const range = (count: number) => Array.from({ length: count }, (_, i) => i);
  const { queryHeadsPerGroup: all } = at(layers, 0);
  const queryHeads = range(kvGroups).flatMap((group) => range(queryHeadsPerGroup).map((head) => group * all + head));
  const kept = { kvGroups: range(kvGroups), queryHeads, ffnChannels: range(ffnChannels) };
  return { layers: layers.map((_, l): LayerPlan => l < depth ? kept : layerPlan(() => [])) };
}

/** Times one pass of models with narrower and fewer layers, each in turns with the dense one. Nothing else should run
 * on the machine.
 * @throws {UsageError} when the lengths exceed the model's positions. */
export async function measureLatency(
  { model }: Pick<LoadedModel, "model">,
  budget: LatencyTable["of"]["budget"],
  choice: ThroughputChoice,
): Promise<Pick<LatencyTable, "dense" | "points" | "otherCores" | "seconds" | "startedAt">> {
  const { config } = model;
  const pass = budget === "decode-ms" ? "decode" : "prefill";
  const startedAt = new Date().toISOString();
  const startMs = performance.now();
  const otherCores = watchOtherCores();
  const sizeOf = (shape: Shape) => {
    const { layers, ffnChannels } = shape;
    return { layers, ffnChannels, attentionWeights: attentionWeights(config, shape) };
  };
  const dense = modelPasses(model, choice)[pass];
  const points: LatencyTable["points"] = [];
  for (const shape of timedShapes(config)) {
    const narrow = await pruneModel(model, planOf(config, shape));
    try {
      const own = modelPasses(narrow, choice)[pass];
      const [denseSamplesMs = [], samplesMs = []] = await timeInTurns(choice.repeats, [dense, own]);
      points.push({ ...sizeOf(shape), samplesMs, denseSamplesMs });
    } finally {
      disposeModel(narrow);
    }
    currentEngine().check();
  }
  return {
    dense: sizeOf(denseShape(config)),
    points,
    otherCores: otherCores(),
    startedAt,
    seconds: (performance.now() - startMs) / 1000,
  };
}
