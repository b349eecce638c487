/** The decoder's layers: one loop for scoring, cached decoding, layer-wise pruning and gradients. Shape legend as in
 * `decoder.ts`.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { attention, type AttentionLayout, cachedAttention, type KeyValues } from "../core/engine/attention.ts";
import { at } from "../core/util/indexing.ts";
import { currentEngine } from "../core/engine/engine.ts";
import { gatedUnit, rmsNorm } from "../core/engine/ops.ts";
import { type DecoderConfig, type LayerAttention, layerAttention, type WRITING_NAMES } from "./config.ts";
import { applyLinear, type DecoderModel, type DeviceLayer } from "./device.ts";
import { type HiddenMask, hiddenNorm, type LayerMasks, maskBlock, maskHeads } from "./masks.ts";
import { rotaryTables, turnMatrices } from "./rope.ts";
import { embeddingRows, type TokenIds } from "./vocabulary.ts";

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

/** A batch without its tokens. */
export type BatchLayout = Omit<TokenBatch, "tokens">;

/** Where {@linkcode ForwardOptions.observe} looks. */
export type ObservedSite = (typeof WRITING_NAMES)[number];

/** Options of {@linkcode forward}. */
export interface ForwardOptions {
  masks?: LayerMasks[];
  hidden?: HiddenMask;
  /** Called with the input of the output and down projections, [N, H K] and [N, F], after masks. The tensor is freed
   * after the call. */
  observe?: (layer: number, site: ObservedSite, input: tf.Tensor2D) => void;
}

/** What the attention of a layer reads in one forward pass. */
export type LayerPass = Pick<AttentionLayout, "tables" | "mask" | "segments" | "turn">;

/** What all layers of one forward pass share. */
export interface PassContext {
  config: DecoderConfig;
  batch: number;
  /** One entry per layer; layers of one kind share theirs. */
  layers: LayerPass[];
}

/** Added to the scores of tokens that are not seen. */
const UNSEEN = -1e9;

/** Additive attention mask [rows, 1, T, S]: 0 where a query sees a key. */
function attentionMask(
  [rows, queries, keys]: [number, number, number],
  sees: (row: number, query: number, key: number) => boolean,
): tf.Tensor4D {
  const mask = new Float32Array(rows * queries * keys);
  let place = 0;
  for (let row = 0; row < rows; row++) {
    for (let query = 0; query < queries; query++) {
      for (let key = 0; key < keys; key++) mask[place++] = sees(row, query, key) ? 0 : UNSEEN;
    }
  }
  return tf.tensor4d(mask, [rows, 1, queries, keys]);
}

/** Mask of a batch: one for all rows if every row is plainly causal. A token sees positions less than `window` before
 * its own. */
function batchMask({ batch, length, segments }: BatchLayout, positions: Int32Array, window: number): tf.Tensor4D {
  const rows = segments || window < Infinity ? batch : 1;
  return attentionMask([rows, length, length], (row, j, i) => {
    const [query, key] = [row * length + j, row * length + i];
    const branch = segments?.[key] ?? 0;
    return i <= j && at(positions, query) - at(positions, key) < window &&
      (branch === 0 || branch === segments?.[query]);
  });
}

/** The window of a layer, or `Infinity` if it hides no position up to `last`. */
const bindingWindow = ({ window }: LayerAttention, last: number) =>
  window !== null && window <= last ? window : Infinity;

/** One entry per layer, made once for all layers of a kind: `make` gets the kind and its first layer. */
export function perKind<T>(config: DecoderConfig, make: (kind: LayerAttention, layer: number) => T): T[] {
  const made = new Map<string, T>();
  return config.layers.map((_, l) => {
    const kind = layerAttention(config, l);
    const key = JSON.stringify(kind);
    const entry = made.get(key) ?? make(kind, l);
    made.set(key, entry);
    return entry;
  });
}

/** Makes what all layers of a pass share; free it with {@linkcode disposePass}. */
export function createPass(config: DecoderConfig, input: BatchLayout): PassContext {
  const { batch, length, segments } = input;
  const positions = input.positions ?? Int32Array.from({ length: batch * length }, (_, i) => i % length);
  const last = positions.reduce((max, position) => Math.max(max, position), 0);
  const layers = perKind(config, (kind): LayerPass => {
    const tables = rotaryTables(config.headSize, kind.rope, positions);
    const window = bindingWindow(kind, last);
    if (!currentEngine().decoderOps || window < Infinity) {
      return { tables, mask: batchMask(input, positions, window) };
    }
    // The engine's own attention takes segments in place of a mask.
    return { tables, mask: null, segments: tf.tensor1d(segments ?? new Int32Array(), "int32") };
  });
  return { config, batch, layers };
}

/** Positions that a layer's cache holds when `past` came before. */
function heldPositions({ window }: LayerAttention, past: number): number {
  return window === null ? past : Math.min(past, window - 1);
}

/** {@linkcode createPass} for B rows of T new tokens after `past` cached ones. */
export function createCachedPass(config: DecoderConfig, tokens: BatchLayout, past: number): PassContext {
  const { batch, length } = tokens;
  if (past === 0 && length > 1) return createPass(config, tokens);
  const positions = Int32Array.from({ length: batch * length }, (_, i) => past + (i % length));
  const layers = perKind(config, (kind): LayerPass => {
    const tables = rotaryTables(config.headSize, kind.rope, positions);
    // One new token sees everything that is held.
    if (length === 1) return { tables, mask: null, turn: turnMatrices(config.headSize, kind.rope, past) };
    const held = heldPositions(kind, past);
    const window = kind.window ?? Infinity;
    const sees = (_row: number, j: number, i: number) => i <= held + j && held + j - i < window;
    return { tables, mask: attentionMask([1, length, held + length], sees) };
  });
  return { config, batch, layers };
}

/** Frees the tensors of a pass. */
export function disposePass(pass: PassContext): void {
  for (const { tables, mask, segments, turn } of new Set(pass.layers)) {
    tf.dispose([tables.cos, tables.sin, tables.rotate]);
    mask?.dispose();
    segments?.dispose();
    if (turn) tf.dispose([turn.query, turn.key]);
  }
}

/** Embeds token ids: [N] -> [N, D]. */
export function embed(model: DecoderModel, tokens: TokenIds, hidden?: HiddenMask): tf.Tensor2D {
  const { embeddingScale = 1 } = model.config;
  return tf.tidy(() => {
    const rows = embeddingRows(model.embedding, tokens);
    const scaled = embeddingScale === 1 ? rows : tf.mul(rows, embeddingScale) as tf.Tensor2D;
    return hidden ? tf.mul(scaled, hidden.mask) : scaled;
  });
}

/** What goes to the output projection: x [N, D] after the last layer -> [N, D], normed, and scaled where the model
 * scales its logits. */
export function finalStates(model: DecoderModel, x: tf.Tensor2D, hidden?: HiddenMask): tf.Tensor2D {
  const { normEpsilon, logitScale = 1 } = model.config;
  const normed = hiddenNorm(x, model.finalNorm, normEpsilon, hidden);
  return logitScale === 1 ? normed : tf.mul(normed, logitScale);
}

/** Keys and values of earlier positions in a layer, and where those with the new positions go. */
export interface LayerCache {
  past(layer: number): KeyValues | null;
  keep(layer: number, cache: KeyValues): void;
}

/** How {@linkcode runLayers} goes through a model. */
export interface LayerRun extends ForwardOptions {
  /** Layers to go through with their indices; all of the model when absent. */
  layers?: Iterable<readonly [number, DeviceLayer]>;
  /** For decoding; no gradient. */
  cache?: LayerCache;
  /** Gets what each layer gives, [N, D]. With it no hidden state is freed here: neither these nor `x`. */
  each?(output: tf.Tensor2D, layer: number): void;
}

/** Hidden states x [N, D] through the layers of a model -> [N, D]; `x` is freed, unless `each` is given. */
export function runLayers(model: DecoderModel, x: tf.Tensor2D, pass: PassContext, run: LayerRun = {}): tf.Tensor2D {
  let state = x;
  for (const [l, layer] of run.layers ?? model.layers.entries()) {
    const before = state;
    state = tf.tidy(() => decoderLayer(before, layer, l, pass, run));
    if (run.each) run.each(state, l);
    else before.dispose();
  }
  return state;
}

/** A projection [N, heads K] with each head normed, where the model does that. */
function normHeads(
  x: tf.Tensor2D,
  gain: tf.Tensor1D | undefined,
  { headSize, normEpsilon }: DecoderConfig,
): tf.Tensor2D {
  if (!gain) return x;
  return tf.reshape(rmsNorm(tf.reshape(x, [-1, headSize]) as tf.Tensor2D, gain, normEpsilon), x.shape);
}

/** Adds what a block writes to x; both [N, D]. */
function addBlock(
  x: tf.Tensor2D,
  written: tf.Tensor2D,
  { config, norm, layerMask, hidden }: {
    config: DecoderConfig;
    norm?: tf.Tensor1D;
    layerMask?: tf.Tensor1D;
    hidden?: HiddenMask;
  },
): tf.Tensor2D {
  const { normEpsilon, residualScale = 1 } = config;
  // A norm would undo the scale that a layer's mask gives, so that comes after it.
  const block = norm
    ? maskBlock(hiddenNorm(maskBlock(written, undefined, hidden), norm, normEpsilon, hidden), layerMask)
    : maskBlock(written, layerMask, hidden);
  return tf.add(x, residualScale === 1 ? block : tf.mul(block, residualScale));
}

/** Attention of one layer: normed x [N, D] -> [N, H K]. */
function layerAttend(
  normed: tf.Tensor2D,
  layer: DeviceLayer,
  l: number,
  pass: PassContext,
  run: LayerRun,
): tf.Tensor2D {
  const { config, batch } = pass;
  const { headSize, attentionScale } = config;
  const { kvGroups, queryHeadsPerGroup } = at(config.layers, l);
  const layout: AttentionLayout = { batch, kvGroups, queryHeadsPerGroup, headSize, ...at(pass.layers, l) };
  const heads = normHeads(applyLinear(normed, layer.query), layer.queryNorm, config);
  // The attention itself divides by sqrt(K).
  const scale = attentionScale === undefined ? 1 : attentionScale * Math.sqrt(headSize);
  const query = scale === 1 ? heads : tf.mul(heads, scale) as tf.Tensor2D;
  const key = normHeads(applyLinear(normed, layer.key), layer.keyNorm, config);
  const value = applyLinear(normed, layer.value);
  if (!run.cache) return attention(tf.concat2d([query, key, value], 1), layout);
  const { out, cache } = cachedAttention({ query, key, value }, layout, run.cache.past(l));
  const positions = cache.keys.shape[2];
  const held = heldPositions(layerAttention(config, l), positions);
  const last = (x: tf.Tensor4D) =>
    held === positions ? x : tf.slice(x, [0, 0, positions - held, 0], [-1, -1, held, -1]);
  run.cache.keep(l, { keys: last(cache.keys), values: last(cache.values) });
  return out;
}

/** One decoder layer: x [N, D] -> [N, D]. */
function decoderLayer(x: tf.Tensor2D, layer: DeviceLayer, l: number, pass: PassContext, run: LayerRun): tf.Tensor2D {
  const { config } = pass;
  const { normEpsilon, activation = "silu" } = config;
  const masks = run.masks?.[l];
  const { hidden, observe } = run;
  const own = { config, layerMask: masks?.layer, hidden };
  let context = layerAttend(hiddenNorm(x, layer.attentionNorm, normEpsilon, hidden), layer, l, pass, run);
  if (masks?.queryHeads || masks?.kvGroups) {
    context = maskHeads(context, masks, at(config.layers, l), config.headSize);
  }
  observe?.(l, "output", context);
  const attended = addBlock(x, applyLinear(context, layer.output), { ...own, norm: layer.attentionOutputNorm });

  const ffnInput = hiddenNorm(attended, layer.ffnNorm, normEpsilon, hidden);
  const [gate, up] = [applyLinear(ffnInput, layer.gate), applyLinear(ffnInput, layer.up)];
  const gated = gatedUnit(gate, up, activation, masks?.ffn);
  observe?.(l, "down", gated);
  return addBlock(attended, applyLinear(gated, layer.down), { ...own, norm: layer.ffnOutputNorm });
}
