/** The tokenizer in a GGUF file's metadata, as a `tokenizer.json` with the same ids.
 *
 * @module
 */
import { FileFormatError, UsageError } from "../util/errors.ts";
import { at, lookUp } from "../util/indexing.ts";
import type { GgufFile, GgufValue } from "./gguf.ts";
import type { TokenizerDefinition } from "./tokenizer.ts";
import { isolate, type JsonObject, SPACE_MARK } from "./tokenizer_library.ts";

/** llama.cpp's token types (`llama_token_type`). */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

const byteLevel = (useRegex: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});
const sequence = (...pretokenizers: JsonObject[]): JsonObject => ({ type: "Sequence", pretokenizers });

/** Llama 3's pattern, with so many digits in a piece. */
const wordsWith = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|` +
  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const llama3 = sequence(isolate(wordsWith("{1,3}")), byteLevel(false));
const singleDigits = sequence({ type: "Digits", individual_digits: true }, byteLevel(true));

/** Every supported `tokenizer.ggml.pre`: its splitting step, its normalizer, which llama.cpp leaves out, and whether words
 * of the vocabulary are taken whole. From the models' `tokenizer.json`; `default` from llama.cpp (`llama-vocab.cpp`). */
export const PRE_TOKENIZERS: Record<string, { split: JsonObject; normalizer?: JsonObject; wholeWords?: boolean }> = {
  "llama-bpe": { split: llama3, wholeWords: true },
  "smaug-bpe": { split: llama3 }, // SmolLM3's
  "qwen2": { split: sequence(isolate(wordsWith("")), byteLevel(false)), normalizer: { type: "NFC" } },
  "smollm": { split: singleDigits },
  "refact": { split: singleDigits }, // Granite's
  "gpt-2": { split: byteLevel(true) },
  "default": {
    split: sequence(
      isolate("[\\p{P}\\$\\+<=>\\^~\\|]+"),
      isolate("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"),
      isolate("\\p{N}+"),
      isolate("[0-9][0-9][0-9]"),
      byteLevel(false),
    ),
  },
};

const shown = (value: GgufValue | undefined) => typeof value === "string" ? `"${value.slice(0, 80)}"` : "(none)";

type GgufMetadata = Pick<GgufFile, "path" | "metadata">;

interface Vocabulary {
  tokens: string[];
  types: ArrayLike<number>;
  idOf: Map<string, number>;
  merges: string[] | undefined;
  scores: ArrayLike<number> | undefined;
  bosId: number | null;
  eosId: number | null;
  unknownId: number | null;
  padId: number | null;
}

function readVocabulary(file: GgufMetadata, isSentencePiece: boolean): Vocabulary {
  const { metadata, path } = file;
  const fail = (problem: string): never => {
    throw new FileFormatError(path, problem);
  };
  const key = (name: string) => `tokenizer.ggml.${name}`;
  const strings = (name: string): string[] | undefined => {
    const value = metadata.get(key(name));
    if (value === undefined) return undefined;
    const isStrings = Array.isArray(value) && value.every((entry) => typeof entry === "string");
    return isStrings ? value : fail(`metadata "${key(name)}" must be an array of strings`);
  };
  const tokens = strings("tokens") ?? fail(`has no metadata "${key("tokens")}", so no tokenizer`);
  const numbers = (name: string): ArrayLike<number> | undefined => {
    const value = metadata.get(key(name));
    if (value === undefined) return undefined;
    if (!ArrayBuffer.isView(value) || value.length !== tokens.length) {
      return fail(`metadata "${key(name)}" must be an array of ${tokens.length} numbers, one per token`);
    }
    return value;
  };
  const tokenId = (name: string, fallback: number | null): number | null => {
    const value = metadata.get(key(`${name}_token_id`)) ?? fallback;
    if (value === null || value === 0xffffffff || value === -1) return null;
    const isValid = typeof value === "number" && value >= 0 && value < tokens.length;
    return isValid ? value : fail(`metadata "${key(`${name}_token_id`)}" is ${value}: must be below ${tokens.length}`);
  };
  const idOf = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (idOf.has(token)) fail(`token ${JSON.stringify(token)} appears twice in the vocabulary`);
    idOf.set(token, id);
  });
  return {
    tokens,
    types: numbers("token_type") ?? new Int32Array(tokens.length).fill(TOKEN_TYPE.normal),
    idOf,
    merges: strings("merges"),
    scores: numbers("scores"),
    // SentencePiece's usual ids are llama.cpp's defaults too; byte-level vocabularies have none.
    bosId: tokenId("bos", isSentencePiece ? 1 : null),
    eosId: tokenId("eos", isSentencePiece ? 2 : null),
    unknownId: tokenId("unknown", isSentencePiece ? 0 : null),
    padId: tokenId("padding", null),
  };
}

/** Tokens that are found in the text before all other steps. */
function addedTokens({ tokens, types }: Vocabulary): JsonObject[] {
  return tokens.flatMap((content, id) => {
    const special = types[id] === TOKEN_TYPE.control || types[id] === TOKEN_TYPE.unknown;
    if (!special && types[id] !== TOKEN_TYPE.userDefined || content === "") return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
}

/** Merges of a SentencePiece BPE model from its scores: every split of a token into two others, best token first.
 * SentencePiece merges the pair whose result has the highest score; ties are ordered as in transformers'
 * `convert_slow_tokenizer.generate_merges`. */
function mergesFromScores({ tokens, types, idOf }: Vocabulary, scores: ArrayLike<number>): [string, string][] {
  const candidates: { left: string; right: string; score: number }[] = [];
  tokens.forEach((token, id) => {
    if (types[id] !== TOKEN_TYPE.normal && types[id] !== TOKEN_TYPE.userDefined) return;
    const letters = Array.from(token);
    let left = "";
    for (let i = 0; i + 1 < letters.length; i++) {
      left += letters[i];
      const right = token.slice(left.length);
      if (idOf.has(left) && idOf.has(right)) candidates.push({ left, right, score: at(scores, id) });
    }
  });
  return candidates
    .sort((a, b) =>
      b.score - a.score || b.left.length - a.left.length || b.right.length - a.right.length ||
      lookUp(idOf, b.left) - lookUp(idOf, a.left) || lookUp(idOf, b.right) - lookUp(idOf, a.right)
    )
    .map(({ left, right }) => [left, right]);
}

/** Merges as pairs; tokens of byte-level vocabularies have no spaces. */
function splitMerges(merges: string[], path: string): [string, string][] {
  return merges.map((merge) => {
    const at = merge.indexOf(" ", 1);
    if (at < 0) {
      throw new FileFormatError(path, `merge ${JSON.stringify(merge)} must be two tokens separated by a space`);
    }
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
}

function template(bos: { token: string; id: number } | null, eos: { token: string; id: number } | null): JsonObject {
  const special = (token: { token: string } | null, typeId: number) =>
    token ? [{ SpecialToken: { id: token.token, type_id: typeId } }] : [];
  const around = (id: string, typeId: number) => [
    ...special(bos, typeId),
    { Sequence: { id, type_id: typeId } },
    ...special(eos, typeId),
  ];
  const used = [bos, eos].filter((token) => token !== null);
  return {
    type: "TemplateProcessing",
    single: around("A", 0),
    pair: [...around("A", 0), ...around("B", 1)],
    special_tokens: Object.fromEntries(used.map(({ token, id }) => [token, { id: token, ids: [id], tokens: [token] }])),
  };
}

const bpeModel = (parts: { vocab: Record<string, number>; merges: [string, string][] } & JsonObject): JsonObject => ({
  type: "BPE",
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
  ...parts,
});

function byteLevelModel(vocabulary: Vocabulary, file: GgufMetadata): JsonObject {
  const pre = file.metadata.get("tokenizer.ggml.pre") ?? "default";
  const known = typeof pre === "string" && Object.hasOwn(PRE_TOKENIZERS, pre) ? PRE_TOKENIZERS[pre] : undefined;
  if (!known) {
    throw new UsageError(
      `${file.path}: pre-tokenizer ${shown(pre)} is not supported: must be ${Object.keys(PRE_TOKENIZERS).join(", ")}`,
    );
  }
  if (!vocabulary.merges) throw new FileFormatError(file.path, `has no metadata "tokenizer.ggml.merges"`);
  return {
    normalizer: known.normalizer ?? null,
    pre_tokenizer: known.split,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: bpeModel({
      ignore_merges: known.wholeWords === true,
      vocab: Object.fromEntries(vocabulary.idOf),
      merges: splitMerges(vocabulary.merges, file.path),
    }),
  };
}

function sentencePieceModel(vocabulary: Vocabulary, file: GgufMetadata): JsonObject {
  const { scores, merges, unknownId, tokens, idOf } = vocabulary;
  const hasScores = scores !== undefined && Array.from(scores).some((score) => score !== scores[0]);
  if (!hasScores && !merges) {
    throw new FileFormatError(file.path, `has neither "tokenizer.ggml.scores" nor "tokenizer.ggml.merges"`);
  }
  const addsSpace = file.metadata.get("tokenizer.ggml.add_space_prefix") !== false;
  const marks = { type: "Replace", pattern: { String: " " }, content: SPACE_MARK };
  return {
    normalizer: {
      type: "Sequence",
      normalizers: [...(addsSpace ? [{ type: "Prepend", prepend: SPACE_MARK }] : []), marks],
    },
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: SPACE_MARK }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(addsSpace ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: bpeModel({
      unk_token: unknownId === null ? null : tokens[unknownId],
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(idOf),
      merges: hasScores ? mergesFromScores(vocabulary, scores) : splitMerges(merges!, file.path),
    }),
  };
}

/** The definition of a GGUF file's tokenizer: byte-level BPE (`gpt2`, with a pre-tokenizer of
 * {@linkcode PRE_TOKENIZERS}) or SentencePiece BPE with byte fallback (`llama`).
 * @throws {UsageError} for an unsupported tokenizer model or pre-tokenizer, with its name.
 * @throws {FileFormatError} when the metadata are incomplete or contradictory. */
export function ggufTokenizerDefinition(file: GgufMetadata): TokenizerDefinition {
  const { metadata, path } = file;
  const kind = metadata.get("tokenizer.ggml.model");
  if (kind !== "gpt2" && kind !== "llama") {
    throw new UsageError(`${path}: tokenizer model ${shown(kind)} is not supported: must be gpt2 or llama`);
  }
  const isSentencePiece = kind === "llama";
  const vocabulary = readVocabulary(file, isSentencePiece);
  const { tokens, bosId, eosId, unknownId, padId } = vocabulary;
  // Without an entry llama.cpp decides by the kind of tokenizer.
  const bosFlag = metadata.get("tokenizer.ggml.add_bos_token") ??
    (isSentencePiece || metadata.get("tokenizer.ggml.pre") === "llama-bpe");
  const addsBos = bosFlag === true && bosId !== null;
  const addsEos = metadata.get("tokenizer.ggml.add_eos_token") === true && eosId !== null;
  const named = (id: number | null) => id === null ? null : { token: at(tokens, id), id };
  const chatTemplate = metadata.get("tokenizer.chat_template");
  const { model, ...steps } = (isSentencePiece ? sentencePieceModel : byteLevelModel)(vocabulary, file);
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: addedTokens(vocabulary),
      ...steps,
      post_processor: addsBos || addsEos
        ? template(addsBos ? named(bosId) : null, addsEos ? named(eosId) : null)
        : null,
      model,
    },
    config: {
      tokenizer_class: "PreTrainedTokenizerFast",
      add_bos_token: addsBos,
      add_eos_token: addsEos,
      bos_token: named(bosId)?.token ?? null,
      eos_token: named(eosId)?.token ?? null,
      unk_token: named(unknownId)?.token ?? null,
      pad_token: named(padId)?.token ?? null,
      clean_up_tokenization_spaces: false,
      ...(typeof chatTemplate === "string" && { chat_template: chatTemplate }),
    },
  };
}
