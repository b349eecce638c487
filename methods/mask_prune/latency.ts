/** Milliseconds that a decoder layer takes on this machine, by width: a budget that counts time instead of parameters.
 *
 * The model is timed with all its layers at a few FFN widths with all attention units, and at a few attention widths
 * (key/value groups, or the query heads of the only group) with all channels, either on a prompt or token by token with a
 * cache; what a model of no layers takes is subtracted, and the rest is divided by the number of layers. So a layer that
 * goes saves its time. Weights of all layers are read, as in use: one layer alone would stay in the caches. Between widths
 * time is interpolated, and the two savings are added. Timings are noisy, so they are first made monotone: a wider layer
 * never counts as faster.
 *
 * Cost: a copy of the model at each width, and 9 prompts of 128 tokens, or 9 times 16 tokens, with each.
 *
 * @module
 */
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { createRng } from "../../core/util/rng.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { disposeCache, extend, type KvCache } from "../../models/decode.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { pruneModel } from "../../models/surgery.ts";
import { type LayerShape, queryHeads, widened, widthOf } from "../../models/units.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { median, monotone } from "../../core/util/stats.ts";

/** What is timed: a prompt at once, or tokens one by one. */
export type Phase = "prefill" | "decode";

/** Tokens that are timed; decoding begins with an empty cache. */
const TOKENS: Record<Phase, number> = { prefill: 128, decode: 16 };
/** Widths of each kind that are timed, evenly spaced. */
const WIDTHS = 8;
const REPEATS = 7;
/** Least time of a layer, where no difference from none was measured. */
const LEAST_MS = 1e-6;
/** Part of the time that is taken to be in proportion to the width even where no difference was measured, so that every
 * unit has a price. */
const LEAST_SLOPE = 0.01;

/** Straight lines between points with ascending `xs`; the first and last line go on outside. */
export function interpolate(xs: readonly number[], ys: readonly number[], x: number): number {
  if (xs.length === 1) return at(ys, 0);
  const next = xs.findIndex((other) => other >= x);
  const i = Math.max(1, next < 0 ? xs.length - 1 : next);
  const [x0, x1, y0, y1] = [at(xs, i - 1), at(xs, i), at(ys, i - 1), at(ys, i)];
  return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
}

/** Names of the table: widths and milliseconds, f32 [n] each. */
const TABLE = { ffn: "ffn", heads: "query heads" } as const;

/** Milliseconds of one layer of a shape, from a table of {@linkcode layerLatency}. Heads are counted as query heads; keys
 * and values of a group, which cost little, go with them. */
export function latencyOf(config: DecoderConfig, table: Statistics): (shape: LayerShape) => number {
  const dense = at(config.layers, 0);
  const values = (name: string) => [...table[name]?.data ?? []];
  const curve = (name: string) => {
    const xs = values(`${name} width`);
    const ys = monotone(values(`${name} ms`));
    const slope = LEAST_SLOPE * at(ys, ys.length - 1) / at(xs, xs.length - 1);
    return (x: number) => interpolate(xs, ys, x) + slope * x;
  };
  const [ffn, heads] = [curve(TABLE.ffn), curve(TABLE.heads)];
  const whole = ffn(dense.ffnChannels);
  return (shape) => heads(queryHeads(shape)) + ffn(shape.ffnChannels) - whole;
}

/** `count` evenly spaced widths up to `most`, ascending. */
function widths(most: number, count: number): number[] {
  const all = Array.from({ length: count }, (_, i) => Math.max(1, Math.round(most * (i + 1) / count)));
  return [...new Set(all)];
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** Times the model at a few widths, or gives what was measured before for this model and engine: one table for a run, so
 * that one that was stopped goes on with the same budget. */
export function layerLatency(
  context: Pick<MethodContext<unknown>, "model" | "remember" | "report" | "signal">,
  phase: Phase,
): Promise<Statistics> {
  return context.remember(`layer latency, ${phase} of ${TOKENS[phase]} tokens`, async () => {
    const { model, report, signal } = context;
    const dense = at(model.config.layers, 0);
    const none = await timeModel({ ...model, config: { ...model.config, layers: [] }, layers: [] }, phase);
    const time = async (shape: LayerShape) => {
      await giveWay(signal);
      report(`time of ${phase} with ${queryHeads(shape)} heads and ${shape.ffnChannels} channels in every layer`);
      const narrow = narrowModel(model, shape);
      try {
        return Math.max(LEAST_MS, (await timeModel(narrow, phase) - none) / model.layers.length);
      } finally {
        disposeModel(narrow);
      }
    };
    const channels = widths(dense.ffnChannels, WIDTHS);
    const attention = attentionShapes(dense);
    const [byChannels, byHeads]: [number[], number[]] = [[], []];
    for (const ffnChannels of channels) byChannels.push(await time({ ...dense, ffnChannels }));
    for (const shape of attention) byHeads.push(await time(shape));
    const vector = (values: number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
    return {
      [`${TABLE.ffn} width`]: vector(channels),
      [`${TABLE.ffn} ms`]: vector(byChannels),
      [`${TABLE.heads} width`]: vector(attention.map(queryHeads)),
      [`${TABLE.heads} ms`]: vector(byHeads),
    };
  });
}

/** Attention widths that are timed, ascending: of groups, or of query heads where there is one group. */
export function attentionShapes(dense: LayerShape): LayerShape[] {
  const type = dense.kvGroups > 1 ? "kv-groups" : "query-heads";
  const most = widthOf(dense, type);
  return widths(most, WIDTHS).map((width) => widened(dense, type, width - most));
}

/** The model with the first units of every layer. */
function narrowModel(model: DecoderModel, { kvGroups, queryHeadsPerGroup, ffnChannels }: LayerShape): DecoderModel {
  const layers = model.config.layers.map((dense) => ({
    kvGroups: range(kvGroups),
    queryHeads: range(kvGroups).flatMap((g) => range(queryHeadsPerGroup).map((h) => g * dense.queryHeadsPerGroup + h)),
    ffnChannels: range(ffnChannels),
  }));
  return pruneModel(model, { layers });
}

/** Median time of the tokens of a phase without the vocabulary projection, in milliseconds. */
async function timeModel(model: DecoderModel, phase: Phase): Promise<number> {
  const { vocabSize, maxPositions } = model.config;
  const rng = createRng(0, "latency");
  const tokens = Int32Array.from(
    { length: Math.min(TOKENS[phase], maxPositions) },
    () => rng.integer(vocabSize),
  );
  const times: number[] = [];
  for (let i = -2; i < REPEATS; i++) {
    const start = performance.now();
    const hidden = phase === "decode"
      ? decoded(model, tokens)
      : forward(model, { tokens, batch: 1, length: tokens.length });
    const last = tf.tidy(() => tf.slice(hidden, [0, 0], [1, 1]));
    await last.data();
    tf.dispose([hidden, last]);
    // The first passes touch memory for the first time.
    if (i >= 0) times.push(performance.now() - start);
  }
  return median(times);
}

/** Hidden state of the last token, [1, D], after all of them one by one. */
function decoded(model: DecoderModel, tokens: Int32Array): tf.Tensor2D {
  let cache: KvCache | null = null;
  let last: tf.Tensor2D | undefined;
  try {
    for (const token of tokens) {
      last?.dispose();
      const grown = extend(model, Int32Array.of(token), 1, cache);
      [last, cache] = [grown.states, grown.cache];
    }
  } finally {
    if (cache) disposeCache(cache);
  }
  if (!last) throw new RangeError("A token is needed");
  return last;
}
