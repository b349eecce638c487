/** Text to token ids and back.
 *
 * @module
 */
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { FileFormatError, UsageError } from "../util/errors.ts";
import { listFolder, readJsonObject } from "./ranged_file.ts";
import { type JsonObject, MAX_VOCABULARY, prepareForLibrary } from "./tokenizer_library.ts";

/** A tokenizer of a model folder or GGUF file. */
export interface Tokenizer {
  /** Token ids of `text`. With `specialTokens` (default true) the tokenizer's default special tokens are added, such as
   * the beginning-of-sequence token of some models. */
  encode(text: string, options?: { specialTokens?: boolean }): number[];
  /** Text of `ids` without special tokens. */
  decode(ids: readonly number[]): string;
  /** The token's own text, special tokens included: the vocabulary's entry, such as `Ġthe` or `<|im_end|>`. */
  tokenText(id: number): string;
  /** Largest token id plus one. */
  vocabSize: number;
  bosTokenId: number | null;
  eosTokenId: number | null;
  /** Whether `encode` puts the beginning-of-sequence token first by default. */
  addsBos: boolean;
  /** Ids in front of every window that is cut from a longer text: beginning of sequence if the model needs it
   * ({@linkcode TokenizerOptions.opensWindows}), else none. */
  windowStart: readonly number[];
  /** SHA-256 of the tokenizer's definition, hex. */
  sha256: string;
}

/** A tokenizer's definition in a Hugging Face folder. Other tools load both objects written with `JSON.stringify`. */
export interface TokenizerDefinition {
  /** Content of `tokenizer.json`. */
  tokenizer: JsonObject;
  /** Content of `tokenizer_config.json`. */
  config: JsonObject;
}

/** The model's tokens, used if the tokenizer's own configuration does not name them. */
interface TokenizerOptions {
  /** V: ids must be below it. */
  vocabSize?: number;
  bosTokenId?: number | null;
  eosTokenId?: number | null;
  /** Whether windows of text must begin with the beginning-of-sequence token; default false. */
  opensWindows?: boolean;
}

/** Reads `tokenizer.json` and, if present, `tokenizer_config.json`.
 * @throws {UsageError} when the folder has no `tokenizer.json`.
 * @throws {FileFormatError} when a file is not a JSON object. */
export function readTokenizerDefinition(folder: string): TokenizerDefinition {
  const names = listFolder(folder);
  if (!names.has("tokenizer.json")) {
    const hint = names.has("tokenizer.model")
      ? ": convert tokenizer.model with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)"
      : "";
    throw new UsageError(`${folder}: has no tokenizer.json${hint}`);
  }
  const configPath = join(folder, "tokenizer_config.json");
  return {
    tokenizer: readJsonObject(join(folder, "tokenizer.json")),
    config: names.has("tokenizer_config.json") ? readJsonObject(configPath) : {},
  };
}

/** Id of the token the configuration names under `key`: a string, or an object with `content`; `null` for none. */
function configuredId(
  config: JsonObject,
  key: string,
  vocabulary: Map<string, number>,
  fallback: number | null = null,
): number | null {
  const entry = config[key];
  if (entry === null) return null;
  const text = typeof entry === "object" && entry !== null ? (entry as JsonObject).content : entry;
  return typeof text === "string" ? vocabulary.get(text) ?? fallback : fallback;
}

/** Makes byte fallback keep byte order marks in a text, like the reference. */
function keepByteOrderMarks(decoder: unknown): void {
  if (typeof decoder !== "function") return; // The library's steps are callable.
  if ("text_decoder" in decoder) decoder.text_decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  if ("decoders" in decoder) (decoder.decoders as unknown[]).forEach(keepByteOrderMarks);
}

/** Ids the tokenizer puts before and after a text by default: those of its post-processor. As in transformers,
 * `add_bos_token` and `add_eos_token` override it. */
function surroundings(
  library: LibraryTokenizer,
  config: JsonObject,
  bosTokenId: number | null,
  eosTokenId: number | null,
): { prefix: number[]; suffix: number[] } {
  const text = "\0";
  const tokens = library.post_processor?.post_process([text], null, true).tokens ?? [text];
  const at = tokens.indexOf(text);
  const ids = (part: string[]) => part.map((token) => library.token_to_id(token)).filter((id) => id !== undefined);
  let prefix = ids(tokens.slice(0, at));
  let suffix = ids(tokens.slice(at + 1));
  if (config.add_bos_token === false) prefix = prefix.filter((id) => id !== bosTokenId);
  if (config.add_bos_token === true && bosTokenId !== null && prefix[0] !== bosTokenId) prefix.unshift(bosTokenId);
  if (config.add_eos_token === false) suffix = suffix.filter((id) => id !== eosTokenId);
  if (config.add_eos_token === true && eosTokenId !== null && !suffix.includes(eosTokenId)) suffix.push(eosTokenId);
  return { prefix, suffix };
}

/** Creates a tokenizer from its definition.
 *
 * @param definition content of the two files
 * @param path named in messages
 * @throws {FileFormatError} when the definition is malformed.
 * @throws {UsageError} when it has an unsupported step, with its name. */
export function createTokenizer(
  definition: TokenizerDefinition,
  path: string,
  options: TokenizerOptions = {},
): Tokenizer {
  const { tokenizer, config } = definition;
  const { json, vocabulary } = prepareForLibrary(tokenizer, path, options.vocabSize ?? MAX_VOCABULARY);
  const bosTokenId = configuredId(config, "bos_token", vocabulary, options.bosTokenId);
  const eosTokenId = configuredId(config, "eos_token", vocabulary, options.eosTokenId);
  let library: LibraryTokenizer;
  try {
    // A WordLevel model's unknown token is looked up in the configuration.
    library = new LibraryTokenizer(json, { unk_token: (json.model as JsonObject).unk_token, ...config });
  } catch (error) {
    throw new FileFormatError(
      path,
      `cannot be used as a tokenizer (${error instanceof Error ? error.message : error})`,
    );
  }
  keepByteOrderMarks(library.decoder);
  const surround = (flags: JsonObject) => surroundings(library, flags, bosTokenId, eosTokenId);
  const { prefix, suffix } = surround(config);
  const own = JSON.stringify({ prefix, suffix });
  const usual = JSON.stringify(surround({}));
  let vocabSize = 0;
  for (const id of vocabulary.values()) vocabSize = Math.max(vocabSize, id + 1);
  const decodeOptions = {
    skip_special_tokens: true,
    clean_up_tokenization_spaces: config.clean_up_tokenization_spaces === true,
  };
  return {
    encode: (text, { specialTokens = true } = {}) => {
      const { ids } = library.encode(text, { add_special_tokens: false });
      if (ids.includes(undefined as unknown as number)) {
        throw new UsageError(`${path}: the tokenizer has no token for part of the text, and no unknown token`);
      }
      return specialTokens ? [...prefix, ...ids, ...suffix] : ids;
    },
    decode: (ids) => ids.length === 0 ? "" : library.decode([...ids], decodeOptions),
    tokenText: (id) => library.id_to_token(id) ?? "",
    vocabSize,
    bosTokenId,
    eosTokenId,
    addsBos: bosTokenId !== null && prefix[0] === bosTokenId,
    windowStart: options.opensWindows && bosTokenId !== null ? [bosTokenId] : [],
    // Flags of tokenizer_config.json count where they change what surrounds a text.
    sha256: createHash("sha256").update(JSON.stringify(tokenizer)).update(own === usual ? "" : own).digest("hex"),
  };
}

/** Ids of a text that windows are cut from. If each window begins with a special token, the text itself does not. */
export function encodeForWindows(tokenizer: Tokenizer, text: string): number[] {
  return tokenizer.encode(text, { specialTokens: tokenizer.windowStart.length === 0 });
}

/** Ids of the text itself in a window of `tokens`. */
export const textTokens = ({ windowStart }: Tokenizer, tokens: number): number => tokens - windowStart.length;

/** A window of `tokens` ids whose own text begins at `start` of `ids`. */
export function cutWindow(tokenizer: Tokenizer, ids: readonly number[], start: number, tokens: number): Int32Array {
  return Int32Array.from([...tokenizer.windowStart, ...ids.slice(start, start + textTokens(tokenizer, tokens))]);
}
