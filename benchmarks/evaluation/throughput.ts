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
import { UsageError } from "../../core/errors.ts";
import { at } from "../../core/indexing.ts";
import { createRng } from "../../core/rng.ts";
import type { RunConfig, ThroughputResult } from "../../core/schema.ts";
import { mean, sampleSd } from "../../core/stats.ts";
import { greedyStep, greedyTokens } from "../../models/generate.ts";
import { disposeCache } from "../../models/decode.ts";
import type { DecoderModel } from "../../models/decoder.ts";
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

async function timedMs(work: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** Milliseconds of each repeat of two works in turns, `first`, `second`, `second`, `first`, …, after an untimed one of each;
 * of the second alone where there is no first. */
export async function timeInTurns(
  repeats: number,
  first: (() => Promise<void>) | undefined,
  second: () => Promise<void>,
): Promise<{ firstMs: number[]; secondMs: number[] }> {
  await first?.();
  await second();
  const [firstMs, secondMs]: [number[], number[]] = [[], []];
  for (let i = 0; i < repeats; i++) {
    if (first && i % 2 === 0) firstMs.push(await timedMs(first));
    secondMs.push(await timedMs(second));
    if (first && i % 2 === 1) firstMs.push(await timedMs(first));
  }
  return { firstMs, secondMs };
}

/** Throughput from raw samples: tokens/s of each repeat, then their mean and sample standard deviation. */
export function summarise(name: string, batch: number, tokens: number, samplesMs: number[]): ThroughputResult {
  const rates = samplesMs.map((ms) => 1000 * batch * tokens / ms);
  return { name, batch, tokensPerS: { mean: mean(rates), sd: sampleSd(rates) }, samplesMs };
}

/** Times prefill and decode of `model`, in turns with the dense model. Nothing else should run on the machine.
 * @throws {UsageError} when the lengths exceed the model's positions. */
export async function measureThroughput(
  model: DecoderModel,
  { prefillTokens, decodeTokens, batch, repeats }: ThroughputChoice,
  { dense, threads, seed = 0, signal }: ThroughputOptions = {},
): Promise<ThroughputResult[]> {
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
  const start = Int32Array.from({ length: batch }, (_, row) => at(prompt, row * prefillTokens));

  const prefill = (own: DecoderModel) => async () => {
    signal?.throwIfAborted();
    disposeCache((await greedyStep(own, prompt, batch, null)).cache);
  };
  const decode = (own: DecoderModel) => async () => {
    const { cache } = await greedyTokens(own, start, decodeTokens, null, signal);
    if (cache) disposeCache(cache);
  };
  const time = async (name: string, tokens: number, work: (own: DecoderModel) => () => Promise<void>) => {
    const otherCores = watchOtherCores();
    const { firstMs, secondMs } = await timeInTurns(repeats, dense && work(dense), work(model));
    return {
      ...summarise(name, batch, tokens, secondMs),
      ...dense && { denseSamplesMs: firstMs },
      ...threads !== undefined && { threads },
      otherCores: otherCores(),
    };
  };
  return [
    await time(`pp${prefillTokens}`, prefillTokens, prefill),
    await time(`tg${decodeTokens}`, decodeTokens, decode),
  ];
}
