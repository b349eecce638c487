/** Decoding: the forward pass over new tokens with the keys and values of earlier ones.
 *
 * Shape legend as in `decoder.ts`; C positions that a cache has room for.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { KeyValues } from "../core/engine/attention.ts";
import { decodeStep, isOneForm, type StepState } from "../core/engine/decode_step.ts";
import { currentEngine } from "../core/engine/engine.ts";
import { FEW_ROWS } from "../core/engine/matrix.ts";
import { at } from "../core/util/indexing.ts";
import { type DecoderConfig, LINEAR_NAMES, type Rope } from "./config.ts";
import { checkBatch } from "./decoder.ts";
import type { DecoderModel } from "./device.ts";
import { createCachedPass, disposePass, embed, finalStates, perKind, runLayers } from "./layers.ts";
import { rotation } from "./rope.ts";
import type { TokenIds } from "./vocabulary.ts";

/** Keys and values of a decoding session. */
export interface KvCache {
  /** One entry per layer: [B, G, C, K] each. */
  layers: KeyValues[];
  batch: number;
  /** Positions of the sequence so far. */
  length: number;
  /** Positions held per layer, the first ones of C. When absent, all of C are held. */
  held?: number[];
}

/** Hidden states of new tokens, [B T, D], after the final norm, and the cache that holds these tokens too. */
export interface Extension {
  states: tf.Tensor2D;
  cache: KvCache;
}

/** Places that a cache grows by at least. */
const ROOM = 64;

/** Runs B rows of T new tokens after those in `cache` (null: none). The old cache is freed. All rows have the same
 * length. No gradient. */
export function extend(model: DecoderModel, tokens: TokenIds, batch: number, cache: KvCache | null): Extension {
  const { config } = model;
  const length = (tokens instanceof Int32Array ? tokens.length : tokens.size) / batch;
  const past = cache?.length ?? 0;
  if (tokens instanceof Int32Array) checkBatch(config, { tokens, batch, length });
  if (length === 1 && canStep(model, batch)) return step(model, tokens, cache ?? emptyCache(config, batch));
  if (cache) dropRoom(cache);
  const pass = createCachedPass(config, { batch, length }, past);
  const grown: KeyValues[] = [];
  const states = tf.tidy(() => {
    const layerCache = {
      past: (l: number) => cache?.layers[l] ?? null,
      keep: (_l: number, { keys, values }: KeyValues) => {
        grown.push({ keys: tf.keep(keys), values: tf.keep(values) });
      },
    };
    return finalStates(model, runLayers(model, embed(model, tokens), pass, { cache: layerCache }));
  });
  disposePass(pass);
  if (cache) disposeCache(cache);
  return { states, cache: { layers: grown, batch, length: past + length } };
}

/** Frees a cache. */
export function disposeCache(cache: KvCache): void {
  for (const { keys, values } of cache.layers) tf.dispose([keys, values]);
}

/** Whether a decoder layer can run as a single operation that writes its cache in place: the engine has it, there are
 * no adapters, the weights of a layer are in one form, and sequences are few. */
export function canStep(model: DecoderModel, batch: number): boolean {
  return currentEngine().decoderOps && batch <= FEW_ROWS && !model.readLayer &&
    model.layers.every((layer) => isOneForm(layer) && LINEAR_NAMES.every((name) => !layer[name].lora));
}

/** {@linkcode extend} by one position of each row, one operation for each layer. */
function step(model: DecoderModel, tokens: TokenIds, cache: KvCache): Extension {
  const { config } = model;
  const { headSize, normEpsilon, residualScale = 1, attentionScale = 1 / Math.sqrt(headSize), activation = "silu" } =
    config;
  const held = makeRoom(cache);
  const states = tf.tidy(() => {
    const nothing = tf.tensor1d([]);
    // Layers of one kind hold the same positions.
    const kinds = perKind(config, ({ rope, window }, l) => ({
      window,
      angles: angles(headSize, rope, cache.length) ?? { cos: nothing, sin: nothing },
      held: tf.tensor1d([at(held, l)], "int32"),
    }));
    const last = model.layers.reduce((x, layer, l) => {
      const { window, angles, held } = at(kinds, l);
      const scales = { normEpsilon, residualScale, scoreScale: attentionScale };
      const shape = { ...at(config.layers, l), ...scales, activation, window };
      return decodeStep(x, layer, shape, { ...angles, cache: at(cache.layers, l), held, nothing });
    }, embed(model, tokens));
    return finalStates(model, last);
  });
  return { states, cache: { ...cache, length: cache.length + 1, held: held.map((count) => count + 1) } };
}

/** cos and sin of the angles at a position: [K]; undefined without rotation. */
function angles(headSize: number, rope: Rope | null, position: number): Pick<StepState, "cos" | "sin"> | undefined {
  if (!rope) return undefined;
  const { cos, sin } = rotation(headSize, rope, Int32Array.of(position));
  return { cos: tf.tensor1d(cos), sin: tf.tensor1d(sin) };
}

function emptyCache({ layers, headSize }: DecoderConfig, batch: number): KvCache {
  const none = (groups: number) => tf.fill([batch, groups, ROOM, headSize], 0) as tf.Tensor4D;
  return {
    layers: layers.map(({ kvGroups }) => ({ keys: none(kvGroups), values: none(kvGroups) })),
    batch,
    length: 0,
    held: layers.map(() => 0),
  };
}

function replace(cache: KvCache, layer: number, change: (x: tf.Tensor4D) => tf.Tensor4D): void {
  const { keys, values } = at(cache.layers, layer);
  cache.layers[layer] = { keys: change(keys), values: change(values) };
  tf.dispose([keys, values]);
}

/** Gives every layer room for one more position, half as much again as it holds. Returns the positions held per
 * layer. */
function makeRoom(cache: KvCache): number[] {
  const held = cache.held ?? cache.layers.map(({ keys }) => keys.shape[2]);
  for (const [l, count] of held.entries()) {
    const { keys } = at(cache.layers, l);
    const room = Math.ceil(Math.max(ROOM, count / 2) / ROOM) * ROOM;
    if (count >= keys.shape[2]) {
      replace(cache, l, (x) => tf.pad(x, [[0, 0], [0, 0], [0, count + room - x.shape[2]], [0, 0]]));
    }
  }
  cache.held = held;
  return held;
}

/** Removes the room beyond the positions that are held. */
function dropRoom(cache: KvCache): void {
  for (const [l, count] of cache.held?.entries() ?? []) {
    replace(cache, l, (x) => tf.slice(x, [0, 0, 0, 0], [-1, -1, count, -1]));
  }
  delete cache.held;
}
