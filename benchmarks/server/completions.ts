/** The completions of one request of the OpenAI API, as lm-evaluation-harness's `local-completions` needs them: the
 * prompt's own log-probabilities (`echo`), exactly the ids that were sent, one array for a token and its alternatives.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { codePointLength } from "../../core/util/python_text.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import type { TokenLogProb } from "../../models/generate.ts";
import type { ScoringModel } from "../../models/scoring.ts";
import { FIRST_TOKENS } from "../evaluation/batch_trials.ts";
import { batchBudget, scoreInBatches } from "../evaluation/batches.ts";
import { type GeneratedText, generateTexts, textAfter } from "../evaluation/generation.ts";
import type { ScoredSequence } from "../evaluation/requests.ts";

/** What is asked for. */
export interface CompletionRequest {
  /** Token ids, with the text where the prompt was given as one. */
  prompts: { ids: number[]; text?: string }[];
  /** Tokens to generate after each prompt. */
  maxTokens: number;
  /** 0: greedy. */
  temperature: number;
  topP: number;
  seed: number;
  stop: readonly string[];
  /** How many of the most probable tokens to report for each; null: no log-probabilities at all. */
  logProbs: number | null;
  /** Whether the prompt comes first in text and log-probabilities. */
  echo: boolean;
}

/** Log-probabilities of a choice, one entry per token. */
export interface ChoiceLogProbs {
  tokens: string[];
  /** Natural logarithms; null for the first token of a prompt. */
  token_logprobs: (number | null)[];
  /** By text of the token: the token itself and the most probable ones. */
  top_logprobs: (Record<string, number> | null)[];
  /** Where each token begins in the text, in code points. */
  text_offset: number[];
}

/** The answer to one prompt. */
export interface CompletionChoice {
  index: number;
  text: string;
  logprobs: ChoiceLogProbs | null;
  finish_reason: "stop" | "length";
}

/** Choices and what they cost. */
export interface Completions {
  choices: CompletionChoice[];
  promptTokens: number;
  completionTokens: number;
}

/** A token with the most probable ones of its place; null where there is nothing before it. */
interface Entry {
  id: number;
  score: { logProb: number; top: TokenLogProb[] } | null;
}

/** Log-probabilities are clamped to this, as in vLLM: JSON has no infinity. */
const LEAST_LOG_PROB = -9999;

/** Texts of tokens that joined give the text of all. A token that ends within a character has none; the token that
 * completes it has the character. */
export function tokenPieces(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const pieces: string[] = [];
  // Decoding starts at a token before the pending ones: some tokenizers drop a space at the beginning of a text.
  let [start, pending] = [0, 0];
  let known = "";
  ids.forEach((_, i) => {
    const text = tokenizer.decode(ids.slice(start, i + 1));
    const isComplete = text.length > known.length && (i === ids.length - 1 || !text.endsWith("\ufffd"));
    pieces.push(isComplete ? text.slice(known.length) : "");
    if (!isComplete) return;
    [start, pending] = [pending, i + 1];
    known = tokenizer.decode(ids.slice(start, pending));
  });
  return pieces;
}

const isScored = ({ echo, logProbs }: CompletionRequest) => echo && logProbs !== null;

/** Whether the pass that scores the prompt gives the answer: lm-evaluation-harness asks for one token after a prompt
 * and throws it away. */
const isOnePass = (request: CompletionRequest) =>
  isScored(request) && request.maxTokens === 1 && request.temperature === 0 && request.stop.length === 0;

function checkPrompts(request: CompletionRequest, { maxPositions, vocabSize }: ScoringModel): void {
  const { prompts, maxTokens } = request;
  // In one pass the prompt's last id need not be an input: what comes after it is thrown away.
  const most = maxPositions + 1 - (isOnePass(request) ? 0 : maxTokens);
  prompts.forEach(({ ids }, i) => {
    if (ids.length === 0) throw new UsageError(`prompt ${i} has no tokens: must have at least 1`);
    if (ids.length > most) {
      throw new UsageError(
        `prompt ${i} has ${ids.length} tokens: must be at most ${Math.max(0, most)}, since the model has ` +
          `${maxPositions} positions and max_tokens is ${maxTokens}`,
      );
    }
    const wrong = ids.find((id) => id >= vocabSize);
    if (wrong !== undefined) {
      throw new UsageError(`prompt ${i} has the token id ${wrong}: must be below ${vocabSize}`);
    }
  });
}

function compareIds(a: readonly number[], b: readonly number[]): number {
  const place = a.findIndex((id, i) => id !== b[i]);
  if (place < 0) return a.length - b.length;
  const other = b[place];
  return other === undefined ? 1 : at(a, place) - other;
}

/** Scores of every token of each prompt and, where the model has a position for it, the most probable token after it. */
async function scorePrompts(
  model: ScoringModel,
  prompts: readonly (readonly number[])[],
  count: number,
  signal?: AbortSignal,
): Promise<Entry[][]> {
  // Neighbours share what they begin with, so the choices of one example cost little more than one.
  const order = [...prompts.keys()].sort((a, b) => compareIds(at(prompts, a), at(prompts, b)));
  const sequences = order.map((index): ScoredSequence => {
    const ids = at(prompts, index);
    // The id after the prompt stands for whatever is most probable there.
    return ids.length > model.maxPositions ? { ids, scored: ids.length - 1 } : { ids: [...ids, 0], scored: ids.length };
  });
  const results = prompts.map((ids): Entry[] => [{ id: at(ids, 0), score: null }]);
  await scoreInBatches(sequences, {
    batchTokens: Math.min(FIRST_TOKENS, batchBudget(model)),
    score: ({ batch, targets }) => model.scoreTop(batch, targets, Math.max(1, count)),
    take: ({ logProbs, top }, _packed, owners) => {
      owners.forEach((owner, i) => {
        const index = at(order, owner);
        const ids = at(prompts, index);
        const entries = at(results, index);
        const own = at(top, i);
        entries.push(
          entries.length < ids.length
            ? { id: at(ids, entries.length), score: { logProb: at(logProbs, i), top: own } }
            : { id: at(own, 0).id, score: { logProb: at(own, 0).logProb, top: own } },
        );
      });
    },
    signal,
  });
  return results;
}

/** Log-probabilities of `entries`, which are the tokens `all` from `start` on. */
function toLogProbs(
  entries: readonly Entry[],
  { start, all, pieces }: { start: number; all: readonly number[]; pieces: readonly string[] },
  tokenizer: Tokenizer,
): ChoiceLogProbs {
  const clamp = (value: number) => Math.max(value, LEAST_LOG_PROB);
  const tokens = pieces.slice(start, start + entries.length);
  let offset = 0;
  return {
    tokens,
    token_logprobs: entries.map(({ score }) => score && clamp(score.logProb)),
    top_logprobs: entries.map(({ id, score }, i) => {
      if (!score) return null;
      const named: Record<string, number> = {};
      // Of tokens with the same text the most probable one is kept: readers look for the maximum.
      for (const { id: other, logProb } of [...score.top, { id, logProb: score.logProb }]) {
        const name = other === id ? at(tokens, i) : textAfter(tokenizer, all.slice(0, start + i), [other]);
        named[name] ??= clamp(logProb);
      }
      return named;
    }),
    text_offset: tokens.map((token) => (offset += codePointLength(token)) - codePointLength(token)),
  };
}

/** The generated tokens whose text is in `text`, which may end before the last of them. */
function keptEntries({ tokens, text }: GeneratedText, pieces: readonly string[]): Entry[] {
  let length = 0;
  const kept = tokens.filter((_, i) => {
    const begins = length;
    length += at(pieces, i).length;
    return begins < text.length || pieces[i] === "" && begins === text.length;
  });
  return kept.map(({ id, logProb, top }) => ({ id, score: { logProb, top } }));
}

/** What {@linkcode isOnePass} gives after a prompt that fills the model: a place that readers drop. */
const noToken = ({ eosTokenId }: Tokenizer): Entry => ({ id: eosTokenId ?? 0, score: { logProb: 0, top: [] } });

/** Answers a request.
 * @throws {UsageError} when a prompt is empty, too long, or has ids outside the vocabulary.
 * @throws {NumericError} when the model's output is not finite. */
export async function complete(
  model: ScoringModel,
  tokenizer: Tokenizer,
  request: CompletionRequest,
  signal?: AbortSignal,
): Promise<Completions> {
  checkPrompts(request, model);
  const { prompts, logProbs, echo, ...options } = request;
  const ids = prompts.map((prompt) => prompt.ids);
  const scored = isScored(request) ? await scorePrompts(model, ids, logProbs!, signal) : [];
  const onePass = isOnePass(request);
  const generated = onePass || options.maxTokens === 0
    ? []
    : await generateTexts(model, tokenizer, ids, { ...options, top: logProbs ?? 0, signal });
  const choices = prompts.map((prompt, index): CompletionChoice => {
    const { length } = prompt.ids;
    const after = generated[index];
    const next = onePass ? [at(scored, index)[length] ?? noToken(tokenizer)] : [];
    const all = [...prompt.ids, ...(after?.tokens ?? next).map(({ id }) => id)];
    const pieces = tokenPieces(tokenizer, all);
    const entries = [
      ...scored[index]?.slice(0, length) ?? [],
      ...after ? keptEntries(after, pieces.slice(length)) : next,
    ];
    const before = echo ? prompt.text ?? pieces.slice(0, length).join("") : "";
    return {
      index,
      text: before + (after?.text ?? pieces.slice(length).join("")),
      logprobs: logProbs === null ? null : toLogProbs(entries, { start: echo ? 0 : length, all, pieces }, tokenizer),
      finish_reason: after?.finishReason ?? "length",
    };
  });
  return {
    choices,
    promptTokens: ids.flat().length,
    completionTokens: onePass ? prompts.length : generated.reduce((sum, { tokens }) => sum + tokens.length, 0),
  };
}
