/** One new position of each sequence through the decoder's layers, each a single operation that writes its cache in place;
 * on engines with `decoderOps`. Shape legend as in `decoder.ts`; C positions that a cache has room for.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import type { KeyValues } from "../core/engine/attention.ts";
import { decodeStep, isOneForm, type StepState } from "../core/engine/decode_step.ts";
import { currentEngine } from "../core/engine/engine.ts";
import { at } from "../core/util/indexing.ts";
import { FEW_ROWS } from "../core/engine/matrix.ts";
import { type DecoderConfig, layerAttention, LINEAR_NAMES, type Rope } from "./config.ts";
import type { DecoderModel } from "./device.ts";
import { rotaryFrequencies } from "./rope.ts";

/** Keys and values of a decoding session. */
export interface KvCache {
  /** One entry per layer: [B, G, C, K] each. */
  layers: KeyValues[];
  batch: number;
  /** Positions of the sequence so far. */
  length: number;
  /** Positions held per layer, the first ones of C; absent where all of C are. */
  held?: number[];
}

/** Places that a cache grows by at least. */
const ROOM = 64;

/** Whether a model's layers can be stepped through: no adapters, weights of a layer in one form, and few sequences. */
export function canStep(model: DecoderModel, batch: number): boolean {
  return currentEngine().decoderOps && batch <= FEW_ROWS && !model.readLayer &&
    model.layers.every((layer) => isOneForm(layer) && LINEAR_NAMES.every((name) => !layer[name].lora));
}

/** Puts other tensors in the place of a cache's. */
function replace(cache: KvCache, layer: number, change: (x: tf.Tensor4D) => tf.Tensor4D): void {
  const { keys, values } = at(cache.layers, layer);
  cache.layers[layer] = { keys: change(keys), values: change(values) };
  tf.dispose([keys, values]);
}

/** Gives every layer room for one more position, half as much again as it holds. */
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

/** Takes away what has room beyond the positions that are held. */
export function dropRoom(cache: KvCache): void {
  for (const [l, count] of cache.held?.entries() ?? []) {
    replace(cache, l, (x) => tf.slice(x, [0, 0, 0, 0], [-1, -1, count, -1]));
  }
  delete cache.held;
}

/** A cache that holds nothing. */
function emptyCache({ layers, headSize }: DecoderConfig, batch: number): KvCache {
  const none = (groups: number) => tf.fill([batch, groups, ROOM, headSize], 0) as tf.Tensor4D;
  return {
    layers: layers.map(({ kvGroups }) => ({ keys: none(kvGroups), values: none(kvGroups) })),
    batch,
    length: 0,
    held: layers.map(() => 0),
  };
}

/** cos and sin of the angles at a position: [K]; `nothing` where nothing is turned. */
function angles(
  headSize: number,
  rope: Rope | null,
  position: number,
  nothing: tf.Tensor1D,
): Pick<StepState, "cos" | "sin"> {
  if (!rope) return { cos: nothing, sin: nothing };
  const { frequencies, magnitude } = rotaryFrequencies(headSize, rope, position + 1);
  const both = (of: (angle: number) => number) => {
    const half = Array.from(frequencies, (frequency) => magnitude * of(position * frequency));
    return tf.tensor1d([...half, ...half]);
  };
  return { cos: both(Math.cos), sin: both(Math.sin) };
}

/** `make(key)`, once for each key. */
function once<Value>(make: (key: string) => Value): (key: string) => Value {
  const made = new Map<string, Value>();
  return (key) => {
    const value = made.get(key) ?? make(key);
    made.set(key, value);
    return value;
  };
}

/** Hidden states x [B, D] of one new position through all layers -> [B, D], and the cache, which is `cache` (null: an empty
 * one) with the position in it. No gradient. */
export function stepLayers(
  model: DecoderModel,
  x: tf.Tensor2D,
  cache: KvCache | null,
): { hidden: tf.Tensor2D; cache: KvCache } {
  const { config } = model;
  const { headSize, normEpsilon, residualScale = 1, attentionScale = 1 / Math.sqrt(headSize), activation = "silu" } =
    config;
  const grown = cache ?? emptyCache(config, x.shape[0]);
  const held = makeRoom(grown);
  const hidden = tf.tidy(() => {
    const nothing = tf.tensor1d([]);
    const anglesOf = once((key) => angles(headSize, JSON.parse(key), grown.length, nothing));
    const places = once((key) => tf.tensor1d([Number(key)], "int32"));
    return model.layers.reduce((state, layer, l) => {
      const { rope, window } = layerAttention(config, l);
      const shape = {
        ...at(config.layers, l),
        normEpsilon,
        residualScale,
        scoreScale: attentionScale,
        activation,
        window,
      };
      const turned = anglesOf(JSON.stringify(rope));
      return decodeStep(state, layer, shape, {
        ...turned,
        cache: at(grown.layers, l),
        held: places(String(at(held, l))),
        nothing,
      });
    }, x);
  });
  return { hidden, cache: { ...grown, length: grown.length + 1, held: held.map((count) => count + 1) } };
}
