/** Time and memory of one training step of mask-prune on the native engine.
 *
 * The step: forward and backward pass with adapters and masks, cross entropy and divergence from the dense model's 64
 * most probable tokens, clipping, AdamW. Proximal and width steps touch no weights and are left out. PyTorch (`--peer
 * torch`) and, for fast arithmetic, exact are timed in turns; a ratio needs equal losses. Memory is the resident set:
 * its peak, after the untimed steps, and at the end (`--steps 200` shows growth).
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { hostMemory } from "../../core/engine/device_memory.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { createRng } from "../../core/util/rng.ts";
import { writeTensorFile } from "../../core/formats/safetensors.ts";
import { type Arithmetic, type TrainingOptions, trainingSchema } from "../../core/schema/schema.ts";
import type { HostTensor, WeightSource } from "../../models/config.ts";
import { type DecoderModel, uploadModel, usualForm } from "../../models/device.ts";
import { exportHfFolder } from "../../models/export.ts";
import { openModel } from "../../models/load.ts";
import type { LossTerms } from "../../models/training/loss.ts";
import { createMoments, readTensors, scheduleFactor, stepValues } from "../../models/training/optimizer.ts";
import { createStudent, type HostMasks, type Student, studentStep } from "../../models/training/student.ts";
import { type TeacherTargets, teacherTargets } from "../../models/training/teacher.ts";
import { countFlag, withTempFolder } from "../../benchmarks/commands/command.ts";
import { startTorch } from "../setup/setup_common.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import { inTurns, ratios, type Side as TurnSide, spread, TORCH_FLAGS, TORCH_HELP, torchFlags } from "./in_turns.ts";

const FLAGS = [...TORCH_FLAGS, "steps", "batch", "tokens", "rank"] as const;
const HELP = `deno task bench:step [options]

  --steps N      timed steps (default: 10)
  --batch N      sequences of a step (default: 2)
  --tokens N     tokens of a sequence (default: 256)
  --rank N       rank of the adapters (default: 8)
${TORCH_HELP}`;

/** Batches that the steps go through in turn. */
const BATCHES = 4;
/** Steps before the clock and the first look at memory. */
const UNTIMED = 3;
const MASK_RULE = { betas: [0.9, 0.95] as [number, number] } as const;
const MASK_RATE = 0.002;

/** What one step of one side gives. */
type Outcome = Pick<LossTerms, "crossEntropy" | "distillation"> & { ms: number; residentBytes: number };

/** A batch with the teacher's targets. */
interface Batch {
  windows: Int32Array[];
  targets: TeacherTargets[];
}

/** Our side: one step on batch `i` modulo their number. */
function ours(student: Student, batches: Batch[], options: TrainingOptions): (i: number) => Promise<Outcome> {
  let masks = student.base.config.layers.map((shape): HostMasks => ({
    "ffn": new Float32Array(shape.ffnChannels).fill(1),
    "kv-groups": new Float32Array(shape.kvGroups).fill(1),
  }));
  const moments = masks.map((layer) => ({
    "ffn": createMoments(layer.ffn!.length),
    "kv-groups": createMoments(layer["kv-groups"]!.length),
  }));
  return async (i) => {
    const start = performance.now();
    const { terms, maskGradients } = await studentStep(student, { ...at(batches, i % batches.length), masks, options });
    const stepped = (l: number, type: "ffn" | "kv-groups") =>
      stepValues(at(masks, l)[type]!, at(maskGradients, l)[type]!, at(moments, l)[type], {
        rule: MASK_RULE,
        rate: MASK_RATE,
        step: i,
      });
    masks = masks.map((_, l) => ({ "ffn": stepped(l, "ffn"), "kv-groups": stepped(l, "kv-groups") }));
    return { ...terms, ms: performance.now() - start, residentBytes: hostMemory.usedBytes() };
  };
}

/** Adapters, tokens and targets for the peer, f32. */
async function writeShared(path: string, student: Student, batches: Batch[]): Promise<void> {
  const tensors = new Map<string, HostTensor>();
  const { parameters } = student.adapters;
  const values = await readTensors(Object.values(parameters));
  Object.entries(parameters).forEach(([name, { shape }], i) =>
    tensors.set(name, { shape: [...shape], data: at(values, i) })
  );
  batches.forEach(({ windows, targets }, i) => {
    const { length } = at(windows, 0);
    const rows = (length - 1) * windows.length;
    const { topK } = at(targets, 0);
    const join = (parts: ArrayLike<number>[]) => Float32Array.from(parts.flatMap((part) => Array.from(part)));
    tensors.set(`batch.${i}.tokens`, { shape: [windows.length, length], data: join(windows) });
    tensors.set(`batch.${i}.ids`, { shape: [rows, topK], data: join(targets.map(({ ids }) => ids)) });
    tensors.set(`batch.${i}.logProbs`, { shape: [rows, topK], data: join(targets.map(({ logProbs }) => logProbs)) });
  });
  writeTensorFile(path, tensors);
}

async function makeBatches(model: DecoderModel, { batch, tokens, teacherTokens }: TrainingOptions): Promise<Batch[]> {
  const rng = createRng(0, "bench-step");
  const batches: Batch[] = [];
  for (let i = 0; i < BATCHES; i++) {
    const windows = Array.from(
      { length: batch },
      () => Int32Array.from({ length: tokens }, () => rng.integer(model.config.vocabSize)),
    );
    const targets: TeacherTargets[] = [];
    for (const window of windows) {
      targets.push(await teacherTargets(model, { tokens: window, batch: 1, length: tokens }, { topK: teacherTokens }));
    }
    batches.push({ windows, targets });
  }
  return batches;
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;

/** A program that takes steps. */
interface Side extends TurnSide<Outcome> {
  peakBytes(): Promise<number>;
}

/** Runs the sides in turns, the first of which is ours, and prints times, memory and ratios.
 * @throws {NumericError} when losses differ by more than a fraction of `tolerance` in the first `compared` steps. */
async function compare(sides: Side[], steps: number, tolerance: number, compared: number): Promise<void> {
  const values = ({ crossEntropy, distillation }: Outcome) => [crossEntropy, distillation];
  const outcomes = await inTurns(sides, { untimed: UNTIMED, timed: steps, tolerance, values, compared });
  const { crossEntropy, distillation } = at(outcomes, 0).at(-1)!;
  console.log(`last step: cross entropy ${crossEntropy.toFixed(4)}, divergence ${distillation.toFixed(4)}`);
  const times = outcomes.map((of) => of.map(({ ms }) => ms));
  for (const [j, { name, peakBytes }] of sides.entries()) {
    const [first, last] = [at(outcomes, j)[0], at(outcomes, j).at(-1)].map((one) => megabytes(one!.residentBytes));
    console.log(`${name}: median of a step ${spread(at(times, j), 0, `${steps} steps`, " ms")}`);
    const peak = megabytes(await peakBytes());
    console.log(`${name}: resident ${first} after ${UNTIMED + 1} steps, ${last} at the end, peak ${peak}`);
    if (j === 0) continue;
    console.log(`same losses in ${compared} steps; ratio ${ratios(at(times, j), at(times, 0))} over ${name}`);
  }
}

/** Our side: a student of its own in this process. The targets are those of `batches`, or of its own model. */
async function ourSide(
  source: WeightSource,
  options: TrainingOptions,
  arithmetic: Arithmetic,
  given?: Batch[],
): Promise<Side & { student: Student; batches: Batch[] }> {
  const enter = () => startEngine("tensorflow", { arithmetic });
  const engine = await enter();
  const model = await uploadModel(source, usualForm(source, engine));
  const { optimizer, ...rest } = createStudent(model, { ...options, recover: "lora" }, createRng(0, "adapters"));
  // The peer trains adapters alone.
  const groups = optimizer.groups.filter(({ name }) => name === "adapters");
  const student: Student = { ...rest, scales: {}, optimizer: { ...optimizer, groups } };
  const batches = given ?? await makeBatches(model, options);
  const turn = ours(student, batches, options);
  const peakBytes = () => Promise.resolve(hostMemory.peak().bytes);
  return { name: `${engine.library}, ${arithmetic}`, enter, turn, peakBytes, student, batches };
}

async function main(flags: ToolArgs<typeof FLAGS[number], never>): Promise<void> {
  const { path, threads, arithmetic, dtype, tolerance } = torchFlags(flags, 2e-3);
  const [steps, batch] = [countFlag(flags, "steps") ?? 10, countFlag(flags, "batch") ?? 2];
  const [tokens, rank] = [countFlag(flags, "tokens", 2) ?? 256, countFlag(flags, "rank") ?? 8];
  const options = trainingSchema.parse({ steps: steps + UNTIMED, batch, tokens, rank });
  // Before anything is loaded: a process's peak begins with the memory of the one that started it.
  const peer = flags.peer ? await startTorch("PyTorch", "torch_step.py") : undefined;
  await withTempFolder(async (folder) => {
    try {
      const { source, tokenizerDefinition: tokenizer } = await openModel(path);
      const own = await ourSide(source, options, arithmetic);
      const { student, batches } = own;
      const sides: Side[] = [own];
      if (peer) {
        const [model, shared] = [`${folder}/model`, `${folder}/shared.safetensors`];
        exportHfFolder(source, { to: model, dtype: "F32", tokenizer });
        await writeShared(shared, student, batches);
        const { crossEntropy, distillation, clipNorm } = options;
        const weights = { crossEntropy, distillation, clipNorm, scale: student.adapters.scale };
        await peer.ask({ model, shared, batches: BATCHES, threads, dtype, ...weights });
        const { learningRate, schedule } = at(student.optimizer.groups, 0);
        const { ask, versions } = peer;
        sides.push({
          name: `${versions}, ${dtype}`,
          turn: (step) => ask({ step, rate: learningRate * scheduleFactor(schedule!, step), maskRate: MASK_RATE }),
          peakBytes: async () => (await ask<{ peakBytes: number }>({ end: true })).peakBytes,
        });
      }
      if (arithmetic === "fast") sides.push(await ourSide(source, options, "exact", batches));
      source.close();
      const work = `${batch} x ${tokens} random tokens, rank ${rank}, ${threads} threads`;
      console.log(`${path}, ${work}, ${arithmetic}, in turns`);
      // Rounded sides drift apart as they train.
      await compare(sides, steps, tolerance, arithmetic === "fast" || dtype !== "float32" ? 1 : UNTIMED + steps);
    } finally {
      await peer?.close();
    }
  });
}

if (import.meta.main) await runTool({ help: HELP, string: FLAGS }, main);
