/** Prefill and decode throughput, after llama-bench: `ppN`, N tokens of a prompt at once from an empty cache; `tgN`, N
 * tokens one at a time with a key/value cache, also from an empty cache. Never mixed in one figure.
 *
 * Prompts are random ids (seeded), the beginning-of-sequence token first; decoding is greedy and passes over
 * end-of-sequence. Nothing is encoded or sampled within the timed region, and the clock stops when the device's result
 * has been read. One untimed pass of the same shape comes first.
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

/** What to time. */
export type ThroughputChoice = NonNullable<RunConfig["throughput"]>;

/** Options of {@linkcode measureThroughput}. */
export interface ThroughputOptions {
  /** Seed of the prompt's ids. */
  seed?: number;
  /** Stops between two steps. */
  signal?: AbortSignal;
}

/** Milliseconds of each repeat of `work`, after one untimed repeat. */
async function timeRepeats(repeats: number, work: () => Promise<void>): Promise<number[]> {
  await work();
  const samplesMs: number[] = [];
  for (let i = 0; i < repeats; i++) {
    const start = performance.now();
    await work();
    samplesMs.push(performance.now() - start);
  }
  return samplesMs;
}

/** Throughput from raw samples: tokens/s of each repeat, then their mean and sample standard deviation. */
export function summarise(name: string, batch: number, tokens: number, samplesMs: number[]): ThroughputResult {
  const rates = samplesMs.map((ms) => 1000 * batch * tokens / ms);
  return { name, batch, tokensPerS: { mean: mean(rates), sd: sampleSd(rates) }, samplesMs };
}

/** Times prefill and decode of `model`. Nothing else should run on the machine.
 * @throws {UsageError} when the lengths exceed the model's positions. */
export async function measureThroughput(
  model: DecoderModel,
  { prefillTokens, decodeTokens, batch, repeats }: ThroughputChoice,
  { seed = 0, signal }: ThroughputOptions = {},
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
  const first = Int32Array.from({ length: batch }, (_, row) => at(prompt, row * prefillTokens));

  const prefill = await timeRepeats(repeats, async () => {
    signal?.throwIfAborted();
    disposeCache((await greedyStep(model, prompt, batch, null)).cache);
  });
  const decode = await timeRepeats(repeats, async () => {
    const { cache } = await greedyTokens(model, first, decodeTokens, null, signal);
    if (cache) disposeCache(cache);
  });
  return [
    summarise(`pp${prefillTokens}`, batch, prefillTokens, prefill),
    summarise(`tg${decodeTokens}`, batch, decodeTokens, decode),
  ];
}
