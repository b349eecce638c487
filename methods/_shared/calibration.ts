/** Calibration windows in batches, and what the dense model's units put out on them.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { matMul2d } from "../../core/ops.ts";
import { UsageError } from "../../core/errors.ts";
import { forwardByLayers } from "../../models/layerwise.ts";
import { forward, type ObservedSite, type TokenBatch } from "../../models/decoder.ts";
import { windowBatch } from "../../models/training/batches.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { checkpoint, readFlat } from "./device.ts";

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
    const { length } = windows[start];
    let end = start + 1;
    while (end < windows.length && windows[end].length === length && (end + 1 - start) * length <= tokensAtOnce) end++;
    batches.push(windowBatch(windows.slice(start, end)));
    start = end;
  }
  return batches;
}

/** Names of {@linkcode inputStatistics}: f32 [H K] for site `output`, [F] for `down`. */
export const inputStatisticNames = {
  mean: (layer: number, site: ObservedSite) => `${layer}.${site}.mean`,
  variance: (layer: number, site: ObservedSite) => `${layer}.${site}.variance`,
};

/** Running mean and centred sum of squares of one site. */
interface Moments {
  count: number;
  mean: Float64Array;
  squares: Float64Array;
}

/** Adds a batch's moments (Chan, Golub and LeVeque 1983, eq. 1.5): exact, and without the cancellation of
 * `mean(x^2) - mean(x)^2`, which costs all digits on units with a large mean. */
function combine(total: Moments | undefined, count: number, mean: Float32Array, squares: Float32Array): Moments {
  if (!total) return { count, mean: Float64Array.from(mean), squares: Float64Array.from(squares) };
  const all = total.count + count;
  for (let j = 0; j < mean.length; j++) {
    const step = mean[j] - total.mean[j];
    total.squares[j] += squares[j] + step * step * total.count * count / all;
    total.mean[j] += step * count / all;
  }
  total.count = all;
  return total;
}

/** Mean and centred sum of squares of each column: x [N, C] -> [2, C]. */
function columnMoments(x: tf.Tensor2D): tf.Tensor2D {
  return tf.tidy(() => {
    const n = x.shape[0];
    const mean = matMul2d(tf.fill([1, n], 1 / n), x);
    const squares = matMul2d(tf.ones([1, n]), tf.square(tf.sub(x, mean)) as tf.Tensor2D);
    return tf.concat2d([mean, squares], 0);
  });
}

/** Mean and population variance, over all calibration tokens, of every input of the output and down projections of the
 * dense model: one forward pass, kept for all methods and sparsity levels. See {@linkcode inputStatisticNames}. */
export function inputStatistics(context: MethodContext<unknown>): Promise<Statistics> {
  return context.remember("input-statistics", async () => {
    const { model, signal } = context;
    const batches = calibrationBatches(context.calibration);
    const sites = model.config.layers.flatMap((_, l) => [[l, "output"], [l, "down"]] as [number, ObservedSite][]);
    const totals: Moments[] = [];
    const observed: tf.Tensor[] = [];
    const observe = (_layer: number, _site: ObservedSite, input: tf.Tensor2D) => {
      observed.push(tf.keep(columnMoments(input)));
    };
    /** Adds what was observed of a batch, at the sites from `first` on. */
    const add = async ({ batch, length }: TokenBatch, first: number) => {
      const moments = await readFlat(observed.splice(0), "inputs of the output and down projections");
      moments.forEach((values, s) => {
        const columns = values.length / 2;
        const [mean, squares] = [values.subarray(0, columns), values.subarray(columns)];
        totals[first + s] = combine(totals[first + s], batch * length, mean, squares);
      });
    };
    if (model.readLayer) {
      const after = async (l: number, i: number) => {
        await add(batches[i], 2 * l);
        await checkpoint(signal);
        if (i === 0) context.report(`calibration statistics, layer ${l + 1} of ${model.config.layers.length}`);
      };
      await forwardByLayers(model, batches, { observe, after });
    } else {
      for (const [i, batch] of batches.entries()) {
        await checkpoint(signal);
        context.report(`calibration statistics, batch ${i + 1} of ${batches.length}`);
        forward(model, batch, { observe }).dispose();
        await add(batch, 0);
      }
    }
    const statistics: Statistics = {};
    sites.forEach(([layer, site], s) => {
      const { count, mean, squares } = totals[s];
      const vector = (data: Float32Array) => ({ shape: [data.length], data });
      statistics[inputStatisticNames.mean(layer, site)] = vector(Float32Array.from(mean));
      statistics[inputStatisticNames.variance(layer, site)] = vector(Float32Array.from(squares, (x) => x / count));
    });
    return statistics;
  });
}
