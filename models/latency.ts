/** The time of a decoder layer by its widths, from measured times of whole models: `attention + FFN`, each linear
 * between the measured widths. Whole models are timed because the weights of a single layer would stay in caches.
 *
 * @module
 */
import type { Budget, LatencyTable } from "../core/schema/schema.ts";
import { UsageError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import { mean, median } from "../core/util/stats.ts";
import type { DecoderConfig } from "./config.ts";
import { layerParameters } from "./count.ts";
import { MACS, PARAMETERS, type Resource } from "./resource.ts";
import type { LayerShape } from "./units.ts";

/** Weights of the attention maps of a layer, by which its time is looked up. */
export const attentionWeights = (config: DecoderConfig, shape: LayerShape): number =>
  layerParameters(config, { ...shape, ffnChannels: 0 });

/** A curve of milliseconds: ascending widths, times that do not fall. */
type Curve = { width: number; ms: number }[];

/** Milliseconds at `width`: linear between neighbours, below the first along its segment, at least 0. */
function readCurve(curve: Curve, width: number): number {
  const next = curve.findIndex((point) => point.width >= width);
  const last = curve.length - 1;
  if (next < 0 || last === 0) return at(curve, last).ms;
  const above = Math.max(1, next);
  const [low, high] = [at(curve, above - 1), at(curve, above)];
  return Math.max(0, low.ms + (high.ms - low.ms) * (width - low.width) / (high.width - low.width));
}

/** Sorted by width. Neighbours whose times fall with the width, by the measurement's error, share their mean. */
function curveOf(points: Curve): Curve {
  const pools: Curve[] = [];
  const meanMs = (pool: Curve) => mean(pool.map(({ ms }) => ms));
  for (const point of points.toSorted((a, b) => a.width - b.width)) {
    let pool = [point];
    while (pools.length > 0 && meanMs(pools.at(-1)!) > meanMs(pool)) pool = [...pools.pop()!, ...pool];
    pools.push(pool);
  }
  return pools.flatMap((pool) => pool.map(({ width }) => ({ width, ms: meanMs(pool) })));
}

/** The times of a table in milliseconds, medians over repeats, relative to the dense model's repeats beside them: of
 * the dense model, of what is outside the layers (embedding, final norm, logits), and of one layer.
 * @throws {UsageError} when the repeats scatter so much that a layer seems to take no time. */
export function layerTimes(
  { dense, points }: LatencyTable,
): { denseMs: number; restMs: number } & Pick<Resource, "ofLayer"> {
  const denseMs = median(points.flatMap(({ denseSamplesMs }) => denseSamplesMs));
  const savedMs = ({ samplesMs, denseSamplesMs }: LatencyTable["points"][number]) =>
    denseMs * (1 - median(samplesMs.map((ms, i) => ms / at(denseSamplesMs, i))));
  const shallow = points.find(({ layers }) => layers < dense.layers);
  const layerMs = shallow ? savedMs(shallow) / (dense.layers - shallow.layers) : denseMs / dense.layers;
  if (layerMs <= 0) {
    throw new UsageError(
      "Cannot tell the time of a layer: repeats scatter too much. Measure again on an idle machine.",
    );
  }
  /** Changes of a layer's time along one axis. */
  const along = (axis: "ffnChannels" | "attentionWeights") =>
    curveOf([
      { width: dense[axis], ms: 0 },
      ...points.filter((point) => point[axis] < dense[axis])
        .map((point) => ({ width: point[axis], ms: -savedMs(point) / dense.layers })),
    ]);
  const ffn = along("ffnChannels");
  const shift = (curve: Curve, by: number) => curve.map(({ width, ms }) => ({ width, ms: ms + by }));
  // Without channels an FFN takes no time: what remains of a layer is its attention's.
  const [first, second] = [at(ffn, 0), at(ffn, Math.min(1, ffn.length - 1))];
  const slope = first === second ? 0 : (second.ms - first.ms) / (second.width - first.width);
  const ffnMs = Math.min(layerMs, first.width * slope - first.ms);
  const [ffnTimes, attentionTimes] = [shift(ffn, ffnMs), shift(along("attentionWeights"), layerMs - ffnMs)];
  return {
    denseMs,
    restMs: Math.max(0, denseMs - dense.layers * layerMs),
    ofLayer: (config, shape) =>
      readCurve(attentionTimes, attentionWeights(config, shape)) + readCurve(ffnTimes, shape.ffnChannels),
  };
}

const TIME_WORDS = { "prefill-ms": "milliseconds of prefill", "decode-ms": "milliseconds of decoding" };

/** Whether a budget is a measured time. */
export const isTime = (budget: Budget): budget is keyof typeof TIME_WORDS => budget in TIME_WORDS;

/** What a budget counts; a budget in time reads its table.
 * @throws {UsageError} when it has none. */
export function resourceOf(budget: Budget = "parameters", table?: LatencyTable): Resource {
  if (!isTime(budget)) return budget === "macs" ? MACS : PARAMETERS;
  if (!table) throw new UsageError(`A budget of ${budget} needs a table of times: give \`latency\``);
  return { name: budget, words: TIME_WORDS[budget], ofLayer: layerTimes(table).ofLayer };
}
