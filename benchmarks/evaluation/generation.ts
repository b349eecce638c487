/** Text from generated tokens, without the prompt, up to a stop string.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import type { GenerationOptions } from "../../models/generate.ts";
import type { ScoringModel } from "../../models/scoring.ts";

/** How to continue texts. */
export interface TextOptions extends Omit<GenerationOptions, "isDone"> {
  /** The text ends before the first of these; empty ones are ignored. The end-of-sequence token always ends it. */
  stop?: readonly string[];
}

/** Tokens of context that are decoded with a text: a token's text can depend on the tokens before it. */
const CONTEXT_TOKENS = 4;

/** Text of `ids` after `before`. */
export function textAfter(tokenizer: Tokenizer, before: readonly number[], ids: readonly number[]): string {
  const context = before.slice(-CONTEXT_TOKENS);
  const head = tokenizer.decode(context);
  const whole = tokenizer.decode([...context, ...ids]);
  // A prompt that ends within a character has no text of its own.
  return whole.startsWith(head) ? whole.slice(head.length) : tokenizer.decode(ids);
}

/** Where the first stop string begins in `text`, or -1. */
function stopAt(text: string, stop: readonly string[]): number {
  const places = stop.map((one) => text.indexOf(one)).filter((place) => place >= 0);
  return places.length === 0 ? -1 : Math.min(...places);
}

/** The continuation of each prompt of token ids, without the stop string and what follows it.
 * @throws {RangeError} when a prompt is empty or too long for `maxTokens` more.
 * @throws {NumericError} when the model's output is not finite. */
export async function generateTexts(
  model: ScoringModel,
  tokenizer: Tokenizer,
  prompts: readonly (readonly number[])[],
  { stop = [], ...options }: TextOptions,
): Promise<string[]> {
  const stops = stop.filter((one) => one !== "");
  /** Whether a token ends the text by itself: end of sequence, or a special token that is a stop string. */
  const isEnd = (id: number) => id === tokenizer.eosTokenId || stops.includes(tokenizer.tokenText(id));
  const generated = await model.generate(prompts, {
    ...options,
    isDone: (prompt, ids) =>
      isEnd(at(ids, ids.length - 1)) ||
      stops.length > 0 && stopAt(textAfter(tokenizer, at(prompts, prompt), ids), stops) >= 0,
  });
  return generated.map((ids, prompt) => {
    const end = ids.findIndex(isEnd);
    const text = textAfter(tokenizer, at(prompts, prompt), end < 0 ? ids : ids.slice(0, end));
    const cut = stopAt(text, stops);
    return cut < 0 ? text : text.slice(0, cut);
  });
}
