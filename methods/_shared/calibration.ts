/** Calibration windows in batches, and what the dense model's units put out on them.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { UsageError } from "../../core/util/errors.ts";
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import { matMul2d, readFlat } from "../../core/engine/ops.ts";
import { WRITING_NAMES } from "../../models/config.ts";
import { type LayerShape, queryHeads } from "../../models/units.ts";
import { forwardByLayers } from "../../models/layerwise.ts";
import type { LayerMasks } from "../../models/masks.ts";
import { forward } from "../../models/decoder.ts";
import type { ObservedSite, TokenBatch } from "../../models/layers.ts";
import { windowBatch } from "../../models/training/batches.ts";
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

/** Names of {@linkcode inputStatistics}: f32 [H K] for site `output`, [F] for `down`. */
export const inputStatisticNames = {
  /** Mean over all tokens. */
  mean: (layer: number, site: ObservedSite) => `${layer}.${site}.mean`,
  /** Population variance over all tokens. */
  variance: (layer: number, site: ObservedSite) => `${layer}.${site}.variance`,
  /** What FLAP's authors compute in place of the variance; see {@linkcode SiteMoments}. */
  fluctuation: (layer: number, site: ObservedSite) => `${layer}.${site}.fluctuation`,
};

/** One of the vectors of {@linkcode inputStatistics}.
 * @throws {RangeError} when it is not there. */
export function statisticOf(
  statistics: Statistics,
  what: keyof typeof inputStatisticNames,
  layer: number,
  site: ObservedSite,
): Float32Array {
  const name = inputStatisticNames[what](layer, site);
  const vector = statistics[name];
  if (!vector) throw new RangeError(`There is no statistic "${name}"`);
  return vector.data;
}

/** Moments of one site over the windows seen so far. */
interface SiteMoments {
  /** Tokens. */
  count: number;
  mean: Float64Array;
  /** Centred sum of squares. */
  squares: Float64Array;
  windows: number;
  /** r_m: mean of the means of windows 0 to m. */
  running: Float64Array;
  /** v_m = v_{m-1} (m - 1) / m + (mean over the tokens of window m of (x - r_m)^2) / (m + 1), v_0 = 0: the update of the
   * authors of FLAP (CASIA-IVA-Lab/FLAP 3bb57db, `BiasGPT.add_batch`), in which the first window does not count; theirs
   * sums over the tokens, a factor common to all units of windows of one length. */
  fluctuation: Float64Array;
}

function createMoments(columns: number): SiteMoments {
  const zeros = () => new Float64Array(columns);
  return { count: 0, mean: zeros(), squares: zeros(), windows: 0, running: zeros(), fluctuation: zeros() };
}

/** Adds a window of `count` tokens, of which `mean` and `squares` (centred) are known. The variance is that of Chan, Golub
 * and LeVeque 1983, eq. 1.5: exact, and without the cancellation of `mean(x^2) - mean(x)^2`, which costs all digits on
 * units with a large mean. */
function addWindow(total: SiteMoments, count: number, mean: Float32Array, squares: Float32Array): void {
  const all = total.count + count;
  const m = total.windows;
  for (let j = 0; j < mean.length; j++) {
    const own = mean[j] ?? 0;
    const spread = squares[j] ?? 0;
    const step = own - (total.mean[j] ?? 0);
    total.squares[j] = (total.squares[j] ?? 0) + spread + step * step * total.count * count / all;
    total.mean[j] = (total.mean[j] ?? 0) + step * count / all;
    const running = ((total.running[j] ?? 0) * m + own) / (m + 1);
    total.running[j] = running;
    if (m === 0) continue;
    const around = spread / count + (own - running) ** 2;
    total.fluctuation[j] = (total.fluctuation[j] ?? 0) * (m - 1) / m + around / (m + 1);
  }
  total.count = all;
  total.windows++;
}

/** Mean and centred sum of squares of each column over each of `batch` windows: x [B T, C] -> [2 B, C]. */
function windowMoments(x: tf.Tensor2D, batch: number): tf.Tensor2D {
  return tf.tidy(() => {
    const [n, columns] = x.shape;
    const length = n / batch;
    // Row b is 1 on the tokens of window b. Products of matrices are faster than reductions, and batched ones copy on wasm.
    const windows = new Float32Array(batch * n);
    for (let b = 0; b < batch; b++) windows.fill(1, b * n + b * length, b * n + (b + 1) * length);
    const sums = tf.tensor2d(windows, [batch, n]);
    const mean = tf.div(matMul2d(sums, x), length) as tf.Tensor2D;
    const centred = tf.sub(tf.reshape(x, [batch, length, columns]), tf.reshape(mean, [batch, 1, columns]));
    const squares = matMul2d(sums, tf.reshape(tf.square(centred), [n, columns]) as tf.Tensor2D);
    return tf.concat2d([mean, squares], 0);
  });
}

/** Moments of one layer's sites, in the order of {@linkcode WRITING_NAMES}. */
const createLayerMoments = (shape: LayerShape, headSize: number) => [
  createMoments(queryHeads(shape) * headSize),
  createMoments(shape.ffnChannels),
];

/** Statistics of one layer by {@linkcode inputStatisticNames}. */
function layerStatistics(l: number, moments: readonly SiteMoments[]): Statistics {
  const vector = (data: Float64Array) => ({ shape: [data.length], data: Float32Array.from(data) });
  return Object.fromEntries(WRITING_NAMES.flatMap((site, s) => {
    const { count, mean, squares, fluctuation } = at(moments, s);
    return [
      [inputStatisticNames.mean(l, site), vector(mean)],
      [inputStatisticNames.variance(l, site), vector(squares.map((x) => x / count))],
      [inputStatisticNames.fluctuation(l, site), vector(fluctuation)],
    ];
  }));
}

/** Adds moments observed of a batch, site by site, to `totals`; the tensors are freed. */
async function addBatch(
  totals: readonly SiteMoments[],
  observed: tf.Tensor[],
  { batch, length }: TokenBatch,
): Promise<void> {
  const moments = await readFlat(observed, "inputs of the output and down projections");
  for (const [s, values] of moments.entries()) {
    const columns = values.length / (2 * batch);
    const row = (r: number) => values.subarray(r * columns, (r + 1) * columns);
    for (let b = 0; b < batch; b++) addWindow(at(totals, s), length, row(b), row(batch + b));
  }
}

type StatisticsContext = Pick<MethodContext<unknown>, "model" | "calibration" | "report" | "signal">;

/** Mean, population variance and fluctuation, over all calibration tokens, of every input of the output and down
 * projections of the dense model: one forward pass, kept for all methods and sparsity levels. See
 * {@linkcode inputStatisticNames}. */
export function inputStatistics(context: MethodContext<unknown>): Promise<Statistics> {
  return context.remember(
    "input statistics by window",
    () => context.model.readLayer ? statisticsByLayers(context) : statisticsAtOnce(context),
  );
}

async function statisticsAtOnce({ model, calibration, report, signal }: StatisticsContext): Promise<Statistics> {
  const { layers, headSize } = model.config;
  const batches = calibrationBatches(calibration);
  const totals = layers.map((shape) => createLayerMoments(shape, headSize));
  for (const [i, batch] of batches.entries()) {
    await giveWay(signal);
    report(`calibration statistics, batch ${i + 1} of ${batches.length}`);
    const observed: tf.Tensor[] = [];
    const observe = (_layer: number, _site: ObservedSite, input: tf.Tensor2D) => {
      observed.push(tf.keep(windowMoments(input, batch.batch)));
    };
    forward(model, batch, { observe }).dispose();
    await addBatch(totals.flat(), observed, batch);
  }
  return Object.assign({}, ...totals.map((moments, l) => layerStatistics(l, moments)));
}

/** The statistics of {@linkcode inputStatistics}, one layer after the other. With `narrow`, which gets a layer's own, the
 * layers after it see the outputs of that layer under the masks it gives, which are freed. */
export async function statisticsByLayers(
  { model, calibration, report, signal }: StatisticsContext,
  narrow?: (layer: number, statistics: Statistics) => Promise<LayerMasks>,
): Promise<Statistics> {
  const { layers, headSize } = model.config;
  const batches = calibrationBatches(calibration);
  const totals = layers.map((shape) => createLayerMoments(shape, headSize));
  const observed: tf.Tensor[] = [];
  // Batches pass a layer in order.
  let current = at(batches, 0);
  await forwardByLayers(model, batches, {
    observe: (_layer, _site, input) => {
      observed.push(tf.keep(windowMoments(input, current.batch)));
    },
    after: async (l, i) => {
      await addBatch(at(totals, l), observed.splice(0), current);
      current = at(batches, (i + 1) % batches.length);
      await giveWay(signal);
      if (i === 0) report(`calibration statistics, layer ${l + 1} of ${layers.length}`);
    },
    ...narrow && { narrow: (l) => narrow(l, layerStatistics(l, at(totals, l))) },
  });
  return Object.assign({}, ...totals.map((moments, l) => layerStatistics(l, moments)));
}
