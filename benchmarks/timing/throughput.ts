/** Prefill and decode throughput, after llama-bench: `ppN`, N tokens of a prompt at once from an empty cache; `tgN`, N
 * tokens one at a time with a key/value cache, also from an empty cache. Never mixed in one figure.
 *
 * Prompts are random ids (seeded), the beginning-of-sequence token first; decoding is greedy and passes over
 * end-of-sequence. Nothing is encoded or sampled within the timed region, and the clock stops when the device's result
 * has been read. One untimed pass of the same shape comes first.
 *
 * Repeats alternate with the dense model's, in the order dense, pruned, pruned, dense, …: a machine that grows slower
 * meanwhile slows both, and neighbouring repeats give the speed-up.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import type { RunConfig, ThroughputResult } from "../../core/schema/schema.ts";
import { mean, sampleSd } from "../../core/util/stats.ts";
import { greedyStep, greedyTokens } from "../../models/generate.ts";
import { disposeCache, type KvCache } from "../../models/decode.ts";
import type { DecoderModel } from "../../models/device.ts";
import { watchOtherCores } from "./machine_load.ts";

/** What to time. */
export type ThroughputChoice = NonNullable<RunConfig["throughput"]>;

/** Options of {@linkcode measureThroughput}. */
export interface ThroughputOptions {
  /** The dense model that `model` was cut from, to alternate with; `model` itself, where that is dense, shows the error of
   * the measurement. Without it the repeats follow each other. */
  dense?: DecoderModel;
  /** Threads of this process's engine, for the result. */
  threads?: number;
  /** Seed of the prompt's ids. */
  seed?: number;
  /** Stops between two steps. */
  signal?: AbortSignal;
}

/** One pass of what is timed; gives its milliseconds. */
export type Pass = () => Promise<number>;

/** What is timed of a model. */
export interface Passes {
  /** `ppN`. */
  prefill: Pass;
  /** `tgN`. */
  decode: Pass;
}

/** Milliseconds of each repeat of each of `passes`, in turns, the first to the last, the last to the first, …, after an
 * untimed round. */
export async function timeInTurns(repeats: number, passes: readonly Pass[]): Promise<number[][]> {
  const samplesMs = passes.map((): number[] => []);
  for (const pass of passes) await pass();
  for (let i = 0; i < repeats; i++) {
    const order = [...passes.entries()];
    if (i % 2 === 1) order.reverse();
    for (const [index, pass] of order) at(samplesMs, index).push(await pass());
  }
  return samplesMs;
}

/** Throughput from raw samples: tokens/s of each repeat, then their mean and sample standard deviation. */
export function summarise(name: string, batch: number, tokens: number, samplesMs: number[]): ThroughputResult {
  const rates = samplesMs.map((ms) => 1000 * batch * tokens / ms);
  return { name, batch, tokensPerS: { mean: mean(rates), sd: sampleSd(rates) }, samplesMs };
}

/** Prefill and decode of a model on this process's engine. Models of one vocabulary get the same prompts.
 * @throws {UsageError} when the lengths exceed the model's positions. */
export function modelPasses(
  model: DecoderModel,
  { prefillTokens, decodeTokens, batch }: Omit<ThroughputChoice, "repeats">,
  { seed = 0, signal }: Pick<ThroughputOptions, "seed" | "signal"> = {},
): Passes {
  const { vocabSize, maxPositions, bosTokenId } = model.config;
  const longest = Math.max(prefillTokens, decodeTokens);
  if (longest > maxPositions) {
    throw new UsageError(`Throughput over ${longest} tokens exceeds the model's ${maxPositions} positions: use fewer`);
  }
  const rng = createRng(seed, "throughput");
  const prompt = Int32Array.from(
    { length: batch * prefillTokens },
    (_, i) => i % prefillTokens === 0 && bosTokenId !== null ? bosTokenId : rng.integer(vocabSize),
  );
  const first = Int32Array.from({ length: batch }, (_, row) => at(prompt, row * prefillTokens));
  const timed = (work: () => Promise<KvCache | null>): Pass => async () => {
    signal?.throwIfAborted();
    const start = performance.now();
    const cache = await work();
    if (cache) disposeCache(cache);
    return performance.now() - start;
  };
  return {
    prefill: timed(async () => (await greedyStep(model, prompt, batch, null)).cache),
    decode: timed(async () => (await greedyTokens(model, first, decodeTokens, null, signal)).cache),
  };
}

/** Times prefill and decode of `model`, in turns with the dense model. Nothing else should run on the machine.
 * @throws {UsageError} when the lengths exceed the model's positions. */
export async function measureThroughput(
  model: DecoderModel,
  choice: ThroughputChoice,
  { dense, threads, seed, signal }: ThroughputOptions = {},
): Promise<ThroughputResult[]> {
  const { prefillTokens, decodeTokens, batch, repeats } = choice;
  const own = modelPasses(model, choice, { seed, signal });
  const before = dense && modelPasses(dense, choice, { seed, signal });
  const time = async (name: string, tokens: number, kind: keyof Passes): Promise<ThroughputResult> => {
    const otherCores = watchOtherCores();
    const samplesMs = await timeInTurns(repeats, [...before ? [before[kind]] : [], own[kind]]);
    return {
      ...summarise(name, batch, tokens, at(samplesMs, samplesMs.length - 1)),
      ...before && { denseSamplesMs: at(samplesMs, 0) },
      ...threads !== undefined && { threads },
      otherCores: otherCores(),
    };
  };
  return [
    await time(`pp${prefillTokens}`, prefillTokens, "prefill"),
    await time(`tg${decodeTokens}`, decodeTokens, "decode"),
  ];
}
