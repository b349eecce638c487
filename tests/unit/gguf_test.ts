import { assert, assertEquals, assertThrows } from "@std/assert";
import { FileFormatError } from "../../core/util/errors.ts";
import { openGguf } from "../../core/formats/gguf.ts";
import { type GgufContent as WrittenContent, writeGguf } from "../../core/formats/gguf_write.ts";
import { known } from "../support/values.ts";
import { f32Tensor, folderTest, ggufBytes, type GgufContent } from "../support/weights_fixture.ts";

const MATRIX = Float32Array.of(1, 2, 3, 4, 5, 6);
const CONTENT: GgufContent = {
  metadata: {
    "general.architecture": { text: "llama" },
    "a.u32": { u32: 4294967295 },
    "a.i32": { i32: -5 },
    "a.f32": { f32: 0.5 },
    "a.bool": { bool: true },
    "a.small": { u64: 7n },
    "a.large": { u64: (1n << 63n) + 1n },
    "a.texts": { texts: ["a", "Grüße", "\ufeffmark", ""] },
    "a.i32s": { i32s: [1, -2, 3] },
    "a.f32s": { f32s: [0.25, -1] },
  },
  tensors: {
    matrix: f32Tensor([2, 3], MATRIX),
    half: { type: 1, shape: [3], bytes: Uint8Array.of(0x00, 0x3c, 0x00, 0xc1, 0xff, 0x7b) },
    // One Q8_0 block per row: scale 1 and 2, quants 0 .. 31 and -1.
    blocks: {
      type: 8,
      shape: [2, 32],
      bytes: Uint8Array.from([0, 0x3c, ...Array(32).keys(), 0, 0x40, ...Array(32).fill(255)]),
    },
  },
};

function openBytes(folder: string, bytes: Uint8Array) {
  Deno.writeFileSync(`${folder}/a.gguf`, bytes);
  return openGguf(`${folder}/a.gguf`);
}

/** Bytes of {@linkcode CONTENT} with `patch` at the place where `text` ends. */
function patchedAfter(text: string, skip: number, patch: number[]): Uint8Array {
  const bytes = ggufBytes(CONTENT);
  const needle = new TextEncoder().encode(text);
  const at = bytes.findIndex((_, i) => needle.every((byte, j) => bytes[i + j] === byte));
  bytes.set(patch, at + needle.length + skip);
  return bytes;
}

for (const version of [2, 3]) {
  folderTest(`openGguf() reads metadata and tensors of version ${version}`, (folder) => {
    const file = openBytes(folder, ggufBytes({ ...CONTENT, version }));
    assertEquals(
      file.metadata,
      new Map<string, unknown>([
        ["general.architecture", "llama"],
        ["a.u32", 4294967295],
        ["a.i32", -5],
        ["a.f32", 0.5],
        ["a.bool", true],
        ["a.small", 7],
        ["a.large", (1n << 63n) + 1n],
        ["a.texts", ["a", "Grüße", "\ufeffmark", ""]],
        ["a.i32s", Int32Array.of(1, -2, 3)],
        ["a.f32s", Float32Array.of(0.25, -1)],
      ]) as typeof file.metadata,
    );
    assertEquals(file.read("matrix"), { shape: [2, 3], data: MATRIX });
    assertEquals(file.read("half").data, Float32Array.of(1, -2.5, 65504));
    const { shape, data } = file.read("blocks");
    assertEquals(shape, [2, 32]);
    assertEquals([...data.subarray(0, 33)], [...Array.from({ length: 32 }, (_, i) => i), -2]);
    assertThrows(() => file.read("nothing"), RangeError);
    file.close();
  });
}

folderTest("openGguf() puts rows where the caller wants them", (folder) => {
  const file = openBytes(folder, ggufBytes(CONTENT));
  assertEquals(file.read("matrix", (row) => 1 - row).data, Float32Array.of(4, 5, 6, 1, 2, 3));
  const { data } = file.read("blocks", (row) => 1 - row);
  assertEquals([data[0], data[31], data[33], data[63]], [-2, -2, 1, 31]);
  file.close();
});

folderTest("openGguf() refuses each kind of damage in one sentence", (folder) => {
  const u64 = (value: bigint) => [...new Uint8Array(BigUint64Array.of(value).buffer)];
  const cases: [Uint8Array, string][] = [
    [new Uint8Array(2), "needs 4 bytes, but the header has only 2 left"],
    [new TextEncoder().encode("GGML and more"), `does not begin with "GGUF"`],
    [ggufBytes({ ...CONTENT, version: 1 }), "has GGUF version 1: must be 2 or 3"],
    [ggufBytes({ ...CONTENT, version: 0x03000000 }), "(a big-endian file?)"],
    [patchedAfter("GGUF", 4, u64(1n << 40n)), "claims 1099511627776 tensors, but the header has only"],
    [patchedAfter("GGUF", 12, u64(1n << 63n)), "claims 9223372036854776000 metadata entries"],
    [patchedAfter("a.u32", 0, [99]), `metadata "a.u32" has the unknown value type 99`],
    [patchedAfter("a.texts", 8, u64(9999n)), 'claims 9999 elements of metadata "a.texts", but the header has only'],
    [patchedAfter("a.texts", 16, u64(1n << 50n)), "needs 1125899906842624 bytes"],
    [patchedAfter("a.texts", 16, u64(4000n)), "needs 4000 bytes, but the header has only"],
    [patchedAfter("a.i32s", 4, [9]), "is an array of arrays"],
    [patchedAfter("matrix", 0, [5]), `tensor "matrix" has 5 dimensions: must be 1 to 4`],
    [patchedAfter("matrix", 4, u64(0n)), "has the shape [2, 0]: sizes must be at least 1"],
    [patchedAfter("matrix", 4, u64(1n << 62n)), "but the file ends at"],
    [patchedAfter("matrix", 4, u64(1n << 52n)), "but the file ends at"],
    [patchedAfter("matrix", 20, [13]), "has the type Q5_K: must be one of F32, F16"],
    [patchedAfter("matrix", 20, [77]), "has the type 77"],
    [patchedAfter("matrix", 20, [8]), 'rows of tensor "matrix" have 3 values: Q8_0 needs a multiple of 32'],
    [patchedAfter("matrix", 24, u64(8n)), "starts at offset 8: must be a multiple of 32"],
    [patchedAfter("matrix", 24, u64(1n << 45n)), "it may not have been copied completely"],
    [ggufBytes(CONTENT).slice(0, -64), "it may not have been copied completely"],
    [ggufBytes({ ...CONTENT, metadata: { "general.alignment": { u32: 24 } } }), "must be a power of two"],
  ];
  for (const [bytes, message] of cases) {
    const error = assertThrows(() => openBytes(folder, bytes), FileFormatError, message);
    assert(!error.message.includes("\n"), error.message);
  }
});

folderTest("openGguf() refuses names that appear twice", (folder) => {
  const twoKeys = ggufBytes({ metadata: { "key.1": { u32: 1 }, "key.2": { u32: 2 } }, tensors: {} });
  twoKeys[twoKeys.findLastIndex((byte) => byte === "2".charCodeAt(0))] = "1".charCodeAt(0);
  assertThrows(() => openBytes(folder, twoKeys), FileFormatError, `metadata key "key.1" appears twice`);
  const tensor = f32Tensor([1], [0]);
  const twoTensors = ggufBytes({ metadata: {}, tensors: { t1: tensor, t2: tensor } });
  twoTensors[twoTensors.findLastIndex((byte) => byte === "2".charCodeAt(0))] = "1".charCodeAt(0);
  assertThrows(() => openBytes(folder, twoTensors), FileFormatError, `tensor "t1" appears twice`);
});

folderTest("writeGguf() writes the bytes of another writer", (folder) => {
  const { "a.i32": _i32, "a.small": _small, "a.large": _large, ...metadata } = CONTENT.metadata;
  const values: Record<string, Float32Array> = { matrix: MATRIX, vector: Float32Array.of(7, 8, 9) };
  writeGguf(`${folder}/a.gguf`, {
    metadata: new Map(Object.entries(metadata)) as WrittenContent["metadata"],
    tensors: new Map([["matrix", { type: "F32", shape: [2, 3] }], ["vector", { type: "F32", shape: [3] }]]),
    read: (name) => known(values[name]),
  });
  const tensors = { matrix: f32Tensor([2, 3], MATRIX), vector: f32Tensor([3], known(values.vector)) };
  assertEquals(Deno.readFileSync(`${folder}/a.gguf`), ggufBytes({ metadata, tensors }));
  assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["a.gguf"]);
});

folderTest("writeGguf() writes every type so that it can be read, and tensors larger than one chunk", (folder) => {
  // Whole numbers up to 127 are exact in every type; a block of Q8_0 needs 127 itself for the scale 1.
  const values = Float32Array.from({ length: 96 * 4096 }, (_, i) => i % 32 === 0 ? 127 : i % 128 - 64);
  const types = ["F32", "F16", "BF16", "Q8_0"] as const;
  const tensors = new Map(types.map((type) => [type as string, { type, shape: [96, 4096] }]));
  writeGguf(`${folder}/a.gguf`, { metadata: new Map(), tensors, read: () => values });
  const file = openGguf(`${folder}/a.gguf`);
  for (const type of types) {
    assertEquals(file.tensors.get(type)!.type, type);
    assertEquals(file.read(type), { shape: [96, 4096], data: values });
  }
  file.close();
});

folderTest("writeGguf() refuses what does not fit, and leaves an earlier file as it was", (folder) => {
  const path = `${folder}/a.gguf`;
  Deno.writeTextFileSync(path, "earlier");
  const write = (type: "F32" | "Q8_0", shape: number[], values: number) => () =>
    writeGguf(path, {
      metadata: new Map(),
      tensors: new Map([["x", { type, shape }]]),
      read: () => new Float32Array(values),
    });
  const message = `Rows of tensor "x" have 33 values: Q8_0 needs a multiple of 32`;
  assertThrows(write("Q8_0", [2, 33], 66), RangeError, message);
  assertThrows(write("F32", [2, 3], 5), RangeError, `Tensor "x" has 5 values: shape [2, 3] needs 6`);
  assertEquals(Deno.readTextFileSync(path), "earlier");
  assertEquals([...Deno.readDirSync(folder)].length, 1);
});
