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
  /** What is given; may be empty. */
  context: string;
  /** What is scored. */
  continuation: string;
}

/** Token ids of which the last ones are scored. */
export interface ScoredSequence {
  /** At least two. */
  ids: readonly number[];
  /** How many ids at the end are scored; each is predicted from all before it. */
  scored: number;
}

/** When the beginning-of-sequence token stands before a text. `tokenizer`: where the tokenizer's own default puts it
 * (lm-evaluation-harness since October 2025); `never` (its default before). */
export type BosPolicy = "tokenizer" | "never";

/** How requests become ids. `lm-eval`: context and continuation are encoded together and cut where the context ends.
 * `llm-pruner`: encoded apart and without beginning-of-sequence token, as the harness bundled with LLM-Pruner does;
 * its published tables are comparable to no other mode. */
export type RequestEncoding = (typeof REQUEST_ENCODINGS)[number];

/** How texts become token sequences. */
export interface EncodingOptions {
  /** Beginning-of-sequence policy. */
  bos: BosPolicy;
  /** Whether context and continuation are encoded together. */
  encoding: RequestEncoding;
  /** Most input tokens of a sequence (M); longer sequences lose their beginning. */
  maxTokens: number;
}

/** Token ids of `text` under a beginning-of-sequence policy. A text that already begins with the token's own text is
 * not given a second one. */
export function encodeText(tokenizer: Tokenizer, text: string, bos: BosPolicy): number[] {
  const { bosTokenId: id } = tokenizer;
  const own = id === null ? "" : tokenizer.tokenText(id);
  const hasOwn = own !== "" && text.startsWith(own);
  return tokenizer.encode(text, { specialTokens: bos === "tokenizer" && !hasOwn });
}

/** The token that stands for an empty context: beginning of sequence, else end of sequence.
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
  { bos, encoding }: EncodingOptions,
  contexts: Map<string, number[]>,
): [context: number[], continuation: number[]] {
  const remember = (text: string, policy: BosPolicy) => {
    const ids = contexts.get(text) ?? encodeText(tokenizer, text, policy);
    contexts.set(text, ids);
    return ids;
  };
  if (encoding === "llm-pruner") {
    const before = context === "" ? [tokenizer.eosTokenId ?? prefixToken(tokenizer)] : remember(context, "never");
    return [before, tokenizer.encode(continuation, { specialTokens: false })];
  }
  if (context === "") {
    const prefix = prefixToken(tokenizer);
    const ids = tokenizer.encode(continuation, { specialTokens: false });
    return [[prefix], ids[0] === prefix ? ids.slice(1) : ids];
  }
  const before = remember(stripEnd(context), bos);
  const whole = encodeText(tokenizer, context + continuation, bos);
  return [before, whole.slice(before.length)];
}

/** Ids of a request, of which those of the continuation are scored; the beginning is cut so that at most `maxTokens`
 * ids are inputs. `contexts` remembers the ids of contexts under one set of options, since choices share theirs.
 * @throws {UsageError} when the continuation has no tokens or more than `maxTokens`, or the context has none. */
export function encodeRequest(
  tokenizer: Tokenizer,
  request: LogLikelihoodRequest,
  options: EncodingOptions,
  contexts: Map<string, number[]> = new Map(),
): ScoredSequence {
  const [context, continuation] = encodePair(tokenizer, request, options, contexts);
  const { length } = continuation;
  if (context.length === 0) {
    throw new UsageError(`The context ${JSON.stringify(request.context)} has no tokens: it must be empty or hold text`);
  }
  if (length === 0 || length > options.maxTokens) {
    throw new UsageError(
      `The continuation ${JSON.stringify(request.continuation.slice(0, 60))} has ${length} tokens: ` +
        `must be 1 to ${options.maxTokens}`,
    );
  }
  return { ids: [...context, ...continuation].slice(-(options.maxTokens + 1)), scored: length };
}

/** Requests that become ids a few at a time. */
export interface RequestQueue {
  /** Encodes the next `count`. */
  advance(count: number): void;
  /** Encodes what is left and gives all, in the order of the requests.
   * @throws {UsageError} as {@linkcode encodeRequest}. */
  finish(): ScoredSequence[];
}

/** A queue of `requests`. One that cannot be encoded stops it, and is reported at its end. */
export function queueRequests(
  tokenizer: Tokenizer,
  requests: readonly LogLikelihoodRequest[],
  options: EncodingOptions,
): RequestQueue {
  const contexts = new Map<string, number[]>();
  const sequences: ScoredSequence[] = [];
  const encode = (count: number) => {
    for (const request of requests.slice(sequences.length, sequences.length + count)) {
      sequences.push(encodeRequest(tokenizer, request, options, contexts));
    }
  };
  let isStopped = false;
  return {
    advance: (count) => {
      if (isStopped) return;
      try {
        encode(count);
      } catch {
        isStopped = true;
      }
    },
    finish: () => {
      encode(requests.length);
      return sequences;
    },
  };
}

/** A window of a long text. */
export interface RollingWindow {
  /** Ids that are given. */
  context: number[];
  /** Ids that are scored. */
  continuation: number[];
}

/** Windows that score every token of a text once, each with at most `maxTokens` inputs; the last window has as much
 * context as fits. The first token is predicted from `prefix`. No tokens: no windows. */
export function rollingWindows(ids: readonly number[], prefix: number, maxTokens: number): RollingWindow[] {
  const windows: RollingWindow[] = [];
  for (let start = 0; start < ids.length;) {
    const count = Math.min(maxTokens, ids.length - start);
    const end = start + count;
    const context = start === 0 ? [prefix] : ids.slice(end - maxTokens - 1, start);
    windows.push({ context: [...context], continuation: ids.slice(start, end) });
    start = end;
  }
  return windows;
}
