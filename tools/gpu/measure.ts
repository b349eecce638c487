/** What a device does with one model, as a process of its own: `measure.ts ENGINE device|memory|SHAPE SIZE` prints one
 * JSON array of {@linkcode Finding}. A step that ends its process cannot end the check.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { type Engine, keepsFactors, measureRate, startEngine } from "../../core/engine/engine.ts";
import { isOutOfMemory } from "../../core/schema/failure.ts";
import { trainingSchema } from "../../core/schema/schema.ts";
import { at, lookUp } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { median } from "../../core/util/stats.ts";
import { packBatches } from "../../benchmarks/evaluation/packing.ts";
import { modelPasses } from "../../benchmarks/timing/throughput.ts";
import { type DecoderConfig, expectedTensors, memorySource, type WeightSource } from "../../models/config.ts";
import { totalParameters } from "../../models/count.ts";
import { disposeModel, uploadModel } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { FAST_TOKENS, scoringModel } from "../../models/scoring.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { createStudent, disposeStudent, studentStep } from "../../models/training/student.ts";
import { LLAMA_7B, toyConfig } from "../../tests/support/toy.ts";
import { countTraffic } from "../../tests/support/traffic.ts";

/** One line of the report. */
export interface Finding {
  what: string;
  value: string;
  /** Whether it is as it must be; absent for a measured number. */
  holds?: boolean;
}

const shape = (count: number, [kvGroups, queryHeadsPerGroup, ffnChannels]: [number, number, number]) =>
  Array.from({ length: count }, () => ({ kvGroups, queryHeadsPerGroup, ffnChannels }));

/** Shapes of random models: SmolLM2-135M, TinyLlama-1.1B (both from their config.json), LLaMA-7B. */
export const SHAPES: Record<string, DecoderConfig> = {
  "135M": toyConfig({
    vocabSize: 49152,
    width: 576,
    headSize: 64,
    maxPositions: 2048,
    layers: shape(30, [3, 3, 1536]),
  }),
  "1.1B": toyConfig({
    ...{ vocabSize: 32000, width: 2048, headSize: 64, tiedHead: false, maxPositions: 2048 },
    layers: shape(22, [4, 8, 5632]),
  }),
  "7B": LLAMA_7B,
};

const gigabytes = (bytes: number) => bytes < 1e8 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
const sizeOf = (dims: number[]) => dims.reduce((a, b) => a * b, 1);

/** Random weights that repeat one block of noise: their speed is that of any others, and they are made at once. */
function randomSource(config: DecoderConfig): WeightSource {
  const rng = createRng(0, "check-gpu");
  const noise = Float32Array.from({ length: 2 ** 16 }, () => rng.normal());
  const shapes = expectedTensors(config);
  const read = (name: string) => {
    const dims = lookUp(shapes, name);
    const scale = dims.length === 1 ? 0 : 1 / Math.sqrt(at(dims, 1));
    const data = new Float32Array(sizeOf(dims));
    for (let i = 0; i < data.length; i++) data[i] = dims.length === 1 ? 1 : noise[i % 65521]! * scale;
    return { shape: dims, data };
  };
  return { ...memorySource(config, new Map(), "random"), read };
}

/** Largest matrix of a layer: those of the vocabulary are split. */
const largestMatrix = (config: DecoderConfig): number =>
  4 * Math.max(...[...expectedTensors(config)].map(([name, dims]) => name.includes("layers") ? sizeOf(dims) : 0));

async function device(engine: Engine): Promise<Finding[]> {
  const { source } = await openModel("tiny");
  const limits = { "bundled model": source.config, ...SHAPES };
  source.close();
  return [
    { what: "engine", value: engine.library },
    { what: "device", value: engine.device },
    { what: "memory of the device", value: gigabytes(engine.memory.totalBytes()) + `, ${engine.memory.place}` },
    {
      what: "factors of products keep f32 (1 + 2^-12; TF32 gives 1)",
      ...await keepsFactors((a, b) => tf.matMul(a, b)) ? { value: "yes", holds: true } : { value: "no", holds: false },
    },
    ...Object.entries(limits).map(([name, config]) => ({
      what: `largest matrix, ${name}`,
      value: `${gigabytes(largestMatrix(config))}; one tensor may have ${gigabytes(engine.maxTensorBytes)}` +
        (largestMatrix(config) > engine.maxTensorBytes ? ": does not run" : ""),
    })),
  ];
}

/** Asks for one tensor larger than the device holds, and computes afterwards. */
async function memory(engine: Engine): Promise<Finding[]> {
  const bytes = Number.isFinite(engine.maxTensorBytes) ? 2 * engine.maxTensorBytes : 2 * engine.memory.totalBytes();
  let message = "nothing was reported";
  let reported = false;
  try {
    const tensor = tf.fill([Math.ceil(bytes / 2 ** 20), 2 ** 18], 1);
    await tf.tidy(() => tf.slice(tensor, [0, 0], [1, 1])).data();
    tensor.dispose();
    engine.check();
  } catch (error) {
    reported = engine.name === "webgpu" || isOutOfMemory(error);
    message = (error as Error).message.split("\n")[0]!.slice(0, 200);
  }
  const eye = tf.tidy(() => tf.matMul(tf.fill([64, 64], 3), tf.eye(64)));
  const works = (await eye.data()).every((value) => value === 3);
  return [
    { what: `one tensor of ${gigabytes(bytes)}`, value: message, holds: reported },
    { what: "a product afterwards", value: works ? "is right" : "is wrong", holds: works },
  ];
}

/** Median milliseconds of `repeats` calls after one that is not counted. */
async function timed(repeats: number, work: () => Promise<unknown>): Promise<number> {
  const samples: number[] = [];
  for (let i = 0; i <= repeats; i++) {
    const start = performance.now();
    await work();
    if (i > 0) samples.push(performance.now() - start);
  }
  return median(samples);
}

async function speed(engine: Engine, name: string, smallest: boolean): Promise<Finding[]> {
  const source = name === "bundled" ? (await openModel("tiny")).source : randomSource(SHAPES[name]!);
  const { config } = source;
  const [tokens, decodeTokens, repeats] = smallest ? [32, 4, 1] : [512, 32, 3];
  const length = Math.min(tokens, config.maxPositions);
  const rate = await measureRate(smallest ? 256 : 4096);
  const model = await uploadModel(source);
  source.close();
  const rng = createRng(0, "check-gpu tokens");
  const window = Int32Array.from({ length }, () => rng.integer(config.vocabSize));
  const parameters = totalParameters(config);
  const findings: Finding[] = [{ what: "one large product", value: `${(rate / 1e12).toFixed(3)} TFLOP/s` }];
  const add = (what: string, ms: number, count: number, flopsPerToken = 0) => {
    const share = flopsPerToken > 0
      ? `, ${(100 * flopsPerToken * count * 1000 / ms / rate).toFixed(1)} % of the product`
      : "";
    findings.push({ what, value: `${(count * 1000 / ms).toFixed(0)} tokens/s (${ms.toFixed(1)} ms)${share}` });
  };
  const passes = modelPasses(model, { prefillTokens: length, decodeTokens, batch: 1 });
  add(`prefill, ${length} tokens`, await timed(repeats, passes.prefill), length, 2 * parameters);
  add(`decode, ${decodeTokens} tokens`, await timed(repeats, passes.decode), decodeTokens);
  const sequences = Array.from({ length: 16 }, () => ({ ids: [...window.slice(0, 32)], scored: 31 }));
  const [packed] = packBatches(sequences, FAST_TOKENS[engine.name]);
  const score = () => scoringModel(model).score(packed!.batch, packed!.targets);
  add("scoring, one batch", await timed(repeats, score), packed!.batch.tokens.length, 2 * parameters);
  const { reads } = await countTraffic(score);
  findings.push({ what: "reads of a scoring batch", value: `${reads}, may be 1`, holds: reads === 1 });

  const masks = config.layers.map(({ ffnChannels }) => ({ ffn: tf.ones([ffnChannels]) as tf.Tensor1D }));
  const weights = { crossEntropy: 1, distillation: 0, temperature: 1, hidden: 0 };
  const variables = masks.map(({ ffn }) => ffn);
  const gradient = () => batchGradients({ model, masks, windows: [window], weights, variables });
  add("mask gradient", await timed(repeats, gradient), length, 6 * parameters);
  tf.dispose(variables);
  const options = { ...trainingSchema.parse({ rank: 8, distillation: 0, crossEntropy: 1 }), recover: "lora" as const };
  const student = createStudent(model, options, createRng(0, "adapters"));
  const step = () => studentStep(student, { windows: [window], options });
  add("training step of adapters", await timed(repeats, step), length, 4 * parameters);
  const traffic = await countTraffic(step);
  findings.push({ what: "transfers of a training step", value: `${traffic.reads} reads, ${traffic.writes} writes` });
  disposeStudent(student);
  engine.check();
  const { bytes, measure } = engine.memory.peak();
  findings.push({ what: "memory", value: `weights ${gigabytes(4 * parameters)}; ${gigabytes(bytes)}, ${measure}` });
  disposeModel(model);
  return findings;
}

if (import.meta.main) {
  const [name, what = "", size] = Deno.args;
  const engine = await startEngine(name as Engine["name"]);
  const parts: Record<string, typeof device> = { device, memory };
  console.log(JSON.stringify(await (parts[what]?.(engine) ?? speed(engine, what, size === "smallest"))));
  Deno.exit(0);
}
