import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { companionFiles, type LoadedModel, save } from "../../benchmarks/pipeline/load.ts";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import { openGguf } from "../../core/formats/gguf.ts";
import type { StoredType } from "../../core/formats/quantize.ts";
import { createTokenizer, type TokenizerDefinition } from "../../core/formats/tokenizer.ts";
import { ggufTokenizerDefinition } from "../../core/formats/tokenizer_gguf.ts";
import { ggufTokenizerMetadata } from "../../core/formats/tokenizer_gguf_write.ts";
import {
  type DecoderConfig,
  expectedTensors,
  LINEAR_NAMES,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { exportHfFolder, planShards } from "../../models/export.ts";
import { exportGguf, f16Fallbacks } from "../../models/export_gguf.ts";
import { completedBiases, paddedSource, prunedSource } from "../../models/export_source.ts";
import { openModel } from "../../models/load.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { hardMask, maskValues } from "../support/plan_masks.ts";
import { referenceForward } from "../support/reference.ts";
import { toyTokens } from "../support/toy.ts";
import { byteLevelDefinition, exportToy, PLANS, sentencePieceDefinition } from "../support/export_fixture.ts";
import { folderTest, withFolder } from "../support/weights_fixture.ts";

const TOKENS = toyTokens({ count: 9 });
const TEXTS = ["the cat sat", " and 12 hats", "<s>Grüße\n\n"];
const ALL_BIASES = { biases: [...LINEAR_NAMES] };
/** Plans whose layers are alike, as exports need them. */
const WRITABLE = [PLANS.uniform, PLANS.shallow];

const logitsOf = (source: WeightSource, options: Parameters<typeof referenceForward>[2] = {}) =>
  referenceForward(source, TOKENS, options).logits;

/** Asserts that two checkpoints hold the same numbers. */
function assertSameWeights(actual: WeightSource, expected: WeightSource): void {
  assertEquals(actual.config, expected.config);
  for (const [name, shape] of expectedTensors(expected.config)) {
    assertEquals(actual.read(name), { ...expected.read(name), shape }, name);
  }
}

async function exportedHf(folder: string, source: WeightSource, options: { maxShardBytes?: number } = {}) {
  exportHfFolder(source, { to: `${folder}/hf`, dtype: "F32", tokenizer: byteLevelDefinition(), ...options });
  return await openModel(`${folder}/hf`);
}

function writeGgufOf(path: string, source: WeightSource, definition: TokenizerDefinition, type: StoredType = "F32") {
  const tokenizer = createTokenizer(definition, "test");
  exportGguf(source, {
    to: path,
    type,
    tokenizer: ggufTokenizerMetadata(definition, tokenizer, source.config.vocabSize),
  });
}

for (const [name, options] of Object.entries({ "no biases": {}, "all biases": ALL_BIASES })) {
  for (const [widths, plan] of Object.entries<PrunePlan>(PLANS)) {
    Deno.test(`prunedSource() computes what masks compute: ${widths} widths, ${name}`, () => {
      const source = exportToy(options);
      const masks = maskValues(source.config, plan);
      const hidden = plan.hidden && hardMask(source.config.width, plan.hidden);
      assertEquals(logitsOf(prunedSource(source, plan)), logitsOf(source, { masks, hidden }));
    });
  }

  Deno.test(`paddedSource() makes layers uniform and changes no logit: ${name}`, () => {
    const pruned = prunedSource(exportToy(options), PLANS.unequal);
    const padded = paddedSource(pruned);
    const wide = { kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 5 };
    assertEquals(padded.config.layers, [wide, wide]);
    for (const [tensor, shape] of expectedTensors(padded.config)) {
      const { shape: own, data } = padded.read(tensor);
      assertEquals(own, shape, tensor);
      assertEquals(data.length, shape.reduce((a, b) => a * b), tensor);
    }
    assertEquals(logitsOf(padded), logitsOf(pruned));
  });
}

Deno.test("completedBiases() adds zeros to the blocks that have a bias, and changes no logit", () => {
  const source = exportToy({ biases: ["output"] });
  const completed = completedBiases(source);
  assertEquals(completed.config.biases, ["query", "key", "value", "output"]);
  assertEquals(completed.read(tensorNames.bias(1, "key")), { shape: [24], data: new Float32Array(24) });
  assertEquals(logitsOf(completed), logitsOf(source));
  const complete = exportToy({ biases: ["gate", "up", "down"] });
  assertEquals(completedBiases(complete), complete);
});

Deno.test("exportHfFolder() and exportGguf() write what reads back the same, tokenizer included", async () => {
  const factors = { factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4 };
  const llama3 = { type: "llama3", ...factors, originalMaxPositions: 8192 } as const;
  const variants: Partial<DecoderConfig>[] = [
    {},
    ALL_BIASES,
    { biases: ["output", "down"] },
    { tiedHead: true, ropeBase: 500_000, ropeScaling: llama3 },
    { tiedHead: true, ropeScaling: { type: "linear", factor: 2.5 } },
  ];
  const own = createTokenizer(byteLevelDefinition(), "test");
  for (const [options, plan] of variants.flatMap((each) => WRITABLE.map((plan) => [each, plan] as const))) {
    await withFolder(async (folder) => {
      const source = prunedSource(exportToy(options), plan);
      assertNotEquals(queryHeads(at(source.config.layers, 0)) * source.config.headSize, source.config.width);
      writeGgufOf(`${folder}/a.gguf`, source, byteLevelDefinition());
      const opened = [await openModel(`${folder}/a.gguf`)];
      // A Hugging Face folder has biases of whole blocks.
      if (options.biases?.length !== 2) opened.push(await exportedHf(folder, source));
      for (const { source: back, tokenizer, tokenizerDefinition } of opened) {
        assertSameWeights(back, source);
        if (back.origin.format === "safetensors") assertEquals(tokenizerDefinition, byteLevelDefinition());
        for (const text of TEXTS) assertEquals(tokenizer.encode(text), own.encode(text));
        assertEquals(tokenizer.decode(tokenizer.encode("the cat")), "the cat");
        back.close();
      }
    });
  }
});

folderTest("exportHfFolder() writes names, dtype and ids as transformers reads them", (folder) => {
  const source = prunedSource(exportToy({ biases: ["down"] }), PLANS.uniform);
  exportHfFolder(source, { to: `${folder}/hf`, dtype: "BF16", tokenizer: byteLevelDefinition(), files: { a: "b" } });
  const json = (name: string) => JSON.parse(Deno.readTextFileSync(`${folder}/hf/${name}`));
  const { architectures, torch_dtype, head_dim, num_attention_heads, num_key_value_heads, mlp_bias, attention_bias } =
    json("config.json");
  assertEquals([architectures, torch_dtype], [["LlamaForCausalLM"], "bfloat16"]);
  assertEquals([head_dim, num_attention_heads, num_key_value_heads], [8, 2, 2]);
  assertEquals([mlp_bias, attention_bias], [true, false]);
  assertEquals(json("generation_config.json"), { bos_token_id: 0, eos_token_id: 1 });
  const names = [...Deno.readDirSync(`${folder}/hf`)].map(({ name }) => name).sort();
  const expected = ["a", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
  assertEquals(names, [...expected, "tokenizer_config.json"]);
});

Deno.test("planShards() fills shards in order and gives a large tensor one of its own", () => {
  const shapes = new Map([["a", [10]], ["b", [2, 5]], ["c", [100]], ["d", [1]], ["e", [19]]]);
  const names = (dtype: "F32" | "F16", limit: number) => planShards(shapes, dtype, limit).map((map) => [...map.keys()]);
  assertEquals(names("F32", 80), [["a", "b"], ["c"], ["d", "e"]]);
  assertEquals(names("F16", 40), [["a", "b"], ["c"], ["d", "e"]]);
  assertEquals(names("F32", 1), [["a"], ["b"], ["c"], ["d"], ["e"]]);
  assertEquals(names("F32", 1e9), [["a", "b", "c", "d", "e"]]);
});

folderTest("exportHfFolder() splits weights into shards with an index", async (folder) => {
  const source = exportToy();
  const { source: back } = await exportedHf(folder, source, { maxShardBytes: 20_000 });
  // Six heads do not divide its width, so transformers gets it as a Mistral.
  assertEquals(back.config.family, "mistral");
  assertSameWeights({ ...back, config: source.config }, source);
  back.close();
  const index = JSON.parse(Deno.readTextFileSync(`${folder}/hf/model.safetensors.index.json`));
  const files = [...Deno.readDirSync(`${folder}/hf`)].map(({ name }) => name).filter((name) =>
    /safetensors$/.test(name)
  );
  assert(files.length > 2 && files.every((name) => /^model-0000\d-of-0000\d\.safetensors$/.test(name)), `${files}`);
  assertEquals(Object.keys(index.weight_map), [...expectedTensors(source.config).keys()]);
  assertEquals([...new Set(Object.values(index.weight_map))].sort(), files.sort());
  let count = 0;
  for (const shape of expectedTensors(source.config).values()) count += shape.reduce((a, b) => a * b);
  assertEquals(index.metadata.total_size, 4 * count);
});

folderTest("exportHfFolder() and exportGguf() refuse unequal widths and keep an earlier export", (folder) => {
  Deno.mkdirSync(`${folder}/hf`);
  Deno.writeTextFileSync(`${folder}/hf/a`, "earlier");
  const source = prunedSource(exportToy(), PLANS.unequal);
  const message = "unequal widths (KV groups 2 to 3, query heads per group 1 to 2, FFN channels 3 to 5)";
  const tokenizer = byteLevelDefinition();
  assertThrows(() => exportHfFolder(source, { to: `${folder}/hf`, dtype: "F32", tokenizer }), UsageError, message);
  assertThrows(() => writeGgufOf(`${folder}/a.gguf`, source, tokenizer), UsageError, message);
  const biased = exportToy({ biases: ["down"] });
  const attempt = () => exportHfFolder(biased, { to: `${folder}/hf`, dtype: "F32", tokenizer });
  assertThrows(attempt, UsageError, "only if the number of heads divides the width: current 6 heads, width 32");
  const toy = exportToy();
  const last = { shape: [300, 32], data: new Float32Array(300 * 32).fill(1e9) };
  const large = { ...toy, read: (name: string) => name === tensorNames.head ? last : toy.read(name) };
  const write = () => exportHfFolder(large, { to: `${folder}/hf`, dtype: "F16", tokenizer });
  assertThrows(write, UsageError, `Tensor "lm_head.weight" holds 1000000000, beyond F16's 65504`);
  assertEquals(Deno.readTextFileSync(`${folder}/hf/a`), "earlier");
  assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["hf"]);
});

folderTest("exportGguf() puts the two rows of a rotary pair next to each other, and says the head size", (folder) => {
  const source = exportToy();
  writeGgufOf(`${folder}/a.gguf`, source, byteLevelDefinition());
  const file = openGguf(`${folder}/a.gguf`);
  const rows = (data: Float32Array, order: number[]) =>
    order.map((row) => [...data.subarray(row * 32, (row + 1) * 32)]);
  const key = source.read(tensorNames.weight(0, "key")).data;
  // Heads of 8 rows: pair i is (i, i + 4) in a Hugging Face checkpoint.
  const order = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12];
  assertEquals(rows(file.read("blk.0.attn_k.weight").data, order.map((_, i) => i)), rows(key, order));
  const get = (name: string) => file.metadata.get(`llama.${name}`);
  const names = ["attention.key_length", "attention.value_length", "rope.dimension_count", "attention.head_count"];
  assertEquals(names.map(get), [8, 8, 8, 6]);
  file.close();
});

folderTest("exportGguf() keeps vectors in F32 and stores rows that Q8_0 cannot hold as F16", async (folder) => {
  const source = prunedSource(exportToy({ width: 64 }), PLANS.uniform);
  writeGgufOf(`${folder}/a.gguf`, source, byteLevelDefinition(), "Q8_0");
  const { source: back } = await openModel(`${folder}/a.gguf`);
  const file = openGguf(`${folder}/a.gguf`);
  const type = (name: string) => file.tensors.get(name)!.type;
  assertEquals([type("blk.0.attn_norm.weight"), type("blk.0.ffn_up.weight")], ["F32", "Q8_0"]);
  const narrow = ["blk.0.attn_output.weight", "blk.0.ffn_down.weight", "blk.1.attn_output.weight"];
  assertEquals(f16Fallbacks(source.config, "Q8_0"), [...narrow, "blk.1.ffn_down.weight"]);
  assertEquals(f16Fallbacks(source.config, "F16"), []);
  assertEquals(narrow.map(type), ["F16", "F16", "F16"]);
  file.close();
  for (const [name] of expectedTensors(source.config)) {
    const [a, b] = [back.read(name).data, source.read(name).data];
    const largest = b.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
    a.forEach((value, i) => assert(Math.abs(value - at(b, i)) <= largest / 127, `${name}: ${value}, ${b[i]}`));
  }
  back.close();
});

/** The tokenizer that reads `metadata` as a file's. */
function readBack(definition: TokenizerDefinition, vocabSize = 300) {
  const metadata = ggufTokenizerMetadata(definition, createTokenizer(definition, "test"), vocabSize);
  const values = new Map([...metadata].map(([key, entry]) => [key, Object.values(entry)[0]]));
  return { values, definition: ggufTokenizerDefinition({ path: "test", metadata: values }) };
}

Deno.test("ggufTokenizerMetadata() describes SentencePiece by scores that give the same merges", () => {
  const definition = sentencePieceDefinition();
  const { values, definition: back } = readBack(definition, 280);
  assertEquals(values.get("tokenizer.ggml.model"), "llama");
  assertEquals([values.get("tokenizer.ggml.add_bos_token"), values.get("tokenizer.ggml.add_eos_token")], [true, false]);
  const tokens = values.get("tokenizer.ggml.tokens") as string[];
  const types = values.get("tokenizer.ggml.token_type") as Int32Array;
  assertEquals(tokens.length, 280);
  const typeOf = (token: string) => types[tokens.indexOf(token)];
  assertEquals(["<unk>", "<s>", "<0x0A>", "▁the", "[PAD279]"].map(typeOf), [2, 3, 6, 1, 5]);
  const [own, other] = take([definition, back].map((one) => createTokenizer(one, "test")), 2);
  for (const text of ["the that", " cats", "Grüße 12", "thethe  the"]) {
    assertEquals(other.encode(text), own.encode(text), text);
  }
});

Deno.test("ggufTokenizerMetadata() knows the newer way to put a space first", () => {
  const definition = sentencePieceDefinition();
  const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "never", split: false };
  const changed = { ...definition, tokenizer: { ...definition.tokenizer, normalizer: null, pre_tokenizer: metaspace } };
  assertEquals(readBack(changed, 280).values.get("tokenizer.ggml.add_space_prefix"), false);
  metaspace.prepend_scheme = "first";
  assertEquals(readBack(changed, 280).values.get("tokenizer.ggml.add_space_prefix"), true);
});

Deno.test("ggufTokenizerMetadata() refuses what GGUF cannot describe, and says what to do", () => {
  const change = (definition: TokenizerDefinition, changes: Record<string, unknown>, model = {}) => ({
    ...definition,
    tokenizer: {
      ...definition.tokenizer,
      ...changes,
      model: { ...definition.tokenizer.model as Record<string, unknown>, ...model },
    },
  });
  const merges = [["t", "h"], ["▁", "t"], ["▁", "th"], ["▁th", "e"], ["a", "t"]];
  const cases: [TokenizerDefinition, string][] = [
    [change(byteLevelDefinition(), { normalizer: { type: "NFC" } }), `normalises or splits text in another way`],
    [change(byteLevelDefinition(), { pre_tokenizer: { type: "Whitespace" } }), "in another way than llama-bpe"],
    [change(byteLevelDefinition(), { decoder: { type: "Fuse" } }), "is neither byte-level nor has byte fallback"],
    [change(byteLevelDefinition(), {}, { type: "WordLevel", unk_token: "<s>" }), `is of type "WordLevel"`],
    [change(sentencePieceDefinition(), { normalizer: { type: "NFKC" } }), "in another way than SentencePiece"],
    [change(sentencePieceDefinition(), {}, { merges }), "merges that are not those of a SentencePiece vocabulary"],
  ];
  for (const [definition, message] of cases) {
    const attempt = () => readBack(definition, 280);
    assertThrows(attempt, UsageError, message);
    assertThrows(attempt, UsageError, "convert_hf_to_gguf.py");
  }
});

folderTest("save() replaces nothing but an empty folder", async (folder) => {
  const notes = join(folder, "notes.txt");
  Deno.writeTextFileSync(notes, "precious");
  for (const place of [folder, notes]) {
    await assertRejects(() => save({} as LoadedModel, place), UsageError, `"${place}" exists and is not an empty`);
  }
  assertEquals(Deno.readTextFileSync(notes), "precious");
  Deno.writeTextFileSync(join(folder, "generation_config.json"), "{}");
  assertEquals(Object.keys(companionFiles(folder)), ["generation_config.json"]);
});
