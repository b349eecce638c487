/** Cuts units out of a model on the device, and reads tensors back.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../core/util/indexing.ts";
import { denseMatrix, inFormOf, type Matrix, PackedMatrix, sharedMatrix } from "../core/engine/matrix.ts";
import {
  type DecoderConfig,
  expectedTensors,
  type HostTensor,
  isHeadNorm,
  layerNorms,
  LINEAR_NAMES,
  type LinearName,
  NORM_NAMES,
  tensorNames,
  writesResidual,
} from "./config.ts";
import { eachLayer } from "./layerwise.ts";
import { type DecoderModel, type DeviceLayer, type DeviceLinear, mergedWeight } from "./device.ts";
import { isRemoved, plannedConfig, type PrunePlan } from "./plan.ts";
import type { LayerPlan } from "./units.ts";
import { uploadVocabulary } from "./vocabulary.ts";

/** The place of a checkpoint's tensor on the device. */
interface Located {
  /** One tensor, or consecutive rows of the checkpoint's (see `vocabulary.ts`). */
  parts: (tf.Tensor | PackedMatrix)[];
  /** The linear map whose weight this is; on the device it is transposed, and low-rank updates belong to it. */
  linear?: DeviceLinear;
  /** Held as [in, out] while the checkpoint has [out, in]. */
  transposed: boolean;
}

/** Every tensor of the model by its Hugging Face name. */
function locateTensors(model: DecoderModel): Map<string, Located> {
  const located = new Map<string, Located>([
    [tensorNames.embedding, { parts: model.embedding, transposed: false }],
    [tensorNames.finalNorm, { parts: [model.finalNorm], transposed: false }],
  ]);
  if (model.head) located.set(tensorNames.head, { parts: model.head, transposed: true });
  model.layers.forEach((layer, l) => {
    for (const name of NORM_NAMES) {
      const gain = layer[name];
      if (gain) located.set(tensorNames.norm(l, name), { parts: [gain], transposed: false });
    }
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
export async function hostTensor(model: DecoderModel, name: string): Promise<HostTensor> {
  const found = locateTensors(model).get(name);
  if (!found) throw new RangeError(`The model has no tensor named "${name}"`);
  const parts = tf.tidy(() =>
    found.parts.map((part) => {
      const merged = found.linear
        ? mergedWeight(found.linear)
        : part instanceof PackedMatrix
        ? denseMatrix(part)
        : tf.clone(part);
      return found.transposed ? tf.transpose(merged) : merged;
    })
  );
  try {
    const all = await Promise.all(parts.map((part) => part.data<"float32">()));
    const { shape } = at(parts, 0);
    if (all.length === 1) return { shape: [...shape], data: at(all, 0) };
    const data = new Float32Array(parts.reduce((sum, { size }) => sum + size, 0));
    let start = 0;
    for (const values of all) {
      data.set(values, start);
      start += values.length;
    }
    const width = at(shape, 1);
    return { shape: [data.length / width, width], data };
  } finally {
    tf.dispose(parts);
  }
}

/** All tensors of the checkpoint that a model is, in host memory; see {@linkcode hostTensor}. */
export async function hostTensors(model: DecoderModel): Promise<Map<string, HostTensor>> {
  const tensors = new Map<string, HostTensor>();
  for (const name of expectedTensors(model.config).keys()) tensors.set(name, await hostTensor(model, name));
  return tensors;
}

/** The inputs and outputs that `plan` keeps of a linear map of the dense model, undefined where all are kept: one side is
 * the hidden dimensions, the other the layer's units. */
export function keptOfLinear(
  plan: PrunePlan,
  layer: number,
  name: LinearName,
  headSize: number,
): { inputs?: readonly number[]; outputs?: readonly number[] } {
  const units = keptIndices(at(plan.layers, layer), name, headSize);
  const { hidden } = plan;
  return writesResidual(name) ? { inputs: units, outputs: hidden } : { inputs: hidden, outputs: units };
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

/** The kept rows (axis 0) or columns (axis 1) of `x`, ascending; all without `kept`. Shares memory with `x` when all
 * are kept. */
function take<T extends tf.Tensor>(x: T, kept: readonly number[] | undefined, axis: number): T {
  if (!kept || kept.length === x.shape[axis]) return tf.clone(x);
  return tf.gather(x, tf.tensor1d([...kept], "int32"), axis);
}

/** Linear maps that have a bias after the replacements, in the usual order. */
function biasesAfter(config: DecoderConfig, replaced: Record<string, HostTensor>): LinearName[] {
  const layers = config.layers.keys().toArray();
  return LINEAR_NAMES.filter((name) =>
    config.biases.includes(name) || layers.some((l) => tensorNames.bias(l, name) in replaced)
  );
}

function checkReplaced(dense: DecoderConfig, replaced: Record<string, HostTensor>): void {
  const expected = expectedTensors(dense);
  for (const [name, { shape }] of Object.entries(replaced)) {
    const wanted = expected.get(name);
    if (!wanted) throw new RangeError(`The model has no tensor named "${name}" to replace`);
    if (shape.join() !== wanted.join()) {
      throw new RangeError(`Replaced tensor "${name}" must have the dense shape [${wanted}]: current [${shape}]`);
    }
  }
}

/** Functions that cut a model to `plan` part by part, and the configuration of the result. */
function createCutter(dense: DecoderConfig, plan: PrunePlan, replaced: Record<string, HostTensor>) {
  const biases = biasesAfter(dense, replaced);
  const config: DecoderConfig = { ...plannedConfig(dense, plan), biases };
  checkReplaced({ ...dense, biases }, replaced);
  const replacement = (name: string) => {
    const found = replaced[name];
    return found && tf.tensor(found.data, found.shape);
  };
  const vector = (name: string, own: tf.Tensor1D | undefined, length: number) =>
    (replacement(name) ?? (own ? tf.clone(own) : tf.zeros([length]))) as tf.Tensor1D;
  const cutLinear = (linear: DeviceLinear, l: number, name: LinearName): DeviceLinear => {
    const { inputs, outputs } = keptOfLinear(plan, l, name, config.headSize);
    const weightName = tensorNames.weight(l, name);
    const given = replacement(weightName);
    const dense = given ? tf.transpose(given) as tf.Tensor2D : mergedWeight(linear);
    const weight = inFormOf(take(take(dense, inputs, 0), outputs, 1), linear.weight);
    if (!biases.includes(name)) return { weight };
    return { weight, bias: take(vector(tensorNames.bias(l, name), linear.bias, dense.shape[1]), outputs, 0) };
  };
  const cutNorm = (name: string, own: tf.Tensor1D | undefined, kept: readonly number[] | undefined) =>
    tf.tidy(() => take(vector(name, own, dense.width), kept, 0));
  const cutLayer = (layer: DeviceLayer, l: number): DeviceLayer =>
    tf.tidy(() => ({
      ...Object.fromEntries(LINEAR_NAMES.map((name) => [name, cutLinear(layer[name], l, name)])),
      // No plan changes the size of a head.
      ...Object.fromEntries(
        layerNorms(dense).map(([name]) => [
          name,
          cutNorm(tensorNames.norm(l, name), layer[name], isHeadNorm(name) ? undefined : plan.hidden),
        ]),
      ),
    } as unknown as tf.TensorContainer)) as unknown as DeviceLayer;
  const vocabulary = (name: string, parts: Matrix[], transposed: boolean) => {
    const given = replaced[name];
    const whole = given ? uploadVocabulary(given, transposed) : parts;
    const cut = whole.map((part) =>
      plan.hidden
        ? inFormOf(tf.tidy(() => take(denseMatrix(part), plan.hidden, transposed ? 0 : 1)), part)
        : sharedMatrix(part)
    );
    if (given) whole.forEach((part) => part.dispose());
    return cut;
  };
  const cutRest = ({ embedding, head, finalNorm }: DecoderModel) => ({
    embedding: vocabulary(tensorNames.embedding, embedding, false),
    finalNorm: cutNorm(tensorNames.finalNorm, finalNorm, plan.hidden),
    head: head && vocabulary(tensorNames.head, head, true),
  });
  return { config, cutLayer, cutRest };
}

/** A smaller model with the units of `plan` alone. `model`, whose layers may be read one at a time, stays as it is, and
 * both must be freed; tensors without removed units share memory with it.
 *
 * `replaced` tensors, by Hugging Face name, `[out, in]` and at dense shape, take the place of the dense ones before
 * units are cut out. A bias for a linear map that has none adds one in every layer, zero where none is given. Low-rank
 * updates are folded in, unless the weight is replaced.
 * @throws {RangeError} when the plan or a replaced tensor does not fit the model. */
export async function pruneModel(
  model: DecoderModel,
  plan: PrunePlan,
  replaced: Record<string, HostTensor> = {},
): Promise<DecoderModel> {
  const { config, cutLayer, cutRest } = createCutter(model.config, plan, replaced);
  // Layer by layer, so that only one layer has merged or replaced dense weights besides the result.
  const layers = await eachLayer(model, (layer, l) => isRemoved(at(plan.layers, l)) ? null : cutLayer(layer, l));
  return { config, layers: layers.filter((layer) => layer !== null), ...cutRest(model) };
}
