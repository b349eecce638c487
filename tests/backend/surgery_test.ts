import * as tf from "@tensorflow/tfjs";
import { assertEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import {
  type DecoderConfig,
  expectedTensors,
  type HostTensor,
  type LinearName,
  memorySource,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { densePlan, isRemoved, plannedConfig, type PrunePlan } from "../../models/plan.ts";
import { referenceForward } from "../support/reference.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { assertClose, flat, testOnEngines } from "../support/engines.ts";
import { planToHidden, planToMasks } from "../support/plan_masks.ts";
import { freed, logitsOf, onDevice } from "../support/device_models.ts";

const GROUPED = [
  { kvGroups: 3, queryHeadsPerGroup: 3, ffnChannels: 20 },
  { kvGroups: 4, queryHeadsPerGroup: 2, ffnChannels: 9 },
];
const TOKENS = toyTokens({ count: 17 });

/** Removes from every layer some groups, some query heads of each kept group, and some channels. */
function somePlan(config: DecoderConfig, seed: number): PrunePlan {
  const rng = createRng(seed, "plan");
  const keep = (items: number[], count: number) => rng.shuffle(items).slice(0, count).sort((a, b) => a - b);
  const range = (n: number) => Array.from({ length: n }, (_, i) => i);
  return {
    layers: config.layers.map(({ kvGroups, queryHeadsPerGroup: perGroup, ffnChannels }) => {
      const groups = keep(range(kvGroups), kvGroups - 1);
      const heads = perGroup - (perGroup > 1 ? 1 : 0);
      return {
        kvGroups: groups,
        queryHeads: groups.flatMap((g) => keep(range(perGroup), heads).map((r) => g * perGroup + r)),
        ffnChannels: keep(range(ffnChannels), 1 + rng.integer(ffnChannels)),
      };
    }),
  };
}

/** {@linkcode somePlan} that also removes layer 1 and a third of the hidden dimensions. */
function wholePlan(config: DecoderConfig, seed: number): PrunePlan {
  const { layers } = somePlan(config, seed);
  layers[1] = { kvGroups: [], queryHeads: [], ffnChannels: [] };
  const hidden = createRng(seed, "hidden").shuffle(Array.from({ length: config.width }, (_, i) => i));
  return { layers, hidden: hidden.slice(0, Math.ceil(2 * config.width / 3)).sort((a, b) => a - b) };
}

const hard = (length: number, kept: number[]) => Array.from({ length }, (_, i) => kept.includes(i) ? 1 : 0);

/** Logits of the twin with what the plan removes masked out. */
function twinLogits(source: WeightSource, plan: PrunePlan): Float64Array {
  const masks = plan.layers.map((layer, l) => ({
    queryHeads: hard(queryHeads(at(source.config.layers, l)), layer.queryHeads),
    kvGroups: hard(at(source.config.layers, l).kvGroups, layer.kvGroups),
    ffn: hard(at(source.config.layers, l).ffnChannels, layer.ffnChannels),
    layer: isRemoved(layer) ? 0 : 1,
  }));
  const hidden = plan.hidden && hard(source.config.width, plan.hidden);
  return flat(referenceForward(source, TOKENS, { masks, hidden }).logits);
}

const VARIANTS: Record<string, Partial<DecoderConfig>> = {
  "multi-head attention": {},
  "grouped queries and unequal layers": { layers: GROUPED },
  "an untied head and all biases": {
    layers: GROUPED,
    tiedHead: false,
    biases: ["query", "key", "value", "output", "gate", "up", "down"],
  },
};

testOnEngines("pruneModel() removes layers and hidden dimensions as masks do", async () => {
  const layers = [...GROUPED, at(GROUPED, 0)];
  for (const [variant, options] of Object.entries(VARIANTS)) {
    const source = toySource({ ...options, seed: 8, layers });
    const plan = wholePlan(source.config, 1);
    using dense = await onDevice(source);
    const masks = planToMasks(source.config, plan);
    const hidden = planToHidden(source.config, plan);
    const masked = await logitsOf(dense, TOKENS, { masks, hidden });
    tf.dispose([hidden!.mask, masks as unknown as tf.TensorContainer]);
    assertClose(masked, twinLogits(source, plan), {}, `logits of the masked model with ${variant} against the twin`);
    using small = freed(await pruneModel(dense, plan));
    assertEquals(small.config, plannedConfig(source.config, plan));
    assertEquals([small.config.width, small.layers.length], [22, 2]);
    for (const [name, shape] of expectedTensors(small.config)) {
      assertEquals((await hostTensor(small, name)).shape, shape, name);
    }
    assertClose(await logitsOf(small, TOKENS), masked, {}, `logits with ${variant}`);
  }
});

testOnEngines("masks of layers and hidden dimensions that are neither 0 nor 1 do as the twin says", async () => {
  const source = toySource({ ...VARIANTS["an untied head and all biases"], seed: 2 });
  const rng = createRng(3, "soft");
  const soft = Array.from({ length: source.config.width }, (_, i) => i % 5 === 0 ? 0 : rng.uniform());
  using dense = await onDevice(source);
  const hidden = { mask: tf.tensor1d(soft), open: soft.filter((value) => value !== 0).length };
  const masks = [0.25, 0.75].map((value) => ({ layer: tf.tensor1d([value]) }));
  const actual = await logitsOf(dense, TOKENS, { hidden, masks });
  tf.dispose([hidden.mask, ...masks.map(({ layer }) => layer)]);
  const twin = referenceForward(source, TOKENS, { hidden: soft, masks: [{ layer: 0.25 }, { layer: 0.75 }] });
  assertClose(actual, flat(twin.logits));
});

testOnEngines("pruneModel() with the dense plan changes nothing, and the two models live apart", async () => {
  const source = toySource({ layers: GROUPED, tiedHead: false });
  using dense = await onDevice(source);
  const before = await logitsOf(dense, TOKENS);
  using copy = freed(await pruneModel(dense, densePlan(source.config)));
  assertEquals(copy.config, source.config);
  assertClose(await logitsOf(copy, TOKENS), before, { atol: 0, rtol: 0 });
  assertClose(await logitsOf(dense, TOKENS), before, { atol: 0, rtol: 0 });
});

testOnEngines("pruneModel() puts replaced tensors and added biases in place before it cuts", async () => {
  for (const tiedHead of [true, false]) {
    const source = toySource({ layers: GROUPED, tiedHead });
    const other = toySource({ layers: GROUPED, tiedHead, seed: 9, biases: ["output", "down", "up"] });
    const names = [
      tensorNames.embedding,
      ...tiedHead ? [] : [tensorNames.head],
      tensorNames.finalNorm,
      tensorNames.norm(0, "attentionNorm"),
      tensorNames.weight(0, "down"),
      tensorNames.weight(1, "query"),
      // Biases of one layer only: the other layer gets zeros.
      tensorNames.bias(1, "output"),
      tensorNames.bias(0, "down"),
      tensorNames.bias(0, "up"),
    ];
    const replaced = Object.fromEntries(names.map((name): [string, HostTensor] => [name, other.read(name)]));
    const biases: LinearName[] = ["output", "up", "down"];
    const config = { ...source.config, biases };
    const expected = memorySource(
      config,
      new Map([...expectedTensors(config)].map(([name, shape]) => [
        name,
        replaced[name] ??
          (name.endsWith(".bias") ? { shape, data: new Float32Array(at(shape, 0)) } : source.read(name)),
      ])),
    );
    using dense = await onDevice(source);
    for (const plan of [somePlan(source.config, 2), wholePlan(source.config, 2)]) {
      using small = freed(await pruneModel(dense, plan, replaced));
      assertEquals(small.config.biases, biases);
      assertClose(await logitsOf(small, TOKENS), twinLogits(expected, plan));
    }
  }
});

testOnEngines("pruneModel() folds low-rank updates in", async () => {
  const source = toySource({ layers: GROUPED });
  using dense = await onDevice(source);
  const { query, down } = at(dense.layers, 1);
  const lora = ({ weight: { shape: [input, out] } }: typeof query) => ({
    down: tf.randomNormal([input, 2], 0, 0.3, "float32", 1) as tf.Tensor2D,
    up: tf.randomNormal([2, out], 0, 0.3, "float32", 2) as tf.Tensor2D,
    scale: 0.5,
  });
  [query.lora, down.lora] = [lora(query), lora(down)];
  const plan = somePlan(source.config, 3);
  const masks = planToMasks(source.config, plan);
  const masked = await logitsOf(dense, TOKENS, { masks });
  using small = freed(await pruneModel(dense, plan));
  tf.dispose(masks as unknown as tf.TensorContainer);
  tf.dispose([query.lora.down, query.lora.up, down.lora.down, down.lora.up]);
  assertClose(await logitsOf(small, TOKENS), masked);
});

testOnEngines("hostTensor() reads back what was uploaded", async () => {
  for (const options of Object.values(VARIANTS)) {
    const source = toySource(options);
    using model = await onDevice(source);
    for (const name of expectedTensors(source.config).keys()) {
      const { shape, data } = await hostTensor(model, name);
      assertEquals(shape, source.read(name).shape, name);
      assertClose(data, source.read(name).data, { atol: 0, rtol: 0 }, name);
    }
  }
});

testOnEngines("pruneModel() and hostTensor() refuse what does not fit", async () => {
  const source = toySource();
  using model = await onDevice(source);
  const plan = densePlan(source.config);
  const weight = tensorNames.weight(0, "down");
  await assertRejects(() => pruneModel(model, { layers: [at(plan.layers, 0)] }), RangeError, "2 layers");
  await assertRejects(
    () => pruneModel(model, plan, { [weight]: { shape: [24, 32], data: new Float32Array(24 * 32) } }),
    RangeError,
    "must have the dense shape [32,24]: current [24,32]",
  );
  await assertRejects(
    () => pruneModel(model, plan, { "model.layers.7.mlp.down_proj.weight": source.read(weight) }),
    RangeError,
    'no tensor named "model.layers.7.mlp.down_proj.weight"',
  );
  await assertRejects(() => hostTensor(model, tensorNames.head), RangeError, "lm_head.weight");
});
