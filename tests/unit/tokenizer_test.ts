import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import type { GgufFile, GgufValue } from "../../core/formats/gguf.ts";
import {
  createTokenizer,
  cutWindow,
  encodeForWindows,
  readTokenizerDefinition,
  type Tokenizer,
} from "../../core/formats/tokenizer.ts";
import { ggufTokenizerDefinition } from "../../core/formats/tokenizer_gguf.ts";
import { type JsonObject, prepareForLibrary } from "../../core/formats/tokenizer_library.ts";
import { folderTest, LETTER_TOKENIZER, withFolder } from "../support/weights_fixture.ts";

interface Golden {
  texts: string[];
  byteLevel: {
    tokens: string[];
    merges: string[];
    pre: Record<string, number[][]>;
    otherSteps: { name: string; preTokenizer: unknown; ids: number[][] }[];
    definition: JsonObject;
  };
  sentencePiece: { tokens: string[]; scores: number[]; types: number[]; ids: number[][] };
  metaspace: { definition: JsonObject; ids: number[][]; texts: string[] }[];
  gemma: { definition: JsonObject; ids: number[][]; texts: string[] };
}
const REMAKE = "remake tests/golden/tokenizer.json with tools/goldens/make_tokenizer_golden.py";
const golden: Golden = JSON.parse(Deno.readTextFileSync(new URL("../golden/tokenizer.json", import.meta.url)));
const { texts, byteLevel, sentencePiece } = golden;

function assertEncodes(tokenizer: Tokenizer, ids: number[][]): void {
  texts.forEach((text, i) => assertEquals(tokenizer.encode(text), ids[i], `${JSON.stringify(text)}; or ${REMAKE}`));
}

/** A GGUF file that has only tokenizer metadata. */
function ggufWith(metadata: Record<string, GgufValue>): GgufFile {
  return {
    path: "x.gguf",
    sizeBytes: 0,
    metadata: new Map(Object.entries(metadata).map(([key, value]) => [`tokenizer.ggml.${key}`, value])),
    tensors: new Map(),
    read: () => ({ shape: [], data: new Float32Array() }),
    close: () => {},
  };
}

const byteLevelMetadata = (pre: string): Record<string, GgufValue> => ({
  model: "gpt2",
  pre,
  tokens: byteLevel.tokens,
  merges: byteLevel.merges,
  token_type: Int32Array.from(byteLevel.tokens, (token) => token === "<|end|>" ? 3 : 1),
  add_bos_token: false,
});

const sentencePieceMetadata = (): Record<string, GgufValue> => ({
  model: "llama",
  tokens: sentencePiece.tokens,
  scores: Float32Array.from(sentencePiece.scores),
  token_type: Int32Array.from(sentencePiece.types),
});

for (const [pre, ids] of Object.entries(byteLevel.pre)) {
  Deno.test(`ggufTokenizerDefinition() with pre-tokenizer ${pre} gives the reference's ids`, () => {
    const definition = ggufTokenizerDefinition(ggufWith(byteLevelMetadata(pre)));
    const tokenizer = createTokenizer(definition, "x.gguf");
    assertEncodes(tokenizer, ids);
    const shown = (text: string) => (pre === "qwen2" ? text.normalize() : text).replaceAll("<|end|>", "");
    texts.forEach((text, i) => assertEquals(tokenizer.decode(at(ids, i)), shown(text)));
    assertEquals(tokenizer.addsBos, false);
    assertEquals(tokenizer.vocabSize, byteLevel.tokens.length);
  });
}

Deno.test("ggufTokenizerDefinition() of a SentencePiece model gives sentencepiece's ids", () => {
  const tokenizer = createTokenizer(ggufTokenizerDefinition(ggufWith(sentencePieceMetadata())), "x.gguf");
  texts.forEach((text, i) => {
    const ids = at(sentencePiece.ids, i);
    assertEquals(tokenizer.encode(text, { specialTokens: false }), ids, `${JSON.stringify(text)}; or ${REMAKE}`);
    assertEquals(tokenizer.decode(ids), text);
  });
  assertEquals(tokenizer.encode("")[0], 1);
  assertEquals([tokenizer.bosTokenId, tokenizer.eosTokenId, tokenizer.addsBos], [1, 2, true]);
});

Deno.test("ggufTokenizerDefinition() adds no space and no BOS where the file says so", () => {
  const flags = { add_space_prefix: false, add_bos_token: false, add_eos_token: true };
  const file = ggufWith({ ...sentencePieceMetadata(), ...flags });
  const tokenizer = createTokenizer(ggufTokenizerDefinition(file), "x.gguf");
  const first = at(tokenizer.encode("the"), 0);
  assert(!tokenizer.tokenText(first).startsWith("\u2581"), tokenizer.tokenText(first));
  assertEquals(tokenizer.encode("the").at(-1), 2);
  assertEquals(tokenizer.decode(tokenizer.encode(" the")), " the");
  assertEquals(tokenizer.addsBos, false);
});

Deno.test("ggufTokenizerDefinition() takes merges where scores say nothing", () => {
  const plain = ggufTokenizerDefinition(ggufWith(sentencePieceMetadata())).tokenizer.model as JsonObject;
  const merges = (plain.merges as [string, string][]).map((pair) => pair.join(" "));
  const scores = new Float32Array(sentencePiece.scores.length);
  const file = ggufWith({ ...sentencePieceMetadata(), scores, merges });
  assertEquals((ggufTokenizerDefinition(file).tokenizer.model as JsonObject).merges, plain.merges);
});

Deno.test("ggufTokenizerDefinition() names what it does not support and what is missing", () => {
  const base = byteLevelMetadata("smollm");
  const { merges: _, ...noMerges } = base;
  const cases: [Record<string, GgufValue>, string][] = [
    [{ ...base, model: "t5" }, `tokenizer model "t5" is not supported: must be gpt2 or llama`],
    [{}, `tokenizer model (none) is not supported`],
    [{ ...base, pre: "falcon" }, `pre-tokenizer "falcon" is not supported: must be llama-bpe, smaug-bpe, qwen2`],
    [{ ...base, pre: "toString" }, `pre-tokenizer "toString" is not supported`],
    [{ model: "gpt2" }, `has no metadata "tokenizer.ggml.tokens"`],
    [{ ...base, tokens: Int32Array.of(1) }, "must be an array of strings"],
    [{ ...base, tokens: ["a", "a"] }, `token "a" appears twice`],
    [{ ...base, token_type: Int32Array.of(1) }, "one per token"],
    [{ ...base, bos_token_id: 400 }, `"tokenizer.ggml.bos_token_id" is 400: must be below 400`],
    [{ ...base, merges: ["ab"] }, `merge "ab" must be two tokens`],
    [noMerges, `has no metadata "tokenizer.ggml.merges"`],
    [{ model: "llama", tokens: ["a", "b", "c"] }, `has neither "tokenizer.ggml.scores" nor`],
  ];
  for (const [metadata, message] of cases) {
    assertThrows(() => ggufTokenizerDefinition(ggufWith(metadata)), UsageError, message);
  }
});

for (const { name, preTokenizer, ids } of byteLevel.otherSteps) {
  Deno.test(`createTokenizer() with the step "${name}" gives the reference's ids`, () => {
    const definition = { tokenizer: { ...byteLevel.definition, pre_tokenizer: preTokenizer }, config: {} };
    assertEncodes(createTokenizer(definition, "tokenizer.json"), ids);
  });
}

golden.metaspace.forEach(({ definition, ids, texts: decoded }, i) => {
  const { prepend_scheme: scheme, split } = definition.pre_tokenizer as JsonObject;
  Deno.test(`createTokenizer() with Metaspace ${scheme}, split ${split}, and Unigram gives the reference's ids`, () => {
    const tokenizer = createTokenizer({ tokenizer: definition, config: {} }, `metaspace ${i}`);
    assertEncodes(tokenizer, ids);
    assertEquals(ids.map((own) => tokenizer.decode(own)), decoded);
  });
});

Deno.test("createTokenizer() with the steps of a Gemma folder gives the reference's ids", () => {
  const { definition, ids, texts: decoded } = golden.gemma;
  const tokenizer = createTokenizer({ tokenizer: definition, config: {} }, "gemma");
  assertEncodes(tokenizer, ids);
  assertEquals(ids.map((own) => tokenizer.decode(own)), decoded);
});

Deno.test("prepareForLibrary() cuts text only where no id changes", () => {
  const definition = ggufTokenizerDefinition(ggufWith(sentencePieceMetadata())).tokenizer;
  const { json } = prepareForLibrary(definition, "x", 1000);
  const steps = (json.pre_tokenizer as { pretokenizers: unknown[] }).pretokenizers;
  assertEquals(steps.length, 1);
  const cutting = new LibraryTokenizer(json, {});
  const whole = new LibraryTokenizer({ ...json, pre_tokenizer: null }, {});
  const piece = fc.constantFrom(..."the|ing| |  |\u2581|\n|capital|th|x|\u6771|<unk>|.|1".split("|"));
  fc.assert(fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
    const text = pieces.join("");
    assertEquals(cutting.encode(text).ids, whole.encode(text).ids);
  }));
});

Deno.test("prepareForLibrary() does not cut where a token reaches over a space", () => {
  const definition = ggufTokenizerDefinition(ggufWith(sentencePieceMetadata())).tokenizer;
  const model = definition.model as { vocab: Record<string, number>; merges: [string, string][] };
  const pair: [string, string] = ["e", "\u2581t"];
  const across = {
    ...definition,
    model: { ...model, vocab: { ...model.vocab, "e\u2581t": 400 }, merges: [pair, ...model.merges] },
  };
  assertEquals(prepareForLibrary(across, "x", 1000).json.pre_tokenizer, null);
});

Deno.test("encodeForWindows() and cutWindow() put beginning of sequence in front of windows, where the model needs it", () => {
  const make = (opensWindows?: boolean) =>
    createTokenizer({ tokenizer: LETTER_TOKENIZER, config: { bos_token: "<s>" } }, "x", { opensWindows });
  const windows = (tokenizer: Tokenizer) => {
    const ids = encodeForWindows(tokenizer, "abab");
    return [ids, ...[0, 2].map((start) => [...cutWindow(tokenizer, ids, start, 3)])];
  };
  assertEquals(windows(make()), [[1, 3, 4, 3, 4], [1, 3, 4], [4, 3, 4]]);
  assertEquals(windows(make(true)), [[3, 4, 3, 4], [1, 3, 4], [1, 3, 4]]);
});

Deno.test("createTokenizer() follows add_bos_token and add_eos_token, else the post-processor", () => {
  const encode = (config: JsonObject) =>
    createTokenizer({ tokenizer: LETTER_TOKENIZER, config: { bos_token: "<s>", eos_token: "</s>", ...config } }, "x");
  assertEquals(encode({}).encode("ab"), [1, 3, 4]);
  assertEquals(encode({}).addsBos, true);
  assertEquals(encode({}).encode("ab", { specialTokens: false }), [3, 4]);
  const bare = encode({ add_bos_token: false });
  assertEquals([bare.encode("ab"), bare.addsBos, bare.sha256 === encode({}).sha256], [[3, 4], false, false]);
  assertEquals(encode({ add_bos_token: true, add_eos_token: true }).encode("ab"), [1, 3, 4, 2]);
  assertEquals(encode({}).encode("a</s>zb"), [1, 3, 2, 0, 4]);
  assertEquals(encode({}).decode([1, 3, 4, 2]), "ab");
  assertEquals(encode({}).decode([]), "");
  assertEquals([3, 2, 99].map(encode({}).tokenText), ["a", "</s>", ""]);
});

Deno.test("createTokenizer() leaves out added tokens the model has no embedding for", () => {
  const padded = {
    ...LETTER_TOKENIZER,
    added_tokens: [...LETTER_TOKENIZER.added_tokens, { id: 11, content: "<pad>", special: true }],
  };
  const config = { bos_token: "<s>" };
  assertEquals(createTokenizer({ tokenizer: padded, config }, "x").encode("<pad>"), [1, 11]);
  const limited = createTokenizer({ tokenizer: padded, config }, "x", { vocabSize: 11 });
  assert(limited.encode("<pad>").every((id) => id < 11));
  assertEquals(limited.vocabSize, 11);
  const message = `token "h" has the id 10, but the model's vocabulary ends at 10`;
  assertThrows(() => createTokenizer({ tokenizer: padded, config }, "x", { vocabSize: 10 }), FileFormatError, message);
});

/** Asserts that a tokenizer with each change is refused. */
function assertRefused(cases: [JsonObject, string][], kind: typeof UsageError | typeof FileFormatError): void {
  for (const [change, message] of cases) {
    const definition = { tokenizer: { ...LETTER_TOKENIZER, ...change }, config: {} };
    const error = assertThrows(() => createTokenizer(definition, "tokenizer.json"), kind, message);
    assertEquals(error.constructor, kind);
  }
}

Deno.test("createTokenizer() refuses steps it cannot follow exactly, by name", () => {
  const { model } = LETTER_TOKENIZER;
  assertRefused([
    [{ pre_tokenizer: { type: "UnicodeScripts" } }, `pre_tokenizer "UnicodeScripts" is not supported`],
    [{ pre_tokenizer: { type: "Split", pattern: { String: "a" }, behavior: "MergedWithNext" } }, "MergedWithNext"],
    [{ normalizer: { type: "Precompiled" } }, `normalizer "Precompiled" is not supported`],
    [{ normalizer: { type: "Sequence", normalizers: [{ type: "Nmt" }] } }, `normalizer "Nmt" is not supported`],
    [{ decoder: { type: "WordPiece" } }, `decoder "WordPiece" is not supported`],
    [{ post_processor: { type: "Sequence", processors: [{ type: "X" }] } }, `post_processor "X" is not supported`],
    [{ model: { ...model, type: "WordPiece" } }, `tokenizer model "WordPiece" is not supported`],
    [{ model: { ...model, dropout: 0.1 } }, `"dropout" 0.1 is not supported`],
    [{ added_tokens: [{ id: 1, content: "<s>", single_word: true }] }, "single_word"],
  ], UsageError);
});

Deno.test("createTokenizer() refuses malformed definitions", () => {
  const { model } = LETTER_TOKENIZER;
  const deep = (depth: number): JsonObject =>
    depth === 0 ? { type: "Whitespace" } : { type: "Sequence", pretokenizers: [deep(depth - 1)] };
  const regex = (pattern: string) => ({ type: "Split", pattern: { Regex: pattern }, behavior: "Isolated" });
  assertRefused([
    [{ model: null }, `has no "model"`],
    [{ model: { ...model, vocab: {} } }, "the vocabulary has 0 tokens"],
    [{ model: { ...model, vocab: { a: -1 } } }, `token "a" has the id -1`],
    [{ model: { ...model, vocab: { a: 1e9 } } }, `token "a" has the id 1000000000`],
    [{ model: { ...model, merges: {} } }, `"model.merges" must be a list`],
    [{ model: { ...model, merges: ["abc"] } }, "merge 0 must be a pair"],
    [{ model: { type: "Unigram", vocab: [["a", "b"]] } }, "must be [token, score]"],
    [{ model: { ...model, unk_token: 3 } }, `"model.unk_token" must be`],
    [{ normalizer: { type: "Prepend" } }, `the normalizer "Prepend" is malformed`],
    [{ normalizer: { type: "Replace", content: "a" } }, "a Replace step has no pattern"],
    [{ decoder: { type: "Strip", content: " ", start: 1e9, stop: 0 } }, `the decoder "Strip" is malformed`],
    [{ decoder: { type: "Sequence", decoders: [null] } }, "a decoder Sequence has no list of steps"],
    [{ post_processor: { type: "TemplateProcessing", single: [] } }, `"TemplateProcessing" is malformed`],
    [{ added_tokens: [{ id: 1 }] }, "needs a content and an id"],
    [{ pre_tokenizer: deep(2000) }, "the pre_tokenizer is malformed"],
    [{ pre_tokenizer: regex("(") }, "cannot be used as a tokenizer"],
    [{ pre_tokenizer: { type: "Split", behavior: "Isolated" } }, "has no pattern"],
  ], FileFormatError);
});

const loadTokenizer = (folder: string, options: Parameters<typeof createTokenizer>[2] = {}) =>
  createTokenizer(readTokenizerDefinition(folder), folder, options);

Deno.test("createTokenizer() has one checksum per definition, however the file is laid out", async () => {
  const { sha256 } = createTokenizer({ tokenizer: LETTER_TOKENIZER, config: {} }, "x");
  assertEquals(sha256.length, 64);
  const other = { ...LETTER_TOKENIZER, normalizer: { type: "NFC" } };
  assertNotEquals(sha256, createTokenizer({ tokenizer: other, config: {} }, "x").sha256);
  await withFolder((folder) => {
    Deno.writeTextFileSync(`${folder}/tokenizer.json`, JSON.stringify(LETTER_TOKENIZER, null, 3));
    assertEquals(loadTokenizer(folder).sha256, sha256);
  });
});

folderTest("readTokenizerDefinition() reads the folder's two files and says what is missing", (folder) => {
  assertThrows(() => loadTokenizer(folder), UsageError, "has no tokenizer.json");
  Deno.writeTextFileSync(`${folder}/tokenizer.model`, "");
  assertThrows(() => loadTokenizer(folder), UsageError, "convert tokenizer.model");
  Deno.writeTextFileSync(`${folder}/tokenizer.json`, JSON.stringify(LETTER_TOKENIZER));
  assertEquals(loadTokenizer(folder).bosTokenId, null);
  assertEquals(loadTokenizer(folder, { bosTokenId: 1, eosTokenId: 2 }).bosTokenId, 1);
  Deno.writeTextFileSync(`${folder}/tokenizer_config.json`, `{"eos_token": {"content": "</s>"}}`);
  assertEquals(loadTokenizer(folder, { eosTokenId: 7 }).eosTokenId, 2);
  assertEquals(readTokenizerDefinition(folder).config, { eos_token: { content: "</s>" } });
  Deno.writeTextFileSync(`${folder}/tokenizer_config.json`, `[`);
  assertThrows(() => loadTokenizer(folder), FileFormatError, "the file is not JSON");
});
