/** Which batches are fast here, found out by trying: the tokens of a batch are doubled until tokens/s grows no more.
 *
 * What is tried belongs to the measurement: its scores are taken, so a trial costs no more than what its size is slower.
 *
 * @module
 */
import { median } from "simple-statistics";
import { isOutOfMemory } from "../../core/failure.ts";
import { at } from "../../core/indexing.ts";
import type { BatchTrial } from "../../core/schema.ts";
import { packBatches, type PackedBatch } from "./packing.ts";
import type { ScoredSequence } from "./requests.ts";

/** Tokens of a batch where nothing was tried, and of the first trial. */
export const FIRST_TOKENS = 512;
/** A size is tried only in a measurement of so many times its tokens: one that is slower has to cost little of it. */
const WORK_PER_TRIAL = 8;
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
}

/** Inputs of all sequences, shared beginnings counted for each. */
const inputTokens = (sequences: readonly ScoredSequence[]): number =>
  sequences.reduce((sum, { ids }) => sum + ids.length - 1, 0);

/** The largest size that may be tried in a measurement: a power of two of at most `most` tokens and an eighth of its own;
 * 0 where that leaves no choice. */
export function largestTrial(sequences: readonly ScoredSequence[], most: number): number {
  const largest = 2 ** Math.floor(Math.log2(Math.min(most, inputTokens(sequences) / WORK_PER_TRIAL)));
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
export function isSettled(trials: readonly BatchTrial[]): boolean {
  const best = fastest(trials);
  return best !== undefined && trials.indexOf(best) < trials.length - 2;
}

/** The largest size that is worth a trial after `trials`: where the last one was slower by 3 % than the best, the next must
 * be a small part of the measurement. */
function worthTrying(trials: readonly BatchTrial[], largest: number): number {
  const [best, last] = [fastest(trials), trials.at(-1)];
  return best && last && last.tokensPerS * LEAST_GAIN < best.tokensPerS ? largest / 4 : largest;
}

/** What is left after typical rows of `left` were scored in batches of `tokens`: those of middle length, since the longest
 * rows come first and the shortest last. They are taken when all of them fitted. How many they are follows from the sizes
 * alone, so that a trial can be repeated.
 * @returns nothing when batches would be of at most `other` tokens. */
async function scoreTypical<Scores>(
  sequences: readonly ScoredSequence[],
  { left, tokens, other }: { left: readonly number[]; tokens: number; other: number },
  { score, take, now = () => performance.now(), signal }: TrialOptions<Scores>,
): Promise<{ left: number[]; tokensPerS: number; size: number } | undefined> {
  const batches = [...packBatches(left.map((index) => at(sequences, index)), tokens)];
  const wanted = Math.floor(inputTokens(sequences) / PART_PER_TRIAL / tokens);
  const count = Math.min(MOST_BATCHES, Math.max(FEWEST_BATCHES, wanted), batches.length);
  const first = (batches.length - count) >> 1;
  const typical = batches.slice(first, first + count);
  const size = typical[0]?.batch.tokens.length ?? 0;
  if (count < 2 || size <= other) return undefined;
  const scored: Scores[] = [];
  const rates: number[] = [];
  for (const [i, packed] of typical.entries()) {
    signal?.throwIfAborted();
    const start = now();
    scored.push(await score(packed));
    if (i > 0) rates.push(1000 * packed.batch.tokens.length / (now() - start));
  }
  const done = new Set<number>();
  typical.forEach((packed, i) => {
    const owners = packed.owners.map((owner) => at(left, owner));
    take(at(scored, i), packed, owners);
    for (const owner of owners) done.add(owner);
  });
  return { left: left.filter((index) => !done.has(index)), tokensPerS: median(rates), size };
}

/** Scores a part of `sequences` in batches of {@linkcode FIRST_TOKENS} tokens and then of twice as many, as long as they are
 * faster and fit, and goes on where `known` trials ended.
 * @returns all trials with the median rate of each one's batches, the sizes that were tried here, and the indices of the
 * sequences that are left. */
export async function tryBatchSizes<Scores>(
  sequences: readonly ScoredSequence[],
  { known = [], largest, ...options }: TrialOptions<Scores> & {
    known?: readonly BatchTrial[];
    /** Tokens, as {@linkcode largestTrial} has it. */
    largest: number;
  },
): Promise<{ trials: BatchTrial[]; tried: number[]; left: number[] }> {
  const trials = [...known];
  const tried: number[] = [];
  let left = Array.from(sequences.keys());
  let other = 0;
  const first = 2 * (known.at(-1)?.tokens ?? FIRST_TOKENS / 2);
  for (let tokens = first; tokens <= worthTrying(trials, largest) && !isSettled(trials); tokens *= 2) {
    try {
      const scored = await scoreTypical(sequences, { left, tokens, other }, options);
      // Long rows fill batches of several sizes alike.
      if (!scored) continue;
      ({ left, size: other } = scored);
      trials.push({ tokens, tokensPerS: scored.tokensPerS });
      tried.push(tokens);
    } catch (error) {
      if (!isOutOfMemory(error)) throw error;
      break;
    }
  }
  return { trials, tried, left };
}

/** Scores the parts of `sequences` that trials of the sizes `tried` scored, in batches of the same form.
 * @returns the indices of the sequences that are left. */
export async function repeatTrials<Scores>(
  sequences: readonly ScoredSequence[],
  tried: readonly number[],
  options: TrialOptions<Scores>,
): Promise<number[]> {
  let left = Array.from(sequences.keys());
  for (const tokens of tried) {
    try {
      left = (await scoreTypical(sequences, { left, tokens, other: 0 }, options))?.left ?? left;
    } catch (error) {
      // The device holds less than the one before: what is left is scored in batches that it holds.
      if (!isOutOfMemory(error)) throw error;
      return left;
    }
  }
  return left;
}
