import { assertEquals, assertThrows } from "@std/assert";
import { openGguf } from "../../core/formats/gguf.ts";
import { type GgufContent, writeGguf } from "../../core/formats/gguf_write.ts";
import { f32Tensor, ggufBytes, withFolder } from "../support/weights_fixture.ts";
import { known } from "../support/values.ts";

const METADATA: [string, { u32: number } | { f32: number } | { bool: boolean } | { text: string }][] = [
  ["general.architecture", { text: "llama" }],
  ["a.u32", { u32: 4294967295 }],
  ["a.f32", { f32: 0.5 }],
  ["a.bool", { bool: true }],
  ["a.text", { text: "Grüße" }],
];

function contentOf(tensors: GgufContent["tensors"], values: Record<string, Float32Array>): GgufContent {
  return {
    metadata: new Map<string, GgufContent["metadata"] extends ReadonlyMap<string, infer E> ? E : never>([
      ...METADATA,
      ["a.texts", { texts: ["a", "", "ß"] }],
      ["a.i32s", { i32s: Int32Array.of(1, -2) }],
      ["a.f32s", { f32s: [0.25, -1] }],
    ]),
    tensors,
    read: (name) => known(values[name]),
  };
}

Deno.test("writeGguf() writes the bytes of another writer", async () => {
  await withFolder((folder) => {
    const values = { matrix: Float32Array.of(1, 2, 3, 4, 5, 6), vector: Float32Array.of(7, 8, 9) };
    writeGguf(
      `${folder}/a.gguf`,
      contentOf(
        new Map([["matrix", { type: "F32", shape: [2, 3] }], ["vector", { type: "F32", shape: [3] }]]),
        values,
      ),
    );
    const expected = ggufBytes({
      metadata: {
        ...Object.fromEntries(METADATA),
        "a.texts": { texts: ["a", "", "ß"] },
        "a.i32s": { i32s: [1, -2] },
        "a.f32s": { f32s: [0.25, -1] },
      },
      tensors: { matrix: f32Tensor([2, 3], values.matrix), vector: f32Tensor([3], values.vector) },
    });
    assertEquals(Deno.readFileSync(`${folder}/a.gguf`), expected);
    assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["a.gguf"]);
  });
});

Deno.test("writeGguf() writes every type so that it can be read, and tensors larger than one chunk", async () => {
  await withFolder((folder) => {
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
});

Deno.test("writeGguf() refuses what does not fit, and leaves an earlier file as it was", async () => {
  await withFolder((folder) => {
    const path = `${folder}/a.gguf`;
    Deno.writeTextFileSync(path, "earlier");
    const write = (type: "F32" | "Q8_0", shape: number[], values: number) => () =>
      writeGguf(path, {
        metadata: new Map(),
        tensors: new Map([["x", { type, shape }]]),
        read: () => new Float32Array(values),
      });
    assertThrows(
      write("Q8_0", [2, 33], 66),
      RangeError,
      `Rows of tensor "x" have 33 values: Q8_0 needs a multiple of 32`,
    );
    assertThrows(write("F32", [2, 3], 5), RangeError, `Tensor "x" has 5 values: shape [2, 3] needs 6`);
    assertEquals(Deno.readTextFileSync(path), "earlier");
    assertEquals([...Deno.readDirSync(folder)].length, 1);
  });
});
