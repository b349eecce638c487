/** Log-probabilities of sequences from one model, in batches whose size is measured once where that pays.
 *
 * @module
 */
import { NumericError, UsageError } from "../../core/errors.ts";
import { at } from "../../core/indexing.ts";
import type { BatchTrial } from "../../core/schema.ts";
import type { ScoringModel } from "../../models/scoring.ts";
import { fastestTokens, FIRST_TOKENS, isWorthTrials, tryBatchSizes } from "./batch_trials.ts";
import { batchBudget, scoreInBatches } from "./batches.ts";
import type { PackedBatch } from "./packing.ts";
import type { ScoredSequence } from "./requests.ts";

/** Options of {@linkcode createBatchedScoring}. */
export interface BatchedScoringOptions {
  /** Most tokens of a batch, padding included. Unless given: 512, or in long measurements what {@linkcode tryBatchSizes}
   * finds, fewer where memory is short ({@linkcode batchBudget}). */
  batchTokens?: number;
  /** Keeps trials for other scorers of the model on this engine and device; they are this scorer's own unless given. */
  rememberTrials?(compute: () => Promise<BatchTrial[]>): Promise<BatchTrial[]>;
  /** Stops between two batches. */
  signal?: AbortSignal;
  /** Called after each batch with the share of the sequences that is done, in (0, 1]. */
  onProgress?(share: number): void;
}

/** Made by {@linkcode createBatchedScoring}. */
export interface BatchedScoring {
  /** Most tokens of a batch in the latest scoring, padding included. */
  tokens(): number;
  /** What that was chosen by; nothing when nothing was tried. */
  trials(): readonly BatchTrial[];
  /** Calls `take` with each scored token: index of its sequence, its natural-log probability, whether it is the most
   * probable in its place. */
  score(
    sequences: readonly ScoredSequence[],
    take: (sequence: number, logProb: number, isGreedy: boolean) => void,
  ): Promise<void>;
}

/** Checks the ids of sequences.
 * @throws {UsageError} when one is not in a vocabulary of `vocabSize`. */
export function checkIds(sequences: Iterable<Iterable<number>>, vocabSize: number): void {
  for (const ids of sequences) {
    for (const id of ids) {
      if (id < 0 || id >= vocabSize) {
        throw new UsageError(
          `Token id ${id} is outside the model's vocabulary of ${vocabSize}: the tokenizer belongs to another model`,
        );
      }
    }
  }
}

/** Scoring with `model`. `meanwhile` is called once a batch, while the device works on it. */
export function createBatchedScoring(
  model: ScoringModel,
  { meanwhile, ...options }: BatchedScoringOptions & { meanwhile?(): void },
): BatchedScoring {
  const { signal, onProgress, rememberTrials = (compute) => compute() } = options;
  const scoreBatch = ({ batch, targets }: PackedBatch) => model.score(batch, targets);
  let trials: readonly BatchTrial[] = [];
  let used = options.batchTokens ?? FIRST_TOKENS;
  /** What ran out of memory once is not tried again. */
  let possible = Infinity;

  /** Tokens of the batches of a measurement. */
  async function chooseTokens(sequences: readonly ScoredSequence[]): Promise<number> {
    if (options.batchTokens !== undefined) return options.batchTokens;
    const most = batchBudget(model);
    if (!isWorthTrials(sequences)) return Math.min(FIRST_TOKENS, most);
    if (trials.length === 0) {
      trials = await rememberTrials(() => tryBatchSizes(sequences, { most, score: scoreBatch }));
    }
    return Math.min(fastestTokens(trials), most);
  }

  return {
    tokens: () => used,
    trials: () => trials,
    score: async (sequences, take) => {
      checkIds(sequences.map(({ ids }) => ids), model.vocabSize);
      const asked = Math.min(possible, await chooseTokens(sequences));
      used = await scoreInBatches(sequences, {
        batchTokens: asked,
        score: scoreBatch,
        meanwhile,
        take: ({ logProbs, isGreedy }, { targets }, owners) => {
          owners.forEach((owner, i) => {
            const logProb = at(logProbs, i);
            if (!Number.isFinite(logProb)) {
              throw new NumericError(`The model gives ${logProb} as the log-probability of token ${targets.ids[i]}`);
            }
            take(owner, logProb, at(isGreedy, i));
          });
        },
        signal,
        onProgress,
      });
      if (used < asked) possible = used;
    },
  };
}
