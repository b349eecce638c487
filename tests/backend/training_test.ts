import * as tf from "@tensorflow/tfjs";
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, disposeModel, uploadModel } from "../../models/device.ts";
import type { ForwardOptions } from "../../models/layers.ts";
import type { LayerMasks } from "../../models/masks.ts";
import { keptLayers, type PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { toySource } from "../support/toy.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { adapterName, createAdapters, disposeAdapters, withAdapters } from "../../models/training/lora.ts";
import { nextTokens, windowBatch } from "../../models/training/batches.ts";
import type { LossWeights } from "../../models/training/loss.ts";
import { foldTrained } from "../../models/training/merge.ts";
import {
  createStudent,
  cutStudent,
  disposeStudent,
  type HostMasks,
  type ModelMasks,
  scaledMasks,
  studentStep,
  uploadHidden,
  uploadMasks,
} from "../../models/training/student.ts";
import { planOfGates } from "../../methods/_shared/learned_units.ts";
import { foldParts, trainedParts } from "../../models/training/rebuild.ts";
import { teacherTargets } from "../../models/training/teacher.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { learningOptions, toyWindows } from "../support/method_context.ts";
import { known } from "../support/values.ts";
import { freed, logitsOf as deviceLogits, onDevice } from "../support/device_models.ts";

const WEIGHTS: LossWeights = { crossEntropy: 0.5, distillation: 0.5, temperature: 1, hidden: 0 };

const GROUPED = { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 12 };

/** A toy model, adapters that already do something, and masks near 1. */
async function student(seed = 1, options: Partial<DecoderConfig> = {}) {
  const { layers = [GROUPED, GROUPED] } = options;
  const teacher = await uploadModel(toySource({ ...options, seed, layers }));
  const rng = createRng(seed, "student");
  const adapters = createAdapters(teacher.config, { rank: 3, alpha: 6, rng });
  for (const variable of Object.values(adapters.parameters)) {
    const noise = Float32Array.from({ length: variable.size }, () => 0.1 * rng.normal());
    tf.tidy(() => variable.assign(tf.add(variable, tf.tensor(noise, variable.shape))));
  }
  const vector = (length: number) =>
    tf.tensor1d(Float32Array.from({ length }, () => 1 + 0.2 * rng.normal()), "float32");
  const masks = layers.map((shape): Required<LayerMasks> => ({
    layer: vector(1),
    queryHeads: vector(4),
    kvGroups: vector(2),
    ffn: vector(shape.ffnChannels),
  }));
  const hidden = { mask: vector(teacher.config.width), open: teacher.config.width };
  const free = () => {
    disposeAdapters(adapters);
    hidden.mask.dispose();
    tf.dispose(masks.flatMap((layer) => Object.values(layer)));
    disposeModel(teacher);
  };
  return { teacher, adapters, masks, hidden, model: withAdapters(teacher, adapters), free };
}

/** The loss in f64 from whole logits: the definition, written down directly. */
async function plainLoss(
  { model, masks, teacher, windows, weights, topK }: {
    model: DecoderModel;
    masks: LayerMasks[];
    teacher: DecoderModel;
    windows: Int32Array[];
    weights: LossWeights;
    topK: number;
  },
): Promise<{ crossEntropy: number; distillation: number }> {
  const batch = windowBatch(windows);
  const v = model.config.vocabSize;
  const rowsOf = async (of: DecoderModel, options: { masks?: LayerMasks[] }) => {
    const data = await deviceLogits(of, batch, options);
    return Array.from({ length: batch.batch * batch.length }, (_, i) => Array.from(data.slice(i * v, (i + 1) * v)));
  };
  const softmax = (scores: number[], t: number) => {
    const max = Math.max(...scores);
    const exps = scores.map((x) => Math.exp((x - max) / t));
    const sum = exps.reduce((a, b) => a + b, 0);
    return exps.map((x) => x / sum);
  };
  const isScored = (i: number) => i % batch.length !== batch.length - 1;
  const own = (await rowsOf(model, { masks })).filter((_, i) => isScored(i));
  const theirs = (await rowsOf(teacher, {})).filter((_, i) => isScored(i));
  const next = nextTokens(batch);
  let [crossEntropy, distillation] = [0, 0];
  own.forEach((row, i) => {
    crossEntropy -= Math.log(at(softmax(row, 1), at(next, i)));
    const q = softmax(row, weights.temperature);
    const p = softmax(at(theirs, i), weights.temperature);
    const kept = p.map((_, j) => j).sort((a, b) => at(p, b) - at(p, a)).slice(0, topK);
    const rest = (probabilities: number[]) => 1 - kept.reduce((sum, j) => sum + at(probabilities, j), 0);
    distillation += kept.reduce((sum, j) => sum + at(p, j) * Math.log(at(p, j) / at(q, j)), 0);
    if (topK < v) distillation += rest(p) * Math.log(rest(p) / rest(q));
  });
  return { crossEntropy: crossEntropy / own.length, distillation: distillation / own.length };
}

/** Targets of each window by itself. */
const targetsOf = (teacher: DecoderModel, windows: Int32Array[], options: Parameters<typeof teacherTargets>[2]) =>
  Promise.all(windows.map((window) => teacherTargets(teacher, windowBatch([window]), options)));

for (const temperature of [1, 2]) {
  testOnEngines(`batchGradients() gives the loss terms of their definition, temperature ${temperature}`, async () => {
    const { teacher, model, masks, free } = await student();
    const windows = toyWindows(3, 9);
    const weights = { ...WEIGHTS, temperature };
    const targets = await targetsOf(teacher, windows, { topK: 5, temperature });
    const { terms } = await batchGradients({ model, masks, windows, targets, weights, variables: [at(masks, 0).ffn!] });
    const plain = await plainLoss({ model, masks, teacher, windows, weights, topK: 5 });
    assertClose([terms.crossEntropy, terms.distillation], [plain.crossEntropy, plain.distillation]);
    assertAlmostEquals(terms.total, 0.5 * plain.crossEntropy + 0.5 * temperature ** 2 * plain.distillation, 1e-4);
    free();
  });
}

testOnEngines("batchGradients() gives gradients of masks and adapters that central differences confirm", async () => {
  const { teacher, model, masks, hidden, adapters, free } = await student();
  const windows = toyWindows(2, 8);
  const weights: LossWeights = { crossEntropy: 0.5, distillation: 0.5, temperature: 1.5, hidden: 0.3 };
  const targets = await targetsOf(teacher, windows, { topK: 7, temperature: 1.5 });
  const parameters = adapters.parameters;
  const of = (name: string) => known(parameters[name]);
  const named: [string, tf.Tensor][] = [
    ["ffn mask of layer 0", at(masks, 0).ffn!],
    ["query head mask of layer 0", at(masks, 0).queryHeads!],
    ["group mask of layer 1", at(masks, 1).kvGroups!],
    ["mask of layer 1", at(masks, 1).layer!],
    ["hidden mask", hidden.mask],
    ["query down", of(adapterName(0, "query", "down"))],
    ["key up", of(adapterName(0, "key", "up"))],
    ["value up", of(adapterName(1, "value", "up"))],
    ["output down", of(adapterName(1, "output", "down"))],
    ["gate up", of(adapterName(0, "gate", "up"))],
    ["up down", of(adapterName(1, "up", "down"))],
    ["down up", of(adapterName(0, "down", "up"))],
  ];
  const variables = named.map(([, tensor]) => tensor);
  const options = { model, masks, hidden, windows, targets, teacher, weights };
  const { gradients } = await batchGradients({ ...options, variables });
  const rng = createRng(5, "directions");
  for (const [i, [name, tensor]] of named.entries()) {
    // Along the gradient itself: the one direction in which f32 differences stand out of rounding.
    const slope = at(gradients, i);
    const norm = Math.hypot(...slope);
    assert(norm > 1e-5, `${name}: the gradient is zero`);
    const direction = Float32Array.from(slope, (g) => g / norm + 0.1 * rng.normal() / Math.sqrt(slope.length));
    const start = await tensor.data() as Float32Array;
    const lossAt = async (step: number) => {
      const moved = tf.tensor(start.map((x, j) => x + step * at(direction, j)), tensor.shape);
      const swap = (other: LayerMasks[]) =>
        other.map((layer) =>
          Object.fromEntries(Object.entries(layer).map(([key, mask]) => [key, mask === tensor ? moved : mask]))
        ) as LayerMasks[];
      const isVariable = tensor instanceof tf.Variable;
      if (isVariable) tensor.assign(moved);
      const { terms } = await batchGradients({
        ...options,
        masks: swap(masks),
        hidden: hidden.mask === tensor ? { ...hidden, mask: moved as tf.Tensor1D } : hidden,
        variables: [at(swap(masks), 0).ffn!],
      });
      moved.dispose();
      return terms.total;
    };
    const step = 2e-2;
    const difference = (await lossAt(step) - await lossAt(-step)) / (2 * step);
    if (tensor instanceof tf.Variable) tf.tidy(() => tensor.assign(tf.tensor(start, tensor.shape)));
    const expected = slope.reduce((sum, g, j) => sum + g * at(direction, j), 0);
    assertAlmostEquals(difference, expected, 2e-5 + 0.01 * Math.abs(expected), name);
  }
  free();
});

testOnEngines("batchGradients() gives the full batch's gradient from micro-batches", async () => {
  const { teacher, model, masks, adapters, free } = await student();
  const windows = toyWindows(4, 7);
  const targets = await targetsOf(teacher, windows, { topK: 4 });
  const variables = [at(masks, 1).ffn!, at(masks, 0).queryHeads!, ...Object.values(adapters.parameters)];
  const options = { model, masks, windows, targets, teacher, weights: { ...WEIGHTS, hidden: 0 }, variables };
  const whole = await batchGradients(options);
  for (const microBatch of [1, 3]) {
    const parts = await batchGradients({ ...options, microBatch });
    assertClose(Object.values(parts.terms), Object.values(whole.terms));
    parts.gradients.forEach((gradient, i) => assertClose(gradient, at(whole.gradients, i), { atol: 1e-6 }));
  }
  free();
});

testOnEngines("withAdapters() leaves the model's output alone until the adapters learn", async () => {
  using model = await onDevice(toySource());
  const adapters = createAdapters(model.config, { rank: 2, alpha: 4, rng: createRng(0, "adapters") });
  const batch = windowBatch(toyWindows(1, 6));
  const [plain, adapted] = [forward(model, batch), forward(withAdapters(model, adapters), batch)];
  assertClose(await adapted.data(), await plain.data());
  assertEquals(at(model.layers, 0).query.lora, undefined);
  tf.dispose([plain, adapted]);
  disposeAdapters(adapters);
});

/** Half of the channels and heads of every layer stay. */
const PLAN: PrunePlan = {
  layers: [
    { kvGroups: [0, 1], queryHeads: [0, 3], ffnChannels: [0, 2, 5, 7, 11] },
    { kvGroups: [0, 1], queryHeads: [1, 2], ffnChannels: [1, 3, 4, 8, 10] },
  ],
};

const logitsOf = (model: DecoderModel, masks?: LayerMasks[], hidden?: ForwardOptions["hidden"]) =>
  deviceLogits(model, windowBatch(toyWindows(2, 9)), { masks, hidden });

testOnEngines("foldTrained() and cutStudent() keep what the masked model computes", async () => {
  const { teacher, adapters, masks, model, free } = await student(4);
  const values = await Promise.all(masks.map(async ({ ffn, queryHeads, kvGroups }) => ({
    "ffn": await ffn.data() as Float32Array,
    "query-heads": await queryHeads.data() as Float32Array,
    "kv-groups": await kvGroups.data() as Float32Array,
  })));
  // The masked model: kept units as they are, removed ones at 0.
  const zeroed = values.map((layer, l) => ({
    "ffn": layer.ffn.map((m, i) => at(PLAN.layers, l).ffnChannels.includes(i) ? m : 0),
    "query-heads": layer["query-heads"].map((m, i) => at(PLAN.layers, l).queryHeads.includes(i) ? m : 0),
    "kv-groups": layer["kv-groups"],
  }));
  const kept = values.map((layer, l) => ({
    "ffn": Float32Array.from(at(PLAN.layers, l).ffnChannels, (i) => at(layer.ffn, i)),
    "query-heads": Float32Array.from(at(PLAN.layers, l).queryHeads, (i) => at(layer["query-heads"], i)),
    "kv-groups": layer["kv-groups"],
  }));
  const [wide, narrow] = [uploadMasks(zeroed), uploadMasks(kept)];
  const expected = await logitsOf(model, wide);
  const atol = 1e-4 * Math.max(...expected.map(Math.abs));

  const options = learningOptions({ rank: 3, alpha: 6, steps: 4, batch: 2, tokens: 8 });
  const parameters = Object.fromEntries(
    Object.entries(adapters.parameters).map(([name, variable]) => [name, tf.tidy(() => tf.variable(variable.clone()))]),
  );
  const own = { ...adapters, parameters };
  const fresh = createStudent(teacher, options, createRng(0, "unused"));
  disposeStudent(fresh);
  const before = { ...fresh, scales: {}, adapters: own, model: withAdapters(teacher, own) };
  using compact = freed(await pruneModel(teacher, PLAN));
  const cut = await cutStudent(before, { compact, plan: PLAN, config: teacher.config, options });
  assertClose(await logitsOf(cut.model, narrow), expected, { atol, rtol: 0 }, "logits of the cut student");

  using merged = freed(await pruneModel(teacher, PLAN));
  foldTrained(merged, cut.model, { masks: kept });
  assertClose(await logitsOf(merged), expected, { atol, rtol: 0 }, "logits of the merged model");
  disposeStudent(cut);
  tf.dispose([...wide, ...narrow].flatMap((layer) => Object.values(layer) as tf.Tensor[]));
  free();
});

testOnEngines("scales train with frozen weights, are cut with their units, and fold into the weights", async () => {
  for (const recover of ["scales", "lora"] as const) {
    using base = await onDevice(toySource({ seed: 3, layers: [GROUPED, GROUPED] }));
    const options = learningOptions({ steps: 4, batch: 2, tokens: 8, distillation: 0, rank: 2, recover });
    const before = createStudent(base, options, createRng(0, "unused"));
    assertEquals(Object.keys(before.adapters.parameters).length > 0, recover === "lora");
    const gates = base.config.layers.map(({ ffnChannels }, l): HostMasks => ({
      ffn: Float32Array.from({ length: ffnChannels }, (_, i) => at(PLAN.layers, l).ffnChannels.includes(i) ? 1 : 0),
    }));
    const { maskGradients } = await studentStep(before, { windows: toyWindows(2, 8), masks: gates, options });
    assert(maskGradients.every(({ ffn }) => ffn!.every((g) => g !== 0)), "closed units have gradients as well");
    const scales = await scaledMasks(before);
    scales.forEach(({ ffn }, l) =>
      // Closed units get no gradient.
      ffn!.forEach((value, i) => assertEquals(value !== 1, at(PLAN.layers, l).ffnChannels.includes(i)))
    );
    const plan = planOfGates(base.config, gates);
    const wide = uploadMasks(await scaledMasks(before, gates));
    const expected = await logitsOf(before.model, wide);
    const tolerance = { atol: 1e-4 * Math.max(...expected.map(Math.abs)), rtol: 0 };
    using compact = freed(await pruneModel(base, plan));
    const cut = await cutStudent(before, { compact, plan, config: base.config, options });
    foldParts(compact, await trainedParts(cut));
    assertClose(await logitsOf(compact), expected, tolerance, `logits of the folded model, ${recover}`);
    disposeStudent(cut);
    tf.dispose(wide.flatMap((layer) => Object.values(layer) as tf.Tensor[]));
  }
});

/** Layer 1 and a quarter of the hidden dimensions go, besides channels of the other layers. */
const WHOLE_PLAN: PrunePlan = {
  layers: [
    { kvGroups: [0, 1], queryHeads: [0, 1, 2, 3], ffnChannels: [0, 2, 5, 7, 11] },
    { kvGroups: [], queryHeads: [], ffnChannels: [] },
    { kvGroups: [0, 1], queryHeads: [0, 1, 2, 3], ffnChannels: [1, 3, 4, 8, 10] },
  ],
  hidden: Array.from({ length: 32 }, (_, i) => i).filter((i) => i % 4 !== 1),
};

/** Soft masks of layers, channels and hidden dimensions: of the dense model, 0 where the plan removes, and what is kept. */
async function wholeMasks(masks: LayerMasks[], hidden: tf.Tensor1D): Promise<{ wide: ModelMasks; narrow: ModelMasks }> {
  const soft: HostMasks[] = await Promise.all(masks.map(async ({ layer, ffn }) => ({
    layer: await layer!.data<"float32">(),
    ffn: await ffn!.data<"float32">(),
  })));
  const all = await hidden.data<"float32">();
  const kept = WHOLE_PLAN.hidden!;
  const channels = (l: number) => at(WHOLE_PLAN.layers, l).ffnChannels;
  return {
    wide: {
      hidden: all.map((value, i) => kept.includes(i) ? value : 0),
      masks: soft.map(({ layer, ffn }, l) => ({
        layer: l === 1 ? new Float32Array(1) : layer,
        ffn: ffn!.map((value, i) => channels(l).includes(i) ? value : 0),
      })),
    },
    narrow: {
      hidden: Float32Array.from(kept, (i) => at(all, i)),
      masks: keptLayers(WHOLE_PLAN).map((l) => ({
        layer: at(soft, l).layer,
        ffn: Float32Array.from(channels(l), (i) => at(known(at(soft, l).ffn), i)),
      })),
    },
  };
}

/** Logits under masks from the host. */
async function maskedLogits(model: DecoderModel, { masks = [], hidden }: ModelMasks): Promise<Float32Array> {
  const [layerMasks, hiddenMask] = [uploadMasks(masks), uploadHidden(hidden)];
  const values = await logitsOf(model, masks.length > 0 ? layerMasks : undefined, hiddenMask);
  tf.dispose(layerMasks.flatMap((layer) => Object.values(layer)));
  hiddenMask?.mask.dispose();
  return values;
}

testOnEngines("masks of layers and hidden dimensions are cut and folded in without a change of output", async () => {
  const layers = [GROUPED, GROUPED, GROUPED];
  const plan = WHOLE_PLAN;
  const variants: Partial<DecoderConfig>[] = [{}, { tiedHead: false, biases: ["query", "output", "up", "down"] }];
  for (const variant of variants) {
    const { teacher, masks, hidden, free } = await student(6, { layers, ...variant });
    const { wide, narrow } = await wholeMasks(masks, hidden.mask);
    const options = learningOptions({ rank: 3, alpha: 6, steps: 4, batch: 2, tokens: 8, distillation: 0 });
    const before = createStudent(teacher, options, createRng(1, "adapters"));
    const step = await studentStep(before, { windows: toyWindows(2, 8), ...wide, options });
    assertEquals(step.hiddenGradient!.length, 32);
    assert(step.maskGradients.every(({ layer }) => layer!.length === 1 && layer![0] !== 0));
    const expected = await maskedLogits(before.model, { ...wide, masks: await scaledMasks(before, wide.masks) });
    const tolerance = { atol: 1e-4 * Math.max(...expected.map(Math.abs)), rtol: 0 };
    using compact = freed(await pruneModel(teacher, plan));
    const cut = await cutStudent(before, { compact, plan, config: teacher.config, options });
    foldParts(compact, await trainedParts(cut, narrow));
    assertClose(await maskedLogits(compact, {}), expected, tolerance, "logits of the merged model");
    disposeStudent(cut);
    free();
  }
});
