/** Cuts units out of a model on the device, and reads tensors back.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import {
  expectedTensors,
  type HostTensor,
  LINEAR_NAMES,
  type LinearName,
  type LlamaConfig,
  queryHeads,
  tensorNames,
} from "./config.ts";
import { eachLayer } from "./layerwise.ts";
import { type DeviceLayer, type DeviceLinear, type LayerMasks, type LlamaModel, mergedWeight } from "./llama.ts";
import { type LayerPlan, plannedShapes, type PrunePlan } from "./plan.ts";
import { uploadVocabulary } from "./vocabulary.ts";

/** Where a tensor of the checkpoint lives on the device. */
interface Located {
  /** One tensor, or consecutive rows of the checkpoint's (see `vocabulary.ts`). */
  parts: tf.Tensor[];
  /** The linear map whose weight this is; on the device it is transposed, and low-rank updates belong to it. */
  linear?: DeviceLinear;
  /** Held as [in, out] while the checkpoint has [out, in]. */
  transposed: boolean;
}

/** Every tensor of the model by its Hugging Face name. */
function locateTensors(model: LlamaModel): Map<string, Located> {
  const located = new Map<string, Located>([
    [tensorNames.embedding, { parts: model.embedding, transposed: false }],
    [tensorNames.finalNorm, { parts: [model.finalNorm], transposed: false }],
  ]);
  if (model.head) located.set(tensorNames.head, { parts: model.head, transposed: true });
  model.layers.forEach((layer, l) => {
    located.set(tensorNames.attentionNorm(l), { parts: [layer.attentionNorm], transposed: false });
    located.set(tensorNames.ffnNorm(l), { parts: [layer.ffnNorm], transposed: false });
    for (const name of LINEAR_NAMES) {
      const linear = layer[name];
      located.set(tensorNames.weight(l, name), { parts: [linear.weight], linear, transposed: true });
      if (linear.bias) located.set(tensorNames.bias(l, name), { parts: [linear.bias], transposed: false });
    }
  });
  return located;
}

/** Reads one tensor back in the layout of a checkpoint: weights `[out, in]`, low-rank updates folded in.
 * @throws {RangeError} when the model has no tensor of this Hugging Face name. */
export async function hostTensor(model: LlamaModel, name: string): Promise<HostTensor> {
  const found = locateTensors(model).get(name);
  if (!found) throw new RangeError(`The model has no tensor named "${name}"`);
  const parts = tf.tidy(() =>
    found.parts.map((part) => {
      const merged = found.linear ? mergedWeight(found.linear) : tf.clone(part);
      return found.transposed ? tf.transpose(merged) : merged;
    })
  );
  try {
    const [first, ...others] = await Promise.all(parts.map((part) => part.data<"float32">()));
    if (others.length === 0) return { shape: [...parts[0].shape], data: first };
    const data = new Float32Array(parts.reduce((sum, { size }) => sum + size, 0));
    let start = 0;
    for (const values of [first, ...others]) {
      data.set(values, start);
      start += values.length;
    }
    const width = parts[0].shape[1]!;
    return { shape: [data.length / width, width], data };
  } finally {
    tf.dispose(parts);
  }
}

/** Hard masks of a plan, 1 for a kept query head or FFN channel and 0 for any other: a model with these masks computes
 * what the pruned model computes. Free the tensors with `tf.dispose`. */
export function planToMasks(config: LlamaConfig, plan: PrunePlan): Required<Pick<LayerMasks, "queryHeads" | "ffn">>[] {
  plannedShapes(config, plan);
  const hard = (length: number, kept: number[]) => {
    const mask = new Float32Array(length);
    for (const index of kept) mask[index] = 1;
    return tf.tensor1d(mask);
  };
  return plan.layers.map((layer, l) => ({
    queryHeads: hard(queryHeads(config.layers[l]), layer.queryHeads),
    ffn: hard(config.layers[l].ffnChannels, layer.ffnChannels),
  }));
}

/** Columns of `[in, out]` weights, or rows for the output and down maps, that the kept units occupy. */
export function keptIndices(plan: LayerPlan, name: LinearName, headSize: number): number[] {
  const ofHeads = (heads: number[]) =>
    heads.flatMap((h) => Array.from({ length: headSize }, (_, k) => h * headSize + k));
  switch (name) {
    case "query":
    case "output":
      return ofHeads(plan.queryHeads);
    case "key":
    case "value":
      return ofHeads(plan.kvGroups);
    case "gate":
    case "up":
    case "down":
      return plan.ffnChannels;
  }
}

/** The kept rows (axis 0) or columns (axis 1) of `x`, ascending; shares memory with `x` when all are kept. */
function take<T extends tf.Tensor>(x: T, kept: number[], axis: number): T {
  return kept.length === x.shape[axis] ? tf.clone(x) : tf.gather(x, tf.tensor1d(kept, "int32"), axis);
}

/** Linear maps that have a bias after the replacements, in the usual order. */
function biasesAfter(config: LlamaConfig, replaced: Record<string, HostTensor>): LinearName[] {
  const layers = config.layers.keys().toArray();
  return LINEAR_NAMES.filter((name) =>
    config.biases.includes(name) || layers.some((l) => tensorNames.bias(l, name) in replaced)
  );
}

function checkReplaced(dense: LlamaConfig, replaced: Record<string, HostTensor>): void {
  const expected = expectedTensors(dense);
  for (const [name, { shape }] of Object.entries(replaced)) {
    const wanted = expected.get(name);
    if (!wanted) throw new RangeError(`The model has no tensor named "${name}" to replace`);
    if (shape.join() !== wanted.join()) {
      throw new RangeError(`Replaced tensor "${name}" must have the dense shape [${wanted}]: current [${shape}]`);
    }
  }
}

/** Cuts the units of `plan` out of layer after layer, and gives the configuration of what is left. */
function createCutter(dense: LlamaConfig, plan: PrunePlan, replaced: Record<string, HostTensor>) {
  const biases = biasesAfter(dense, replaced);
  const config: LlamaConfig = { ...dense, biases, layers: plannedShapes(dense, plan) };
  checkReplaced({ ...dense, biases }, replaced);
  const replacement = (name: string) => tf.tensor(replaced[name].data, replaced[name].shape);
  const vector = (name: string, own: tf.Tensor1D | undefined, length: number) =>
    (name in replaced ? replacement(name) : own ? tf.clone(own) : tf.zeros([length])) as tf.Tensor1D;
  const cutLinear = (linear: DeviceLinear, l: number, name: LinearName): DeviceLinear => {
    const kept = keptIndices(plan.layers[l], name, config.headSize);
    const reads = name === "output" || name === "down";
    const weightName = tensorNames.weight(l, name);
    const dense = weightName in replaced ? tf.transpose(replacement(weightName)) as tf.Tensor2D : mergedWeight(linear);
    const weight = take(dense, kept, reads ? 0 : 1);
    if (!biases.includes(name)) return { weight };
    const bias = vector(tensorNames.bias(l, name), linear.bias, dense.shape[1]);
    return { weight, bias: reads ? bias : take(bias, kept, 0) };
  };
  const cutLayer = (layer: DeviceLayer, l: number): DeviceLayer =>
    tf.tidy(() => ({
      ...Object.fromEntries(LINEAR_NAMES.map((name) => [name, cutLinear(layer[name], l, name)])),
      attentionNorm: vector(tensorNames.attentionNorm(l), layer.attentionNorm, config.width),
      ffnNorm: vector(tensorNames.ffnNorm(l), layer.ffnNorm, config.width),
    } as unknown as tf.TensorContainer)) as unknown as DeviceLayer;
  const vocabulary = (name: string, parts: tf.Tensor2D[], transposed: boolean) =>
    name in replaced ? uploadVocabulary(replaced[name], transposed) : parts.map((part) => tf.clone(part));
  const cutRest = ({ embedding, head, finalNorm }: LlamaModel) => ({
    embedding: vocabulary(tensorNames.embedding, embedding, false),
    finalNorm: vector(tensorNames.finalNorm, finalNorm, config.width),
    head: head && vocabulary(tensorNames.head, head, true),
  });
  return { config, cutLayer, cutRest };
}

/** A smaller model with the units of `plan` alone. `model` stays as it is, and both must be freed; tensors without
 * removed units share memory with it.
 *
 * `replaced` tensors, by Hugging Face name, `[out, in]` and at dense shape, take the place of the dense ones before
 * units are cut out. A bias for a linear map that has none adds one in every layer, zero where none is given. Low-rank
 * updates are folded in, unless the weight is replaced.
 * @throws {RangeError} when the plan or a replaced tensor does not fit the model. */
export function pruneModel(
  model: LlamaModel,
  plan: PrunePlan,
  replaced: Record<string, HostTensor> = {},
): LlamaModel {
  const { config, cutLayer, cutRest } = createCutter(model.config, plan, replaced);
  // Layer by layer, so that merged or replaced dense weights of one layer only are held besides the result.
  return { config, layers: model.layers.map(cutLayer), ...cutRest(model) };
}

/** {@linkcode pruneModel} for a model whose layers may be read one at a time: one dense layer is held besides the result. */
export async function pruneByLayers(
  model: LlamaModel,
  plan: PrunePlan,
  replaced: Record<string, HostTensor> = {},
): Promise<LlamaModel> {
  const { config, cutLayer, cutRest } = createCutter(model.config, plan, replaced);
  return { config, layers: await eachLayer(model, cutLayer), ...cutRest(model) };
}

/** Weights and biases of the linear maps by Hugging Face name, in host memory: what pruning and training change. */
export async function linearTensors(model: LlamaModel): Promise<Map<string, HostTensor>> {
  const tensors = new Map<string, HostTensor>();
  for (const [l, layer] of model.layers.entries()) {
    for (const name of LINEAR_NAMES) {
      const names = [tensorNames.weight(l, name), ...layer[name].bias ? [tensorNames.bias(l, name)] : []];
      for (const each of names) tensors.set(each, await hostTensor(model, each));
    }
  }
  return tensors;
}

/** Puts tensors of {@linkcode linearTensors}, of a model of the same widths, in the place of the model's own, which are
 * freed. The record that is returned replaces `model`. */
export function replaceLinears(model: LlamaModel, tensors: ReadonlyMap<string, HostTensor>): LlamaModel {
  model.layers.forEach((layer, l) => {
    for (const name of LINEAR_NAMES) {
      const { shape, data } = tensors.get(tensorNames.weight(l, name))!;
      const bias = tensors.get(tensorNames.bias(l, name));
      tf.dispose([layer[name].weight, ...layer[name].bias ? [layer[name].bias] : []]);
      layer[name] = {
        weight: tf.tidy(() => tf.transpose(tf.tensor2d(data, shape as [number, number]))),
        ...bias && { bias: tf.tensor1d(bias.data) },
      };
    }
  });
  const biases = LINEAR_NAMES.filter((name) => tensors.has(tensorNames.bias(0, name)));
  return { ...model, config: { ...model.config, biases } };
}
