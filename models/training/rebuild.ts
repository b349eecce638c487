/** The data that rebuilds a pruned model without training, in a few per cent of its size.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import {
  type DecoderConfig,
  expectedTensors,
  type HostTensor,
  LINEAR_NAMES,
  linearShape,
  tensorNames,
} from "../config.ts";
import type { DecoderModel } from "../device.ts";
import { plannedConfig, type PrunePlan } from "../plan.ts";
import { UNIT_TYPES } from "../../core/schema/schema.ts";
import { pruneModel } from "../surgery.ts";
import { unitCount } from "../units.ts";
import { adapterName, type Adapters, disposeAdapters, withAdapters } from "./lora.ts";
import { foldTrained } from "./merge.ts";
import { readVariables } from "./optimizer.ts";
import { type HostMasks, type MaskType, type ModelMasks, scaledMasks, type Student } from "./student.ts";

/** What training left, before it was folded into weights: adapters, and masks times scales. */
export interface TrainedParts extends ModelMasks {
  /** Factor of the low-rank updates: alpha / r. */
  scale: number;
  /** By `adapterName`, at the widths of the pruned model: down f32 [in, r], up f32 [r, out]. */
  adapters: Record<string, HostTensor>;
}

/** Everything that makes a pruned model again from the dense one. */
export interface Rebuild {
  plan: PrunePlan;
  /** Vectors that the method put in place of the model's, by Hugging Face name, at dense shapes. */
  replaced: Record<string, HostTensor>;
  /** Calibration windows of least squares, token ids i32 [T] each; none where nothing was compensated. */
  windows: Int32Array[];
  /** What was trained with the cut, or after it; undefined where nothing was. */
  trained?: TrainedParts;
}

/** What a student trained, in host memory; scales are part of the masks. */
export async function trainedParts(student: Student, { masks, hidden }: ModelMasks = {}): Promise<TrainedParts> {
  const { scale, parameters } = student.adapters;
  const adapters = await readVariables(parameters);
  return { scale, adapters, masks: await scaledMasks(student, masks), ...hidden && { hidden } };
}

/** Whether all tensors are vectors, which weigh nothing beside the matrices. */
export function areVectors(tensors: Record<string, HostTensor>): boolean {
  return Object.values(tensors).every(({ shape }) => shape.length === 1);
}

/** The pruned model again: the operations of its training on the same values. `base`, the dense model, stays as it is.
 * `compensate` gives the tensors of least squares. Free the result with `disposeModel`.
 * @throws {RangeError} when the parts do not fit the model. */
export async function rebuildModel(
  base: DecoderModel,
  { plan, replaced, windows, trained }: Rebuild,
  compensate: (plan: PrunePlan, replaced: Record<string, HostTensor>) => Promise<Record<string, HostTensor>>,
): Promise<DecoderModel> {
  const model = await pruneModel(base, plan, windows.length > 0 ? await compensate(plan, replaced) : replaced);
  if (trained) foldParts(model, trained);
  return model;
}

/** Folds what was trained into the weights of `model`, which is changed. */
export function foldParts(model: DecoderModel, trained: TrainedParts): void {
  const { adapters, scale } = trained;
  const parameters: Record<string, tf.Variable> = {};
  for (const [name, { shape, data }] of Object.entries(adapters)) {
    parameters[name] = tf.tidy(() => tf.variable(tf.tensor(data, shape)));
  }
  const put: Adapters = { rank: Object.values(adapters)[0]?.shape.at(-1) ?? 0, scale, parameters };
  try {
    foldTrained(model, withAdapters(model, put), trained);
  } finally {
    disposeAdapters(put);
  }
}

/** The tensors of a rebuild by name: `replaced/…`, `trained/…`, `masks/LAYER/TYPE`, `hidden`. */
export function rebuildTensors({ replaced, trained }: Rebuild): Map<string, HostTensor> {
  const tensors = new Map<string, HostTensor>();
  const vector = (data: Float32Array): HostTensor => ({ shape: [data.length], data });
  for (const [group, own] of Object.entries({ replaced, trained: trained?.adapters ?? {} })) {
    for (const [name, tensor] of Object.entries(own)) tensors.set(`${group}/${name}`, tensor);
  }
  for (const [l, masks] of (trained?.masks ?? []).entries()) {
    for (const [type, values] of Object.entries(masks)) tensors.set(`masks/${l}/${type}`, vector(values));
  }
  if (trained?.hidden) tensors.set("hidden", vector(trained.hidden));
  return tensors;
}

/** The inverse of {@linkcode rebuildTensors}, for a model of shape `dense`; `scale` is the adapters' scale: 0 without
 * adapters, undefined without training.
 * @throws {RangeError} that names what does not fit. */
export function rebuildOf(
  { plan, windows, scale }: Pick<Rebuild, "plan" | "windows"> & { scale?: number },
  tensors: ReadonlyMap<string, HostTensor>,
  dense: DecoderConfig,
): Rebuild {
  const left = new Set(tensors.keys());
  const compact = plannedConfig(dense, plan);
  const take = (name: string, shape: readonly number[]): HostTensor | undefined => {
    const tensor = tensors.get(name);
    if (!tensor) return undefined;
    if (tensor.shape.join() !== shape.join()) {
      throw new RangeError(`tensor "${name}" has [${tensor.shape}], not [${shape}]`);
    }
    if (!tensor.data.every(Number.isFinite)) throw new RangeError(`tensor "${name}" holds values that are not finite`);
    left.delete(name);
    return tensor;
  };
  const rebuild: Rebuild = { plan, replaced: {}, windows };
  for (const [name, shape] of expectedTensors({ ...dense, biases: [...LINEAR_NAMES] })) {
    const tensor = shape.length === 1 ? take(`replaced/${name}`, shape) : undefined;
    if (tensor) rebuild.replaced[name] = tensor;
  }
  if (scale !== undefined) {
    const hidden = take("hidden", [compact.width])?.data;
    const adapters = takeAdapters(compact, take, (name) => tensors.get(name)?.shape);
    rebuild.trained = { scale, adapters, masks: takeMasks(compact, take), ...hidden && { hidden } };
  }
  const [stray] = left;
  if (stray !== undefined) throw new RangeError(`tensor "${stray}" does not belong to it`);
  return rebuild;
}

type Take = (name: string, shape: readonly number[]) => HostTensor | undefined;

/** Adapters at the widths of `config`: of a map both matrices or none, and one rank for all. */
function takeAdapters(
  config: DecoderConfig,
  take: Take,
  shapeOf: (name: string) => readonly number[] | undefined,
): Record<string, HostTensor> {
  const adapters: Record<string, HostTensor> = {};
  let rank: number | undefined;
  for (const [l, layer] of config.layers.entries()) {
    for (const name of LINEAR_NAMES) {
      const [output, input] = linearShape(config, layer, name);
      const [down, up] = [adapterName(l, name, "down"), adapterName(l, name, "up")];
      rank ??= shapeOf(`trained/${down}`)?.at(-1);
      const first = take(`trained/${down}`, [input, rank ?? 0]);
      const second = take(`trained/${up}`, [rank ?? 0, output]);
      if (!first !== !second) throw new RangeError(`the adapter of ${tensorNames.weight(l, name)} is half there`);
      if (!first || !second) continue;
      adapters[down] = first;
      adapters[up] = second;
    }
  }
  return adapters;
}

function takeMasks(config: DecoderConfig, take: Take): HostMasks[] {
  return config.layers.map((shape, l) => {
    const lengths: [MaskType, number][] = [
      ...UNIT_TYPES.map((type): [MaskType, number] => [type, unitCount(shape, type)]),
      ["layer", 1],
    ];
    return Object.fromEntries(lengths.flatMap(([type, length]) => {
      const mask = take(`masks/${l}/${type}`, [length]);
      return mask ? [[type, mask.data]] : [];
    }));
  });
}
