/** Which batches are fast here, found out by trying: the tokens of a batch are doubled until tokens/s grows no more.
 *
 * What is tried is scored again with the rest, so that scores depend on the size that was chosen and on nothing else.
 *
 * @module
 */
import { isOutOfMemory } from "../../core/failure.ts";
import { at } from "../../core/indexing.ts";
import type { BatchTrial } from "../../core/schema.ts";
import { packBatches, type PackedBatch } from "./packing.ts";
import type { ScoredSequence } from "./requests.ts";

/** Tokens of a batch where nothing was tried, and of the first trial. */
export const FIRST_TOKENS = 512;
/** A size is tried only in a measurement of so many times its tokens: trials are at most 5 % of the time. */
const WORK_PER_TRIAL = 160;
/** A size must be faster by this factor than the best smaller one: a smaller gain may be the machine's other work. */
const LEAST_GAIN = 1.05;
/** Timed batches of a size: as many as have the tokens of the largest size that is allowed, within these limits. */
const [FEWEST_BATCHES, MOST_BATCHES] = [2, 8];

/** Inputs of all sequences, shared beginnings counted for each. */
const inputTokens = (sequences: readonly ScoredSequence[]): number =>
  sequences.reduce((sum, { ids }) => sum + ids.length - 1, 0);

/** Whether a measurement is long enough for trying a larger size than the first. */
export function isWorthTrials(sequences: readonly ScoredSequence[]): boolean {
  return inputTokens(sequences) >= WORK_PER_TRIAL * 2 * FIRST_TOKENS;
}

/** The size that trials speak for: the last one that was faster by 5 % than all before it. */
export function fastestTokens(trials: readonly BatchTrial[]): number {
  let best = at(trials, 0);
  for (const trial of trials) if (trial.tokensPerS >= LEAST_GAIN * best.tokensPerS) best = trial;
  return best.tokens;
}

/** Seconds that `batches` take one after another, the first one run once before. */
async function secondsOf(
  batches: readonly PackedBatch[],
  { score, now }: { score(batch: PackedBatch): Promise<unknown>; now: () => number },
): Promise<number> {
  await score(at(batches, 0));
  const start = now();
  for (const batch of batches) await score(batch);
  return (now() - start) / 1000;
}

/** Times batches of typical rows of `sequences`, of {@linkcode FIRST_TOKENS} tokens and then of twice as many until two sizes
 * in a row are not faster, up to `most` tokens, and as long as memory and the length of the measurement allow. */
export async function tryBatchSizes(
  sequences: readonly ScoredSequence[],
  { most, score, now = () => performance.now() }: {
    most: number;
    score(batch: PackedBatch): Promise<unknown>;
    /** Milliseconds. */
    now?: () => number;
  },
): Promise<BatchTrial[]> {
  const largest = Math.min(most, inputTokens(sequences) / WORK_PER_TRIAL);
  const trials: BatchTrial[] = [];
  let scored = 0;
  for (let tokens = FIRST_TOKENS; tokens <= largest || trials.length === 0; tokens *= 2) {
    const batches = [...packBatches(sequences, tokens)];
    const wanted = Math.min(MOST_BATCHES, Math.max(FEWEST_BATCHES, Math.floor(largest / tokens)), batches.length);
    // The longest rows come first, the shortest last.
    const first = (batches.length - wanted) >> 1;
    const typical = batches.slice(first, first + wanted);
    const size = at(typical, 0).batch.tokens.length;
    // Long rows fill batches of several sizes alike.
    if (size <= scored) continue;
    try {
      const total = typical.reduce((sum, { batch }) => sum + batch.tokens.length, 0);
      trials.push({ tokens, tokensPerS: total / await secondsOf(typical, { score, now }) });
    } catch (error) {
      if (!isOutOfMemory(error)) throw error;
      break;
    }
    scored = size;
    // One size may have been slow by chance.
    if (trials.length > 2 && !trials.slice(-2).some((trial) => trial.tokens === fastestTokens(trials))) break;
  }
  return trials;
}
