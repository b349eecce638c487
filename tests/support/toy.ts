/** Tiny seeded models in memory, with units planted that do nothing, and a token stream to run them on. For tests.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { createRng, type Rng } from "../../core/util/rng.ts";
import {
  type DecoderConfig,
  expectedTensors,
  type HostTensor,
  type LinearName,
  linearShape,
  memorySource,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";

/** Units of one layer that do nothing: a right method removes them first. */
export interface DeadUnits {
  /** Layer index. */
  layer: number;
  /** FFN channels. */
  ffn?: number[];
  /** Query heads. */
  queryHeads?: number[];
  /** Key/value groups, with all their query heads. */
  kvGroups?: number[];
}

/** Options of {@linkcode toySource}: every field of the configuration, and what is special about the weights. */
export interface ToyOptions extends Partial<DecoderConfig> {
  /** Seed of the weights. */
  seed?: number;
  /** Units that do nothing. */
  dead?: DeadUnits[];
  /** Hidden dimensions that nothing writes to: they stay 0. */
  deadHidden?: number[];
  /** Factor on every weight of a dead unit or dimension: 0 makes it exactly dead, 1e-3 leaves it faint noise. */
  deadScale?: number;
}

/** Configuration of the toy model: V 61, D 32, K 8, two layers of G 4, R 1, F 24, unless `options` says otherwise. */
export function toyConfig(options: Partial<DecoderConfig> = {}): DecoderConfig {
  const shape: LayerShape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 24 };
  return {
    ...options,
    vocabSize: options.vocabSize ?? 61,
    width: options.width ?? 32,
    headSize: options.headSize ?? 8,
    layers: options.layers ?? [{ ...shape }, { ...shape }],
    tiedHead: options.tiedHead ?? true,
    biases: options.biases ?? [],
    ropeBase: options.ropeBase ?? 10_000,
    normEpsilon: options.normEpsilon ?? 1e-5,
    maxPositions: options.maxPositions ?? 256,
    bosTokenId: options.bosTokenId ?? 0,
    eosTokenId: options.eosTokenId ?? 1,
  };
}

/** LLaMA-7B's shape (Touvron et al. 2023, table 2), which Llama-2-7B has as well. */
export const LLAMA_7B: DecoderConfig = toyConfig({
  ...{ vocabSize: 32000, width: 4096, headSize: 128, tiedHead: false, maxPositions: 2048 },
  layers: Array.from({ length: 32 }, () => ({ kvGroups: 32, queryHeadsPerGroup: 1, ffnChannels: 11008 })),
});

/** Standard deviation and mean of the weights of a tensor: activations stay near 1 in every layer. */
function spread(name: string, shape: number[]): { mean: number; sd: number } {
  if (name.endsWith("norm.weight")) return { mean: 1, sd: 0.1 };
  if (name.endsWith(".bias")) return { mean: 0, sd: 0.2 };
  if (name === tensorNames.embedding || name === tensorNames.head) return { mean: 0, sd: 0.3 };
  return { mean: 0, sd: 1 / Math.sqrt(at(shape, 1)) };
}

function randomTensor(rng: Rng, name: string, shape: number[]): HostTensor {
  const { mean, sd } = spread(name, shape);
  const size = shape.reduce((a, b) => a * b, 1);
  return { shape, data: Float32Array.from({ length: size }, () => mean + sd * rng.normal()) };
}

/** Multiplies rows (or columns, for what a unit writes) of one linear map of a layer, and its bias entries. */
function scaleUnit(
  tensors: Map<string, HostTensor>,
  config: DecoderConfig,
  { layer, name, index, size, factor }: Record<"layer" | "index" | "size" | "factor", number> & { name: LinearName },
): void {
  const weight = tensors.get(tensorNames.weight(layer, name))!;
  const bias = tensors.get(tensorNames.bias(layer, name));
  const [rows, columns] = linearShape(config, at(config.layers, layer), name);
  const writes = name === "output" || name === "down";
  for (let i = index * size; i < (index + 1) * size; i++) {
    const places = Array.from(
      { length: writes ? rows : columns },
      (_, j) => writes ? j * columns + i : i * columns + j,
    );
    for (const place of places) weight.data[place] = at(weight.data, place) * factor;
    if (!writes && bias) bias.data[i] = at(bias.data, i) * factor;
  }
}

function plantDead(tensors: Map<string, HostTensor>, config: DecoderConfig, dead: DeadUnits, factor: number): void {
  const { layer, ffn = [], kvGroups = [], queryHeads = [] } = dead;
  const perGroup = at(config.layers, layer).queryHeadsPerGroup;
  const heads = new Set(queryHeads);
  for (const group of kvGroups) for (let r = 0; r < perGroup; r++) heads.add(group * perGroup + r);
  const scale = (names: LinearName[], indices: Iterable<number>, size: number) => {
    for (const name of names) {
      for (const index of indices) scaleUnit(tensors, config, { layer, name, index, size, factor });
    }
  };
  scale(["gate", "up", "down"], ffn, 1);
  scale(["query", "output"], heads, config.headSize);
  scale(["key", "value"], kvGroups, config.headSize);
}

/** Scales what every writer to the residual stream has for some of its dimensions. */
function plantDeadHidden(
  tensors: Map<string, HostTensor>,
  { width, layers }: DecoderConfig,
  dead: number[],
  factor: number,
): void {
  const { data: embedding } = tensors.get(tensorNames.embedding)!;
  for (const i of dead) {
    for (let n = i; n < embedding.length; n += width) embedding[n] = at(embedding, n) * factor;
    for (const layer of layers.keys()) {
      for (const name of ["output", "down"] as const) {
        const { shape, data } = tensors.get(tensorNames.weight(layer, name))!;
        const columns = at(shape, 1);
        for (let n = i * columns; n < (i + 1) * columns; n++) data[n] = at(data, n) * factor;
        const bias = tensors.get(tensorNames.bias(layer, name));
        if (bias) bias.data[i] = at(bias.data, i) * factor;
      }
    }
  }
}

/** A random model in memory; the same options always give the same weights.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { toySource } from "./toy.ts";
 * const source = toySource({ seed: 3, dead: [{ layer: 0, ffn: [2, 5] }] });
 * assertEquals(source.read("model.layers.0.mlp.down_proj.weight").data[5], 0);
 * ```
 */
export function toySource(options: ToyOptions = {}): WeightSource {
  const { seed = 0, dead = [], deadHidden = [], deadScale = 0, ...own } = options;
  const config = toyConfig(own);
  const tensors = new Map<string, HostTensor>();
  for (const [name, shape] of expectedTensors(config)) {
    tensors.set(name, randomTensor(createRng(seed, `toy ${name}`), name, shape));
  }
  for (const units of dead) plantDead(tensors, config, units, deadScale);
  plantDeadHidden(tensors, config, deadHidden, deadScale);
  return memorySource(config, tensors, "toy");
}

/** A token stream with something to learn: after token t comes `(5 t + 3) mod V` with probability 0.75, else any token.
 * i32 [count]. */
export function toyTokens({ count, vocabSize = 61, seed = 0 }: {
  count: number;
  vocabSize?: number;
  seed?: number;
}): Int32Array {
  const rng = createRng(seed, "toy tokens");
  const tokens = new Int32Array(count);
  tokens[0] = rng.integer(vocabSize);
  for (let i = 1; i < count; i++) {
    tokens[i] = rng.uniform() < 0.75 ? (5 * at(tokens, i - 1) + 3) % vocabSize : rng.integer(vocabSize);
  }
  return tokens;
}
