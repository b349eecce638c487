/** Cuts a model map by map. Each map is cut with the inputs that the earlier, already cut maps produce.
 *
 * Statistics of the dense model ignore the errors of earlier layers. SparseGPT's code computes them after earlier
 * layers were pruned (IST-DASLab/sparsegpt 147d215, `llama.py` with `--true-sequential`).
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { giveWay } from "../../core/engine/give_way.ts";
import { matMul2d } from "../../core/engine/ops.ts";
import { at } from "../../core/util/indexing.ts";
import { type HostTensor, tensorNames, WRITING_NAMES } from "../config.ts";
import { type DecoderModel, type DeviceLinear, disposeModel } from "../device.ts";
import { forwardByLayers } from "../layerwise.ts";
import type { ObservedSite } from "../layers.ts";
import { densePlan, type PrunePlan } from "../plan.ts";
import { hostTensor, keptIndices, pruneModel } from "../surgery.ts";
import { windowBatch } from "./batches.ts";
import { compensatedWeight, type CompensationOptions, siteInputs, tokensOf } from "./least_squares.ts";

/** Gets the Gram matrix of a map's inputs, a mean over tokens: f32 [in, in]. Returns the map's weight after its cut,
 * `[out, in]` at dense shape, with zeros for removed inputs; null if unchanged. */
export type CutMap = (layer: number, site: ObservedSite, gram: Float32Array) => Promise<HostTensor | null>;

interface Progress {
  report(message: string): void;
  signal: AbortSignal;
}

/** Calls `cut` for the output and down maps in the order of the stream. A map of zeros is a block without output.
 *
 * Cost: three forward passes. One Gram matrix is held, and the hidden states of all windows in host memory.
 * @throws {UsageError} when there are no windows. */
export async function cutInTurn(
  model: DecoderModel,
  windows: readonly Int32Array[],
  cut: CutMap,
  { report, signal }: Progress,
): Promise<void> {
  const batches = windows.map((window) => windowBatch([window]));
  const tokens = tokensOf(windows);
  await forwardByLayers(model, batches, async (l, run, layer) => {
    const made: tf.Tensor[] = [];
    let inPlace = layer;
    try {
      for (const site of WRITING_NAMES) {
        report(`layer ${l + 1} of ${model.config.layers.length}, inputs of the ${site} map`);
        let sum: tf.Tensor2D = tf.zeros([siteInputs(model.config, l, site), siteInputs(model.config, l, site)]);
        made.push(sum);
        const observe = (_layer: number, observed: ObservedSite, input: tf.Tensor2D) => {
          if (observed !== site) return;
          const next = tf.keep(tf.tidy(() => tf.add(sum, tf.mul(matMul2d(input, input, true, false), 1 / tokens))));
          sum.dispose();
          sum = next as tf.Tensor2D;
          made.push(sum);
        };
        for (const i of batches.keys()) {
          await giveWay(signal);
          await run(i, { observe, inPlace });
        }
        const weight = await cut(l, site, await sum.data<"float32">());
        if (!weight) continue;
        const written: DeviceLinear = {
          ...weight.data.some((value) => value !== 0) && inPlace[site],
          weight: tf.tidy(() => tf.transpose(tf.tensor2d(weight.data, weight.shape as [number, number]))),
        };
        made.push(written.weight as tf.Tensor2D);
        inPlace = { ...inPlace, [site]: written };
      }
      for (const i of batches.keys()) {
        await giveWay(signal);
        await run(i, { inPlace });
      }
    } finally {
      tf.dispose(made);
    }
  }, { keepInputs: true });
}

/** The weight with zeros for all inputs but `kept`. */
export function withoutInputs({ shape, data }: HostTensor, kept: readonly number[]): HostTensor {
  const inputs = at(shape, 1);
  const stays = new Set(kept);
  return { shape, data: data.map((value, i) => stays.has(i % inputs) ? value : 0) };
}

/** Least-squares corrections as `compensate` returns them, from the inputs of each map after all earlier maps were cut
 * and compensated; 0 for removed inputs. Hidden dimensions that `plan` removes are still present. */
export async function compensateInTurn(
  dense: DecoderModel,
  plan: PrunePlan,
  { windows, ...given }: CompensationOptions & Progress & { windows: readonly Int32Array[] },
): Promise<Record<string, HostTensor>> {
  const { config } = dense;
  const result: Record<string, HostTensor> = {};
  const model = await pruneModel(dense, densePlan(config), given.replaced);
  try {
    await cutInTurn(model, windows, async (l, site, gram) => {
      const layer = at(plan.layers, l);
      const kept = keptIndices(layer, site, config.headSize);
      if (kept.length === siteInputs(config, l, site)) return null;
      const name = tensorNames.weight(l, site);
      if (kept.length === 0) return withoutInputs(await hostTensor(model, name), kept);
      const weight = withoutInputs(await compensatedWeight(model, name, { gram, kept }, given), kept);
      return result[name] = weight;
    }, given);
  } finally {
    disposeModel(model);
  }
  return result;
}
