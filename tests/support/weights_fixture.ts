/** Small checkpoints for tests: a GGUF writer, tiny LLaMA configurations, and folders.
 *
 * @module
 */
import { dirname } from "node:path";
import { BLOCK_FORMATS } from "../../core/formats/dequantize.ts";
import { encodeValues, type StoredType } from "../../core/formats/quantize.ts";
import { writeSafetensors } from "../../core/formats/safetensors.ts";
import { createRng } from "../../core/util/rng.ts";
import { type DecoderConfig, expectedTensors } from "../../models/config.ts";
import { toHfConfig } from "../../models/hf_config.ts";

/** Values as a storage type holds them. */
export function asStored(type: StoredType, values: Float32Array): Float32Array {
  const { blockValues, decode } = BLOCK_FORMATS[type];
  const back = new Float32Array(values.length);
  decode(new DataView(encodeValues(type, values, "values").buffer), 0, values.length / blockValues, back, 0);
  return back;
}

/** A metadata value with its GGUF type. */
export type Typed =
  | { u32: number }
  | { u64: bigint }
  | { i32: number }
  | { f32: number }
  | { bool: boolean }
  | { text: string }
  | { texts: string[] }
  | { i32s: number[] }
  | { f32s: number[] };

/** A tensor with its stored bytes; `shape` is outermost first. */
export interface StoredTensor {
  type: number;
  shape: number[];
  bytes: Uint8Array;
}

/** What {@linkcode ggufBytes} writes. */
export interface GgufContent {
  version?: number;
  metadata: Record<string, Typed>;
  tensors: Record<string, StoredTensor>;
}

/** Bytes that grow at the end. */
function byteWriter() {
  const parts: number[] = [];
  const number = (size: number, set: (view: DataView) => void) => {
    const bytes = new Uint8Array(size);
    set(new DataView(bytes.buffer));
    parts.push(...bytes);
  };
  const u32 = (value: number) => number(4, (view) => view.setUint32(0, value, true));
  const u64 = (value: bigint) => number(8, (view) => view.setBigUint64(0, value, true));
  const text = (value: string) => {
    const bytes = new TextEncoder().encode(value);
    u64(BigInt(bytes.length));
    parts.push(...bytes);
  };
  const f32 = (value: number) => number(4, (view) => view.setFloat32(0, value, true));
  return { parts, u32, u64, text, f32 };
}

function putValue(writer: ReturnType<typeof byteWriter>, value: Typed): void {
  const { u32, u64, text, f32, parts } = writer;
  const list = <T>(type: number, items: T[], put: (item: T) => void) => {
    u32(9);
    u32(type);
    u64(BigInt(items.length));
    items.forEach(put);
  };
  if ("u32" in value) u32(4), u32(value.u32);
  else if ("i32" in value) u32(5), u32(value.i32 >>> 0);
  else if ("f32" in value) u32(6), f32(value.f32);
  else if ("bool" in value) u32(7), parts.push(Number(value.bool));
  else if ("text" in value) u32(8), text(value.text);
  else if ("u64" in value) u32(10), u64(value.u64);
  else if ("texts" in value) list(8, value.texts, text);
  else if ("i32s" in value) list(5, value.i32s, (item) => u32(item >>> 0));
  else list(6, value.f32s, f32);
}

/** A GGUF file with alignment 32. */
export function ggufBytes({ version = 3, metadata, tensors }: GgufContent): Uint8Array<ArrayBuffer> {
  const writer = byteWriter();
  const { u32, u64, text, parts } = writer;
  parts.push(..."GGUF".split("").map((char) => char.charCodeAt(0)));
  u32(version);
  u64(BigInt(Object.keys(tensors).length));
  u64(BigInt(Object.keys(metadata).length));
  for (const [key, value] of Object.entries(metadata)) {
    text(key);
    putValue(writer, value);
  }
  const align = (size: number) => Math.ceil(size / 32) * 32;
  let offset = 0;
  for (const [name, { type, shape, bytes }] of Object.entries(tensors)) {
    text(name);
    u32(shape.length);
    for (const size of [...shape].reverse()) u64(BigInt(size));
    u32(type);
    u64(BigInt(offset));
    offset = align(offset + bytes.length);
  }
  const dataStart = align(parts.length);
  const file = new Uint8Array(dataStart + offset);
  file.set(parts);
  let at = dataStart;
  for (const { bytes } of Object.values(tensors)) {
    file.set(bytes, at);
    at += align(bytes.length);
  }
  return file;
}

/** An F32 tensor. */
export function f32Tensor(shape: number[], values: ArrayLike<number>): StoredTensor {
  return { type: 0, shape, bytes: new Uint8Array(Float32Array.from(values).buffer) };
}

/** Two layers, grouped queries, a head size that is not D / H. */
export function smallConfig(changes: Partial<DecoderConfig> = {}): DecoderConfig {
  return {
    vocabSize: 11,
    width: 8,
    headSize: 4,
    layers: [1, 2].map(() => ({ kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 6 })),
    tiedHead: false,
    biases: [],
    ropeBase: 10000,
    normEpsilon: 1e-5,
    maxPositions: 64,
    bosTokenId: 1,
    eosTokenId: 2,
    ...changes,
  };
}

/** Random values for every tensor of `config`; each is exact in F16 and BF16. */
export function randomTensors(config: DecoderConfig): Map<string, Float32Array> {
  const rng = createRng(0, "weights");
  const tensors = new Map<string, Float32Array>();
  for (const [name, shape] of expectedTensors(config)) {
    const count = shape.reduce((product, size) => product * size, 1);
    tensors.set(name, Float32Array.from({ length: count }, () => (rng.integer(256) - 128) / 64));
  }
  return tensors;
}

/** What puts `<s>`, id 1, before a text. */
export const BOS_FIRST = {
  type: "TemplateProcessing",
  single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
  pair: [],
  special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
};

/** A `tokenizer.json` with one token per letter, ids 3 to 10. */
export const LETTER_TOKENIZER = {
  version: "1.0",
  added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => ({ id, content, special: true, normalized: false })),
  normalizer: null,
  pre_tokenizer: null,
  post_processor: BOS_FIRST,
  decoder: { type: "Fuse" },
  model: {
    type: "BPE",
    unk_token: "<unk>",
    vocab: Object.fromEntries(["<unk>", "<s>", "</s>", ..."abcdefgh"].map((token, id) => [token, id])),
    merges: [],
  },
};

/** Writes `config.json`, `tokenizer.json`, `tokenizer_config.json` and `model.safetensors`. */
export function writeFolder(folder: string, config: DecoderConfig, tensors: Map<string, Float32Array>): void {
  const write = (name: string, value: unknown) => Deno.writeTextFileSync(`${folder}/${name}`, JSON.stringify(value));
  write("config.json", toHfConfig(config));
  write("tokenizer.json", LETTER_TOKENIZER);
  write("tokenizer_config.json", { bos_token: "<s>", eos_token: { content: "</s>" } });
  writeSafetensors(`${folder}/model.safetensors`, {
    shapes: expectedTensors(config),
    read: (name) => tensors.get(name)!,
    dtype: "F32",
  });
}

/** A folder that is removed at the end of the block: `using temp = tempFolder()`. */
export function tempFolder(): Disposable & { path: string } {
  const path = Deno.makeTempDirSync();
  return { path, [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }) };
}

/** Runs `test` with a folder that is removed afterwards. */
export async function withFolder(test: (folder: string) => unknown): Promise<void> {
  using temp = tempFolder();
  await test(temp.path);
}

/** Runs `test` in a folder with files by name. */
export const withFiles = (files: Record<string, string | Uint8Array>, test: (folder: string) => unknown) =>
  withFolder(async (folder) => {
    for (const [name, content] of Object.entries(files)) {
      Deno.mkdirSync(dirname(`${folder}/${name}`), { recursive: true });
      Deno.writeFileSync(
        `${folder}/${name}`,
        typeof content === "string" ? new TextEncoder().encode(content) : content,
      );
    }
    await test(folder);
  });

/** A test with a folder of its own. */
export function folderTest(name: string, test: (folder: string) => unknown): void {
  Deno.test(name, () => withFolder(test));
}

/** An environment variable that is as before at the end of the block: `using _home = setting("HF_HOME", folder)`. */
export function setting(name: string, value: string): Disposable {
  const before = Deno.env.get(name);
  Deno.env.set(name, value);
  return { [Symbol.dispose]: () => before === undefined ? Deno.env.delete(name) : Deno.env.set(name, before) };
}
