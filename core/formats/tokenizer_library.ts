/** Prepares a `tokenizer.json` for the tokenizer library, so that ids are those of Hugging Face's `tokenizers`.
 *
 * The library (`@huggingface/tokenizers`) differs from the Rust reference in details that change ids. It also takes a
 * whole text as one word if the tokenizer has no splitting step. Both are fixed by rewriting steps into equivalent
 * ones. Other steps that the library does not reproduce exactly are refused by name.
 *
 * @module
 */
import { isObject } from "../util/canonical_json.ts";
import { FileFormatError, UsageError } from "../util/errors.ts";

/** A JSON object. */
export type JsonObject = Record<string, unknown>;

/** Most tokens that a definition may have. */
export const MAX_VOCABULARY = 1 << 22;
const MAX_DEPTH = 8;

/** GPT-2's splitting pattern, which `ByteLevel` applies unless told otherwise. */
const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** The space mark of SentencePiece vocabularies. */
export const SPACE_MARK = "\u2581";

const isTokenId = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < MAX_VOCABULARY;

const escapePattern = (text: string) => text.replace(/[\\^$.*+?()[\]{}|\/-]/g, "\\$&");

/** A step that makes every match of `pattern` a separate piece. */
export function isolate(pattern: string): JsonObject {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

const remove = (pattern: string) => ({ type: "Split", pattern: { Regex: pattern }, behavior: "Removed" });
const keep = (pattern: string) => ({ ...remove(pattern), invert: true });

interface Context {
  refuse(what: string): never;
  fail(problem: string): never;
}

function contextOf(path: string): Context {
  return {
    refuse: (what) => {
      throw new UsageError(`${path}: ${what} is not supported: its token ids could be wrong`);
    },
    fail: (problem) => {
      throw new FileFormatError(path, problem);
    },
  };
}

function patternOf(step: JsonObject, context: Context): string {
  const pattern = isObject(step.pattern) ? step.pattern : {};
  if (typeof pattern.Regex === "string") return pattern.Regex;
  if (typeof pattern.String === "string") return escapePattern(pattern.String);
  return context.fail(`a ${step.type} step has no pattern`);
}

/** A `Split` step that the library follows exactly: a regular expression, isolated or removed. */
function rewriteSplit(step: JsonObject, context: Context): JsonObject[] {
  const source = patternOf(step, context);
  if (step.behavior === "Isolated") return [isolate(source)];
  if (step.behavior === "Removed") return [step.invert === true ? keep(source) : remove(source)];
  return context.refuse(`Split with behavior ${JSON.stringify(step.behavior)}`);
}

/** `ByteLevel` as a separate prefix, split and byte mapping: the library's own pattern uses JavaScript's `\s`, which
 * differs from Unicode's for U+0085 and U+FEFF. */
function rewriteByteLevel(step: JsonObject): JsonObject[] {
  const prefix = { type: "Replace", pattern: { Regex: "\\A(?=[^ ])" }, content: " " };
  return [
    ...(step.add_prefix_space === true ? [prefix] : []),
    ...(step.use_regex === false ? [] : [isolate(GPT2_PATTERN)]),
    { type: "ByteLevel", add_prefix_space: false, use_regex: false },
  ];
}

/** `Metaspace` with its split, which the library omits. */
function rewriteMetaspace(step: JsonObject): JsonObject[] {
  const mark = typeof step.replacement === "string" ? step.replacement : SPACE_MARK;
  const scheme = step.prepend_scheme ?? (step.add_prefix_space === false ? "never" : "always");
  const metaspace = { type: "Metaspace", replacement: mark, prepend_scheme: scheme };
  if (step.split === false) return [metaspace];
  return [metaspace, isolate(`${escapePattern(mark)}[^${escapePattern(mark)}]*`)];
}

/** Whether a tokenizer splits only at spaces, which its normalizer has replaced by marks, as Gemma's: it does nothing. */
export function splitsNowhere({ normalizer, pre_tokenizer: split }: JsonObject): boolean {
  const atSpace = (step: unknown, type: string): step is JsonObject =>
    isObject(step) && step.type === type && isObject(step.pattern) && step.pattern.String === " ";
  return atSpace(normalizer, "Replace") && normalizer.content === SPACE_MARK && atSpace(split, "Split");
}

const ASCII_PUNCTUATION = "!-/:-@\\[-`\\{-~";

function rewritePreTokenizer(step: unknown, context: Context, depth = 0): JsonObject[] {
  if (step === null || step === undefined) return [];
  if (!isObject(step) || depth > MAX_DEPTH) return context.fail("the pre_tokenizer is malformed");
  switch (step.type) {
    case "Sequence":
      if (!Array.isArray(step.pretokenizers)) return context.fail("a pre_tokenizer Sequence has no list");
      return step.pretokenizers.flatMap((inner) => rewritePreTokenizer(inner, context, depth + 1));
    case "ByteLevel":
      return rewriteByteLevel(step);
    case "Metaspace":
      return rewriteMetaspace(step);
    case "Split":
      return rewriteSplit(step, context);
    // All Unicode numbers in the reference, only 0 to 9 in the library.
    case "Digits":
      return [isolate(step.individual_digits === true ? "\\p{N}" : "\\p{N}+")];
    case "Punctuation":
      if (step.behavior !== undefined && step.behavior !== "Isolated") {
        return context.refuse(`Punctuation with behavior ${JSON.stringify(step.behavior)}`);
      }
      return [isolate(`[\\p{P}${ASCII_PUNCTUATION}]`)];
    case "Whitespace":
      return [keep("\\w+|[^\\w\\s]+")];
    case "WhitespaceSplit":
      return [remove("\\s+")];
    default:
      return context.refuse(`pre_tokenizer ${JSON.stringify(step.type)}`);
  }
}

const isText = (value: unknown) => typeof value === "string";
const isAbsentOr = (test: (value: unknown) => boolean, value: unknown) =>
  value === undefined || value === null || test(value);
const isSmallCount = (value: unknown) => Number.isInteger(value) && (value as number) >= 0 && (value as number) < 100;

/** For each step that the library follows exactly: whether its members are well-formed. */
type StepChecks = Record<string, (step: JsonObject, context: Context) => boolean>;
const always = () => true;
const isReplace = (step: JsonObject, context: Context) => patternOf(step, context) !== "" && isText(step.content);

const NORMALIZERS: StepChecks = {
  Prepend: (step) => isText(step.prepend),
  Replace: isReplace,
  NFC: always,
  NFD: always,
  NFKC: always,
  NFKD: always,
  Lowercase: always,
  Strip: always,
};
const DECODERS: StepChecks = {
  ByteLevel: always,
  ByteFallback: always,
  Fuse: always,
  Metaspace: (step) => isAbsentOr(isText, step.replacement),
  Replace: isReplace,
  Strip: (step) => isText(step.content) && isSmallCount(step.start) && isSmallCount(step.stop),
};
const POST_PROCESSORS: StepChecks = {
  ByteLevel: always,
  TemplateProcessing: ({ single }) => {
    if (!Array.isArray(single) || !single.every(isObject)) return false;
    const texts = single.filter((item) => isObject(item.Sequence) && item.Sequence.id === "A");
    const specials = single.filter((item) => isObject(item.SpecialToken) && isText(item.SpecialToken.id));
    return texts.length === 1 && texts.length + specials.length === single.length;
  },
};

/** Checks a normalizer, decoder or post-processor; `list` is the key of a Sequence's steps. */
function checkSteps(step: unknown, kind: string, list: string, known: StepChecks, context: Context, depth = 0): void {
  if (step === null || step === undefined) return;
  if (!isObject(step) || !isText(step.type) || depth > MAX_DEPTH) {
    return context.fail(`the ${kind} is malformed`);
  }
  const type = step.type as string;
  if (type === "Sequence") {
    const steps = step[list];
    if (!Array.isArray(steps) || steps.includes(null)) return context.fail(`a ${kind} Sequence has no list of steps`);
    steps.forEach((inner) => checkSteps(inner, kind, list, known, context, depth + 1));
    return;
  }
  const isWellFormed = Object.hasOwn(known, type) ? known[type] : undefined;
  if (!isWellFormed) context.refuse(`${kind} "${type}"`);
  else if (!isWellFormed(step, context)) context.fail(`the ${kind} "${type}" is malformed`);
}

function readMerges(model: JsonObject, context: Context): [string, string][] {
  const { merges } = model;
  if (!Array.isArray(merges)) return context.fail(`"model.merges" must be a list`);
  return merges.map((merge, i) => {
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    const isPair = Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === "string");
    return isPair ? pair as [string, string] : context.fail(`merge ${i} must be a pair of tokens`);
  });
}

function readVocabulary(model: JsonObject, context: Context): Map<string, number> {
  const { vocab } = model;
  const vocabulary = new Map<string, number>();
  if (model.type === "Unigram" && Array.isArray(vocab)) {
    vocab.forEach((entry, id) => {
      const isEntry = Array.isArray(entry) && typeof entry[0] === "string" && Number.isFinite(entry[1]);
      vocabulary.set(isEntry ? entry[0] : context.fail(`vocabulary entry ${id} must be [token, score]`), id);
    });
  } else if (model.type !== "Unigram" && isObject(vocab)) {
    for (const [token, id] of Object.entries(vocab)) {
      if (!isTokenId(id)) context.fail(`token ${JSON.stringify(token)} has the id ${JSON.stringify(id)}`);
      vocabulary.set(token, id as number);
    }
  }
  if (vocabulary.size === 0 || vocabulary.size > MAX_VOCABULARY) {
    context.fail(`the vocabulary has ${vocabulary.size} tokens: must be 1 to ${MAX_VOCABULARY}`);
  }
  return vocabulary;
}

function checkModel(model: JsonObject, context: Context): void {
  if (!["BPE", "Unigram", "WordLevel"].includes(model.type as string)) {
    context.refuse(`tokenizer model ${JSON.stringify(model.type)}`);
  }
  for (const key of ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]) {
    if (model[key]) context.refuse(`"${key}" ${JSON.stringify(model[key])}`);
  }
  if (!isAbsentOr(isText, model.unk_token)) context.fail(`"model.unk_token" must be a token or null`);
  if (!isAbsentOr(isTokenId, model.unk_id)) context.fail(`"model.unk_id" must be a token id or null`);
}

/** Whether no token crosses a boundary between another character and a space mark. Then splitting the text at all such
 * boundaries changes no id: a BPE merge across one would need a left token that ends before it and a right token that
 * begins with the mark, and no Unigram piece or whole-word match contains it. */
function cutsAreSafe(vocabulary: Iterable<string>, merges: [string, string][]): boolean {
  const crosses = new RegExp(`[^${SPACE_MARK}]${SPACE_MARK}`, "u");
  for (const token of vocabulary) if (crosses.test(token)) return false;
  return merges.every(([left, right]) => left.endsWith(SPACE_MARK) || !right.startsWith(SPACE_MARK));
}

/** Checked added tokens, without those at or beyond `vocabularyLimit`: the model has no embedding for them. */
function readAddedTokens(json: JsonObject, vocabularyLimit: number, context: Context): JsonObject[] {
  const list = json.added_tokens ?? [];
  if (!Array.isArray(list)) return context.fail(`"added_tokens" must be a list`);
  return list.filter((token) => {
    if (!isObject(token) || typeof token.content !== "string" || token.content === "" || !isTokenId(token.id)) {
      return context.fail(`the added token ${JSON.stringify(token)} needs a content and an id`);
    }
    if (token.single_word === true) context.refuse(`added token ${JSON.stringify(token.content)} with single_word`);
    return token.id < vocabularyLimit;
  });
}

/** The decoder. The library's `Metaspace` always drops a leading space. */
function rewriteDecoder(decoder: unknown): unknown {
  if (!isObject(decoder) || decoder.type !== "Metaspace" || decoder.prepend_scheme !== "never") return decoder ?? null;
  return { type: "Replace", pattern: { String: decoder.replacement ?? SPACE_MARK }, content: " " };
}

/** A tokenizer as the library needs it. */
export interface PreparedTokenizer {
  json: JsonObject;
  /** Token -> id, added tokens included. */
  vocabulary: Map<string, number>;
}

/** Checks a `tokenizer.json` and rewrites it for the library.
 *
 * @param json content of `tokenizer.json`
 * @param path of the file, for messages
 * @param vocabularyLimit V of the model: a larger id in the vocabulary is an error
 * @throws {FileFormatError} when it is malformed or has ids beyond the limit.
 * @throws {UsageError} when the library cannot follow a step exactly, with its name. */
export function prepareForLibrary(json: JsonObject, path: string, vocabularyLimit: number): PreparedTokenizer {
  const context = contextOf(path);
  const model = isObject(json.model) ? { type: "BPE", ...json.model } : context.fail(`has no "model"`);
  checkModel(model, context);
  checkSteps(json.normalizer, "normalizer", "normalizers", NORMALIZERS, context);
  checkSteps(json.decoder, "decoder", "decoders", DECODERS, context);
  checkSteps(json.post_processor, "post_processor", "processors", POST_PROCESSORS, context);
  const steps = splitsNowhere(json) ? [] : rewritePreTokenizer(json.pre_tokenizer, context);
  const vocabulary = readVocabulary(model, context);
  const merges = model.type === "BPE" ? readMerges(model, context) : [];
  for (const [token, id] of vocabulary) {
    if (id >= vocabularyLimit) {
      context.fail(
        `token ${JSON.stringify(token)} has the id ${id}, but the model's vocabulary ends at ${vocabularyLimit}`,
      );
    }
  }
  const usesMark = steps.every((step) => step.type === "Metaspace");
  if (usesMark && model.type !== "WordLevel" && cutsAreSafe(vocabulary.keys(), merges)) {
    steps.push(isolate(`${SPACE_MARK}+[^${SPACE_MARK}]*`));
  }
  const addedTokens = readAddedTokens(json, vocabularyLimit, context);
  for (const token of addedTokens) vocabulary.set(token.content as string, token.id as number);
  return {
    json: {
      added_tokens: addedTokens,
      normalizer: json.normalizer ?? null,
      pre_tokenizer: steps.length === 0 ? null : { type: "Sequence", pretokenizers: steps },
      post_processor: json.post_processor ?? null,
      decoder: rewriteDecoder(json.decoder),
      model: model.type === "BPE" ? { ...model, merges } : model,
    },
    vocabulary,
  };
}
