import fc from "fast-check";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { BLOCK_FORMATS, type GgmlType } from "../../core/formats/dequantize.ts";
import { encodeValues, storedBytes } from "../../core/formats/quantize.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { asStored } from "../support/weights_fixture.ts";

interface Golden {
  types: Record<GgmlType, { blocks: string; values: string }>;
}
const REMAKE = "remake tests/golden/dequantize.json with tools/goldens/make_dequantize_golden.py";
const readGolden = (name: string) =>
  JSON.parse(Deno.readTextFileSync(new URL(`../golden/${name}.json`, import.meta.url)));
const golden: Golden = readGolden("dequantize");
const base64Bytes = (text: string) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

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
    decode(new DataView(bytes.buffer), 0, count, out, 0);
    assertEquals(new Uint32Array(out.buffer), new Uint32Array(expected.buffer), REMAKE);
  });

  Deno.test(`decoding ${type} reads unaligned bytes and writes only from \`start\` on`, () => {
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    const out = new Float32Array(expected.length + 5).fill(7);
    decode(new DataView(shifted.buffer, 1), 0, count, out, 3);
    assertEquals(out.subarray(3, 3 + expected.length), expected);
    assertEquals([...out.subarray(0, 3), ...out.subarray(3 + expected.length)], [7, 7, 7, 7, 7]);
  });
}

Deno.test("F16 has zeros, the smallest and largest numbers, infinity and NaN", () => {
  const bytes = new DataView(Uint16Array.of(0x3c00, 0x0001, 0xfbff, 0x7c00, 0x8000, 0x7e00).buffer);
  const out = new Float32Array(6);
  BLOCK_FORMATS.F16.decode(bytes, 0, 6, out, 0);
  assertEquals(out, Float32Array.of(1, 2 ** -24, -65504, Infinity, -0, NaN));
});

Deno.test("encodeValues() of Q8_0 equals the numpy reference bit for bit", () => {
  const { values, blocks } = readGolden("quantize").Q8_0;
  const encoded = encodeValues("Q8_0", new Float32Array(base64Bytes(values).buffer), "x");
  const remake = "remake tests/golden/quantize.json with tools/goldens/make_quantize_golden.py";
  assertEquals(encoded, base64Bytes(blocks), remake);
});

Deno.test("encodeValues() gives back the stored bytes of halves that the numpy reference read", () => {
  for (const type of ["F32", "F16", "BF16"] as const) {
    const values = new Float32Array(base64Bytes(golden.types[type].values).buffer);
    assertEquals(encodeValues(type, values, "x"), base64Bytes(golden.types[type].blocks), type);
  }
});

Deno.test("encodeValues() of Q8_0 keeps every value to half a step of its block", () => {
  const value = fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e5), max: Math.fround(1e5) });
  fc.assert(fc.property(fc.array(value, { minLength: 32, maxLength: 32 }), (list) => {
    const values = Float32Array.from(list);
    const back = asStored("Q8_0", values);
    const largest = Math.max(...values.map(Math.abs));
    // The scale itself is rounded to f16: 11 bits, or 2^-25 where it is subnormal.
    const step = largest / 127;
    const tolerance = step * (0.5 + 127 * 2 ** -11) + 127 * 2 ** -25;
    values.forEach((expected, i) => assert(Math.abs(at(back, i) - expected) <= tolerance, `${expected}: ${back[i]}`));
  }));
});

Deno.test("encodeValues() refuses values that do not fit, by the tensor's name", () => {
  const filled = (value: number) => new Float32Array(32).fill(value);
  assertThrows(() => encodeValues("F16", filled(70_000), "w"), UsageError, `"w" holds 70000, beyond F16's 65504`);
  const message = `"w" holds 10000000, which is beyond Q8_0's range`;
  assertThrows(() => encodeValues("Q8_0", filled(1e7), "w"), UsageError, message);
  assertThrows(() => encodeValues("Q8_0", filled(NaN), "w"), UsageError, "NaN");
  assertThrows(() => encodeValues("Q8_0", new Float32Array(33), "w"), RangeError, "multiple of 32 values: current 33");
});

Deno.test("storedBytes() counts what encodeValues() gives", () => {
  for (const type of ["F32", "F16", "BF16", "Q8_0"] as const) {
    assertEquals(encodeValues(type, new Float32Array(64), "x").length, storedBytes(type, [64]));
  }
});
