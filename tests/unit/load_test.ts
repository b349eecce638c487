import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { writeSafetensors } from "../../core/formats/safetensors.ts";
import { type DecoderConfig, expectedTensors, LINEAR_NAMES, tensorNames } from "../../models/config.ts";
import { toHfConfig } from "../../models/hf_config.ts";
import { openModel } from "../../models/load.ts";
import { ggufTensorNames, huggingFaceRow } from "../../models/load_gguf.ts";
import { ggufMetadata, ggufTensors } from "../support/gguf_fixture.ts";
import {
  f32Tensor,
  folderTest,
  ggufBytes,
  LETTER_TOKENIZER,
  randomTensors,
  smallConfig,
  type StoredTensor,
  type Typed,
  writeFolder,
} from "../support/weights_fixture.ts";
import { atEnd } from "../support/values.ts";

/** Checks that every tensor of the opened model has the values of `tensors`. */
async function assertReads(path: string, config: DecoderConfig, tensors: Map<string, Float32Array>): Promise<void> {
  const { source } = await openModel(path);
  using _end = atEnd(() => source.close());
  assertEquals(source.config, config);
  for (const [name, shape] of expectedTensors(config)) {
    assertEquals(source.read(name), { shape, data: tensors.get(name)! }, name);
  }
  assertThrows(() => source.read("nothing"), UsageError, `has no tensor "nothing"`);
}

folderTest("openModel() reads a folder: configuration, weights, tokenizer, checksum", async (folder) => {
  const config = smallConfig();
  const tensors = randomTensors(config);
  writeFolder(folder, config, tensors);
  await assertReads(folder, config, tensors);
  const { source, tokenizer, tokenizerDefinition } = await openModel(folder);
  source.close();
  const { path, format, dtypes, sizeBytes, sha256 } = source.origin;
  assertEquals({ path, format, dtypes }, { path: folder, format: "safetensors", dtypes: ["F32"] });
  assertEquals(sizeBytes, Deno.statSync(`${folder}/model.safetensors`).size);
  assertEquals(sha256, sha256OfFiles([`${folder}/config.json`, `${folder}/model.safetensors`]));
  assertEquals(tokenizer.encode("ab"), [1, 3, 4]);
  assertEquals([tokenizer.bosTokenId, tokenizer.eosTokenId], [1, 2]);
  assertEquals(tokenizerDefinition.tokenizer, LETTER_TOKENIZER);
});

folderTest("openModel() reads shards of several storage types, and leaves a tied head alone", async (folder) => {
  const config = smallConfig({ tiedHead: true, biases: [...LINEAR_NAMES] });
  const tensors = randomTensors(config);
  writeFolder(folder, config, tensors);
  Deno.removeSync(`${folder}/model.safetensors`);
  const shapes = new Map([...expectedTensors(config), [tensorNames.head, [11, 8]]]);
  const names = [...shapes.keys()];
  const weightMap: Record<string, string> = {};
  (["F16", "BF16"] as const).forEach((dtype, part) => {
    const file = `model-0000${part + 1}-of-00002.safetensors`;
    const mine = names.filter((_, i) => i % 2 === part);
    for (const name of mine) weightMap[name] = file;
    writeSafetensors(`${folder}/${file}`, {
      shapes: new Map(mine.map((name) => [name, shapes.get(name)!])),
      read: (name) => tensors.get(name) ?? new Float32Array(88),
      dtype,
    });
  });
  Deno.writeTextFileSync(`${folder}/model.safetensors.index.json`, JSON.stringify({ weight_map: weightMap }));
  await assertReads(folder, config, tensors);
  const { source } = await openModel(folder);
  assertEquals(source.origin.dtypes, ["BF16", "F16"]);
  source.close();
});

folderTest("openModel() compares a folder's tensors with its configuration", async (folder) => {
  const config = smallConfig();
  const biased = smallConfig({ biases: ["query", "key", "value", "output"] });
  const wider = smallConfig({ width: 10 });
  const write = (name: string, value: unknown) => Deno.writeTextFileSync(`${folder}/${name}`, JSON.stringify(value));
  writeFolder(folder, config, randomTensors(config));
  write("config.json", toHfConfig(biased));
  await assertRejects(() => openModel(folder), FileFormatError, `no tensor "model.layers.0.self_attn.q_proj.bias"`);
  write("config.json", toHfConfig(wider));
  const message = "has the shape [11, 8]: the configuration needs [11, 10]";
  await assertRejects(() => openModel(folder), FileFormatError, message);
  writeFolder(folder, biased, randomTensors(biased));
  write("config.json", toHfConfig(config));
  await assertRejects(() => openModel(folder), FileFormatError, `which is not part of its configuration`);
});

folderTest("openModel() says what a path lacks to be a model", async (folder) => {
  await assertRejects(() => openModel(`${folder}/none`), UsageError, "there is no such model; must be");
  await assertRejects(() => openModel(folder), UsageError, "has no config.json");
  const config = smallConfig();
  writeFolder(folder, config, randomTensors(config));
  await assertRejects(() => openModel(`${folder}/model.safetensors`), UsageError, "use the folder's path");
  await assertRejects(() => openModel(`${folder}/config.json`), FileFormatError, `does not begin with "GGUF"`);
  Deno.removeSync(`${folder}/tokenizer.json`);
  await assertRejects(() => openModel(folder), UsageError, "has no tokenizer.json");
});

folderTest("openModel() reads a GGUF file with query and key rows in the order of Hugging Face", async (folder) => {
  const path = `${folder}/model.gguf`;
  const config = smallConfig({ biases: ["query", "key", "value", "output"] });
  const tensors = randomTensors(config);
  Deno.writeFileSync(path, ggufBytes({ metadata: ggufMetadata(config), tensors: ggufTensors(config, tensors) }));
  await assertReads(path, config, tensors);
  const { source, tokenizer } = await openModel(path);
  source.close();
  const { format, dtypes, sha256, sizeBytes } = source.origin;
  assertEquals({ format, dtypes }, { format: "gguf", dtypes: ["F32"] });
  assertEquals(sha256, sha256OfFiles([path]));
  assertEquals(sizeBytes, Deno.statSync(path).size);
  assertEquals(tokenizer.encode("ab a"), [1, 3, 4, 5, 3, 4]);
  assertEquals(tokenizer.decode([1, 3, 4, 5, 3, 4]), "ab a");
});

Deno.test("huggingFaceRow() is a permutation within each head", () => {
  assertEquals(Array.from({ length: 12 }, (_, row) => huggingFaceRow(row, 6)), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
});

Deno.test("ggufTensorNames() names every tensor, each differently", () => {
  const config = smallConfig({ biases: [...LINEAR_NAMES] });
  const names = ggufTensorNames(config);
  for (const name of expectedTensors(config).keys()) assert(names.has(name), name);
  assertEquals(new Set(names.values()).size, names.size);
});

folderTest("openModel() finds the RoPE scaling of a GGUF file", async (folder) => {
  const path = `${folder}/model.gguf`;
  const config = smallConfig({ headSize: 64, ropeBase: 500000, tiedHead: true });
  const tensors = ggufTensors(config, randomTensors(config));
  const open = async (metadata: Record<string, Typed>, more: Record<string, StoredTensor> = {}) => {
    const content = { metadata: { ...ggufMetadata(config), ...metadata }, tensors: { ...tensors, ...more } };
    Deno.writeFileSync(path, ggufBytes(content));
    const { source } = await openModel(path);
    source.close();
    return source.config.ropeScaling;
  };
  assertEquals(await open({}), undefined);
  const linear = { "llama.rope.scaling.type": { text: "linear" }, "llama.rope.scaling.factor": { f32: 2.5 } };
  assertEquals(await open(linear), { type: "linear", factor: 2.5 });
  // Llama 3.2's factors: 1 for the first frequencies, 32 for the last, blended ones between.
  const factors = Array.from({ length: 32 }, (_, i) => {
    const wavelength = 2 * Math.PI * 500000 ** (i / 32);
    if (wavelength < 8192 / 4) return 1;
    if (wavelength > 8192) return 32;
    const smooth = (8192 / wavelength - 1) / (4 - 1);
    return 1 / ((1 - smooth) / 32 + smooth);
  });
  assert(factors.some((factor) => factor > 1 && factor < 32));
  const scaling = await open({}, { "rope_freqs.weight": f32Tensor([32], factors) });
  const numbers = { factor: 32, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalMaxPositions: 8192 };
  assertEquals(scaling, { type: "llama3", ...numbers });
  const longRope = f32Tensor([32], factors.map((_, i) => 1 + i));
  await assertRejects(() => open({}, { "rope_freqs.weight": longRope }), UsageError, "not those of Llama 3.1");
});

folderTest("openModel() names what it does not support in a GGUF file, and what does not fit", async (folder) => {
  const path = `${folder}/model.gguf`;
  const config = smallConfig();
  const tensors = ggufTensors(config, randomTensors(config));
  const { "blk.1.ffn_up.weight": _, ...withoutUp } = tensors;
  const norm = f32Tensor([8], new Float32Array(8));
  const cases: [Record<string, Typed>, Record<string, StoredTensor>, string][] = [
    [
      { "general.architecture": { text: "gpt2" } },
      tensors,
      `architecture "gpt2" is not supported: must be one of llama`,
    ],
    [{ "llama.expert_count": { u32: 8 } }, tensors, "mixtures of experts are not supported"],
    [{ "split.count": { u32: 2 } }, tensors, "llama-gguf-split --merge"],
    [{ "llama.rope.scaling.type": { text: "longrope" } }, tensors, `RoPE scaling "longrope" is not supported`],
    [
      { "llama.rope.dimension_count": { u32: 2 } },
      tensors,
      `"llama.rope.dimension_count" 2 differs from the head size`,
    ],
    [{ "llama.block_count": { u32: 5000 } }, tensors, `"llama.block_count" is 5000: must be a whole number from 1 to`],
    [{ "llama.block_count": { text: "2" } }, tensors, `"llama.block_count" is 2: must be a whole number`],
    [{ "llama.attention.head_count_kv": { u32: 3 } }, tensors, "must be a multiple of its 3 KV heads"],
    [{ "llama.feed_forward_length": { u32: 7 } }, tensors, "the configuration needs [7, 8]"],
    [{}, withoutUp, `has no tensor "blk.1.ffn_up.weight"`],
    [{}, {}, `has no matrix "token_embd.weight"`],
    [{}, { ...tensors, "blk.0.post_norm.weight": norm }, "which is not part of its configuration"],
    [{ "tokenizer.ggml.model": { text: "bert" } }, tensors, `tokenizer model "bert" is not supported`],
  ];
  for (const [metadata, stored, message] of cases) {
    const content = { metadata: { ...ggufMetadata(config), ...metadata }, tensors: stored };
    Deno.writeFileSync(path, ggufBytes(content));
    await assertRejects(() => openModel(path), UsageError, message);
  }
});
