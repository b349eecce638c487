/** A tokenizer and a model that are simple enough to work out by hand, for tests of scoring.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import type { TokenBatch } from "../../models/layers.ts";
import type { ScoringModel } from "../../models/scoring.ts";

/** Pieces are a word with at most one space before it, or a run of spaces, as byte-level BPE cuts text; each piece gets
 * the next free id when first seen. Ids 0 and 1 are beginning and end of sequence. */
export function fakeTokenizer(
  { addsBos = false, hasBos = true, windowStart = [] }: {
    addsBos?: boolean;
    hasBos?: boolean;
    windowStart?: number[];
  } = {},
): Tokenizer {
  const pieces = ["<s>", "</s>"];
  const idOf = (piece: string) => {
    if (!pieces.includes(piece)) pieces.push(piece);
    return pieces.indexOf(piece);
  };
  return {
    encode: (text, { specialTokens = true } = {}) => {
      const ids = (text.match(/<s>| ?[^ <]+| +(?= )| +$|./g) ?? []).map(idOf);
      return addsBos && specialTokens ? [0, ...ids] : ids;
    },
    decode: (ids) => ids.filter((id) => id > 1).map((id) => pieces[id]).join(""),
    tokenText: (id) => pieces[id] ?? "",
    vocabSize: 1000,
    bosTokenId: hasBos ? 0 : null,
    eosTokenId: 1,
    addsBos,
    windowStart,
    sha256: "fake",
  };
}

/** FNV-1a over integers, in [0, 2^32). */
function hash(values: readonly number[]): number {
  let state = 0x811c9dc5;
  for (const value of values) state = Math.imul(state ^ value, 0x01000193) ^ (state >>> 15);
  return state >>> 0;
}

/** Log-probability of `target` after `context`: arbitrary, but a function of exactly these ids in this order. */
export function fakeLogProb(context: readonly number[], target: number): number {
  return -(hash([...context, -1, target]) % 4096) / 256 - 1 / 256;
}

/** Whether `target` counts as the most probable token after `context`. */
export function fakeIsGreedy(context: readonly number[], target: number): boolean {
  return hash([...context, -2, target]) % 4 > 0;
}

/** The token that {@linkcode fakeModel} generates after `context`: one of the ids 2 to 9, or end of sequence. */
export function fakeNext(context: readonly number[]): number {
  return 1 + hash([...context, -3]) % 9;
}

/** A model that answers {@linkcode fakeLogProb} for what a token of a batch sees; it throws when positions do not count
 * up along what is seen. It generates {@linkcode fakeNext}. `batches` keeps the batches it was given. */
export function fakeModel(
  { vocabSize = 1000, maxPositions = 64 }: { vocabSize?: number; maxPositions?: number } = {},
): ScoringModel & { batches: TokenBatch[] } {
  const batches: TokenBatch[] = [];
  const model: ScoringModel & { batches: TokenBatch[] } = {
    vocabSize,
    maxPositions,
    fastTokens: 512,
    bytesPerToken: 1,
    freeBytes: () => 1e9,
    batches,
    score: (batch, { rows, ids }) => {
      batches.push(batch);
      const { tokens, length, positions, segments } = batch;
      const logProbs = new Float32Array(ids.length);
      const isGreedy: boolean[] = [];
      rows.forEach((row, i) => {
        const start = row - row % length;
        const own = segments?.[row] ?? 0;
        const seen: number[] = [];
        for (let place = start; place <= row; place++) {
          const branch = segments?.[place] ?? 0;
          if (branch !== 0 && branch !== own) continue;
          if ((positions?.[place] ?? place - start) !== seen.length) {
            throw new Error(`Position ${positions?.[place]} is wrong`);
          }
          seen.push(at(tokens, place));
        }
        logProbs[i] = fakeLogProb(seen, at(ids, i));
        isGreedy.push(fakeIsGreedy(seen, at(ids, i)));
      });
      return Promise.resolve({ logProbs, isGreedy });
    },
  };
  return model;
}
