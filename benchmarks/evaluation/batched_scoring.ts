/** Log-probabilities of sequences from one model, in batches whose size is measured once where that pays.
 *
 * @module
 */
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { BatchSizes, BatchTrial } from "../../core/schema/schema.ts";
import type { ScoringModel, TargetScores } from "../../models/scoring.ts";
import {
  fastestTokens,
  FIRST_TOKENS,
  firstTrial,
  largestTrial,
  repeatTrials,
  type TrialOptions,
  type TriedSizes,
  tryBatchSizes,
} from "./batch_trials.ts";
import { batchBudget, scoreInBatches } from "./batches.ts";
import type { PackedBatch } from "./packing.ts";
import type { ScoredSequence } from "./requests.ts";

/** Options of {@linkcode createBatchedScoring}. */
export interface BatchedScoringOptions extends Partial<BatchSizes> {
  /** Keeps trials for other scorers of the model on this engine and device; they are this scorer's own unless given. Without
   * `batchTokens` the size is 512 or, where a measurement is long enough to try larger ones, what
   * {@linkcode tryBatchSizes} finds; fewer where memory is short ({@linkcode batchBudget}). */
  trialMemory?: TrialMemory;
  /** Stops between two batches. */
  signal?: AbortSignal;
  /** Called after each batch with the share of the sequences that is done, in (0, 1]. */
  onProgress?(share: number): void;
}

/** Where trials of batch sizes are kept. */
export interface TrialMemory {
  /** The latest; none when nothing was tried. */
  read(): readonly BatchTrial[];
  write(trials: readonly BatchTrial[]): void;
}

function ownMemory(): TrialMemory {
  let kept: readonly BatchTrial[] = [];
  return { read: () => kept, write: (trials) => kept = trials };
}

/** Takes a scored token: index of its sequence, its natural-log probability, whether it is the most probable in its
 * place. */
type TakeToken = (sequence: number, logProb: number, isGreedy: boolean) => void;

/** Made by {@linkcode createBatchedScoring}. */
export interface BatchedScoring {
  /** Of the latest scoring. */
  sizes(): BatchSizes;
  /** What they were chosen by; nothing when nothing was tried. */
  trials(): readonly BatchTrial[];
  /** Calls `take` with each scored token. */
  score(sequences: readonly ScoredSequence[], take: TakeToken): Promise<void>;
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

/** Gives each target of a batch to `take`.
 * @throws {NumericError} at a log-probability that is not finite. */
function takeEach(take: TakeToken): TrialOptions<TargetScores>["take"] {
  return ({ logProbs, isGreedy }, { targets }, owners) =>
    owners.forEach((owner, i) => {
      const logProb = at(logProbs, i);
      if (!Number.isFinite(logProb)) {
        throw new NumericError(`The model gives ${logProb} as the log-probability of token ${targets.ids[i]}`);
      }
      take(owner, logProb, at(isGreedy, i));
    });
}

/** Scoring with `model`. `meanwhile` is called once a batch that is not timed, while the device works on it. */
export function createBatchedScoring(
  model: ScoringModel,
  { meanwhile, ...options }: BatchedScoringOptions & { meanwhile?(): void },
): BatchedScoring {
  const { signal, onProgress, trialMemory = ownMemory() } = options;
  const score = ({ batch, targets }: PackedBatch) => model.score(batch, targets);
  let trials: readonly BatchTrial[] = [];
  let used: BatchSizes = { batchTokens: options.batchTokens ?? FIRST_TOKENS };
  /** What ran out of memory once is not tried again. */
  let possible = Infinity;

  /** Scores what trials take of a measurement; the size for the rest follows from them. */
  async function scoreTrials(
    sequences: readonly ScoredSequence[],
    take: TrialOptions<TargetScores>["take"],
  ): Promise<TriedSizes & { asked: number }> {
    const given = { score, take, signal, onProgress };
    if (options.batchTokens !== undefined) {
      return { asked: options.batchTokens, ...await repeatTrials(sequences, options.triedTokens ?? [], given) };
    }
    const most = batchBudget(model);
    const largest = largestTrial(sequences, Math.min(most, possible));
    trials = trialMemory.read();
    const from = firstTrial(trials, largest);
    let scored: TriedSizes = { tried: [], left: Array.from(sequences.keys()) };
    if (from !== undefined) {
      const { trials: made, failed = Infinity, ...own } = await tryBatchSizes(sequences, { ...given, from, largest });
      scored = own;
      possible = Math.min(possible, failed / 2);
      // A single one compares nothing.
      if (made.length > 1) trialMemory.write(trials = made);
    }
    return { asked: Math.min(fastestTokens(trials), most), ...scored };
  }

  return {
    sizes: () => used,
    trials: () => trials,
    score: async (sequences, take) => {
      checkIds(sequences.map(({ ids }) => ids), model.vocabSize);
      const takeAll = takeEach(take);
      const { asked, tried, left } = await scoreTrials(sequences, takeAll);
      const limit = Math.min(possible, asked);
      const batchTokens = await scoreInBatches(left.map((index) => at(sequences, index)), {
        batchTokens: limit,
        score,
        meanwhile,
        take: (scores, packed, owners) => takeAll(scores, packed, owners.map((owner) => at(left, owner))),
        signal,
        onProgress: onProgress && ((share) => onProgress(1 - (1 - share) * left.length / sequences.length)),
      });
      if (batchTokens < limit) possible = batchTokens;
      used = { batchTokens, ...tried.length > 0 && { triedTokens: tried } };
    },
  };
}
