/** Writes GGUF files, version 3.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: metadata, tensor list, then the tensors, each from a
 * multiple of 32 bytes on.
 *
 * @module
 */
import { BLOCK_FORMATS } from "./dequantize.ts";
import { at } from "../util/indexing.ts";
import { encodeValues, storedBytes, type StoredType } from "./quantize.ts";
import { type Append, writeWhole } from "../util/write_file.ts";

/** A metadata value, by its GGUF type; `texts`, `i32s` and `f32s` are arrays. */
export type GgufEntry =
  | { u32: number }
  | { f32: number }
  | { bool: boolean }
  | { text: string }
  | { texts: readonly string[] }
  | { i32s: ArrayLike<number> }
  | { f32s: ArrayLike<number> };

/** What {@linkcode writeGguf} writes. */
export interface GgufContent {
  /** In the order of the file. */
  metadata: ReadonlyMap<string, GgufEntry>;
  /** Storage type and shape (row-major, outermost first) of every tensor, in the order of the file. */
  tensors: ReadonlyMap<string, { type: StoredType; shape: readonly number[] }>;
  /** Gives a tensor's values; called once per tensor, in order, so that only one need be in memory. */
  read(name: string): Float32Array;
}

/** Numbers that ggml gives to the types that are written. */
const TENSOR_TYPES: Record<StoredType, number> = { F32: 0, F16: 1, Q8_0: 8, BF16: 30 };
const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8, array: 9 } as const;

const VERSION = 3;
const ALIGNMENT_BYTES = 32;
/** Values encoded at once; a multiple of every block. */
const CHUNK_VALUES = 256 * 1024;

const aligned = (size: number) => Math.ceil(size / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;

/** Bytes that grow at the end, little-endian. */
function createHeader(): { bytes(): Uint8Array; u8: Put; u32: Put; u64: Put; f32: Put; text(value: string): void } {
  let buffer = new Uint8Array(64 * 1024);
  let view = new DataView(buffer.buffer);
  let length = 0;
  const reserve = (count: number): number => {
    if (length + count > buffer.length) {
      const larger = new Uint8Array(Math.max(2 * buffer.length, length + count));
      larger.set(buffer);
      buffer = larger;
      view = new DataView(buffer.buffer);
    }
    length += count;
    return length - count;
  };
  const encoder = new TextEncoder();
  const u64 = (value: number) => {
    const at = reserve(8);
    view.setBigUint64(at, BigInt(value), true);
  };
  return {
    bytes: () => buffer.subarray(0, length),
    u8: (value) => {
      const at = reserve(1);
      view.setUint8(at, value);
    },
    u32: (value) => {
      const at = reserve(4);
      view.setUint32(at, value, true);
    },
    u64,
    f32: (value) => {
      const at = reserve(4);
      view.setFloat32(at, value, true);
    },
    text: (value) => {
      const bytes = encoder.encode(value);
      u64(bytes.length);
      const at = reserve(bytes.length);
      buffer.set(bytes, at);
    },
  };
}
type Put = (value: number) => void;
type Header = ReturnType<typeof createHeader>;

function putEntry(header: Header, entry: GgufEntry): void {
  const { u8, u32, u64, f32, text } = header;
  const list = <T>(type: number, items: ArrayLike<T>, put: (item: T) => void) => {
    u32(VALUE_TYPES.array);
    u32(type);
    u64(items.length);
    for (let i = 0; i < items.length; i++) put(at(items, i));
  };
  const one = (type: number) => u32(type);
  if ("u32" in entry) one(VALUE_TYPES.u32), u32(entry.u32);
  else if ("f32" in entry) one(VALUE_TYPES.f32), f32(entry.f32);
  else if ("bool" in entry) one(VALUE_TYPES.bool), u8(Number(entry.bool));
  else if ("text" in entry) one(VALUE_TYPES.text), text(entry.text);
  else if ("texts" in entry) list(VALUE_TYPES.text, entry.texts, text);
  else if ("i32s" in entry) list(VALUE_TYPES.i32, entry.i32s, (value) => u32(value >>> 0));
  else list(VALUE_TYPES.f32, entry.f32s, f32);
}

const valuesOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

/** Metadata and tensor list, padded up to the first tensor.
 * @throws {RangeError} when rows are not whole blocks. */
function headerBytes({ metadata, tensors }: GgufContent): Uint8Array {
  const header = createHeader();
  const { u8, u32, u64, text } = header;
  for (const letter of "GGUF") u8(letter.charCodeAt(0));
  u32(VERSION);
  u64(tensors.size);
  u64(metadata.size);
  for (const [key, entry] of metadata) {
    text(key);
    putEntry(header, entry);
  }
  let offset = 0;
  for (const [name, { type, shape }] of tensors) {
    const { blockValues } = BLOCK_FORMATS[type];
    const rowValues = at(shape, shape.length - 1);
    if (rowValues % blockValues !== 0) {
      throw new RangeError(
        `Rows of tensor "${name}" have ${rowValues} values: ${type} needs a multiple of ${blockValues}`,
      );
    }
    text(name);
    u32(shape.length);
    for (const size of shape.toReversed()) u64(size);
    u32(TENSOR_TYPES[type]);
    u64(offset);
    offset = aligned(offset + storedBytes(type, valuesOf(shape)));
  }
  const bytes = header.bytes();
  const padded = new Uint8Array(aligned(bytes.length));
  padded.set(bytes);
  return padded;
}

function appendTensor(append: Append, values: Float32Array, name: string, type: StoredType): void {
  for (let i = 0; i < values.length; i += CHUNK_VALUES) {
    append(encodeValues(type, values.subarray(i, i + CHUNK_VALUES), name));
  }
  const size = storedBytes(type, values.length);
  append(new Uint8Array(aligned(size) - size));
}

/** Writes a GGUF file, whole or not at all.
 * @throws {UsageError} when a value does not fit its storage type.
 * @throws {RangeError} when a tensor's values do not fit its shape, or its rows are not whole blocks of its type. */
export function writeGguf(path: string, content: GgufContent): void {
  const header = headerBytes(content);
  writeWhole(path, (append) => {
    append(header);
    for (const [name, { type, shape }] of content.tensors) {
      const values = content.read(name);
      const needed = valuesOf(shape);
      if (values.length !== needed) {
        throw new RangeError(
          `Tensor "${name}" has ${values.length} values: shape [${shape.join(", ")}] needs ${needed}`,
        );
      }
      appendTensor(append, values, name, type);
    }
  });
}
