/** Passes to time, after llama-bench: `ppN`, N tokens of a prompt at once from an empty cache; `tgN`, N tokens one at a
 * time with a key/value cache, also from an empty cache. They are never mixed in one figure.
 *
 * Prompts are random ids (seeded) after the beginning-of-sequence token. Decoding is greedy and passes over the
 * end-of-sequence token. The clock stops when the device's result has been read; nothing is encoded or sampled
 * meanwhile.
 *
 * @module
 */
import os from "node:os";
import process from "node:process";
import type { RunConfig, ThroughputResult } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { mean, sampleSd } from "../../core/util/stats.ts";
import { disposeCache, type KvCache } from "../../models/decode.ts";
import type { DecoderModel } from "../../models/device.ts";
import { greedyTokens } from "../../models/generate.ts";

/** What to time. */
export type ThroughputChoice = NonNullable<RunConfig["throughput"]>;

/** One pass; gives its milliseconds. */
type Pass = () => Promise<number>;

/** What is timed of a model. */
export interface Passes {
  /** `ppN`. */
  prefill: Pass;
  /** `tgN`. */
  decode: Pass;
}

/** Milliseconds of each repeat of each pass, after an untimed round. Rounds go forwards and backwards in turn, so that
 * a drift of the machine meets all passes alike. */
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
  signal?: AbortSignal,
): Passes {
  const { vocabSize, maxPositions, bosTokenId } = model.config;
  const longest = Math.max(prefillTokens, decodeTokens);
  if (longest > maxPositions) {
    throw new UsageError(`Throughput over ${longest} tokens exceeds the model's ${maxPositions} positions: use fewer`);
  }
  const rng = createRng(0, "throughput");
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
    prefill: timed(async () => (await greedyTokens(model, prompt, { batch, steps: 1 })).cache),
    decode: timed(async () => (await greedyTokens(model, first, { batch, steps: decodeTokens, signal })).cache),
  };
}

/** Clocks in milliseconds. */
export interface Clocks {
  wall: number;
  /** Processor time of all programs, all cores together; 0 where the system does not tell. */
  machine: number;
  /** Processor time of this program, all threads together. */
  own: number;
}

function readClocks(): Clocks {
  const { user, system } = process.cpuUsage();
  const machine = os.cpus().reduce((sum, { times: { user, nice, sys, irq } }) => sum + user + nice + sys + irq, 0);
  return { wall: performance.now(), machine, own: (user + system) / 1000 };
}

/** Starts to watch how busy other programs keep the machine while something is timed.
 * @returns what tells the processor cores that other programs kept busy since then, on average, to two decimals; null
 * where the system does not tell */
export function watchOtherCores(read: () => Clocks = readClocks): () => number | null {
  const before = read();
  return () => {
    const now = read();
    if (now.machine === 0) return null;
    const others = (now.machine - before.machine) - (now.own - before.own);
    return Math.max(0, Math.round(100 * others / (now.wall - before.wall)) / 100);
  };
}
