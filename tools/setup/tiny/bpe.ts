/** Trains a byte-level BPE tokenizer and writes it as a Hugging Face `tokenizer.json`.
 *
 * @module
 */
import { bpeModel } from "../../../core/formats/bpe_model.ts";
import { at, lookUp } from "../../../core/util/indexing.ts";

/** GPT-2's pre-tokenizer, which `ByteLevel` with `use_regex` applies. */
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** GPT-2's printable stand-in for every byte. */
function byteSymbols(): string[] {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}

interface Word {
  symbols: string[];
  count: number;
}

/** Distinct words of `texts` as byte symbols, with their counts. */
function countWords(texts: readonly string[]): Word[] {
  const symbols = byteSymbols();
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(WORDS)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const encoder = new TextEncoder();
  return [...counts].map(([word, count]) => ({
    symbols: [...encoder.encode(word)].map((byte) => at(symbols, byte)),
    count,
  }));
}

/** The most frequent pair of neighbours; of equally frequent ones the first in code point order. */
function mostFrequentPair(words: readonly Word[]): [string, string] | undefined {
  const counts = new Map<string, number>();
  for (const { symbols, count } of words) {
    for (let i = 1; i < symbols.length; i++) {
      const pair = `${symbols[i - 1]} ${symbols[i]}`;
      counts.set(pair, (counts.get(pair) ?? 0) + count);
    }
  }
  let best: string | undefined;
  for (const [pair, count] of counts) {
    const most = best === undefined ? 0 : lookUp(counts, best);
    if (count > most || (count === most && pair < best!)) best = pair;
  }
  return best?.split(" ") as [string, string] | undefined;
}

function applyMerge(word: Word, [left, right]: [string, string]): void {
  const { symbols } = word;
  for (let i = 0; i + 1 < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) symbols.splice(i, 2, left + right);
  }
}

/** A trained tokenizer: merges in order of training. */
export interface Bpe {
  merges: [string, string][];
  /** Token texts by id: special tokens, the 256 bytes, then one token per merge. */
  tokens: string[];
}

/** Trains byte-level BPE on `texts` until the vocabulary, special tokens included, has `vocabSize` entries or no pair
 * is left. */
export function trainBpe(texts: readonly string[], { vocabSize, special }: {
  vocabSize: number;
  special: readonly string[];
}): Bpe {
  const words = countWords(texts);
  const tokens = new Set([...special, ...byteSymbols()]);
  const merges: [string, string][] = [];
  while (tokens.size < vocabSize) {
    const pair = mostFrequentPair(words);
    if (!pair) break;
    for (const word of words) applyMerge(word, pair);
    merges.push(pair);
    // Two merges can give the same token, such as ab + c and a + bc.
    tokens.add(pair.join(""));
  }
  return { merges, tokens: [...tokens] };
}

/** `tokenizer.json` of a trained tokenizer; nothing is added to a text by default. */
export function tokenizerJson({ merges, tokens }: Bpe, special: readonly string[]): Record<string, unknown> {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: bpeModel({ vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges }),
  };
}

/** `tokenizer_config.json` that goes with it. */
export function tokenizerConfigJson([bos, eos]: readonly string[], maxTokens: number): Record<string, unknown> {
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: bos,
    eos_token: eos,
    add_bos_token: false,
    add_eos_token: false,
    clean_up_tokenization_spaces: false,
    model_max_length: maxTokens,
  };
}
