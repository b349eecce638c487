import * as tf from "@tensorflow/tfjs";
import { assert, assertThrows } from "@std/assert";
import { decodeStep, type StepLayer, type StepShape } from "../../core/engine/decode_step.ts";
import { at } from "../../core/util/indexing.ts";
import { type PackedMatrix, packMatrix } from "../../core/engine/matrix.ts";
import { createRng } from "../../core/util/rng.ts";
import { assertClose, flat, testOwnOperations } from "../support/engines.ts";
import { referenceRmsNorm, referenceRotate } from "../support/reference.ts";
import { asStored } from "../support/weights_fixture.ts";

type Rows = number[][];

/** Sizes of a layer: B sequences, D, K, S positions before the new one, and what the layer has. */
interface Case extends StepShape {
  name: string;
  batch: number;
  width: number;
  headSize: number;
  held: number;
  biases: boolean;
  norms: boolean;
}

const PLAIN = {
  normEpsilon: 1e-5,
  residualScale: 1,
  activation: "silu",
  window: null,
  biases: false,
  norms: false,
} as const;

/** Widths are odd on purpose: not whole vectors, more and fewer columns than a task takes. */
const CASES: Case[] = [
  {
    ...{ ...PLAIN, name: "one sequence", batch: 1, held: 19, scoreScale: 0.4 },
    ...{ width: 37, headSize: 6, kvGroups: 2, queryHeadsPerGroup: 3, ffnChannels: 301 },
  },
  {
    ...{ ...PLAIN, name: "multi-head, 5 sequences", batch: 5, held: 1, scoreScale: 0.5 },
    ...{ width: 20, headSize: 4, kvGroups: 3, queryHeadsPerGroup: 1, ffnChannels: 33 },
  },
  {
    ...{ ...PLAIN, name: "biases and norms of everything, GELU, scales, a window, 13 sequences" },
    ...{ width: 24, headSize: 8, kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 40, batch: 13, held: 30 },
    ...{ scoreScale: 0.2, residualScale: 0.3, activation: "gelu-tanh", window: 7, biases: true, norms: true },
  },
];

const rowTimes = (x: number[], w: Rows, bias: number[]) =>
  bias.map((b, j) => x.reduce((sum, value, i) => sum + value * at(at(w, i), j), b));

const norm = (x: number[], gain: number[] | undefined, epsilon: number): number[] =>
  gain ? [...at(referenceRmsNorm([Float64Array.from(x)], gain, epsilon), 0)] : x;

const turn = (x: number[], angles: number[]): number[] => [
  ...at(referenceRotate([Float64Array.from(x)], [1], Float64Array.from(angles)), 0),
];

const activate = (x: number, kind: StepShape["activation"]) =>
  kind === "silu"
    ? x / (1 + Math.exp(-x))
    : 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

const LINEARS = ["query", "key", "value", "output", "gate", "up", "down"] as const;

/** Numbers that a format holds. */
function rounded(row: number[], form: "F32" | "BF16" | "F16"): number[] {
  return form === "F32" ? row : [...asStored(form, Float32Array.from(row))];
}

function packed(rows: Rows, form: "BF16" | "F16"): PackedMatrix {
  const matrix = packMatrix(tf.tensor2d(rows));
  assert(matrix?.format === form);
  return matrix;
}

/** A layer and what it is given, as plain arrays. */
function draw(c: Case) {
  const rng = createRng(7, c.name);
  const vector = (n: number, scale = 1) => Array.from({ length: n }, () => Math.fround(rng.normal() * scale));
  const matrix = (rows: number, columns: number, scale = 1) =>
    Array.from({ length: rows }, () => vector(columns, scale));
  const { width: d, headSize: k, kvGroups: g, queryHeadsPerGroup: r, ffnChannels: f } = c;
  const sizes: Record<(typeof LINEARS)[number], [number, number]> = {
    query: [d, g * r * k],
    key: [d, g * k],
    value: [d, g * k],
    output: [g * r * k, d],
    gate: [d, f],
    up: [d, f],
    down: [f, d],
  };
  const weights = Object.fromEntries(
    LINEARS.map((name) => [name, matrix(...sizes[name], 1 / Math.sqrt(sizes[name][0]))]),
  );
  const biases = Object.fromEntries(
    LINEARS.map((name) => [name, c.biases ? vector(sizes[name][1]) : Array(sizes[name][1]).fill(0)]),
  );
  const optional = (n: number) => c.norms ? vector(n) : undefined;
  return {
    weights: weights as Record<(typeof LINEARS)[number], Rows>,
    biases: biases as Record<(typeof LINEARS)[number], number[]>,
    norms: {
      attentionNorm: vector(d),
      ffnNorm: vector(d),
      queryNorm: optional(k),
      keyNorm: optional(k),
      attentionOutputNorm: optional(d),
      ffnOutputNorm: optional(d),
    },
    x: matrix(c.batch, d),
    angles: vector(k / 2, 3),
    /** [B G] x [S] x [K]. */
    keys: Array.from({ length: c.batch * g }, () => matrix(c.held, k)),
    values: Array.from({ length: c.batch * g }, () => matrix(c.held, k)),
  };
}

/** The same layer in double precision, and the caches with the new position. */
function plainLayer(c: Case, { weights, biases, norms, x, angles, keys, values }: ReturnType<typeof draw>) {
  const { headSize: k, kvGroups: g, queryHeadsPerGroup: r, normEpsilon: e } = c;
  const linear = (name: (typeof LINEARS)[number], x: number[]) => rowTimes(x, weights[name], biases[name]);
  const heads = (x: number[]) => Array.from({ length: x.length / k }, (_, h) => x.slice(h * k, (h + 1) * k));
  const grown = { keys: keys.map((rows) => [...rows]), values: values.map((rows) => [...rows]) };
  const out = x.map((row, b) => {
    const normed = norm(row, norms.attentionNorm, e);
    heads(linear("key", normed)).forEach((head, i) =>
      at(grown.keys, b * g + i).push(turn(norm(head, norms.keyNorm, e), angles))
    );
    heads(linear("value", normed)).forEach((head, i) => at(grown.values, b * g + i).push(head));
    const context = heads(linear("query", normed)).flatMap((head, h) => {
      const query = turn(norm(head, norms.queryNorm, e), angles);
      const from = b * g + Math.floor(h / r);
      const seen = (rows: Rows) => c.window === null ? rows : rows.slice(-c.window);
      const exp = seen(at(grown.keys, from)).map((key) =>
        Math.exp(c.scoreScale * key.reduce((sum, value, i) => sum + value * at(query, i), 0))
      );
      const total = exp.reduce((sum, value) => sum + value, 0);
      const weighted = seen(at(grown.values, from)).map((value, s) => value.map((v) => v * at(exp, s) / total));
      return weighted.reduce((sum, value) => sum.map((v, i) => v + at(value, i)));
    });
    const add = (x: number[], written: number[], gain?: number[]) => {
      const normed = norm(written, gain, e);
      return x.map((value, i) => value + c.residualScale * at(normed, i));
    };
    const attended = add(row, linear("output", context), norms.attentionOutputNorm);
    const ffnInput = norm(attended, norms.ffnNorm, e);
    const [gate, up] = [linear("gate", ffnInput), linear("up", ffnInput)];
    const gated = gate.map((value, i) => activate(value, c.activation) * at(up, i));
    return add(attended, linear("down", gated), norms.ffnOutputNorm);
  });
  return { out, ...grown };
}

/** [B G] x [S] x [K] -> [B, G, capacity, K], the free places full of a number that would be seen. */
function cacheTensor(heads: Rows[], c: Case, capacity: number): tf.Tensor4D {
  const free = Array.from({ length: capacity - c.held }, () => Array(c.headSize).fill(1e6));
  const values = Float32Array.from(flat(heads.flatMap((rows) => [...rows, ...free])));
  return tf.tensor4d(values, [c.batch, c.kvGroups, capacity, c.headSize]);
}

testOwnOperations("decodeStep() equals double precision and writes its cache in place", async () => {
  for (const [c, form] of CASES.flatMap((c) => (["F32", "BF16", "F16"] as const).map((form) => [c, form] as const))) {
    const given = draw(c);
    // The same numbers in both places, whatever they are held in.
    for (const name of LINEARS) given.weights[name] = given.weights[name].map((row) => rounded(row, form));
    const expected = plainLayer(c, given);
    const capacity = c.held + 3;
    const tensors = tf.tidy(() => {
      const optional = (x: number[] | undefined) => x && tf.tensor1d(x);
      const { attentionNorm, ffnNorm, ...norms } = given.norms;
      const linears = Object.fromEntries(LINEARS.map((name) => [name, {
        weight: form === "F32" ? tf.tensor2d(given.weights[name]) : packed(given.weights[name], form),
        ...c.biases && { bias: tf.tensor1d(given.biases[name]) },
      }]));
      const layer = {
        ...linears,
        ...Object.fromEntries(Object.entries(norms).map(([name, gain]) => [name, optional(gain)])),
        attentionNorm: tf.tensor1d(attentionNorm),
        ffnNorm: tf.tensor1d(ffnNorm),
      } as StepLayer;
      const both = [...given.angles, ...given.angles];
      const cache = { keys: cacheTensor(given.keys, c, capacity), values: cacheTensor(given.values, c, capacity) };
      const state = {
        cos: tf.tensor1d(both.map(Math.cos)),
        sin: tf.tensor1d(both.map(Math.sin)),
        cache,
        held: tf.tensor1d([c.held], "int32"),
        nothing: tf.tensor1d([]),
      };
      const x = tf.tensor2d(given.x);
      const out = decodeStep(x, layer, c, state);
      const full = { ...state, held: tf.tensor1d([capacity], "int32") };
      assertThrows(() => decodeStep(x, layer, c, full), Error, "the cache is full");
      const views = [tf.clone(cache.keys), tf.reshape(cache.values, [-1])];
      for (const shared of [cache, { keys: cache.keys, values: cache.keys }]) {
        assertThrows(() => decodeStep(x, layer, c, { ...state, cache: shared }), Error, "no other tensor may share");
      }
      tf.dispose(views);
      const used = (x: tf.Tensor4D) => tf.slice(x, [0, 0, 0, 0], [-1, -1, c.held + 1, -1]);
      return { out, keys: used(cache.keys), values: used(cache.values) };
    });
    assertClose(await tensors.out.data(), flat(expected.out), undefined, `${c.name}, ${form}`);
    assertClose(await tensors.keys.data(), flat(expected.keys.flat()), undefined, `${c.name}: keys`);
    assertClose(await tensors.values.data(), flat(expected.values.flat()), undefined, `${c.name}: values`);
    tf.dispose(tensors);
  }
});
