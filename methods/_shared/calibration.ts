/** Calibration windows in batches, statistics of what the dense model's units put out on them, and how a run keeps
 * statistics.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { matMul2d, readFlat } from "../../core/engine/ops.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at, entry } from "../../core/util/indexing.ts";
import { WRITING_NAMES } from "../../models/config.ts";
import type { ObservedSite, TokenBatch } from "../../models/layers.ts";
import { forwardByLayers } from "../../models/layerwise.ts";
import type { LayerMasks } from "../../models/masks.ts";
import { windowBatch } from "../../models/training/batches.ts";
import { queryHeads } from "../../models/units.ts";
import type { MethodContext, Statistics } from "../define.ts";

/** Calibration windows in batches of equal length, in order, so that nothing is padded.
 * @throws {UsageError} when there are none, or one is too short to predict a token. */
export function calibrationBatches(
  windows: readonly Int32Array[],
  { tokensAtOnce = 2048 }: { tokensAtOnce?: number } = {},
): TokenBatch[] {
  if (windows.length === 0) throw new UsageError("This method needs calibration data: current 0 windows");
  const short = windows.find((window) => window.length < 2);
  if (short) throw new UsageError(`Calibration windows must have at least 2 tokens: current ${short.length}`);
  const batches: TokenBatch[] = [];
  for (let start = 0; start < windows.length;) {
    const { length } = at(windows, start);
    let end = start + 1;
    while (windows[end]?.length === length && (end + 1 - start) * length <= tokensAtOnce) end++;
    batches.push(windowBatch(windows.slice(start, end)));
    start = end;
  }
  return batches;
}

/** Statistics of the inputs of one linear map over all calibration tokens, one value per column. */
export interface SiteStatistics {
  mean: Float64Array;
  /** Population variance. */
  variance: Float64Array;
  /** What FLAP's authors compute in place of the variance; see {@linkcode inputStatistics}. */
  fluctuation: Float64Array;
}

/** Statistics of one layer: [H K] at site `output`, [F] at `down`. */
export type LayerStatistics = Record<ObservedSite, SiteStatistics>;

/** Moments of one site over the windows seen so far. */
class Moments {
  #tokens = 0;
  #windows = 0;
  readonly #mean: Float64Array;
  /** Centred sum of squares. */
  readonly #squares: Float64Array;
  /** r_m: mean of the means of windows 0 to m. */
  readonly #running: Float64Array;
  /** v_m; see {@linkcode inputStatistics}. */
  readonly #fluctuation: Float64Array;

  constructor(columns: number) {
    this.#mean = new Float64Array(columns);
    this.#squares = new Float64Array(columns);
    this.#running = new Float64Array(columns);
    this.#fluctuation = new Float64Array(columns);
  }

  /** Adds a window of `tokens` tokens with these means and centred sums of squares. The variance is that of Chan,
   * Golub and LeVeque 1983, eq. 1.5: exact, while `mean(x^2) - mean(x)^2` loses all digits on units with a large
   * mean. */
  add(tokens: number, means: Float32Array, squares: Float32Array): void {
    const before = this.#tokens;
    const all = before + tokens;
    const m = this.#windows;
    for (const [j, mean] of means.entries()) {
      const spread = at(squares, j);
      const step = mean - at(this.#mean, j);
      this.#squares[j] = at(this.#squares, j) + spread + step * step * before * tokens / all;
      this.#mean[j] = at(this.#mean, j) + step * tokens / all;
      const running = (at(this.#running, j) * m + mean) / (m + 1);
      this.#running[j] = running;
      if (m === 0) continue;
      const around = spread / tokens + (mean - running) ** 2;
      this.#fluctuation[j] = at(this.#fluctuation, j) * (m - 1) / m + around / (m + 1);
    }
    this.#tokens = all;
    this.#windows++;
  }

  statistics(): SiteStatistics {
    return {
      mean: this.#mean,
      variance: this.#squares.map((sum) => sum / this.#tokens),
      fluctuation: this.#fluctuation,
    };
  }
}

/** Mean and centred sum of squares of each column over each of `batch` windows: x [B T, C] -> [2 B, C]. */
function windowMoments(x: tf.Tensor2D, batch: number): tf.Tensor2D {
  return tf.tidy(() => {
    const [n, columns] = x.shape;
    const length = n / batch;
    // Row b is 1 on the tokens of window b. Products of matrices are faster than reductions, and batched ones copy on
    // wasm.
    const windows = new Float32Array(batch * n);
    for (let b = 0; b < batch; b++) windows.fill(1, b * n + b * length, b * n + (b + 1) * length);
    const sums = tf.tensor2d(windows, [batch, n]);
    const mean = tf.div(matMul2d(sums, x), length) as tf.Tensor2D;
    const centred = tf.sub(tf.reshape(x, [batch, length, columns]), tf.reshape(mean, [batch, 1, columns]));
    const squares = matMul2d(sums, tf.reshape(tf.square(centred), [n, columns]) as tf.Tensor2D);
    return tf.concat2d([mean, squares], 0);
  });
}

/** Statistics over all calibration tokens of every input of the output and down projections of the dense model: one
 * forward pass, kept for all methods and levels. One object per layer.
 *
 * The fluctuation is `v_m = v_{m-1} (m - 1) / m + (mean over the tokens of window m of (x - r_m)^2) / (m + 1)` with v_0
 * = 0 and r_m the mean of the means of windows 0 to m: the update of FLAP's authors (CASIA-IVA-Lab/FLAP 3bb57db,
 * `BiasGPT.add_batch`), in which the first window does not count. Theirs sums over the tokens, a factor common to all
 * units of windows of one length. */
export async function inputStatistics(context: MethodContext<unknown>): Promise<LayerStatistics[]> {
  const names = ["mean", "variance", "fluctuation"] as const;
  const stored = await rememberLayers(context, "input statistics by window", async () => {
    const layers = await statisticsByLayers(context);
    const vectors = (own: LayerStatistics) =>
      WRITING_NAMES.flatMap((site) => names.map((name) => [`${site}.${name}`, own[site][name]] as const));
    return layers.map((own): Record<string, Float64Array> => Object.fromEntries(vectors(own)));
  }, true);
  return stored.map((own) => {
    const site = (site: ObservedSite) =>
      Object.fromEntries(names.map((name) => [name, entry(own, `${site}.${name}`)])) as unknown as SiteStatistics;
    return { output: site("output"), down: site("down") };
  });
}

/** The statistics of {@linkcode inputStatistics}, one layer after the other. `narrow` gets the statistics of a layer:
 * the layers after it see that layer's outputs under the masks that it returns. The masks are freed. */
export async function statisticsByLayers(
  { model, calibration, report, signal }: MethodContext<unknown>,
  narrow?: (layer: number, statistics: LayerStatistics) => LayerMasks,
): Promise<LayerStatistics[]> {
  const { layers, headSize } = model.config;
  const batches = calibrationBatches(calibration);
  const results: LayerStatistics[] = [];
  await forwardByLayers(model, batches, async (l, run) => {
    report(`calibration statistics, layer ${l + 1} of ${layers.length}`);
    const shape = at(layers, l);
    const totals = { output: new Moments(queryHeads(shape) * headSize), down: new Moments(shape.ffnChannels) };
    for (const [i, batch] of batches.entries()) {
      await giveWay(signal);
      const moments: [ObservedSite, tf.Tensor2D][] = [];
      const observe = (_layer: number, site: ObservedSite, input: tf.Tensor2D) => {
        moments.push([site, tf.keep(windowMoments(input, batch.batch))]);
      };
      await run(i, { observe });
      const values = await readFlat(moments.map(([, own]) => own), "inputs of the output and down projections");
      for (const [s, [site, { shape: [, columns] }]] of moments.entries()) {
        const row = (r: number) => at(values, s).subarray(r * columns, (r + 1) * columns);
        for (let b = 0; b < batch.batch; b++) totals[site].add(batch.length, row(b), row(batch.batch + b));
      }
    }
    const own = { output: totals.output.statistics(), down: totals.down.statistics() };
    results.push(own);
    if (!narrow) return;
    const masks = narrow(l, own);
    try {
      for (const i of batches.keys()) await run(i, { masks });
    } finally {
      tf.dispose(Object.values(masks) as tf.Tensor[]);
    }
  }, { keepInputs: narrow !== undefined });
  return results;
}

/** One object of named vectors for each layer: those kept under `key`, else what `compute` gives. They are kept in
 * f32. */
export async function rememberLayers<Name extends string>(
  { model, remember }: MethodContext<unknown>,
  key: string,
  compute: () => Promise<Record<Name, ArrayLike<number>>[]>,
  forAll?: boolean,
): Promise<Record<Name, Float64Array>[]> {
  const stored = await remember(key, async () => {
    const statistics: Statistics = {};
    for (const [l, vectors] of (await compute()).entries()) {
      for (const [name, values] of Object.entries<ArrayLike<number>>(vectors)) {
        const data = Float32Array.from(values);
        statistics[`${l}.${name}`] = { shape: [data.length], data };
      }
    }
    return statistics;
  }, forAll);
  const layers = model.config.layers.map((): Record<string, Float64Array> => ({}));
  for (const [place, { data }] of Object.entries(stored)) {
    const [l, ...name] = place.split(".");
    at(layers, Number(l))[name.join(".")] = Float64Array.from(data);
  }
  return layers as Record<Name, Float64Array>[];
}
