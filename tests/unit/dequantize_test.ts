import { assert, assertEquals } from "@std/assert";
import { BLOCK_FORMATS, type GgmlType, halfToFloat } from "../../core/formats/dequantize.ts";

interface Golden {
  types: Record<GgmlType, { blocks: string; values: string }>;
}
const REMAKE = "remake tests/golden/dequantize.json with tools/goldens/make_dequantize_golden.py";
const golden: Golden = JSON.parse(
  Deno.readTextFileSync(new URL("../golden/dequantize.json", import.meta.url)),
);

function base64Bytes(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

Deno.test("BLOCK_FORMATS has a golden for every type", () => {
  assertEquals(Object.keys(golden.types).sort(), Object.keys(BLOCK_FORMATS).sort(), REMAKE);
});

for (const type of Object.keys(BLOCK_FORMATS) as GgmlType[]) {
  const { blocks, values } = golden.types[type];
  const bytes = base64Bytes(blocks);
  const expected = new Float32Array(base64Bytes(values).buffer);
  const { decode, blockBytes } = BLOCK_FORMATS[type];
  const count = bytes.length / blockBytes;

  Deno.test(`decoding ${type} equals the numpy reference bit for bit`, () => {
    const out = new Float32Array(expected.length);
    decode(bytes, 0, count, out, 0);
    assertEquals(new Uint32Array(out.buffer), new Uint32Array(expected.buffer), REMAKE);
  });

  Deno.test(`decoding ${type} reads unaligned bytes and writes only from \`start\` on`, () => {
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    const out = new Float32Array(expected.length + 5).fill(7);
    decode(shifted.subarray(1), 0, count, out, 3);
    assertEquals(out.subarray(3, 3 + expected.length), expected);
    assertEquals([...out.subarray(0, 3), ...out.subarray(3 + expected.length)], [7, 7, 7, 7, 7]);
  });
}

Deno.test("halfToFloat() knows zero, the smallest and largest numbers, infinity and NaN", () => {
  const table = halfToFloat();
  assertEquals(table[0x3c00], 1);
  assertEquals(table[0x0001], 2 ** -24);
  assertEquals(table[0xfbff], -65504);
  assertEquals(table[0x7c00], Infinity);
  assert(Object.is(table[0x8000], -0) && Number.isNaN(table[0x7e00]));
});
