/** A tokenizer as GGUF metadata: the inverse of `tokenizer_gguf.ts`. A tokenizer that GGUF cannot describe exactly is
 * refused.
 *
 * @module
 */
import { isDeepStrictEqual } from "node:util";
import { UsageError } from "../util/errors.ts";
import type { GgufValue } from "./gguf.ts";
import type { GgufEntry } from "./gguf_write.ts";
import type { Tokenizer, TokenizerDefinition } from "./tokenizer.ts";
import { ggufTokenizerDefinition, PRE_TOKENIZERS, TOKEN_TYPE } from "./tokenizer_gguf.ts";
import {
  type JsonObject,
  type PreparedTokenizer,
  prepareForLibrary,
  SPACE_MARK,
  splitsNowhere,
} from "./tokenizer_library.ts";

const WHAT = "the tokenizer";

function refuse(problem: string): never {
  throw new UsageError(
    `The tokenizer ${problem}, which GGUF cannot describe exactly: ` +
      "export a Hugging Face folder and convert it with llama.cpp's convert_hf_to_gguf.py",
  );
}

const asObject = (value: unknown): JsonObject => typeof value === "object" && value !== null ? value as JsonObject : {};

function preparedSteps(preTokenizer: unknown): unknown {
  const model = { type: "BPE", vocab: { a: 0 }, merges: [] };
  return prepareForLibrary({ pre_tokenizer: preTokenizer, model }, WHAT, 1).json.pre_tokenizer;
}

/** `tokenizer.ggml.pre` of a byte-level tokenizer. */
function preName({ json }: PreparedTokenizer): string {
  const own = [json.normalizer, json.pre_tokenizer, asObject(json.model).ignore_merges === true];
  const found = Object.entries(PRE_TOKENIZERS).find(([, { normalizer = null, split, wholeWords = false }]) =>
    isDeepStrictEqual(own, [normalizer, preparedSteps(split), wholeWords])
  );
  return found?.[0] ??
    refuse(`normalises or splits text in another way than ${Object.keys(PRE_TOKENIZERS).join(", ")}`);
}

/** Whether a SentencePiece tokenizer puts a space before the text: a normalizer in older files, a `Metaspace` in newer
 * ones. */
function addsSpacePrefix({ tokenizer }: TokenizerDefinition): boolean {
  const { normalizer, pre_tokenizer: preTokenizer } = tokenizer;
  const marks = { type: "Replace", pattern: { String: " " }, content: SPACE_MARK };
  const matches = (steps: JsonObject[]) => {
    const inner = asObject(normalizer).type === "Sequence" ? asObject(normalizer).normalizers : [normalizer];
    return JSON.stringify(inner) === JSON.stringify(steps);
  };
  if (preTokenizer === null || preTokenizer === undefined || splitsNowhere(tokenizer)) {
    if (matches([{ type: "Prepend", prepend: SPACE_MARK }, marks])) return true;
    if (matches([marks])) return false;
  } else if (normalizer === null || normalizer === undefined) {
    const { type, replacement, split, prepend_scheme: scheme } = asObject(preTokenizer);
    if (type === "Metaspace" && replacement === SPACE_MARK && split === false) return scheme !== "never";
  }
  return refuse("prepares text in another way than SentencePiece");
}

/** Score of every token of a SentencePiece vocabulary: minus the rank of its merge, so that better means earlier.
 * Tokens without a merge, such as single characters and bytes, come last. */
function scoresFromMerges(merges: [string, string][], tokens: readonly string[]): Float32Array {
  const ranks = new Map<string, number>();
  for (const [left, right] of merges) if (!ranks.has(left + right)) ranks.set(left + right, ranks.size);
  return Float32Array.from(tokens, (token) => -(ranks.get(token) ?? ranks.size));
}

/** Checks that the scores give the same merges: llama.cpp merges any two tokens whose join is a token, best score
 * first. Added tokens are cut out of the text before any merge. */
function checkScores(metadata: Map<string, GgufEntry>, { json }: PreparedTokenizer): void {
  const values = new Map([...metadata].map(([key, entry]): [string, GgufValue] => [key, Object.values(entry)[0]]));
  const { tokenizer } = ggufTokenizerDefinition({ path: WHAT, metadata: values });
  const added = new Set((json.added_tokens as { content: string }[]).map(({ content }) => content));
  const [own, again] = [json, tokenizer].map(({ model }) => {
    const merges = (asObject(model).merges as [string, string][]).filter((pair) => !added.has(pair.join("")));
    return [merges.map((pair) => pair.join("")), merges.map((pair) => pair.join(" ")).sort()];
  });
  if (!isDeepStrictEqual(own, again)) refuse("has merges that are not those of a SentencePiece vocabulary");
}

/** Text and llama.cpp type of every id below `vocabSize`. */
function tokenList({ json, vocabulary }: PreparedTokenizer, vocabSize: number): { tokens: string[]; types: number[] } {
  const model = asObject(json.model);
  const tokens: string[] = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`);
  const types: number[] = new Array(vocabSize).fill(TOKEN_TYPE.unused);
  for (const [token, id] of vocabulary) {
    tokens[id] = token;
    types[id] = model.byte_fallback === true && /^<0x[0-9A-F]{2}>$/.test(token) ? TOKEN_TYPE.byte : TOKEN_TYPE.normal;
  }
  for (const { id, content, special } of json.added_tokens as { id: number; content: string; special?: boolean }[]) {
    tokens[id] = content;
    types[id] = special === true ? TOKEN_TYPE.control : TOKEN_TYPE.userDefined;
  }
  const unknown = typeof model.unk_token === "string" ? vocabulary.get(model.unk_token) : undefined;
  if (unknown !== undefined) types[unknown] = TOKEN_TYPE.unknown;
  return { tokens, types };
}

/** Metadata `tokenizer.*` for which llama.cpp gives the tokenizer's ids: byte-level BPE with a splitting step of
 * `tokenizer_gguf.ts`, or SentencePiece BPE with byte fallback.
 *
 * @param definition content of the tokenizer's files
 * @param tokenizer made from it
 * @param vocabSize V of the model; ids without a token become unused ones
 * @throws {UsageError} when GGUF cannot describe the tokenizer exactly, with a way out. */
export function ggufTokenizerMetadata(
  definition: TokenizerDefinition,
  tokenizer: Tokenizer,
  vocabSize: number,
): Map<string, GgufEntry> {
  const prepared = prepareForLibrary(definition.tokenizer, WHAT, vocabSize);
  const model = asObject(prepared.json.model);
  if (model.type !== "BPE") refuse(`is of type ${JSON.stringify(model.type)}`);
  const isSentencePiece = model.byte_fallback === true;
  const decoder = asObject(definition.tokenizer.decoder);
  if (!isSentencePiece && decoder.type !== "ByteLevel") refuse("is neither byte-level nor has byte fallback");
  const { tokens, types } = tokenList(prepared, vocabSize);
  const merges = model.merges as [string, string][];
  const metadata = new Map<string, GgufEntry>([
    ["tokenizer.ggml.model", { text: isSentencePiece ? "llama" : "gpt2" }],
    ["tokenizer.ggml.pre", { text: isSentencePiece ? "default" : preName(prepared) }],
    ["tokenizer.ggml.tokens", { texts: tokens }],
    ["tokenizer.ggml.token_type", { i32s: Int32Array.from(types) }],
  ]);
  const { bosTokenId, eosTokenId, addsBos } = tokenizer;
  const padToken = definition.config.pad_token;
  const padId = prepared.vocabulary.get(String(asObject(padToken).content ?? padToken)) ?? null;
  const unknownId = types.indexOf(TOKEN_TYPE.unknown);
  const ids = { bos: bosTokenId, eos: eosTokenId, unknown: unknownId < 0 ? null : unknownId, padding: padId };
  for (const [name, id] of Object.entries(ids)) {
    if (id !== null) metadata.set(`tokenizer.ggml.${name}_token_id`, { u32: id });
  }
  if (isSentencePiece) {
    metadata.set("tokenizer.ggml.scores", { f32s: scoresFromMerges(merges, tokens) });
    metadata.set("tokenizer.ggml.add_space_prefix", { bool: addsSpacePrefix(definition) });
    checkScores(metadata, prepared);
  } else {
    metadata.set("tokenizer.ggml.merges", { texts: merges.map(([left, right]) => `${left} ${right}`) });
  }
  metadata.set("tokenizer.ggml.add_bos_token", { bool: addsBos });
  // The ids of an empty text are those around every text.
  metadata.set("tokenizer.ggml.add_eos_token", { bool: tokenizer.encode("").length > (addsBos ? 1 : 0) });
  const template = definition.config.chat_template;
  if (typeof template === "string") metadata.set("tokenizer.chat_template", { text: template });
  return metadata;
}
