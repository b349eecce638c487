/** Tokens per scoring batch, and smaller batches when memory runs out.
 *
 * @module
 */
import { isOutOfMemory } from "../../core/schema/failure.ts";
import { at } from "../../core/util/indexing.ts";
import type { ScoringModel } from "../../models/scoring.ts";
import { packBatches, type PackedBatch } from "./packing.ts";
import type { ScoredSequence } from "./requests.ts";

/** Below this a batch is not worth its fixed cost, so memory is risked. */
const LEAST_TOKENS = 32;
/** Part of the free memory that a batch may fill. */
const SHARE = 1 / 4;

/** Tokens of a batch, padding included: what is fast on the engine, or the power of two that a quarter of the device's
 * free memory holds. Powers of two, so that devices with about as much free memory form the same batches. */
export function batchBudget(
  { fastTokens, bytesPerToken, freeBytes }: Pick<ScoringModel, "fastTokens" | "bytesPerToken" | "freeBytes">,
): number {
  const fitting = 2 ** Math.floor(Math.log2(SHARE * freeBytes() / bytesPerToken));
  return Math.max(LEAST_TOKENS, Math.min(fastTokens, fitting));
}

/** How to go through a list of sequences. */
interface BatchOptions<Scores> {
  /** Most tokens of a batch, padding included. */
  batchTokens: number;
  score(batch: PackedBatch): Promise<Scores>;
  /** Takes what `score` gave. `owners`: index into the list for each of the batch's targets. */
  take(scores: Scores, batch: PackedBatch, owners: Int32Array): void;
  signal?: AbortSignal;
  /** Called after each batch with the share of the sequences that is done, in (0, 1]. */
  onProgress?(share: number): void;
}

/** Scores all sequences. Each batch is made while the device works on the one before it. Where the device runs out of
 * memory, the rest is packed again in batches of half the size, down to single rows.
 * @returns tokens of the largest batch that the device held
 * @throws whatever `score` throws, out of memory only for a row that cannot be split. */
export async function scoreInBatches<Scores>(
  sequences: readonly ScoredSequence[],
  { batchTokens, score, take, signal, onProgress }: BatchOptions<Scores>,
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
