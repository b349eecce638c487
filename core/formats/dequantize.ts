/** Stored number formats to f32: half precision and the block formats of GGUF.
 *
 * A block format stores `blockValues` weights in `blockBytes` bytes: one or more f16 scales and small integers. Layouts
 * follow ggml (`ggml-common.h`, `ggml-quants.c`); the arithmetic is exact in f64 up to one rounding to f32, so results
 * equal ggml's bit for bit.
 *
 * @module
 */

import type { RangedFile } from "./ranged_file.ts";

/** A readable tensor type of GGUF. */
export type GgmlType = "F32" | "F16" | "BF16" | "Q4_0" | "Q4_1" | "Q5_0" | "Q5_1" | "Q8_0" | "Q4_K" | "Q6_K";

/** Converts `count` blocks from byte `at` of `bytes` to f32 at `start` of `out`. Reads of a view are checked and as fast
 * as an index. */
type BlockDecoder = (bytes: DataView, at: number, count: number, out: Float32Array, start: number) => void;

interface BlockFormat {
  /** Weights in one block; 1 for plain numbers. */
  blockValues: number;
  blockBytes: number;
  decode: BlockDecoder;
}

/** f32 to f32: copies bytes, whatever their alignment. */
const decodeF32: BlockDecoder = (bytes, at, count, out, start) => {
  const from = new Uint8Array(bytes.buffer, bytes.byteOffset + at, count * 4);
  new Uint8Array(out.buffer, out.byteOffset + start * 4, count * 4).set(from);
};

const decodeF16: BlockDecoder = (bytes, at, count, out, start) => {
  for (let i = 0; i < count; i++) out[start + i] = bytes.getFloat16(at + 2 * i, true);
};

/** BF16 is the upper half of an f32. */
const decodeBf16: BlockDecoder = (bytes, at, count, out, start) => {
  const to = new Uint32Array(out.buffer, out.byteOffset + start * 4, count);
  for (let i = 0; i < count; i++) to[i] = bytes.getUint16(at + 2 * i, true) << 16;
};

/** Blocks of 32: d f16, m f16 if `hasMinimum`, 32 fifth bits if `hasFifth`, 16 bytes of nibbles. Weight j is the low
 * nibble of byte j, weight j + 16 the high one. `d q + m`; without m `d (q - half)`, half of the range of q. */
const decodeNibbles = (hasMinimum: boolean, hasFifth: boolean): BlockDecoder => (bytes, at, count, out, start) => {
  const half = hasMinimum ? 0 : hasFifth ? 16 : 8;
  const quants = 2 + (hasMinimum ? 2 : 0) + (hasFifth ? 4 : 0);
  for (let block = 0; block < count; block++, at += quants + 16, start += 32) {
    const d = bytes.getFloat16(at, true);
    // Adding -0 changes nothing, the sign of a zero included.
    const m = hasMinimum ? bytes.getFloat16(at + 2, true) : -0;
    const fifth = hasFifth ? bytes.getUint32(at + quants - 4, true) : 0;
    for (let j = 0; j < 16; j++) {
      const q = bytes.getUint8(at + quants + j);
      out[start + j] = d * ((q & 15 | (fifth >>> j & 1) << 4) - half) + m;
      out[start + j + 16] = d * ((q >> 4 | (fifth >>> j + 16 & 1) << 4) - half) + m;
    }
  }
};

/** d f16, 32 signed bytes. `d q`. */
const decodeQ80: BlockDecoder = (bytes, at, count, out, start) => {
  for (let block = 0; block < count; block++, at += 34, start += 32) {
    const d = bytes.getFloat16(at, true);
    for (let j = 0; j < 32; j++) out[start + j] = d * bytes.getInt8(at + 2 + j);
  }
};

/** 256 weights in 8 sub-blocks of 32: d f16, dmin f16, 8 six-bit scales and 8 six-bit minima in 12 bytes, 128 bytes of
 * nibbles (bytes 32 p … 32 p + 31 hold sub-block 2 p low, 2 p + 1 high). `d s q - dmin m`. */
const decodeQ4K: BlockDecoder = (bytes, at, count, out, start) => {
  for (let block = 0; block < count; block++, at += 144) {
    const d = bytes.getFloat16(at, true);
    const dMin = bytes.getFloat16(at + 2, true);
    const scales = at + 4;
    for (let sub = 0; sub < 8; sub++, start += 32) {
      // Sub-blocks 4 to 7 keep their upper two bits in the top of bytes 0 to 7.
      const scale = sub < 4
        ? bytes.getUint8(scales + sub) & 63
        : bytes.getUint8(scales + sub + 4) & 15 | bytes.getUint8(scales + sub - 4) >> 6 << 4;
      const min = sub < 4
        ? bytes.getUint8(scales + sub + 4) & 63
        : bytes.getUint8(scales + sub + 4) >> 4 | bytes.getUint8(scales + sub) >> 6 << 4;
      const factor = d * scale;
      const offset = dMin * min;
      const quants = at + 16 + (sub >> 1) * 32;
      const shift = (sub & 1) * 4;
      for (let j = 0; j < 32; j++) out[start + j] = factor * (bytes.getUint8(quants + j) >> shift & 15) - offset;
    }
  }
};

/** 256 weights in 16 sub-blocks of 16: 128 bytes with the lower four bits, 64 bytes with the upper two, 16 signed
 * scales, d f16. Each half of 128 weights is four runs of 32 that share bytes. `d s (q - 32)`. */
const decodeQ6K: BlockDecoder = (bytes, at, count, out, start) => {
  for (let block = 0; block < count; block++, at += 210) {
    const d = bytes.getFloat16(at + 208, true);
    for (let half = 0; half < 2; half++, start += 128) {
      const low = at + half * 64;
      const high = at + 128 + half * 32;
      const scales = at + 192 + half * 8;
      for (let run = 0; run < 4; run++) {
        const lowBytes = low + (run & 1) * 32;
        const lowShift = (run >> 1) * 4;
        const highShift = run * 2;
        for (let part = 0; part < 2; part++) {
          const factor = d * bytes.getInt8(scales + run * 2 + part);
          for (let j = part * 16; j < part * 16 + 16; j++) {
            const q = bytes.getUint8(lowBytes + j) >> lowShift & 15 | (bytes.getUint8(high + j) >> highShift & 3) << 4;
            out[start + run * 32 + j] = factor * (q - 32);
          }
        }
      }
    }
  }
};

/** All readable tensor types. */
export const BLOCK_FORMATS: Record<GgmlType, BlockFormat> = {
  F32: { blockValues: 1, blockBytes: 4, decode: decodeF32 },
  F16: { blockValues: 1, blockBytes: 2, decode: decodeF16 },
  BF16: { blockValues: 1, blockBytes: 2, decode: decodeBf16 },
  Q4_0: { blockValues: 32, blockBytes: 18, decode: decodeNibbles(false, false) },
  Q4_1: { blockValues: 32, blockBytes: 20, decode: decodeNibbles(true, false) },
  Q5_0: { blockValues: 32, blockBytes: 22, decode: decodeNibbles(false, true) },
  Q5_1: { blockValues: 32, blockBytes: 24, decode: decodeNibbles(true, true) },
  Q8_0: { blockValues: 32, blockBytes: 34, decode: decodeQ80 },
  Q4_K: { blockValues: 256, blockBytes: 144, decode: decodeQ4K },
  Q6_K: { blockValues: 256, blockBytes: 210, decode: decodeQ6K },
};

const READ_CHUNK_BYTES = 1024 * 1024;

/** Reads the numbers stored in a range of a file as f32.
 *
 * @param rows length of a row in values (a multiple of the type's block), and the place in the result of each stored
 *   row; without it the order stays */
export function readStored(
  file: RangedFile,
  { type, offset, sizeBytes }: { type: GgmlType; offset: number; sizeBytes: number },
  rows?: { values: number; place(row: number): number },
): Float32Array {
  const { blockValues, blockBytes, decode } = BLOCK_FORMATS[type];
  const data = new Float32Array(sizeBytes / blockBytes * blockValues);
  if (type === "F32" && !rows) {
    file.readInto(offset, new Uint8Array(data.buffer));
    return data;
  }
  const rowValues = rows?.values ?? blockValues;
  const rowBlocks = rowValues / blockValues;
  const rowBytes = rowBlocks * blockBytes;
  const chunkBytes = Math.min(sizeBytes, Math.ceil(READ_CHUNK_BYTES / rowBytes) * rowBytes);
  const chunk = new Uint8Array(chunkBytes);
  for (let done = 0; done < sizeBytes; done += chunkBytes) {
    const bytes = chunk.subarray(0, Math.min(chunkBytes, sizeBytes - done));
    file.readInto(offset + done, bytes);
    const view = new DataView(bytes.buffer, 0, bytes.length);
    const first = done / rowBytes;
    const count = bytes.length / rowBytes;
    if (!rows) decode(view, 0, count, data, first * blockValues);
    else {for (let i = 0; i < count; i++) {
        decode(view, i * rowBytes, rowBlocks, data, rows.place(first + i) * rowValues);
      }}
  }
  return data;
}
