/** The decoder once more, in plain arrays and double precision, without TensorFlow.js: slow, short, and read line by line
 * against the formulas. The fast model is tested against it.
 *
 * @module
 */
import {
  type DecoderConfig,
  layerAttention,
  type LinearName,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { rotaryFrequencies } from "../../models/rope.ts";
import { take } from "./values.ts";
import { at } from "../../core/util/indexing.ts";

/** A matrix: one array per row. */
export type Matrix = Float64Array[];

/** Masks of one layer as plain numbers; see `LayerMasks` of `masks.ts`. */
export interface ReferenceMasks {
  /** Multiplies what both blocks of the layer write. */
  layer?: number;
  /** [H]. */
  queryHeads?: ArrayLike<number>;
  /** [G]. */
  kvGroups?: ArrayLike<number>;
  /** [F]. */
  ffn?: ArrayLike<number>;
}

/** What {@linkcode referenceForward} may be told besides the tokens; see `TokenBatch` of `decoder.ts`. */
export interface ReferenceOptions {
  /** [T]: 0, 1, 2, ... when absent. */
  positions?: ArrayLike<number>;
  /** [T]: all 0, plain causal attention, when absent. */
  segments?: ArrayLike<number>;
  /** One entry per layer. */
  masks?: ReferenceMasks[];
  /** [D]: mask of the hidden dimensions; see `HiddenMask` of `masks.ts`. */
  hidden?: ArrayLike<number>;
  /** Called with the input of the output and down projections, f64 [T][H K] and [T][F]; see `ForwardOptions`. */
  observe?: (layer: number, site: "output" | "down", input: Matrix) => void;
  /** Called with the hidden states before the first layer and after each one, f64 [T][D]. */
  each?: (states: Matrix) => void;
  /** In place of the configuration's activation. */
  activation?: (gate: number) => number;
}

/** `x Wᵀ + b` with a weight `[out, in]` of the checkpoint. */
function applyLinear(source: WeightSource, layer: number, name: LinearName, x: Matrix): Matrix {
  const { shape, data } = source.read(tensorNames.weight(layer, name));
  const [out, input] = take(shape, 2);
  const bias = source.config.biases.includes(name) ? source.read(tensorNames.bias(layer, name)).data : null;
  return x.map((row) =>
    Float64Array.from({ length: out }, (_, o) => {
      let sum = bias ? at(bias, o) : 0;
      for (let i = 0; i < input; i++) sum += at(row, i) * at(data, o * input + i);
      return sum;
    })
  );
}

/** RMSNorm row by row: `x / sqrt(mean(x^2) + epsilon) * gain (* mask)`, the mean over dimensions whose mask is not 0. */
export function referenceRmsNorm(
  x: Matrix,
  gain: ArrayLike<number>,
  epsilon: number,
  mask?: ArrayLike<number>,
): Matrix {
  return x.map((row) => {
    const open = row.filter((_, i) => mask?.[i] !== 0);
    const meanSquare = open.reduce((sum, value) => sum + value * value, 0) / open.length;
    return row.map((value, i) => value / Math.sqrt(meanSquare + epsilon) * at(gain, i) * (mask?.[i] ?? 1));
  });
}

/** Turns each head of each row by its position: the pair (x_i, x_{i + K/2}) by the angle `position * frequency_i`. */
export function referenceRotate(
  x: Matrix,
  positions: ArrayLike<number>,
  frequencies: Float64Array,
  magnitude = 1,
): Matrix {
  const half = frequencies.length;
  return x.map((row, t) => {
    const turned = new Float64Array(row.length);
    for (let start = 0; start < row.length; start += 2 * half) {
      for (let i = 0; i < half; i++) {
        const angle = at(positions, t) * at(frequencies, i);
        const [a, b] = [at(row, start + i), at(row, start + i + half)];
        turned[start + i] = magnitude * (a * Math.cos(angle) - b * Math.sin(angle));
        turned[start + i + half] = magnitude * (b * Math.cos(angle) + a * Math.sin(angle));
      }
    }
    return turned;
  });
}

function softmax(scores: number[]): number[] {
  const max = Math.max(...scores);
  const exp = scores.map((score) => Math.exp(score - max));
  const sum = exp.reduce((a, b) => a + b);
  return exp.map((value) => value / sum);
}

/** Causal attention of rotated queries [T, H K] to rotated keys and values [T, G K] -> [T, H K]. */
export function referenceAttend(
  { q, k, v }: { q: Matrix; k: Matrix; v: Matrix },
  { heads, perGroup, size, segments, scale = 1 / Math.sqrt(size), sees = () => true }: {
    heads: number;
    perGroup: number;
    size: number;
    segments: ArrayLike<number>;
    /** Factor on the scores. */
    scale?: number;
    /** Whether row j may see row i, besides what causality and segments say. */
    sees?: (j: number, i: number) => boolean;
  },
): Matrix {
  return q.map((query, j) => {
    const out = new Float64Array(heads * size);
    const visible = q.map((_, i) => i).filter((i) =>
      i <= j && (segments[i] === 0 || segments[i] === segments[j]) && sees(j, i)
    );
    for (let h = 0; h < heads; h++) {
      const [own, group] = [h * size, Math.floor(h / perGroup) * size];
      const weights = softmax(visible.map((i) => {
        let dot = 0;
        for (let c = 0; c < size; c++) dot += at(query, own + c) * at(at(k, i), group + c);
        return dot * scale;
      }));
      visible.forEach((i, n) => {
        for (let c = 0; c < size; c++) out[own + c] = at(out, own + c) + at(weights, n) * at(at(v, i), group + c);
      });
    }
    return out;
  });
}

const add = (a: Matrix, b: Matrix): Matrix => a.map((row, t) => row.map((value, i) => value + at(at(b, t), i)));

const scaled = (x: Matrix, mask: ArrayLike<number> | undefined, layer = 1): Matrix =>
  x.map((row) => row.map((value, i) => value * (mask?.[i] ?? 1) * layer));

function decoderLayer(
  source: WeightSource,
  layer: number,
  x: Matrix,
  { positions, segments, masks = {}, hidden, observe, activation }: {
    positions: ArrayLike<number>;
    segments: ArrayLike<number>;
    masks?: ReferenceMasks;
  } & Pick<ReferenceOptions, "hidden" | "observe" | "activation">,
): Matrix {
  const { config } = source;
  const shape = at(config.layers, layer);
  const [heads, perGroup, size] = [queryHeads(shape), shape.queryHeadsPerGroup, config.headSize];
  const norm = (x: Matrix, name: string) => referenceRmsNorm(x, source.read(name).data, config.normEpsilon, hidden);
  const { rope, window } = layerAttention(config, layer);
  const last = Math.max(...Array.from(positions));
  const { frequencies, magnitude } = rotaryFrequencies(size, rope, last + 1);
  const normed = norm(x, tensorNames.norm(layer, "attentionNorm"));
  const turned = (map: "query" | "key", gain: "queryNorm" | "keyNorm") => {
    const projected = applyLinear(source, layer, map, normed);
    return referenceRotate(
      config.headNorms ? normHeads(projected, source.read(tensorNames.norm(layer, gain)).data, config) : projected,
      positions,
      frequencies,
      magnitude,
    );
  };
  const q = turned("query", "queryNorm");
  const k = turned("key", "keyNorm");
  const v = applyLinear(source, layer, "value", normed);
  const context = referenceAttend({ q, k, v }, {
    heads,
    perGroup,
    size,
    segments,
    scale: config.attentionScale,
    sees: (j, i) => window === null || at(positions, j) - at(positions, i) < window,
  });
  for (const row of context) {
    for (let h = 0; h < heads; h++) {
      const mask = (masks.queryHeads?.[h] ?? 1) * (masks.kvGroups?.[Math.floor(h / perGroup)] ?? 1);
      for (let c = 0; c < size; c++) row[h * size + c] = at(row, h * size + c) * mask;
    }
  }
  observe?.(layer, "output", context);
  const written = (block: Matrix, name: "attentionOutputNorm" | "ffnOutputNorm") => {
    const masked = scaled(block, hidden, config.outputNorms ? 1 : masks.layer);
    const normed = config.outputNorms
      ? scaled(norm(masked, tensorNames.norm(layer, name)), undefined, masks.layer)
      : masked;
    return scaled(normed, undefined, config.residualScale);
  };
  const attended = add(x, written(applyLinear(source, layer, "output", context), "attentionOutputNorm"));

  const ffnInput = norm(attended, tensorNames.norm(layer, "ffnNorm"));
  const gate = applyLinear(source, layer, "gate", ffnInput);
  const up = applyLinear(source, layer, "up", ffnInput);
  const gelu = (g: number) => g / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3)));
  const act = activation ?? (config.activation === "gelu-tanh" ? gelu : (g: number) => g / (1 + Math.exp(-g)));
  const activated = gate.map((row, t) => row.map((g, f) => act(g) * at(at(up, t), f) * (masks.ffn?.[f] ?? 1)));
  observe?.(layer, "down", activated);
  return add(attended, written(applyLinear(source, layer, "down", activated), "ffnOutputNorm"));
}

/** Each head of each row normed by itself. */
function normHeads(x: Matrix, gain: ArrayLike<number>, { headSize, normEpsilon }: DecoderConfig): Matrix {
  return x.map((row) => {
    const heads = Array.from({ length: row.length / headSize }, (_, h) => row.slice(h * headSize, (h + 1) * headSize));
    return Float64Array.from(referenceRmsNorm(heads, gain, normEpsilon).flatMap((head) => [...head]));
  });
}

/** One row of tokens through the model: hidden states after the final norm, f64 [T][D], and logits, f64 [T][V]. */
export function referenceForward(
  source: WeightSource,
  tokens: ArrayLike<number>,
  options: ReferenceOptions = {},
): { hidden: Float64Array[]; logits: Float64Array[] } {
  const { config } = source;
  const { width } = config;
  const positions = options.positions ?? Array.from(tokens, (_, t) => t);
  const segments = options.segments ?? Array.from(tokens, () => 0);
  const { data: embedding } = source.read(tensorNames.embedding);
  let x: Matrix = scaled(
    Array.from(tokens, (id) => Float64Array.from(embedding.subarray(id * width, (id + 1) * width))),
    options.hidden,
    config.embeddingScale,
  );
  options.each?.(x);
  config.layers.forEach((_, layer) => {
    x = decoderLayer(source, layer, x, {
      positions,
      segments,
      masks: options.masks?.[layer],
      hidden: options.hidden,
      observe: options.observe,
      activation: options.activation,
    });
    options.each?.(x);
  });
  const { data: gain } = source.read(tensorNames.finalNorm);
  const normed = referenceRmsNorm(x, gain, config.normEpsilon, options.hidden);
  const hidden = scaled(normed, undefined, config.logitScale);
  const { data: table } = source.read(config.tiedHead ? tensorNames.embedding : tensorNames.head);
  const logits = hidden.map((row) =>
    Float64Array.from({ length: config.vocabSize }, (_, id) => {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += at(row, i) * at(table, id * width + i);
      return sum;
    })
  );
  return { hidden, logits };
}

/** Natural-log probability of each target: logits [N][V], targets [N] -> f64 [N]. */
export function referenceLogProbs(logits: readonly Float64Array[], targets: ArrayLike<number>): Float64Array {
  return Float64Array.from(logits, (row, n) => {
    const max = row.reduce((a, b) => Math.max(a, b));
    return at(row, at(targets, n)) - max - Math.log(row.reduce((sum, value) => sum + Math.exp(value - max), 0));
  });
}
