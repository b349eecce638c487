/** The only way a task or a corpus meets a model: log-likelihoods of continuations, of whole texts, and of the tokens of
 * windows, and generated text. Scores do not depend on how requests are batched, but for rounding: f32 sums are taken in
 * another order in a batch of another shape.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { BatchSizes, BatchTrial } from "../../core/schema/schema.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import type { ScoringModel } from "../../models/scoring.ts";
import { type BatchedScoring, type BatchedScoringOptions, checkIds, createBatchedScoring } from "./batched_scoring.ts";
import { type GeneratedText, generateTexts, type TextOptions } from "./generation.ts";
import {
  type BosPolicy,
  encodeText,
  type EncodingOptions,
  type LogLikelihoodRequest,
  prefixToken,
  queueRequests,
  type RequestEncoding,
  type RequestQueue,
  type RollingWindow,
  rollingWindows,
  type ScoredSequence,
} from "./requests.ts";

/** Beginning-of-sequence token of whole texts. `single`: it stands before the text and is not scored. `lm-eval`: the
 * text's own encoding keeps its token as well, which is then scored. */
export type RollingBos = "single" | "lm-eval";

/** Options of {@linkcode createScorer}. */
export interface ScorerOptions extends BatchedScoringOptions {
  /** Beginning-of-sequence policy of requests; `tokenizer` by default. */
  bos?: BosPolicy;
  /** How requests become ids; `lm-eval` by default. */
  encoding?: RequestEncoding;
  /** Beginning-of-sequence token of whole texts unless asked for otherwise; `single` by default. */
  rollingBos?: RollingBos;
}

/** Score of one request. */
export interface LogLikelihood {
  /** Summed natural-log probability of the continuation's tokens. */
  logLikelihood: number;
  /** Whether each of them is the most probable token in its place. */
  isGreedy: boolean;
}

/** Score of a whole text. */
export interface RollingLogLikelihood {
  /** Summed natural-log probability of all tokens of the text. */
  logLikelihood: number;
  /** How many tokens were scored. */
  tokens: number;
}

/** Scores text with one model. Made by {@linkcode createScorer}. */
export interface Scorer {
  /** Tokenizer of the model. */
  tokenizer: Tokenizer;
  /** Of the latest scoring. */
  batchSizes(): BatchSizes;
  /** What they were chosen by; nothing when nothing was tried. */
  batchTrials(): readonly BatchTrial[];
  /** Longest sequence of the model, in tokens. */
  maxTokens: number;
  /** The tokenizer's own beginning-of-sequence default, in words. */
  defaultBos: string;
  /** Beginning-of-sequence policy of requests in words, for records. */
  bosPolicy: string;
  /** Beginning-of-sequence policy of whole texts in words, for records; that of the scorer unless given. */
  rollingPolicy(bos?: RollingBos): string;
  /** Encodes `requests` a few at a time while the device works on others; {@linkcode Scorer.logLikelihood} of this very
   * list takes them. */
  encodeAhead(requests: readonly LogLikelihoodRequest[]): void;
  /** Scores each continuation after its context, in the order given.
   * @throws {UsageError} when a continuation has no tokens or too many. */
  logLikelihood(requests: readonly LogLikelihoodRequest[]): Promise<LogLikelihood[]>;
  /** Scores whole texts, each in windows of at most `maxTokens` inputs (the model's own limit by default); see
   * {@linkcode rollingWindows}. */
  rollingLogLikelihood(
    texts: readonly string[],
    options?: { maxTokens?: number; bos?: RollingBos },
  ): Promise<RollingLogLikelihood[]>;
  /** Natural-log probabilities of ids 1, 2, ... of each window: f32 [length - 1]. The first id is not scored.
   * @throws {UsageError} when a window has fewer than two ids or more than the model's positions. */
  tokenLogProbs(windows: readonly Int32Array[]): Promise<Float32Array[]>;
  /** Continues each context by text; a context that leaves no room for `maxTokens` more loses its beginning.
   * @throws {UsageError} when `maxTokens` leaves no room for a context, or a context has no tokens. */
  generate(contexts: readonly string[], options: Omit<TextOptions, "signal">): Promise<GeneratedText[]>;
}

/** Requests that are encoded ahead during one batch. */
const AHEAD_REQUESTS = 64;

/** Puts a model and its tokenizer together. */
export function createScorer(model: ScoringModel, tokenizer: Tokenizer, options: ScorerOptions = {}): Scorer {
  const { bos = "tokenizer", encoding = "lm-eval", rollingBos = "single", signal } = options;
  const encodingOptions: EncodingOptions = { bos, encoding, maxTokens: model.maxPositions };
  const ahead = new Map<readonly LogLikelihoodRequest[], RequestQueue>();
  const queue = (requests: readonly LogLikelihoodRequest[]) => queueRequests(tokenizer, requests, encodingOptions);
  const meanwhile = () => [...ahead.values()].at(-1)?.advance(AHEAD_REQUESTS);
  const batched = createBatchedScoring(model, { ...options, meanwhile });

  const defaultBos = `tokenizer default (${tokenizer.addsBos ? "BOS" : "no BOS"})`;
  const policy = bos === "tokenizer" ? defaultBos : bos;
  return {
    tokenizer,
    batchSizes: batched.sizes,
    batchTrials: batched.trials,
    maxTokens: model.maxPositions,
    defaultBos,
    bosPolicy: encoding === "llm-pruner" ? "llm-pruner: no BOS, context and continuation encoded apart" : policy,
    rollingPolicy: (own = rollingBos) =>
      own === "single" ? "single: before each document, not scored" : `lm-eval: ${policy}, scored`,
    encodeAhead: (requests) => {
      ahead.set(requests, queue(requests));
    },
    logLikelihood: async (requests) => {
      const own = ahead.get(requests) ?? queue(requests);
      ahead.delete(requests);
      return await sumsOf(batched, own.finish());
    },
    rollingLogLikelihood: async (texts, { maxTokens = model.maxPositions, bos: own = rollingBos } = {}) => {
      const prefix = prefixToken(tokenizer);
      const encoded = texts.map((text) => encodeText(tokenizer, text, own === "single" ? "never" : bos));
      return await rollingSums(batched, encoded.map((ids) => rollingWindows(ids, prefix, maxTokens)));
    },
    tokenLogProbs: async (windows) => {
      for (const { length } of windows) {
        if (length < 2 || length > model.maxPositions) {
          throw new UsageError(`A window of ${length} tokens cannot be scored: must be 2 to ${model.maxPositions}`);
        }
      }
      return await windowLogProbs(batched, windows);
    },
    generate: async (contexts, options) => {
      const room = model.maxPositions - options.maxTokens;
      if (room < 1) {
        throw new UsageError(
          `${options.maxTokens} tokens cannot be generated: must be 1 to ${model.maxPositions - 1} for this model`,
        );
      }
      const prompts = contexts.map((context) => encodeText(tokenizer, context, bos).slice(-room));
      const empty = prompts.findIndex((prompt) => prompt.length === 0);
      if (empty >= 0) throw new UsageError(`Context ${empty} has no tokens to continue`);
      checkIds(prompts, model.vocabSize);
      return await generateTexts(model, tokenizer, prompts, { ...options, signal });
    },
  };
}

/** Score of each sequence, in the order given. */
async function sumsOf(batched: BatchedScoring, sequences: readonly ScoredSequence[]): Promise<LogLikelihood[]> {
  const results = sequences.map((): LogLikelihood => ({ logLikelihood: 0, isGreedy: true }));
  await batched.score(sequences, (sequence, logProb, isGreedy) => {
    const result = at(results, sequence);
    result.logLikelihood += logProb;
    result.isGreedy &&= isGreedy;
  });
  return results;
}

/** Score of each text from its windows. */
async function rollingSums(
  batched: BatchedScoring,
  texts: readonly (readonly RollingWindow[])[],
): Promise<RollingLogLikelihood[]> {
  const sequences = texts.flat().map(({ context, continuation }) => ({
    ids: [...context, ...continuation],
    scored: continuation.length,
  }));
  const scores = await sumsOf(batched, sequences);
  let next = 0;
  return texts.map((own) => ({
    logLikelihood: own.reduce((sum) => sum + at(scores, next++).logLikelihood, 0),
    tokens: own.reduce((sum, { continuation }) => sum + continuation.length, 0),
  }));
}

/** Natural-log probabilities of all ids of each window but the first: f32 [length - 1]. */
async function windowLogProbs(batched: BatchedScoring, windows: readonly Int32Array[]): Promise<Float32Array[]> {
  const results = windows.map(({ length }) => new Float32Array(length - 1));
  const filled = new Int32Array(windows.length);
  const sequences = windows.map((ids) => ({ ids: Array.from(ids), scored: ids.length - 1 }));
  await batched.score(sequences, (window, logProb) => {
    const place = at(filled, window);
    at(results, window)[place] = logProb;
    filled[window] = place + 1;
  });
  return results;
}
