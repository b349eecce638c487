/** A model and its tokenizer, as tasks and corpora see them: the requests of lm-evaluation-harness that score text.
 * Scores depend on the batches only through rounding.
 *
 * @module
 */
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { ScoringModel } from "../../models/scoring.ts";
import { batchBudget, scoreInBatches } from "./batches.ts";
import {
  encodeRequests,
  encodeText,
  type LogLikelihoodRequest,
  prefixToken,
  type RequestEncoding,
  type RollingBos,
  rollingWindows,
  type ScoredSequence,
} from "./requests.ts";

/** Options of {@linkcode createScorer}. */
interface ScorerOptions {
  /** Most tokens of a batch, padding included; {@linkcode batchBudget} by default. */
  batchTokens?: number;
  encoding?: RequestEncoding;
  signal?: AbortSignal;
  /** Called after each batch with the share of the sequences that is done, in (0, 1]. */
  onProgress?(share: number): void;
}

/** Score of one request. */
export interface LogLikelihood {
  /** Summed natural-log probability of the scored tokens. */
  logLikelihood: number;
  /** Whether each of them is the most probable token in its place. */
  isGreedy: boolean;
}

/** Scores text with one model. Made by {@linkcode createScorer}. */
export interface Scorer {
  tokenizer: Tokenizer;
  /** Longest sequence of the model, in tokens. */
  maxTokens: number;
  encoding: RequestEncoding;
  /** Most tokens of a batch of the latest scoring, padding included. */
  batchTokens(): number;
  /** Scores each continuation after its context, or the last ids of each sequence, in the order given.
   * @throws {UsageError} when a continuation has no tokens, or a sequence too few or too many. */
  loglikelihood(requests: readonly (LogLikelihoodRequest | ScoredSequence)[]): Promise<LogLikelihood[]>;
  /** Scores whole texts, each in windows of at most `maxTokens` inputs (the model's own limit by default); see
   * {@linkcode rollingWindows}. Gives the summed natural-log probability of all tokens of each, and their number. */
  loglikelihoodRolling(
    texts: readonly string[],
    options: { bos: RollingBos; maxTokens?: number },
  ): Promise<{ logLikelihood: number; tokens: number }[]>;
}

/** Infinite scores come of finite log-probabilities that are too small.
 * @throws {NumericError} when a score, named in words, is not finite. */
export function checkFinite(score: number, words: string): void {
  if (!Number.isFinite(score)) throw new NumericError(`The model has ${score} as its ${words}: must be finite`);
}

/** Puts a model and its tokenizer together. */
export function createScorer(model: ScoringModel, tokenizer: Tokenizer, options: ScorerOptions = {}): Scorer {
  const { encoding = "lm-eval", signal, onProgress } = options;
  const maxTokens = model.maxPositions;
  let used = options.batchTokens ?? model.fastTokens;
  /** What ran out of memory once is not tried again. */
  let possible = Infinity;

  const scored = async (sequences: readonly ScoredSequence[]): Promise<LogLikelihood[]> => {
    const { vocabSize } = model;
    const foreign = sequences.flatMap(({ ids }) => ids.find((id) => !(id >= 0 && id < vocabSize)) ?? [])[0];
    if (foreign !== undefined) {
      throw new UsageError(
        `Token id ${foreign} is outside the model's vocabulary of ${vocabSize}: the tokenizer belongs to another model`,
      );
    }
    const results = sequences.map((): LogLikelihood => ({ logLikelihood: 0, isGreedy: true }));
    const most = Math.min(possible, options.batchTokens ?? batchBudget(model));
    used = await scoreInBatches(sequences, {
      batchTokens: most,
      score: ({ batch, targets }) => model.score(batch, targets),
      take: ({ logProbs, isGreedy }, { targets }, owners) =>
        owners.forEach((owner, i) => {
          const logProb = at(logProbs, i);
          if (!Number.isFinite(logProb)) {
            throw new NumericError(`The model gives ${logProb} as the log-probability of token ${targets.ids[i]}`);
          }
          const result = at(results, owner);
          result.logLikelihood += logProb;
          result.isGreedy &&= at(isGreedy, i);
        }),
      signal,
      onProgress,
    });
    if (used < most) possible = used;
    return results;
  };

  return {
    tokenizer,
    maxTokens,
    encoding,
    batchTokens: () => used,
    loglikelihood: (requests) => scored(encodeRequests(tokenizer, requests, { encoding, maxTokens })),
    loglikelihoodRolling: async (texts, { bos, maxTokens: most = maxTokens }) => {
      const prefix = prefixToken(tokenizer);
      const encoded = texts.map((text) =>
        bos === "single" ? tokenizer.encode(text, { specialTokens: false }) : encodeText(tokenizer, text)
      );
      const windows = encoded.map((ids) => rollingWindows(ids, prefix, most));
      const scores = await scored(windows.flat());
      let next = 0;
      return windows.map((own, i) => ({
        logLikelihood: own.reduce((sum) => sum + at(scores, next++).logLikelihood, 0),
        tokens: at(encoded, i).length,
      }));
    },
  };
}
