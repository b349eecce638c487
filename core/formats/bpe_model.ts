/** The `model` of a tokenizer.json with byte-pair encoding.
 *
 * @module
 */

/** What differs from one BPE model to another. */
export interface BpeParts {
  /** Token of unknown text; none with byte-level BPE. */
  unk_token?: string | null;
  fuse_unk?: boolean;
  byte_fallback?: boolean;
  /** Whether a word that is a token is never split. */
  ignore_merges?: boolean;
  /** Id of each token. */
  vocab: Record<string, number>;
  /** Pairs in the order in which they are merged. */
  merges: unknown[];
}

/** A complete model: what `parts` leaves out is off. */
export function bpeModel(parts: BpeParts): Record<string, unknown> {
  return {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    ...parts,
  };
}
