/** From texts to token sequences, by the rules of lm-evaluation-harness's causal models. No model is involved.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { stripEnd } from "../../core/util/python_text.ts";
import type { REQUEST_ENCODINGS } from "../../core/schema/schema.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";

/** A text to be scored after another. */
export interface LogLikelihoodRequest {
  /** May be empty. */
  context: string;
  continuation: string;
}

/** Token ids of which the last ones are scored. */
export interface ScoredSequence {
  /** At least two. */
  ids: readonly number[];
  /** How many ids at the end are scored; each is predicted from all before it. */
  scored: number;
}

/** How requests become ids. `lm-eval`: context and continuation are encoded together and cut where the context ends.
 * `llm-pruner`: encoded apart and without beginning-of-sequence token, as the harness bundled with LLM-Pruner does;
 * its published tables are comparable to no other mode. */
export type RequestEncoding = (typeof REQUEST_ENCODINGS)[number];

/** Beginning-of-sequence token of whole texts. `single`: it stands before the text and is not scored. `lm-eval`: the
 * text's own encoding keeps its token as well, which is then scored. */
export type RollingBos = "single" | "lm-eval";

/** How texts become token sequences. */
export interface EncodingOptions {
  encoding: RequestEncoding;
  /** Most input tokens of a sequence (M); longer sequences lose their beginning. */
  maxTokens: number;
}

/** Token ids of `text`, with a beginning-of-sequence token where the tokenizer adds one by default, as
 * lm-evaluation-harness does since October 2025. A text that begins with the token's own text is not given a second. */
export function encodeText(tokenizer: Tokenizer, text: string): number[] {
  const { bosTokenId: id } = tokenizer;
  const own = id === null ? "" : tokenizer.tokenText(id);
  const hasOwn = own !== "" && text.startsWith(own);
  return tokenizer.encode(text, { specialTokens: !hasOwn });
}

/** The token of an empty context: beginning of sequence, else end of sequence.
 * @throws {UsageError} when the tokenizer has neither. */
export function prefixToken({ bosTokenId, eosTokenId }: Tokenizer): number {
  const id = bosTokenId ?? eosTokenId;
  if (id === null) {
    throw new UsageError("The tokenizer has no beginning- or end-of-sequence token to score a text without context");
  }
  return id;
}

/** Ids of context and continuation, before truncation. */
function encodePair(
  tokenizer: Tokenizer,
  { context, continuation }: LogLikelihoodRequest,
  encoding: RequestEncoding,
  contexts: Map<string, number[]>,
): [context: number[], continuation: number[]] {
  const encodeOnce = (text: string, encode: () => number[]) => {
    const ids = contexts.get(text) ?? encode();
    contexts.set(text, ids);
    return ids;
  };
  const withoutBos = (text: string) => tokenizer.encode(text, { specialTokens: false });
  if (encoding === "llm-pruner") {
    const before = context === ""
      ? [tokenizer.eosTokenId ?? prefixToken(tokenizer)]
      : encodeOnce(context, () => withoutBos(context));
    return [before, withoutBos(continuation)];
  }
  if (context === "") {
    const prefix = prefixToken(tokenizer);
    const ids = withoutBos(continuation);
    return [[prefix], ids[0] === prefix ? ids.slice(1) : ids];
  }
  const stripped = stripEnd(context);
  const before = encodeOnce(stripped, () => encodeText(tokenizer, stripped));
  const whole = encodeText(tokenizer, context + continuation);
  return [before, whole.slice(before.length)];
}

/** Ids of a request; only the continuation is scored. The beginning is cut so that at most `maxTokens` ids are inputs.
 * `contexts` caches the ids of contexts, because choices share them.
 * @throws {UsageError} when the continuation has no tokens or more than `maxTokens`, or the context has none. */
function encodeRequest(
  tokenizer: Tokenizer,
  request: LogLikelihoodRequest,
  options: EncodingOptions,
  contexts: Map<string, number[]>,
): ScoredSequence {
  const [context, continuation] = encodePair(tokenizer, request, options.encoding, contexts);
  const { length } = continuation;
  if (context.length === 0) {
    throw new UsageError(`The context ${JSON.stringify(request.context)} has no tokens: must be empty or contain text`);
  }
  if (length === 0 || length > options.maxTokens) {
    throw new UsageError(
      `The continuation ${JSON.stringify(request.continuation.slice(0, 60))} has ${length} tokens: ` +
        `must be 1 to ${options.maxTokens}`,
    );
  }
  return { ids: [...context, ...continuation].slice(-(options.maxTokens + 1)), scored: length };
}

/** Ids of requests, in their order; sequences of ids stay as they are.
 * @throws {UsageError} when a text or a sequence has no tokens to score or too many, or a context has none. */
export function encodeRequests(
  tokenizer: Tokenizer,
  requests: readonly (LogLikelihoodRequest | ScoredSequence)[],
  options: EncodingOptions,
): ScoredSequence[] {
  const contexts = new Map<string, number[]>();
  return requests.map((request) => {
    if (!("ids" in request)) return encodeRequest(tokenizer, request, options, contexts);
    const { length } = request.ids;
    if (length >= 2 && length <= options.maxTokens + 1) return request;
    throw new UsageError(`A sequence of ${length} tokens cannot be scored: must be 2 to ${options.maxTokens + 1}`);
  });
}

/** Windows that score every token of a text once, each with at most `maxTokens` inputs; the last window has as much
 * context as fits. The first token is predicted from `prefix`. No tokens: no windows. */
export function rollingWindows(ids: readonly number[], prefix: number, maxTokens: number): ScoredSequence[] {
  const windows: ScoredSequence[] = [];
  for (let start = 0; start < ids.length;) {
    const scored = Math.min(maxTokens, ids.length - start);
    const end = start + scored;
    const context = start === 0 ? [prefix] : ids.slice(end - maxTokens - 1, start);
    windows.push({ ids: [...context, ...ids.slice(start, end)], scored });
    start = end;
  }
  return windows;
}

/** Where the tokenizer puts its beginning-of-sequence token, in words for records. */
export const tokenizerBos = ({ addsBos }: Tokenizer): string => `tokenizer default (${addsBos ? "BOS" : "no BOS"})`;

/** What requests have as beginning of sequence, in words for records. */
export function requestBos({ tokenizer, encoding }: { tokenizer: Tokenizer; encoding: RequestEncoding }): string {
  if (encoding === "llm-pruner") return "llm-pruner: no BOS, context and continuation encoded apart";
  return tokenizerBos(tokenizer);
}

/** What whole texts have as beginning of sequence, in words for records. */
export function rollingBos(kind: RollingBos, tokenizer: Tokenizer): string {
  return kind === "single" ? "single: before each document, not scored" : `lm-eval: ${tokenizerBos(tokenizer)}, scored`;
}
