/** Text to token ids and back.
 *
 * @module
 */

/** A tokenizer of a model folder or GGUF file. */
export interface Tokenizer {
  /** Token ids of `text`. With `specialTokens` (default true) the tokenizer's own default is followed, which for some
   * models puts the beginning-of-sequence token first. */
  encode(text: string, options?: { specialTokens?: boolean }): number[];
  /** Text of `ids`; special tokens are left out. */
  decode(ids: readonly number[]): string;
  /** The token's own text, special tokens included. */
  tokenText(id: number): string;
  vocabSize: number;
  bosTokenId: number | null;
  eosTokenId: number | null;
  /** Whether `encode` puts the beginning-of-sequence token first by default. */
  addsBos: boolean;
  /** SHA-256 of the tokenizer's definition, hex. */
  sha256: string;
}
