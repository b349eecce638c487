/** Which batches are fast here, found out by trying: the tokens of a batch are doubled until tokens/s grows no more.
 *
 * What is tried belongs to the measurement: its scores are taken, so a trial costs no more than what its size is slower.
 *
 * @module
 */
import { median } from "simple-statistics";
import { isOutOfMemory } from "../../core/schema/failure.ts";
import { at } from "../../core/util/indexing.ts";
import type { BatchTrial } from "../../core/schema/schema.ts";
import { packBatches, type PackedBatch, packedTokens } from "./packing.ts";
import type { ScoredSequence } from "./requests.ts";

/** Tokens of a batch where nothing was tried, and of the first trial. */
export const FIRST_TOKENS = 512;
/** A batch is tried only in a measurement of so many times its tokens, and of so many after a size that was slower: four
 * batches of one that is slower again have to cost little of it. */
const [WORK_PER_BATCH, WORK_AFTER_SLOWER] = [8, 32];
/** A size must be faster by this factor than the best smaller one: a smaller gain may be the machine's other work. */
const LEAST_GAIN = 1.03;
/** Batches of a size, of which the first is not timed: a 16th of the measurement's tokens, within these limits. */
const [PART_PER_TRIAL, FEWEST_BATCHES, MOST_BATCHES] = [16, 4, 16];

/** How batches are scored, and who takes the scores. */
export interface TrialOptions<Scores> {
  score(batch: PackedBatch): Promise<Scores>;
  /** `owners`: index into the sequences for each of the batch's targets. */
  take(scores: Scores, batch: PackedBatch, owners: Int32Array): void;
  /** Milliseconds. */
  now?: () => number;
  /** Stops between two batches. */
  signal?: AbortSignal;
  /** Called after each batch with the share of the sequences that is done. */
  onProgress?(share: number): void;
}

/** What became of trials in a measurement. */
export interface TriedSizes {
  /** Tokens of the batches of each, in order. */
  tried: number[];
  /** Indices of the sequences that they did not score. */
  left: number[];
}

/** Tokens of a measurement, in rows of {@linkcode FIRST_TOKENS}. */
const workOf = (sequences: readonly ScoredSequence[]): number => packedTokens(sequences, FIRST_TOKENS);

/** The largest size that may be tried in a measurement: a power of two of at most `most` tokens and an eighth of its own; 0 where that leaves no choice. */
export function largestTrial(sequences: readonly ScoredSequence[], most: number): number {
  const largest = 2 ** Math.floor(Math.log2(Math.min(most, workOf(sequences) / WORK_PER_BATCH)));
  return largest >= 2 * FIRST_TOKENS ? largest : 0;
}

/** The size that trials speak for: the last one that was faster by 3 % than the best before it. */
export function fastestTokens(trials: readonly BatchTrial[]): number {
  return fastest(trials)?.tokens ?? FIRST_TOKENS;
}

function fastest(trials: readonly BatchTrial[]): BatchTrial | undefined {
  let [best] = trials;
  for (const trial of trials) if (best && trial.tokensPerS >= LEAST_GAIN * best.tokensPerS) best = trial;
  return best;
}

/** Whether larger sizes are not worth a trial: the last two, of which one may have been slow by chance, were not faster than
 * the best. */
function isSettled(trials: readonly BatchTrial[]): boolean {
  const best = fastest(trials);
  return best !== undefined && trials.indexOf(best) < trials.length - 2;
}

/** The size to begin with in a measurement that allows `largest` tokens, where `known` was found in others: 512, or the best
 * known one when they ended before they were done. Rates of other measurements cannot be compared with its own.
 * @returns nothing when there is nothing to try. */
export function firstTrial(known: readonly BatchTrial[], largest: number): number | undefined {
  return largest > (known.at(-1)?.tokens ?? 0) && !isSettled(known) ? fastestTokens(known) : undefined;
}

/** Scores typical rows of `left` in batches of `tokens`: those of middle length, since the longest rows come first and the
 * shortest last. They are taken when all of them fitted. How many they are follows from the sizes alone, so that a trial
 * can be repeated. The rate is of the inputs of their sequences, so that neither padding nor the repeated beginning of a
 * row counts. `work`: tokens of the whole measurement.
 * @returns nothing when batches would be of at most `other` tokens, or too few to be timed. */
async function scoreTypical<Scores>(
  sequences: readonly ScoredSequence[],
  { work, left, tokens, other = 0 }: { work: number; left: readonly number[]; tokens: number; other?: number },
  { score, take, now = () => performance.now(), signal, onProgress }: TrialOptions<Scores>,
): Promise<{ left: number[]; tokensPerS: number; size: number } | undefined> {
  const batches = [...packBatches(left.map((index) => at(sequences, index)), tokens)];
  const wanted = Math.floor(work / PART_PER_TRIAL / tokens);
  const count = Math.min(MOST_BATCHES, Math.max(FEWEST_BATCHES, wanted), batches.length);
  const first = (batches.length - count) >> 1;
  const typical = batches.slice(first, first + count).map((packed) => ({
    packed,
    owners: packed.owners.map((owner) => at(left, owner)),
  }));
  const size = typical[0]?.packed.batch.tokens.length ?? 0;
  if (count < 2 || size <= other) return undefined;
  const scored: Scores[] = [];
  const rates: number[] = [];
  const done = new Set<number>();
  for (const { packed, owners } of typical) {
    signal?.throwIfAborted();
    const start = now();
    scored.push(await score(packed));
    const seconds = (now() - start) / 1000;
    const own = new Set(owners);
    const inputs = own.values().reduce((sum, owner) => sum + at(sequences, owner).ids.length - 1, 0);
    if (done.size > 0) rates.push(inputs / seconds);
    for (const owner of own) done.add(owner);
    onProgress?.(1 - (left.length - done.size) / sequences.length);
  }
  typical.forEach(({ packed, owners }, i) => take(at(scored, i), packed, owners));
  return { left: left.filter((index) => !done.has(index)), tokensPerS: median(rates), size };
}

/** Scores a part of `sequences` in batches of `from` tokens and then of twice as many, up to `largest`, as long as they are
 * faster and fit.
 * @returns the trials with the median rate of each one's batches, and the size that did not fit. */
export async function tryBatchSizes<Scores>(
  sequences: readonly ScoredSequence[],
  { from, largest, ...options }: TrialOptions<Scores> & { from: number; largest: number },
): Promise<TriedSizes & { trials: BatchTrial[]; failed?: number }> {
  const trials: BatchTrial[] = [];
  const work = workOf(sequences);
  let left = Array.from(sequences.keys());
  let other = 0;
  const result = () => ({ trials, tried: trials.map(({ tokens }) => tokens), left });
  for (let tokens = from; tokens <= largest && !isSettled(trials); tokens *= 2) {
    const [best, last] = [fastest(trials), trials.at(-1)];
    if (best && last && last.tokensPerS * LEAST_GAIN < best.tokensPerS && tokens > work / WORK_AFTER_SLOWER) break;
    try {
      const scored = await scoreTypical(sequences, { work, left, tokens, other }, options);
      // Long rows fill batches of several sizes alike.
      if (!scored) continue;
      ({ left, size: other } = scored);
      trials.push({ tokens, tokensPerS: scored.tokensPerS });
    } catch (error) {
      if (!isOutOfMemory(error)) throw error;
      return { ...result(), failed: tokens };
    }
  }
  return result();
}

/** Scores the parts of `sequences` that trials of `sizes` scored, in the same batches. */
export async function repeatTrials<Scores>(
  sequences: readonly ScoredSequence[],
  sizes: readonly number[],
  options: TrialOptions<Scores>,
): Promise<TriedSizes> {
  const work = workOf(sequences);
  let left = Array.from(sequences.keys());
  const tried: number[] = [];
  for (const tokens of sizes) {
    try {
      const scored = await scoreTypical(sequences, { work, left, tokens }, options);
      if (!scored) continue;
      ({ left } = scored);
      tried.push(tokens);
    } catch (error) {
      // The device holds less than the one before: what is left is scored in batches that it holds.
      if (!isOutOfMemory(error)) throw error;
      break;
    }
  }
  return { tried, left };
}
