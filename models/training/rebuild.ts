/** How a pruned model came about: what it can be made again from without training, in a few per cent of its size.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import {
  type DecoderConfig,
  expectedTensors,
  type HostTensor,
  LINEAR_NAMES,
  linearShape,
  tensorNames,
} from "../config.ts";
import { type DecoderModel, disposeModel } from "../device.ts";
import { plannedConfig, type PrunePlan } from "../plan.ts";
import { UNIT_TYPES } from "../../core/schema/schema.ts";
import { pruneByLayers, pruneModel } from "../surgery.ts";
import { unitCount } from "../units.ts";
import { adapterName, type Adapters, disposeAdapters, withAdapters } from "./lora.ts";
import { mergedTensors, mergeInto } from "./merge.ts";
import { readTensors } from "./optimizer.ts";
import type { HostMasks, MaskType, ModelMasks } from "./student.ts";

/** What training left, before it was folded into weights. */
export interface TrainedParts extends ModelMasks {
  /** Factor of the low-rank updates: alpha / r. */
  scale: number;
  /** By `adapterName`, at the widths of the pruned model: down f32 [in, r], up f32 [r, out]. */
  adapters: Record<string, HostTensor>;
}

/** Everything that makes a pruned model again from the dense one. */
export interface Rebuild {
  /** Units that stay. */
  plan: PrunePlan;
  /** Vectors that the method put in place of the model's, by Hugging Face name, at dense shapes. */
  replaced: Record<string, HostTensor>;
  /** Calibration windows of least squares, token ids i32 [T] each; none where nothing was compensated. */
  windows: Int32Array[];
  /** Trained together with the cut: adapters and kept masks. */
  learned?: TrainedParts;
  /** Trained after the cut. */
  recovered?: TrainedParts;
}

/** Adapters in host memory; undefined where whole weights were trained, which are no smaller than the model. */
export async function trainedParts(
  { rank, scale, parameters }: Adapters,
  masks: ModelMasks = {},
): Promise<TrainedParts | undefined> {
  const names = Object.keys(parameters);
  if (names.length > 0 && rank === 0) return undefined;
  const values = await readTensors(Object.values(parameters));
  const adapters = Object.entries(parameters).map(([name, { shape }], i): [string, HostTensor] => [
    name,
    { shape: [...shape], data: at(values, i) },
  ]);
  return { scale, adapters: Object.fromEntries(adapters), ...masks };
}

/** Whether all tensors are vectors, which weigh nothing beside the matrices. */
export function areVectors(tensors: Record<string, HostTensor>): boolean {
  return Object.values(tensors).every(({ shape }) => shape.length === 1);
}

/** Does `use` with the adapters on `model`. */
async function withParts<T>(
  model: DecoderModel,
  { adapters, scale }: TrainedParts,
  use: (trained: DecoderModel) => T | Promise<T>,
): Promise<T> {
  const parameters: Record<string, tf.Variable> = {};
  for (const [name, { shape, data }] of Object.entries(adapters)) {
    parameters[name] = tf.tidy(() => tf.variable(tf.tensor(data, shape)));
  }
  const put: Adapters = { rank: Object.values(adapters)[0]?.shape.at(-1) ?? 0, scale, parameters };
  try {
    return await use(withAdapters(model, put));
  } finally {
    disposeAdapters(put);
  }
}

/** The pruned model again: the operations of its training on the same values. `base`, the dense model, stays as it is.
 * `compensate` gives the tensors of least squares. Free the result with `disposeModel`.
 * @throws {RangeError} when the parts do not fit the model. */
export async function rebuildModel(
  base: DecoderModel,
  { plan, replaced, windows, learned, recovered }: Rebuild,
  compensate: (plan: PrunePlan, replaced: Record<string, HostTensor>) => Promise<Record<string, HostTensor>>,
): Promise<DecoderModel> {
  let tensors = windows.length > 0 ? await compensate(plan, replaced) : replaced;
  if (learned) {
    const compact = pruneModel(base, plan, tensors);
    const { masks, hidden } = learned;
    try {
      const merged = await withParts(
        compact,
        learned,
        (model) => mergedTensors(model, { plan, dense: base.config, masks, hidden }),
      );
      tensors = { ...tensors, ...merged };
    } finally {
      disposeModel(compact);
    }
  }
  const model = await pruneByLayers(base, plan, tensors);
  if (recovered) await withParts(model, recovered, (trained) => mergeInto(model, trained));
  return model;
}

/** The tensors of a rebuild by name: `replaced/…`, `learned/…`, `recovered/…`, `masks/LAYER/TYPE`, `hidden`. */
export function rebuildTensors({ replaced, learned, recovered }: Rebuild): Map<string, HostTensor> {
  const tensors = new Map<string, HostTensor>();
  const vector = (data: Float32Array): HostTensor => ({ shape: [data.length], data });
  const groups = { replaced, learned: learned?.adapters ?? {}, recovered: recovered?.adapters ?? {} };
  for (const [group, own] of Object.entries(groups)) {
    for (const [name, tensor] of Object.entries(own)) tensors.set(`${group}/${name}`, tensor);
  }
  for (const [l, masks] of (learned?.masks ?? []).entries()) {
    for (const [type, values] of Object.entries(masks)) tensors.set(`masks/${l}/${type}`, vector(values));
  }
  if (learned?.hidden) tensors.set("hidden", vector(learned.hidden));
  return tensors;
}

/** The rebuild that {@linkcode rebuildTensors} was made of, for a model of shape `dense`.
 * @throws {RangeError} that names what does not fit. */
export function rebuildOf(
  { plan, windows, learned, recovered }: Pick<Rebuild, "plan" | "windows"> & {
    /** Scales of the adapters, where there are any. */
    learned?: number;
    recovered?: number;
  },
  tensors: ReadonlyMap<string, HostTensor>,
  dense: DecoderConfig,
): Rebuild {
  const left = new Set(tensors.keys());
  const compact = plannedConfig(dense, plan);
  const take = (name: string, shape: readonly number[]): HostTensor | undefined => {
    const tensor = tensors.get(name);
    if (!tensor) return undefined;
    checkTensor(name, tensor, shape);
    left.delete(name);
    return tensor;
  };
  const rebuild: Rebuild = { plan, replaced: {}, windows };
  for (const [name, shape] of expectedTensors({ ...dense, biases: [...LINEAR_NAMES] })) {
    const tensor = shape.length === 1 ? take(`replaced/${name}`, shape) : undefined;
    if (tensor) rebuild.replaced[name] = tensor;
  }
  const adaptersOf = (group: string) => takeAdapters(group, compact, take, (name) => tensors.get(name)?.shape);
  if (learned !== undefined) {
    const hidden = take("hidden", [compact.width])?.data;
    const masks = takeMasks(compact, take);
    rebuild.learned = { scale: learned, adapters: adaptersOf("learned"), masks, ...hidden && { hidden } };
  }
  if (recovered !== undefined) rebuild.recovered = { scale: recovered, adapters: adaptersOf("recovered") };
  const [stray] = left;
  if (stray !== undefined) throw new RangeError(`tensor "${stray}" does not belong to it`);
  return rebuild;
}

type Take = (name: string, shape: readonly number[]) => HostTensor | undefined;

function checkTensor(name: string, { shape, data }: HostTensor, wanted: readonly number[]): void {
  if (shape.join() !== wanted.join()) throw new RangeError(`tensor "${name}" has [${shape}], not [${wanted}]`);
  if (!data.every(Number.isFinite)) throw new RangeError(`tensor "${name}" holds values that are not finite`);
}

/** Adapters at the widths of `config`: of a map both matrices or none, and one rank for all. */
function takeAdapters(
  group: string,
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
      rank ??= shapeOf(`${group}/${down}`)?.at(-1);
      const first = take(`${group}/${down}`, [input, rank ?? 0]);
      const second = take(`${group}/${up}`, [rank ?? 0, output]);
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
