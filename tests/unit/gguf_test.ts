import { assert, assertEquals, assertThrows } from "@std/assert";
import { FileFormatError } from "../../core/util/errors.ts";
import { openGguf } from "../../core/formats/gguf.ts";
import { f32Tensor, ggufBytes, type GgufContent, withFolder } from "../support/weights_fixture.ts";

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
    matrix: f32Tensor([2, 3], [1, 2, 3, 4, 5, 6]),
    half: { type: 1, shape: [3], bytes: Uint8Array.of(0x00, 0x3c, 0x00, 0xc1, 0xff, 0x7b) },
    // One Q8_0 block per row: scale 1 and 2, quants 0 .. 31 and -1.
    blocks: {
      type: 8,
      shape: [2, 32],
      bytes: Uint8Array.from([
        0x00,
        0x3c,
        ...Array.from({ length: 32 }, (_, i) => i),
        0x00,
        0x40,
        ...Array.from({ length: 32 }, () => 255),
      ]),
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
  Deno.test(`openGguf() reads metadata and tensors of version ${version}`, async () => {
    await withFolder((folder) => {
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
      assertEquals(file.read("matrix"), { shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) });
      assertEquals(file.read("half").data, Float32Array.of(1, -2.5, 65504));
      const { shape, data } = file.read("blocks");
      assertEquals(shape, [2, 32]);
      assertEquals([...data.subarray(0, 33)], [...Array.from({ length: 32 }, (_, i) => i), -2]);
      assertThrows(() => file.read("nothing"), RangeError);
      file.close();
    });
  });
}

Deno.test("openGguf() puts rows where the caller wants them", async () => {
  await withFolder((folder) => {
    const file = openBytes(folder, ggufBytes(CONTENT));
    assertEquals(file.read("matrix", (row) => 1 - row).data, Float32Array.of(4, 5, 6, 1, 2, 3));
    const { data } = file.read("blocks", (row) => 1 - row);
    assertEquals([data[0], data[31], data[33], data[63]], [-2, -2, 1, 31]);
    file.close();
  });
});

Deno.test("openGguf() reads a tensor larger than one chunk", async () => {
  await withFolder((folder) => {
    const values = Float32Array.from({ length: 600_000 }, (_, i) => i);
    const file = openBytes(folder, ggufBytes({ metadata: {}, tensors: { x: f32Tensor([200_000, 3], values) } }));
    const { data } = file.read("x");
    file.close();
    assert(data.every((value, i) => value === i));
  });
});

Deno.test("openGguf() refuses each kind of damage in one sentence", async () => {
  const u64 = (value: bigint) => [...new Uint8Array(BigUint64Array.of(value).buffer)];
  const cases: [Uint8Array, string][] = [
    [new Uint8Array(2), "needs 4 bytes, but the header has only 2 left"],
    [new TextEncoder().encode("GGML and more"), `does not begin with "GGUF"`],
    [ggufBytes({ ...CONTENT, version: 1 }), "has GGUF version 1: must be 2 or 3"],
    [ggufBytes({ ...CONTENT, version: 0x03000000 }), "(a big-endian file?)"],
    [patchedAfter("GGUF", 4, u64(1n << 40n)), "claims 1099511627776 tensors, but the file has only"],
    [patchedAfter("GGUF", 12, u64(1n << 63n)), "claims 9223372036854776000 metadata entries"],
    [patchedAfter("a.u32", 0, [99]), `metadata "a.u32" has the unknown value type 99`],
    [patchedAfter("a.texts", 8, u64(9999n)), 'claims 9999 elements of metadata "a.texts", but the file has only'],
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
  await withFolder((folder) => {
    for (const [bytes, message] of cases) {
      const error = assertThrows(() => openBytes(folder, bytes), FileFormatError, message);
      assert(!error.message.includes("\n"), error.message);
    }
  });
});

Deno.test("openGguf() refuses names that appear twice", async () => {
  await withFolder((folder) => {
    const twoKeys = ggufBytes({ metadata: { "key.1": { u32: 1 }, "key.2": { u32: 2 } }, tensors: {} });
    twoKeys[twoKeys.findLastIndex((byte) => byte === "2".charCodeAt(0))] = "1".charCodeAt(0);
    assertThrows(() => openBytes(folder, twoKeys), FileFormatError, `metadata key "key.1" appears twice`);
    const tensor = f32Tensor([1], [0]);
    const twoTensors = ggufBytes({ metadata: {}, tensors: { t1: tensor, t2: tensor } });
    twoTensors[twoTensors.findLastIndex((byte) => byte === "2".charCodeAt(0))] = "1".charCodeAt(0);
    assertThrows(() => openBytes(folder, twoTensors), FileFormatError, `tensor "t1" appears twice`);
  });
});
