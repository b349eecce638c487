/** How large batches are: as many tokens as are fast, fewer where memory is short.
 *
 * @module
 */
import type { ScoringModel } from "../../models/scoring.ts";
import { packBatches, type PackedBatch } from "./packing.ts";
import { isOutOfMemory } from "../../core/schema/failure.ts";
import { at } from "../../core/util/indexing.ts";
import type { ScoredSequence } from "./requests.ts";

/** Larger batches are not tried. */
const MOST_TOKENS = 65_536;
/** Below this a batch is no longer worth its fixed cost, so memory is risked. */
const LEAST_TOKENS = 32;
/** Part of the free memory that a batch may fill. */
const SHARE = 1 / 4;

/** Tokens of a batch, padding included: the power of two that a quarter of the device's free memory holds, but 32 to
 * 65,536. Powers of two, so that runs with about as much free memory form the same batches and round alike. */
export function batchBudget({ bytesPerToken, freeBytes }: Pick<ScoringModel, "bytesPerToken" | "freeBytes">): number {
  const fitting = 2 ** Math.floor(Math.log2(SHARE * freeBytes() / bytesPerToken));
  return Math.max(LEAST_TOKENS, Math.min(MOST_TOKENS, fitting));
}

/** How to go through a list of sequences. */
export interface BatchOptions<Scores> {
  /** Most tokens of a batch, padding included. */
  batchTokens: number;
  /** Runs one batch. */
  score(batch: PackedBatch): Promise<Scores>;
  /** Called once a batch, after `score` has given its promise and before that is awaited: the time for other work. */
  meanwhile?(): void;
  /** Takes what `score` gave. `owners`: index into the list for each of the batch's targets. */
  take(scores: Scores, batch: PackedBatch, owners: Int32Array): void;
  /** Stops between two batches. */
  signal?: AbortSignal;
  /** Called after each batch with the share of the sequences that is done, in (0, 1]. */
  onProgress?(share: number): void;
}

/** Scores all sequences, and makes each batch while the device works on the one before it. When the device runs out of memory, the batch at fault and what is left are packed again in
 * batches of half its size, down to single rows.
 * @returns the tokens of a batch that were possible
 * @throws whatever `score` throws, out of memory only for a row that cannot be split. */
export async function scoreInBatches<Scores>(
  sequences: readonly ScoredSequence[],
  { batchTokens, score, meanwhile, take, signal, onProgress }: BatchOptions<Scores>,
): Promise<number> {
  let left = Array.from(sequences.keys());
  while (left.length > 0) {
    const done = new Set<number>();
    const batches = packBatches(left.map((index) => at(sequences, index)), batchTokens);
    for (let next = batches.next(); !next.done;) {
      const packed = next.value;
      signal?.throwIfAborted();
      const owners = packed.owners.map((owner) => at(left, owner));
      const own = new Set(owners);
      let scores: Scores;
      try {
        const pending = score(packed);
        next = batches.next();
        meanwhile?.();
        scores = await pending;
      } catch (error) {
        const isSmallest = own.size === 1 || packed.batch.batch === 1 && packed.batch.length > batchTokens;
        if (!isOutOfMemory(error) || isSmallest) throw error;
        batchTokens = Math.floor(packed.batch.tokens.length / 2);
        break;
      }
      take(scores, packed, owners);
      for (const owner of own) done.add(owner);
      onProgress?.((sequences.length - left.length + done.size) / sequences.length);
    }
    left = left.filter((index) => !done.has(index));
  }
  return batchTokens;
}
