import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { known, take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { NumericError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import { type DecoderConfig, memorySource, tensorNames } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { disposeCache, extend, type Extension, type KvCache } from "../../models/decode.ts";
import { forward, targetLogProbs } from "../../models/decoder.ts";
import { logits } from "../../models/vocabulary.ts";
import type { LayerMasks } from "../../models/masks.ts";
import { referenceForward, referenceLogProbs, type ReferenceMasks } from "../support/reference.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { assertClose, flat, testOnEngines } from "../support/engines.ts";
import { onDevice } from "../support/device_models.ts";

const GROUPED = [
  { kvGroups: 2, queryHeadsPerGroup: 3, ffnChannels: 20 },
  { kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 9 },
];

const VARIANTS: Record<string, Partial<DecoderConfig>> = {
  "multi-head attention": {},
  "grouped queries and unequal layers": { layers: GROUPED },
  "an untied head": { tiedHead: false },
  "biases on every linear map": { layers: GROUPED, biases: ["query", "key", "value", "output", "gate", "up", "down"] },
  "added biases alone": { biases: ["output", "down"] },
  "linear rotary scaling": { ropeScaling: { type: "linear", factor: 4 } },
  "llama3 rotary scaling": {
    ropeBase: 500,
    ropeScaling: { type: "llama3", factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalMaxPositions: 64 },
  },
};

/** Values of a tensor, which is freed. */
async function read(tensor: tf.Tensor): Promise<Float32Array> {
  const values = await tensor.data<"float32">();
  tensor.dispose();
  return values;
}

const rows = (values: Float32Array, width: number, start: number, end: number) =>
  values.subarray(start * width, end * width);

testOnEngines("forward() equals the plain-array twin", async () => {
  for (const [variant, config] of Object.entries(VARIANTS)) {
    const source = toySource({ ...config, seed: 1 });
    const tokens = toyTokens({ count: 23 });
    const expected = referenceForward(source, tokens);
    using model = await onDevice(source);
    const hidden = forward(model, { tokens, batch: 1, length: tokens.length });
    const scores = await read(logits(model, hidden));
    assertClose(await read(hidden), flat(expected.hidden), {}, `hidden states with ${variant}`);
    assertClose(scores, flat(expected.logits), {}, `logits with ${variant}`);
  }
});

testOnEngines("forward() equals the twin on a sequence longer than one block of queries", async () => {
  const source = toySource({ layers: GROUPED });
  const tokens = toyTokens({ count: 150 });
  const { hidden } = referenceForward(source, tokens);
  using model = await onDevice(source);
  assertClose(await read(forward(model, { tokens, batch: 1, length: 150 })), flat(hidden));
});

testOnEngines("forward() gives each row of a padded batch what it gives the row alone", async () => {
  const source = toySource({ layers: GROUPED });
  const sequences = [9, 14, 1].map((count, seed) => toyTokens({ count, seed }));
  const length = 14;
  const tokens = new Int32Array(3 * length);
  sequences.forEach((sequence, b) => tokens.set(sequence, b * length));
  using model = await onDevice(source);
  const hidden = await read(forward(model, { tokens, batch: 3, length }));
  sequences.forEach((sequence, b) => {
    const expected = flat(referenceForward(source, sequence).hidden);
    assertClose(rows(hidden, 32, b * length, b * length + sequence.length), expected, {}, `row ${b}`);
  });
});

testOnEngines("forward() gives each branch of a prefix tree what it gives prefix and branch alone", async () => {
  const source = toySource({ layers: GROUPED });
  // Two rows with unlike trees, one padded: [prefix, branch 1, branch 2, ...].
  const trees = [{ prefix: 6, branches: [4, 3, 1] }, { prefix: 3, branches: [5, 2] }];
  const length = 14;
  const [tokens, positions, segments] = take([0, 0, 0].map(() => new Int32Array(trees.length * length)), 3);
  const checks: { at: number; sequence: Int32Array; own: number }[] = [];
  trees.forEach(({ prefix, branches }, b) => {
    const shared = toyTokens({ count: prefix, seed: b });
    tokens.set(shared, b * length);
    positions.set([...shared.keys()], b * length);
    checks.push({ at: b * length, sequence: shared, own: prefix });
    let at = b * length + prefix;
    branches.forEach((count, i) => {
      const branch = toyTokens({ count, seed: 10 * b + i + 5 });
      tokens.set(branch, at);
      positions.set(branch.map((_, j) => prefix + j), at);
      segments.fill(i + 1, at, at + count);
      checks.push({ at, sequence: Int32Array.from([...shared, ...branch]), own: count });
      at += count;
    });
  });
  using model = await onDevice(source);
  const hidden = await read(forward(model, { tokens, batch: trees.length, length, positions, segments }));
  for (const { at, sequence, own } of checks) {
    const alone = referenceForward(source, sequence).hidden.slice(-own);
    assertClose(rows(hidden, 32, at, at + own), flat(alone), {}, `tokens from ${at}`);
  }
  const row = { positions: positions.subarray(0, length), segments: segments.subarray(0, length) };
  const twin = referenceForward(source, tokens.subarray(0, length), row);
  assertClose(rows(hidden, 32, 0, length), flat(twin.hidden), {}, "the twin's tree");
});

testOnEngines("forward() multiplies what units write by their masks", async () => {
  const source = toySource({ layers: GROUPED, biases: ["output", "down"] });
  const rng = createRng(4, "masks");
  const random = (length: number) => Float32Array.from({ length }, () => rng.integer(3) === 0 ? 0 : rng.normal());
  const plain: ReferenceMasks[] = source.config.layers.map((shape) => ({
    queryHeads: random(queryHeads(shape)),
    kvGroups: random(shape.kvGroups),
    ffn: random(shape.ffnChannels),
  }));
  // The second layer has one mask only, so that absent ones are seen to do nothing.
  plain[1] = { kvGroups: at(plain, 1).kvGroups };
  const tokens = toyTokens({ count: 11 });
  using model = await onDevice(source);
  const masks = plain.map((layer) =>
    Object.fromEntries(Object.entries(layer).map(([name, values]) => [name, tf.tensor1d(values)])) as LayerMasks
  );
  const hidden = await read(forward(model, { tokens, batch: 1, length: 11 }, { masks }));
  tf.dispose(masks as unknown as tf.TensorContainer);
  assertClose(hidden, flat(referenceForward(source, tokens, { masks: plain }).hidden));
});

testOnEngines("forward() shows observers the inputs of output and down projections", async () => {
  const source = toySource({ layers: GROUPED });
  const tokens = toyTokens({ count: 5 });
  const seen: { site: string; values: tf.Tensor2D }[] = [];
  using model = await onDevice(source);
  const ffn = tf.tensor1d(Array.from({ length: 20 }, (_, f) => f === 3 ? 0 : 1));
  const hidden = forward(model, { tokens, batch: 1, length: 5 }, {
    masks: [{ ffn }, {}],
    observe: (layer, site, input) => seen.push({ site: `${layer} ${site}`, values: tf.keep(tf.clone(input)) }),
  });
  tf.dispose([hidden, ffn]);
  const found = seen.map(({ site, values }) => [site, values.shape.join("x")]);
  assertEquals(found, [["0 output", "5x48"], ["0 down", "5x20"], ["1 output", "5x48"], ["1 down", "5x9"]]);
  const masked = await read(tf.tidy(() => tf.sum(tf.abs(at(seen, 1).values), 0)));
  assertEquals(masked.findIndex((value) => value === 0), 3);
  tf.dispose(seen.map(({ values }) => values));
});

testOnEngines("forward() refuses tokens and arrays that do not fit", async () => {
  using model = await onDevice(toySource());
  assertThrows(() => forward(model, { tokens: Int32Array.of(3, 61), batch: 1, length: 2 }), RangeError, "[0, 61)");
  assertThrows(() => forward(model, { tokens: Int32Array.of(3, -1), batch: 1, length: 2 }), RangeError, "-1");
  assertThrows(() => forward(model, { tokens: Int32Array.of(3), batch: 1, length: 2 }), RangeError, "2 tokens");
  assertThrows(
    () => forward(model, { tokens: Int32Array.of(3, 4), batch: 1, length: 2, positions: Int32Array.of(0) }),
    RangeError,
    "2 positions",
  );
});

testOnEngines("extend() equals forward() of the whole sequence, however it is cut", async () => {
  for (
    const config of [{ layers: GROUPED }, { tiedHead: false, biases: known(VARIANTS["added biases alone"]).biases }]
  ) {
    const source = toySource(config);
    const total = 141;
    const sequences = [toyTokens({ count: total, seed: 1 }), toyTokens({ count: total, seed: 2 })];
    using model = await onDevice(source);
    const whole = await read(
      forward(model, { tokens: Int32Array.from(sequences.flatMap((s) => [...s])), batch: 2, length: total }),
    );
    let cache: KvCache | null = null;
    for (const step of [5, 1, 1, 130, 4]) {
      const from: number = cache?.length ?? 0;
      const part = Int32Array.from(sequences.flatMap((sequence) => [...sequence.subarray(from, from + step)]));
      const grown: Extension = extend(model, part, 2, cache);
      cache = grown.cache;
      const hidden = await read(grown.states);
      for (const b of [0, 1]) {
        const expected = rows(whole, 32, b * total + from, b * total + from + step);
        assertClose(rows(hidden, 32, b * step, (b + 1) * step), expected, {}, `row ${b}, ${step} from ${from}`);
      }
    }
    assertEquals(cache?.length, total);
    disposeCache(cache!);
  }
});

testOnEngines("targetLogProbs() equals the twin and marks the most probable tokens", async () => {
  for (const tiedHead of [true, false]) {
    const source = toySource({ tiedHead });
    const tokens = toyTokens({ count: 20 });
    const { logits: scores } = referenceForward(source, tokens.subarray(0, 19));
    const best = scores.map((row) => row.indexOf(row.reduce((a, b) => Math.max(a, b))));
    // Every third target is the most probable token.
    const targets = tokens.slice(1).map((id, n) => n % 3 === 0 ? at(best, n) : id);
    using model = await onDevice(source);
    const hidden = forward(model, { tokens: tokens.slice(0, 19), batch: 1, length: 19 });
    const scored = await targetLogProbs(model, hidden, targets, 7);
    hidden.dispose();
    assertClose(scored.logProbs, referenceLogProbs(scores, targets));
    assertEquals(scored.isGreedy, [...targets].map((id, n) => id === best[n]));
  }
});

testOnEngines("targetLogProbs() throws on NaN and frees its tensors", async () => {
  const { config, read: readToy } = toySource();
  const broken = memorySource(config, new Map());
  broken.read = (name) => {
    const tensor = readToy(name);
    return name === tensorNames.finalNorm ? { ...tensor, data: tensor.data.map(() => NaN) } : tensor;
  };
  using model = await onDevice(broken);
  const tokens = toyTokens({ count: 4 });
  const hidden = forward(model, { tokens, batch: 1, length: 4 });
  const error = await assertRejects(() => targetLogProbs(model, hidden, tokens), NumericError);
  assert(error.message.includes(`token ${tokens[0]}`), error.message);
  hidden.dispose();
});
