/** Milliseconds that a decoder layer takes on this machine, by width: a budget that counts time instead of parameters.
 *
 * One layer is timed at a few FFN widths with all its attention units, and at a few attention widths with all its channels;
 * between them time is interpolated, and the two savings are added. Timings are noisy, so they are first made monotone:
 * a wider layer never counts as faster.
 *
 * @module
 */
import { at } from "../../core/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { createRng } from "../../core/rng.ts";
import { type DecoderConfig, type LayerShape, queryHeads } from "../../models/config.ts";
import { type DecoderModel, disposeModel, forward } from "../../models/decoder.ts";
import { pruneModel } from "../../models/surgery.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { checkpoint } from "../_shared/device.ts";
import { median } from "../../core/stats.ts";

/** Tokens of the sequence that is timed. */
const TOKENS = 128;
/** Widths of each kind that are timed, evenly spaced. */
const WIDTHS = 8;
const REPEATS = 7;
/** Part of the time that is taken to be in proportion to the width even where no difference was measured, so that every
 * unit has a price. */
const LEAST_SLOPE = 0.01;

/** The nearest values, in the sense of least squares, that do not fall: pool adjacent violators (Ayer et al. 1955). */
export function monotone(values: readonly number[]): number[] {
  const pools: { mean: number; count: number }[] = [];
  for (const value of values) {
    pools.push({ mean: value, count: 1 });
    while (pools.length > 1) {
      const [a, b] = [at(pools, pools.length - 2), at(pools, pools.length - 1)];
      if (a.mean <= b.mean) break;
      pools.splice(-2);
      const count = a.count + b.count;
      pools.push({ mean: (a.mean * a.count + b.mean * b.count) / count, count });
    }
  }
  return pools.flatMap(({ mean, count }) => Array<number>(count).fill(mean));
}

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

/** Times the first layer at a few widths, or gives what was measured before for this model and engine: one table for a
 * run, so that one that was stopped goes on with the same budget. */
export function layerLatency(context: MethodContext<unknown>): Promise<Statistics> {
  return context.remember(`layer latency, ${TOKENS} tokens`, async () => {
    const { model, report, signal } = context;
    const { kvGroups, queryHeadsPerGroup: r, ffnChannels } = at(model.config.layers, 0);
    const time = async (groups: number, channels: number) => {
      await checkpoint(signal);
      report(`time of a layer with ${groups * r} heads and ${channels} channels`);
      return await timeLayer(model, groups, channels);
    };
    const [channels, groups] = [widths(ffnChannels, WIDTHS), widths(kvGroups, WIDTHS)];
    const [byChannels, byGroups]: [number[], number[]] = [[], []];
    for (const width of channels) byChannels.push(await time(kvGroups, width));
    for (const width of groups) byGroups.push(await time(width, ffnChannels));
    const vector = (values: number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
    return {
      [`${TABLE.ffn} width`]: vector(channels),
      [`${TABLE.ffn} ms`]: vector(byChannels),
      [`${TABLE.heads} width`]: vector(groups.map((g) => g * r)),
      [`${TABLE.heads} ms`]: vector(byGroups),
    };
  });
}

/** Median time of embedding, first layer, narrowed, and final norm, in milliseconds. */
async function timeLayer(model: DecoderModel, groups: number, channels: number): Promise<number> {
  const { config } = model;
  const shape = at(config.layers, 0);
  const single = { ...model, config: { ...config, layers: [shape] }, layers: [at(model.layers, 0)] };
  const plan = {
    kvGroups: range(groups),
    queryHeads: range(groups * shape.queryHeadsPerGroup),
    ffnChannels: range(channels),
  };
  const narrow = pruneModel(single, { layers: [plan] });
  const rng = createRng(0, "latency");
  const tokens = Int32Array.from({ length: TOKENS }, () => rng.integer(config.vocabSize));
  const times: number[] = [];
  try {
    for (let i = -2; i < REPEATS; i++) {
      const start = performance.now();
      const hidden = forward(narrow, { tokens, batch: 1, length: TOKENS });
      const last = tf.tidy(() => tf.slice(hidden, [0, 0], [1, 1]));
      await last.data();
      tf.dispose([hidden, last]);
      // The first passes touch memory for the first time.
      if (i >= 0) times.push(performance.now() - start);
    }
  } finally {
    disposeModel(narrow);
  }
  return median(times);
}
