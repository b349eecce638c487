/** A LLaMA-family decoder on the device: RMSNorm, RoPE, grouped-query attention, SwiGLU, with optional masks.
 *
 * Shape legend: B batch, T tokens, N = B T rows, D width, H query heads, G key/value groups, K head size,
 * F FFN channels, V vocabulary, L layers. All tensors are f32; weights on the device are `[in, out]`.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../core/engine.ts";
import { NumericError } from "../core/errors.ts";
import { collectGarbage } from "../core/garbage.ts";
import {
  attention,
  type AttentionLayout,
  cachedAttention,
  type KeyValues,
  type RotaryTables,
} from "../core/attention.ts";
import { linear, linearLowRank, matMul2d, softmaxCrossEntropy, swiGlu } from "../core/ops.ts";
import {
  type DecoderConfig,
  type HostTensor,
  type LayerShape,
  LINEAR_NAMES,
  type LinearName,
  tensorNames,
  type WeightSource,
} from "./config.ts";
import { type HiddenMask, hiddenNorm, type LayerMasks, maskBlock, maskHeads } from "./masks.ts";
import { rotaryTables } from "./rope.ts";
import { embeddingRows, uploadVocabulary, type Vocabulary, vocabularyLogits } from "./vocabulary.ts";

/** A linear map on the device. */
export interface DeviceLinear {
  /** [in, out]. */
  weight: tf.Tensor2D;
  /** [out]. */
  bias?: tf.Tensor1D;
  /** Low-rank update `scale (x down) up`: down [in, r], up [r, out]. */
  lora?: { down: tf.Tensor2D; up: tf.Tensor2D; scale: number };
}

/** A decoder layer on the device. */
export interface DeviceLayer extends Record<LinearName, DeviceLinear> {
  /** [D]. */
  attentionNorm: tf.Tensor1D;
  /** [D]. */
  ffnNorm: tf.Tensor1D;
}

/** A model on the device. Free it with {@linkcode disposeModel}. */
export interface DecoderModel extends Vocabulary {
  /** Its shape; layers may differ in width. */
  config: DecoderConfig;
  /** First to last. */
  layers: DeviceLayer[];
  /** [D]. */
  finalNorm: tf.Tensor1D;
  /** In place of `layers`, where they are read one at a time (see `layerwise.ts`): the receiver frees the layer. */
  readLayer?(layer: number): Promise<DeviceLayer>;
}

/** Token ids of B rows, padded on the right to T. */
export interface TokenBatch {
  /** i32 [B T], row-major. Padding may hold any id in the vocabulary. */
  tokens: Int32Array;
  batch: number;
  /** T. */
  length: number;
  /** i32 [B T]: position of each token; 0, 1, 2, ... in each row when absent. */
  positions?: Int32Array;
  /** i32 [B T]: branch of each token in a prefix tree. Token j sees token i <= j of its row iff i is in branch 0 (the
   * shared prefix) or in j's own branch. All 0 when absent: plain causal attention. */
  segments?: Int32Array;
}

/** Where {@linkcode ForwardOptions.observe} looks. */
export type ObservedSite = "output" | "down";

/** Options of {@linkcode forward}. */
export interface ForwardOptions {
  /** Masks per layer. */
  masks?: LayerMasks[];
  /** Mask of the hidden dimensions. */
  hidden?: HiddenMask;
  /** Called with the input of the output and down projections, [N, H K] and [N, F], after masks. The tensor is freed
   * after the call. */
  observe?: (layer: number, site: ObservedSite, input: tf.Tensor2D) => void;
}

const deviceLinears = (layer: DeviceLayer) => LINEAR_NAMES.map((name) => layer[name]);

/** Bytes read after which host copies are collected. */
const COLLECT_BYTES = 2 ** 24;

/** Puts tensors of `source` on the device; at most one host copy of a tensor exists. Embedding and output projection are
 * split where they are over the engine's limit for a tensor.
 * @throws {RangeError} when another tensor is over that limit.
 * @throws {EngineError} when the device reported an error. */
export function createUploader(
  source: WeightSource,
): { rest(): Omit<DecoderModel, "config" | "layers">; layer(l: number): Promise<DeviceLayer> } {
  const { config } = source;
  const vector = (name: string) => tf.tensor1d(checked(name).data);
  const matrix = (name: string): tf.Tensor2D =>
    tf.tidy(() => {
      const { shape, data } = checked(name);
      return tf.transpose(tf.tensor2d(data, shape as [number, number]));
    });
  let readBytes = 0;
  function read(name: string): HostTensor {
    if (readBytes > COLLECT_BYTES) {
      collectGarbage();
      readBytes = 0;
    }
    const tensor = source.read(name);
    readBytes += tensor.data.byteLength;
    return tensor;
  }
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
    rest: () => ({
      head: config.tiedHead ? null : uploadVocabulary(read(tensorNames.head), true),
      embedding: uploadVocabulary(read(tensorNames.embedding), false),
      finalNorm: vector(tensorNames.finalNorm),
    }),
    layer: async (l) => {
      const linears = Object.fromEntries(LINEAR_NAMES.map((name): [LinearName, DeviceLinear] => [name, {
        weight: matrix(tensorNames.weight(l, name)),
        ...config.biases.includes(name) && { bias: vector(tensorNames.bias(l, name)) },
      }])) as Record<LinearName, DeviceLinear>;
      const layer: DeviceLayer = {
        ...linears,
        attentionNorm: vector(tensorNames.attentionNorm(l)),
        ffnNorm: vector(tensorNames.ffnNorm(l)),
      };
      // Uploads are queued; reading one value waits for them, so that host copies do not pile up.
      const last = tf.tidy(() => tf.slice(layer.down.weight, [0, 0], [1, 1]));
      await last.data();
      last.dispose();
      currentEngine().check();
      return layer;
    },
  };
}

/** Puts the whole model on the device, as {@linkcode createUploader} does.
 * @throws {RangeError} when a tensor is over the engine's limit.
 * @throws {EngineError} when the device reported an error. */
export async function uploadModel(source: WeightSource): Promise<DecoderModel> {
  const uploader = createUploader(source);
  // The largest tensors first: what their transposition takes besides is freed before the layers are there.
  const rest = uploader.rest();
  const layers: DeviceLayer[] = [];
  for (let l = 0; l < source.config.layers.length; l++) layers.push(await uploader.layer(l));
  return { config: source.config, layers, ...rest };
}

/** Frees a layer. */
export function disposeLayer(layer: DeviceLayer): void {
  tf.dispose([layer.attentionNorm, layer.ffnNorm]);
  for (const { weight, bias } of deviceLinears(layer)) {
    weight.dispose();
    bias?.dispose();
  }
}

/** Frees the model's tensors. */
export function disposeModel(model: DecoderModel): void {
  tf.dispose([...model.embedding, model.finalNorm, ...model.head ?? []]);
  if (!model.readLayer) model.layers.forEach(disposeLayer);
}

/** `x` through a linear map: [N, in] -> [N, out]. */
export function applyLinear(x: tf.Tensor2D, { weight, bias, lora }: DeviceLinear): tf.Tensor2D {
  return lora ? linearLowRank(x, weight, lora, bias) : linear(x, weight, bias);
}

/** What all layers of one forward pass share. */
export interface PassContext {
  config: DecoderConfig;
  batch: number;
  tables: RotaryTables;
  /** [B or 1, 1, T, S] or null; see {@linkcode AttentionLayout}. */
  mask: tf.Tensor4D | null;
  /** In place of the mask; see {@linkcode AttentionLayout}. */
  segments?: tf.Tensor1D;
  /** Set when every row is at one position; see {@linkcode AttentionLayout}. */
  turn?: AttentionLayout["turn"];
}

function attentionLayout(pass: PassContext, shape: LayerShape): AttentionLayout {
  const { kvGroups, queryHeadsPerGroup } = shape;
  const { batch, tables, mask, segments, turn, config } = pass;
  return { batch, kvGroups, queryHeadsPerGroup, headSize: config.headSize, tables, mask, segments, turn };
}

/** One decoder layer: x [N, D] -> [N, D]. With a cache, `past` is read and the new keys and values go to `keep`. */
export function decoderLayer(
  x: tf.Tensor2D,
  layer: DeviceLayer,
  index: number,
  pass: PassContext,
  options: ForwardOptions = {},
  cached?: { past: KeyValues | null; keep: (cache: KeyValues) => void },
): tf.Tensor2D {
  const { config } = pass;
  const shape = config.layers[index];
  const masks = options.masks?.[index];
  const { hidden } = options;
  const normed = hiddenNorm(x, layer.attentionNorm, config.normEpsilon, hidden);
  const query = applyLinear(normed, layer.query);
  const key = applyLinear(normed, layer.key);
  const value = applyLinear(normed, layer.value);
  let context: tf.Tensor2D;
  if (cached) {
    const { out, cache } = cachedAttention({ query, key, value }, attentionLayout(pass, shape), cached.past);
    cached.keep(cache);
    context = out;
  } else {
    context = attention(tf.concat2d([query, key, value], 1), attentionLayout(pass, shape));
  }
  if (masks?.queryHeads || masks?.kvGroups) context = maskHeads(context, masks, shape, config.headSize);
  options.observe?.(index, "output", context);
  const attended = tf.add(x, maskBlock(applyLinear(context, layer.output), masks?.layer, hidden)) as tf.Tensor2D;

  const ffnInput = hiddenNorm(attended, layer.ffnNorm, config.normEpsilon, hidden);
  const activation = swiGlu(applyLinear(ffnInput, layer.gate), applyLinear(ffnInput, layer.up), masks?.ffn);
  options.observe?.(index, "down", activation);
  return tf.add(attended, maskBlock(applyLinear(activation, layer.down), masks?.layer, hidden));
}

/** Added to the scores of tokens that are not seen. */
export const HIDDEN = -1e9;

/** Additive attention mask of a batch: [1, 1, T, T] when every row is plainly causal, else [B, 1, T, T]. */
function attentionMask({ batch, length, segments }: TokenBatch): tf.Tensor4D {
  const rows = segments ? batch : 1;
  const mask = new Float32Array(rows * length * length);
  for (let b = 0; b < rows; b++) {
    for (let j = 0; j < length; j++) {
      const row = (b * length + j) * length;
      const branch = segments ? segments[b * length + j] : 0;
      for (let i = 0; i < length; i++) {
        const other = segments ? segments[b * length + i] : 0;
        if (i > j || (other !== 0 && other !== branch)) mask[row + i] = HIDDEN;
      }
    }
  }
  return tf.tensor4d(mask, [rows, 1, length, length]);
}

/** Who sees whom, in the form that the engine takes. */
function visibility(input: TokenBatch): Pick<PassContext, "mask" | "segments"> {
  if (!currentEngine().decoderOps) return { mask: attentionMask(input) };
  return { mask: null, segments: tf.tensor1d(input.segments ?? new Int32Array(), "int32") };
}

/** Makes what all layers of a pass share; free it with {@linkcode disposePass}. */
export function createPass(config: DecoderConfig, input: TokenBatch): PassContext {
  const { batch, length } = input;
  const positions = input.positions ?? Int32Array.from({ length: batch * length }, (_, i) => i % length);
  return { config, batch, tables: rotaryTables(config, positions), ...visibility(input) };
}

/** Frees the tensors of a pass. */
export function disposePass(pass: PassContext): void {
  tf.dispose([pass.tables.cos, pass.tables.sin, pass.tables.rotate]);
  pass.mask?.dispose();
  pass.segments?.dispose();
  if (pass.turn) tf.dispose([pass.turn.query, pass.turn.key]);
}

/** Embeds token ids: [N] -> [N, D]. */
export function embed(model: DecoderModel, tokens: Int32Array, hidden?: HiddenMask): tf.Tensor2D {
  return tf.tidy(() => {
    const rows = embeddingRows(model.embedding, tokens);
    return hidden ? tf.mul(rows, hidden.mask) : rows;
  });
}

/** Hidden states after the final norm: [B T, D]. Rows of padding hold values that mean nothing.
 * @throws {RangeError} when the batch does not fit the model. */
export function forward(model: DecoderModel, input: TokenBatch, options: ForwardOptions = {}): tf.Tensor2D {
  checkBatch(model.config, input);
  return tf.tidy(() => {
    // Whatever throws, such as a device without memory, the pass is freed with everything else.
    const pass = createPass(model.config, input);
    let x = embed(model, input.tokens, options.hidden);
    model.layers.forEach((layer, l) => {
      const previous = x;
      x = tf.tidy(() => decoderLayer(previous, layer, l, pass, options));
      previous.dispose();
    });
    return hiddenNorm(x, model.finalNorm, model.config.normEpsilon, options.hidden);
  });
}

/** Checks lengths and token ids.
 * @throws {RangeError} when the batch does not fit the model. */
export function checkBatch(config: DecoderConfig, { tokens, batch, length, positions, segments }: TokenBatch): void {
  for (const [name, array] of Object.entries({ tokens, positions, segments })) {
    if (array && array.length !== batch * length) {
      throw new RangeError(`A batch of ${batch} x ${length} needs ${batch * length} ${name}: current ${array.length}`);
    }
  }
  for (const id of tokens) {
    if (id < 0 || id >= config.vocabSize) {
      throw new RangeError(`Token ids must be in [0, ${config.vocabSize}): current ${id}`);
    }
  }
}

/** Logits: hidden [N, D] -> [N, V]. */
export function logits(model: DecoderModel, hidden: tf.Tensor2D): tf.Tensor2D {
  return vocabularyLogits(model, hidden);
}

/** Natural-log probability of one target per row, and whether it is the most probable token.
 *
 * hidden [N, D], targets [N]. The vocabulary projection runs over at most `rowsAtOnce` rows at a time, so that memory
 * stays flat; nothing of size [N, V] is kept.
 * @throws {NumericError} on NaN or infinite logits. */
export async function targetLogProbs(
  model: DecoderModel,
  hidden: tf.Tensor2D,
  targets: Int32Array,
  { rowsAtOnce = 256, greedy = true }: { rowsAtOnce?: number; greedy?: boolean } = {},
): Promise<{ logProbs: Float32Array; isGreedy: boolean[] }> {
  const n = targets.length;
  const logProbs = new Float32Array(n);
  const isGreedy: boolean[] = [];
  for (let start = 0; start < n; start += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, n - start);
    const [losses, best] = tf.tidy(() => {
      const scores = logits(model, tf.slice(hidden, [start, 0], [rows, -1]));
      const target = tf.tensor1d(targets.subarray(start, start + rows), "int32");
      return [softmaxCrossEntropy(scores, target).losses, greedy ? tf.argMax(scores, 1) : tf.zeros([0])];
    });
    const values = await losses.data();
    for (let i = 0; i < rows; i++) logProbs[start + i] = -values[i];
    if (greedy) {
      const ids = await best.data();
      for (let i = 0; i < rows; i++) isGreedy.push(ids[i] === targets[start + i]);
    }
    tf.dispose([losses, best]);
  }
  currentEngine().check();
  const bad = logProbs.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    throw new NumericError(`The model gives ${logProbs[bad]} as the log-probability of token ${targets[bad]}`);
  }
  return { logProbs, isGreedy };
}

/** Folds low-rank updates into the weights: `weight + scale down up`, [in, out]. A new tensor. */
export function mergedWeight({ weight, lora }: DeviceLinear): tf.Tensor2D {
  return tf.tidy(() =>
    lora ? tf.add(weight, tf.mul(matMul2d(lora.down, lora.up), lora.scale)) as tf.Tensor2D : tf.clone(weight)
  );
}
