/** A decoder's tensors on the device: how they are uploaded and freed. Shape legend as in `decoder.ts`. Weights on the
 * device are `[in, out]`, in f32 or in 16 bits; all other tensors are f32.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import v8 from "node:v8";
import vm from "node:vm";
import { currentEngine, type Engine } from "../core/engine/engine.ts";
import { EngineError } from "../core/util/errors.ts";
import { denseMatrix, heldBytes, type Matrix, PackedMatrix, packMatrix } from "../core/engine/matrix.ts";
import { linear, linearLowRank, matMul2d } from "../core/engine/ops.ts";
import {
  type DecoderConfig,
  type HostTensor,
  layerNorms,
  LINEAR_NAMES,
  type LinearName,
  NORM_NAMES,
  type NormName,
  tensorNames,
  type WeightSource,
} from "./config.ts";
import { uploadVocabulary, type Vocabulary } from "./vocabulary.ts";

/** A linear map on the device. */
export interface DeviceLinear {
  /** [in, out]. */
  weight: Matrix;
  /** [out]. */
  bias?: tf.Tensor1D;
  /** Low-rank update `scale (x down) up`: down [in, r], up [r, out]. */
  lora?: { down: tf.Tensor2D; up: tf.Tensor2D; scale: number };
}

/** A decoder layer on the device. */
export interface DeviceLayer extends Record<LinearName, DeviceLinear>, Partial<Record<NormName, tf.Tensor1D>> {
  /** [D]. */
  attentionNorm: tf.Tensor1D;
  /** [D]. */
  ffnNorm: tf.Tensor1D;
}

/** A model on the device. Free it with {@linkcode disposeModel}. */
export interface DecoderModel extends Vocabulary {
  config: DecoderConfig;
  layers: DeviceLayer[];
  /** [D]. */
  finalNorm: tf.Tensor1D;
  /** In place of `layers` if they are read one at a time (see `layerwise.ts`); the caller frees the layer. */
  readLayer?(layer: number): Promise<DeviceLayer>;
}

const deviceLinears = (layer: DeviceLayer) => LINEAR_NAMES.map((name) => layer[name]);

/** How weights are held: in f32, or matrices in 16 bits (see `core/engine/matrix.ts`). */
export type WeightForm = "f32" | "stored";

/** The default form: 16 bits if the engine can hold them and the checkpoint or the arithmetic has them. */
export function usualForm(
  { origin }: { origin: Pick<WeightSource["origin"], "dtypes"> },
  { decoderOps, arithmetic }: Pick<Engine, "decoderOps" | "arithmetic">,
): WeightForm {
  const hasHalf = origin.dtypes.some((dtype) => dtype === "F16" || dtype === "BF16");
  return decoderOps && (hasHalf || arithmetic === "fast") ? "stored" : "f32";
}

let collect: (() => void) | undefined;

/** Frees unreachable host arrays. The collector counts only their small handles, so gigabytes of uploaded weights would
 * pile up before it starts by itself. */
function collectGarbage(): void {
  if (!collect) {
    v8.setFlagsFromString("--expose-gc");
    collect = vm.runInNewContext("gc") as () => void;
  }
  collect();
}

/** After this number of bytes read, host copies are collected. */
const COLLECT_BYTES = 2 ** 24;

function collectingReader(source: WeightSource): (name: string) => HostTensor {
  let readBytes = 0;
  return (name) => {
    if (readBytes > COLLECT_BYTES) {
      collectGarbage();
      readBytes = 0;
    }
    const tensor = source.read(name);
    readBytes += tensor.data.byteLength;
    return tensor;
  };
}

/** Puts tensors of `source` on the device. The host holds a copy of at most one tensor. Embedding and output projection
 * are split if they exceed the engine's limit for a tensor.
 * @throws {RangeError} when another tensor exceeds that limit.
 * @throws {EngineError} when the device reported an error, or the engine holds f32 only. */
export function createUploader(
  source: WeightSource,
  weights: WeightForm = "f32",
): { rest(): Omit<DecoderModel, "config" | "layers">; layer(l: number): Promise<DeviceLayer> } {
  const { config } = source;
  const isStored = weights === "stored";
  if (isStored && !currentEngine().decoderOps) {
    throw new EngineError(
      `Engine "${currentEngine().name}" on ${currentEngine().device} holds only f32 weights: use --weights f32, ` +
        "or the tensorflow engine on the CPU",
    );
  }
  const read = collectingReader(source);
  const vector = (name: string) => tf.tensor1d(checked(name).data);
  const matrix = (name: string): Matrix => {
    const { shape, data } = checked(name);
    const given = tf.tensor2d(data, shape as [number, number]);
    const held = (isStored ? packMatrix(given, true) : null) ?? tf.transpose(given);
    given.dispose();
    return held;
  };
  function checked(name: string): HostTensor {
    const tensor = read(name);
    const { maxTensorBytes } = currentEngine();
    if (tensor.data.byteLength > maxTensorBytes) {
      throw new RangeError(
        `Tensor "${name}" takes ${tensor.data.byteLength} bytes: this device holds at most ${maxTensorBytes} in one; ` +
          "use the tensorflow engine",
      );
    }
    return tensor;
  }
  return {
    // The largest first, so that the memory of their transposition is free again for the layers.
    rest: () => ({
      head: config.tiedHead ? null : uploadVocabulary(read(tensorNames.head), true, isStored),
      embedding: uploadVocabulary(read(tensorNames.embedding), false, isStored),
      finalNorm: vector(tensorNames.finalNorm),
    }),
    layer: async (l) => {
      const linears: Partial<Record<LinearName, DeviceLinear>> = {};
      for (const name of LINEAR_NAMES) {
        const weight = matrix(tensorNames.weight(l, name));
        const bias = config.biases.includes(name) ? vector(tensorNames.bias(l, name)) : undefined;
        linears[name] = { weight, ...bias && { bias } };
      }
      const norms: Partial<Record<NormName, tf.Tensor1D>> = {};
      for (const [name] of layerNorms(config)) norms[name] = vector(tensorNames.norm(l, name));
      const layer = { ...linears, ...norms } as DeviceLayer;
      // Uploads are queued; reading one value waits for them, so that host copies do not pile up.
      const { weight } = layer.down;
      const last = tf.tidy(() => tf.slice(weight instanceof PackedMatrix ? weight.bits : weight, [0, 0], [1, 1]));
      await last.data();
      last.dispose();
      currentEngine().check();
      return layer;
    },
  };
}

/** Puts the whole model on the device, as {@linkcode createUploader} does.
 * @throws {RangeError} when a tensor is over the engine's limit.
 * @throws {EngineError} when the device reported an error, or the engine holds f32 only. */
export async function uploadModel(source: WeightSource, weights?: WeightForm): Promise<DecoderModel> {
  const uploader = createUploader(source, weights);
  const rest = uploader.rest();
  const layers: DeviceLayer[] = [];
  for (let l = 0; l < source.config.layers.length; l++) layers.push(await uploader.layer(l));
  return { config: source.config, layers, ...rest };
}

const heldOfLayer = (layer: DeviceLayer): (tf.Tensor | PackedMatrix)[] => [
  ...NORM_NAMES.flatMap((name) => layer[name] ?? []),
  ...deviceLinears(layer).flatMap(({ weight, bias }) => [weight, ...bias ? [bias] : []]),
];

/** Weights on the device, without layers that are read one at a time. */
const heldOfModel = (model: DecoderModel): (tf.Tensor | PackedMatrix)[] => [
  ...model.embedding,
  model.finalNorm,
  ...model.head ?? [],
  ...model.readLayer ? [] : model.layers.flatMap(heldOfLayer),
];

/** Bytes of the model's weights on the device, without adapters and layers that are read one at a time. */
export const modelBytes = (model: DecoderModel): number =>
  heldOfModel(model).reduce((sum, part) => sum + heldBytes(part), 0);

/** Frees a layer. */
export function disposeLayer(layer: DeviceLayer): void {
  for (const part of heldOfLayer(layer)) part.dispose();
}

/** Frees the model's tensors. */
export function disposeModel(model: DecoderModel): void {
  for (const part of heldOfModel(model)) part.dispose();
}

/** `x` through a linear map: [N, in] -> [N, out]. */
export function applyLinear(x: tf.Tensor2D, { weight, bias, lora }: DeviceLinear): tf.Tensor2D {
  return lora ? linearLowRank(x, weight, lora, bias) : linear(x, weight, bias);
}

/** Folds low-rank updates into the weights: `weight + scale down up`, [in, out] in f32. A new tensor. */
export function mergedWeight({ weight, lora }: DeviceLinear): tf.Tensor2D {
  return tf.tidy(() =>
    lora
      ? tf.add(denseMatrix(weight), tf.mul(matMul2d(lora.down, lora.up), lora.scale)) as tf.Tensor2D
      : denseMatrix(weight)
  );
}
