/** f32 to stored number formats: the inverse of `dequantize.ts` for writable formats.
 *
 * @module
 */
import type { Append } from "../util/write_file.ts";
import { BLOCK_FORMATS } from "./dequantize.ts";
import { UsageError } from "../util/errors.ts";

/** Writable formats. */
export const STORED_TYPES = ["F32", "F16", "BF16", "Q8_0"] as const;
/** A writable format. */
export type StoredType = (typeof STORED_TYPES)[number];

/** Round to nearest, ties to even; NaN stays NaN. */
function encodeBf16(values: Float32Array): Uint8Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  bits.forEach((x, i) => {
    out[i] = (x & 0x7fffffff) > 0x7f800000 ? x >>> 16 | 0x40 : x + 0x7fff + (x >>> 16 & 1) >>> 16;
  });
  return new Uint8Array(out.buffer);
}

/** Round to nearest, ties to even. */
function encodeF16(values: Float32Array, name: string): Uint8Array<ArrayBuffer> {
  const out = new Float16Array(values);
  out.forEach((rounded, i) => {
    if (!Number.isFinite(rounded) && Number.isFinite(values[i])) {
      throw new UsageError(`Tensor "${name}" holds ${values[i]}, beyond F16's 65504: write BF16 or F32`);
    }
  });
  return new Uint8Array(out.buffer);
}

/** Blocks of 32: scale d = max|x| / 127 as f16, then round(x / d) as i8, halves away from zero. The arithmetic is in
 * f32 as in ggml (`quantize_row_q8_0_ref`), so the bytes are the same. */
function encodeQ80(values: Float32Array, name: string): Uint8Array<ArrayBuffer> {
  const { blockValues, blockBytes } = BLOCK_FORMATS.Q8_0;
  const blocks = values.length / blockValues;
  const out = new Uint8Array(blocks * blockBytes);
  const scale = new Float16Array(1);
  const scaleBytes = new Uint8Array(scale.buffer);
  for (let block = 0; block < blocks; block++) {
    const weights = values.subarray(block * blockValues, (block + 1) * blockValues);
    let largest = 0;
    for (const weight of weights) {
      const size = Math.abs(weight);
      // Comparisons with NaN are false, so it is tested separately.
      if (size > largest || size !== size) largest = size;
    }
    const d = Math.fround(largest / 127);
    scale[0] = d;
    if (!Number.isFinite(scale[0])) {
      throw new UsageError(`Tensor "${name}" holds ${largest}, which is beyond Q8_0's range: write BF16 or F32`);
    }
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    const at = block * blockBytes;
    out.set(scaleBytes, at);
    weights.forEach((weight, i) => {
      const scaled = Math.fround(weight * inverse);
      out[at + 2 + i] = scaled < 0 ? -Math.floor(0.5 - scaled) : Math.floor(scaled + 0.5);
    });
  }
  return out;
}

const ENCODERS: Record<StoredType, (values: Float32Array, name: string) => Uint8Array<ArrayBuffer>> = {
  F32: (values) => new Uint8Array(values.slice().buffer),
  F16: encodeF16,
  BF16: encodeBf16,
  Q8_0: encodeQ80,
};

/** Bytes of `values` in storage type `type`, little-endian.
 *
 * @param values whole blocks: for Q8_0 a multiple of 32
 * @param name of the tensor, for messages
 * @throws {UsageError} when a value does not fit the type.
 * @throws {RangeError} when the values are not whole blocks. */
export function encodeValues(type: StoredType, values: Float32Array, name: string): Uint8Array<ArrayBuffer> {
  const { blockValues } = BLOCK_FORMATS[type];
  if (values.length % blockValues !== 0) {
    throw new RangeError(`${type} needs a multiple of ${blockValues} values: current ${values.length}`);
  }
  return ENCODERS[type](values, name);
}

const valuesOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

/** Bytes of a tensor of `shape` in storage type `type`. */
export function storedBytes(type: StoredType, shape: readonly number[]): number {
  const { blockValues, blockBytes } = BLOCK_FORMATS[type];
  return valuesOf(shape) / blockValues * blockBytes;
}

/** Values encoded at once; a multiple of every block. */
const CHUNK_VALUES = 256 * 1024;

/** Appends a tensor's values to a file, encoded part by part as {@linkcode encodeValues} does.
 * @throws {UsageError} when a value does not fit the type.
 * @throws {RangeError} when the values do not fit the shape, or are not whole blocks. */
export function appendValues(
  append: Append,
  { type, shape, values, name }: { type: StoredType; shape: readonly number[]; values: Float32Array; name: string },
): void {
  const needed = valuesOf(shape);
  if (values.length !== needed) {
    throw new RangeError(`Tensor "${name}" has ${values.length} values: shape [${shape.join(", ")}] needs ${needed}`);
  }
  for (let i = 0; i < needed; i += CHUNK_VALUES) {
    append(encodeValues(type, values.subarray(i, i + CHUNK_VALUES), name));
  }
}
