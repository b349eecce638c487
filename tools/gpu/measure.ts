/** Measures one model on a device, in its own process: `measure.ts ENGINE device|memory|SHAPE SIZE [PYTHON DEVICE]`
 * prints an array of {@linkcode Finding} as JSON, or why there is none. With Python, PyTorch does the same on its
 * device. A step that ends its process cannot end the check.
 *
 * @module
 */
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs";
import { withTempFolder } from "../../benchmarks/commands/command.ts";
import { type Engine, keepsFactors, measureRate, startEngine } from "../../core/engine/engine.ts";
import { isOutOfMemory } from "../../core/schema/failure.ts";
import { trainingSchema } from "../../core/schema/schema.ts";
import { at, lookUp } from "../../core/util/indexing.ts";
import { hostMemory } from "../../core/engine/device_memory.ts";
import { matrixProduct } from "../../core/engine/ops.ts";
import { createRng } from "../../core/util/rng.ts";
import { median } from "../../core/util/stats.ts";
import { processBytes, scoringBytes, trainingBytes, weightBytes } from "../../benchmarks/cells/cell_cost.ts";
import { packBatches } from "../../benchmarks/evaluation/packing.ts";
import { startPeer } from "../../benchmarks/timing/peer_process.ts";
import { modelPasses } from "../../benchmarks/timing/throughput.ts";
import {
  type DecoderConfig,
  expectedTensors,
  LINEAR_NAMES,
  linearShape,
  memorySource,
  type WeightSource,
} from "../../models/config.ts";
import { totalParameters } from "../../models/count.ts";
import { disposeModel, uploadModel } from "../../models/device.ts";
import { exportHfFolder } from "../../models/export.ts";
import { openModel } from "../../models/load.ts";
import { FAST_TOKENS, scoringModel } from "../../models/scoring.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { createStudent, disposeStudent, studentStep } from "../../models/training/student.ts";
import { LLAMA_7B, toyConfig } from "../../tests/support/toy.ts";
import { countTraffic } from "../../tests/support/traffic.ts";
import { compare, ours, torchSide } from "../bench/bench_engine.ts";

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

/** Seconds that a process with one model may take. */
export const MODEL_LIMIT_S = 240;

const gigabytes = (bytes: number) =>
  bytes < 1e8 ? `${(bytes / 1e6).toFixed(1)} MB` : bytes < Infinity ? `${(bytes / 1e9).toFixed(2)} GB` : "any size";
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
    const block = dims.length === 1 ? noise.map(() => 1) : noise.map((x) => x * scale);
    for (let i = 0; i < data.length; i += block.length) data.set(block.subarray(0, data.length - i), i);
    return { shape: dims, data };
  };
  return { ...memorySource(config, new Map(), "random"), read };
}

const sourceOf = async (name: string): Promise<WeightSource> =>
  name === "bundled" ? (await openModel("tiny")).source : randomSource(SHAPES[name]!);

const randomTokens = ({ vocabSize, maxPositions }: DecoderConfig, most: number): Int32Array => {
  const rng = createRng(0, "check-gpu tokens");
  return Int32Array.from({ length: Math.min(most, maxPositions) }, () => rng.integer(vocabSize));
};

/** Bytes of a model that scores 512 tokens, or trains on `tokens`; with the process, where it shares the memory. */
function plannedBytes(engine: Engine, config: DecoderConfig, tokens: number): number {
  const deviceBytes = weightBytes(config) + Math.max(scoringBytes(config, 512), trainingBytes(config, tokens));
  return engine.memory === hostMemory ? processBytes({ deviceBytes }, engine.name) : deviceBytes;
}

/** Why a model is not measured; undefined if it is. */
function whyNot(
  engine: Engine,
  config: DecoderConfig,
  { bytes, flops, rate }: { bytes: number; flops: number; rate: number },
): string | undefined {
  const { memory: { freeBytes, place }, maxTensorBytes } = engine;
  if (largestMatrix(config) > maxTensorBytes) {
    const [matrix, tensor] = [largestMatrix(config), maxTensorBytes].map(gigabytes);
    return `its largest matrix has ${matrix}; one tensor may have ${tensor}`;
  }
  if (bytes > freeBytes()) return `planned: ${gigabytes(bytes)}; free: ${gigabytes(freeBytes())} of ${place}`;
  // Half of the rate, as a guess.
  const seconds = 2 * flops / rate;
  if (seconds > MODEL_LIMIT_S) {
    return `planned: ${seconds.toFixed(0)} s at ${teraflops(rate)}; the step may take ${MODEL_LIMIT_S} s`;
  }
}

const teraflops = (rate: number) => `${(rate / 1e12).toPrecision(3)} TFLOP/s`;

/** Largest matrix of a layer: those of the vocabulary are split. */
const largestMatrix = (config: DecoderConfig): number =>
  4 * Math.max(...[...expectedTensors(config)].map(([name, dims]) => name.includes("layers") ? sizeOf(dims) : 0));

async function device(engine: Engine): Promise<Finding[]> {
  const { source } = await openModel("tiny");
  const limits = { "bundled model": source.config, ...SHAPES };
  source.close();
  let driver = "nvidia-smi names none";
  try {
    const args = ["--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader"];
    const { success, stdout } = await new Deno.Command("nvidia-smi", { args }).output();
    if (success) driver = new TextDecoder().decode(stdout).trim().replaceAll("\n", "; ");
  } catch {
    // No GPU of NVIDIA's.
  }
  return [
    { what: "engine", value: engine.library },
    { what: "device", value: engine.device },
    { what: "GPUs of NVIDIA: name, driver, compute capability, memory", value: driver },
    { what: "memory of the device", value: gigabytes(engine.memory.totalBytes()) + `, ${engine.memory.place}` },
    {
      what: "products keep f32 factors (1 + 2^-12; TF32 gives 1)",
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

/** The slowest product of a layer with a linear map, forwards or for the gradient: one in a slow loop stands out. */
async function slowestProduct(config: DecoderConfig, rows: number, rate: number): Promise<Finding> {
  const launches = 8;
  let slowest = { name: "", rate: Infinity };
  for (const name of LINEAR_NAMES) {
    const w = tf.randomNormal(linearShape(config, at(config.layers, 0), name)) as tf.Tensor2D;
    for (const isBack of [false, true]) {
      const x = tf.randomNormal([rows, at(w.shape, isBack ? 1 : 0)]) as tf.Tensor2D;
      const ms = await timed(2, async () => {
        // One number of the last is read, so that the transfer takes no time.
        const outs = Array.from({ length: launches }, () => matrixProduct(x, w, isBack));
        const corner = tf.slice(at(outs, launches - 1), [0, 0], [1, 1]);
        await corner.data();
        tf.dispose([...outs, corner]);
      });
      x.dispose();
      const own = 2 * rows * w.size * launches * 1000 / ms;
      if (own < slowest.rate) slowest = { name: `${name}, ${isBack ? "gradient" : "forwards"}`, rate: own };
    }
    w.dispose();
  }
  const value = `${slowest.name}: ${(100 * slowest.rate / rate).toFixed(1)} % of the large product's rate`;
  return { what: `slowest product of a layer, ${rows} rows`, value };
}

/** Rate of a product that is large enough for a GPU, and not too large for a processor. */
async function largeProduct(isSmall: boolean): Promise<number> {
  const rate = await measureRate(isSmall ? 256 : 1024);
  return isSmall || rate < 5e11 ? rate : await measureRate(4096);
}

async function speed(engine: Engine, name: string, smallest: boolean): Promise<Finding[] | string> {
  const source = await sourceOf(name);
  const { config } = source;
  const [decodeTokens, repeats] = smallest ? [4, 1] : [32, 3];
  const window = randomTokens(config, smallest ? 32 : 512);
  const { length } = window;
  const rate = await largeProduct(smallest);
  const parameters = totalParameters(config);
  const bytes = plannedBytes(engine, config, length);
  // Prefill, scoring 512 tokens, a mask gradient, a training step.
  const flops = parameters * (repeats + 1) * ((2 + 6 + 4) * length + 2 * 512);
  const reason = whyNot(engine, config, { bytes, flops, rate });
  if (reason) return reason;
  const findings: Finding[] = [{ what: "one large product", value: teraflops(rate) }];
  findings.push(await slowestProduct(config, length, rate));
  const model = await uploadModel(source);
  source.close();
  const add = (what: string, ms: number, count: number, flopsPerToken = 0) => {
    const share = flopsPerToken > 0
      ? `, ${(100 * flopsPerToken * count * 1000 / ms / rate).toFixed(1)} % of the large product's rate`
      : "";
    findings.push({ what, value: `${(count * 1000 / ms).toFixed(0)} tokens/s (${ms.toFixed(1)} ms)${share}` });
  };
  const addReads = (what: string, reads: number, most: number) =>
    findings.push({ what: `reads of ${what}`, value: `${reads}, at most ${most}`, holds: reads <= most });
  const passes = modelPasses(model, { prefillTokens: length, decodeTokens, batch: 1 });
  add(`prefill, ${length} tokens`, await timed(repeats, passes.prefill), length, 2 * parameters);
  add(`decoding, ${decodeTokens} tokens`, await timed(repeats, passes.decode), decodeTokens);
  addReads(`decoding ${decodeTokens} tokens`, (await countTraffic(passes.decode)).reads, 1);
  const sequences = Array.from({ length: 16 }, () => ({ ids: [...window.slice(0, 32)], scored: 31 }));
  const [packed] = packBatches(sequences, FAST_TOKENS[engine.name]);
  const score = () => scoringModel(model).score(packed!.batch, packed!.targets);
  add("scoring, one batch", await timed(repeats, score), packed!.batch.tokens.length, 2 * parameters);
  addReads("a scoring batch", (await countTraffic(score)).reads, 1);

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
  const { reads } = await countTraffic(step);
  // Elsewhere the host steps: it reads gradients and adapters, and a read of the machine's own memory costs nothing.
  if (engine.stepsOnDevice || engine.readsWaitForQueue) {
    addReads("a training step", reads, engine.stepsOnDevice ? 1 : 2);
  }
  disposeStudent(student);
  engine.check();
  const { bytes: peak, measure } = engine.memory.peak();
  const host = hostMemory.peak();
  findings.push(
    { what: "memory, planned", value: `${gigabytes(bytes)}, of which weights ${gigabytes(weightBytes(config))}` },
    { what: "memory, measured", value: `${gigabytes(peak)}, ${measure}` },
  );
  if (engine.memory !== hostMemory) {
    findings.push({ what: "host memory", value: `${gigabytes(host.bytes)}, ${host.measure}` });
  }
  disposeModel(model);
  return findings;
}

/** Logits and the mask gradient in turns with PyTorch on `device`; their numbers must agree. */
async function besideTorch(
  engine: Engine,
  { name, smallest, python, device }: { name: string; smallest: boolean; python: string; device: string },
): Promise<Finding[] | string> {
  const source = await sourceOf(name);
  const tokens = randomTokens(source.config, smallest ? 32 : 512);
  const repeats = smallest ? 1 : 3;
  const bytes = 2 * plannedBytes(engine, source.config, tokens.length);
  const flops = (repeats + 2) * 16 * tokens.length * totalParameters(source.config);
  const reason = whyNot(engine, source.config, { bytes, flops, rate: await largeProduct(smallest) });
  if (reason) return reason;
  return await withTempFolder(async (folder) => {
    // PyTorch reads ids: any tokenizer will do.
    const { tokenizerDefinition: tokenizer } = await openModel("tiny");
    const to = join(folder, "model");
    exportHfFolder(source, { to, dtype: "F32", tokenizer });
    const peer = await startPeer("PyTorch", python, [join(import.meta.dirname!, "../peers/torch_engine.py")]);
    const setup = { model: to, tokens: [...tokens], threads: engine.threads, dtype: "float32", device };
    const sides = [await ours(source, tokens, "exact", engine.name), await torchSide(peer, setup)];
    const lines = await compare(sides, { tokens: tokens.length, repeats, tolerance: 1e-3 });
    await peer.close();
    return lines.map((line) => {
      const [what = "", ...value] = line.split(": ");
      return { what, value: value.join(": ") };
    });
  });
}

if (import.meta.main) {
  const [name, what = "", size, python, torchDevice = "cpu"] = Deno.args;
  const engine = await startEngine(name as Engine["name"]);
  const smallest = size === "smallest";
  const parts: Record<string, typeof device> = { device, memory };
  const found = await (parts[what]?.(engine) ??
    (python
      ? besideTorch(engine, { name: what, smallest, python, device: torchDevice })
      : speed(engine, what, smallest)));
  console.log(JSON.stringify(found));
  Deno.exit(0);
}
