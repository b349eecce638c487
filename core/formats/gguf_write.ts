/** Writes GGUF files, version 3.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: metadata, tensor list, then the tensors, each from
 * a multiple of 32 bytes on.
 *
 * @module
 */
import { BLOCK_FORMATS } from "./dequantize.ts";
import { at } from "../util/indexing.ts";
import { appendValues, storedBytes, type StoredType } from "./quantize.ts";
import { writeWhole } from "../util/write_file.ts";

/** A metadata value, by its GGUF type; `texts`, `i32s` and `f32s` are arrays. */
export type GgufEntry =
  | { u32: number }
  | { f32: number }
  | { bool: boolean }
  | { text: string }
  | { texts: readonly string[] }
  | { i32s: ArrayLike<number> }
  | { f32s: ArrayLike<number> };

/** Content of a GGUF file. */
export interface GgufContent {
  metadata: ReadonlyMap<string, GgufEntry>;
  /** Storage type and shape (row-major, outermost first) of every tensor, in the order of the file. */
  tensors: ReadonlyMap<string, { type: StoredType; shape: readonly number[] }>;
  /** Returns a tensor's values; called once per tensor, in order, so that only one is in memory. */
  read(name: string): Float32Array;
}

const TENSOR_TYPES: Record<StoredType, number> = { F32: 0, F16: 1, Q8_0: 8, BF16: 30 };
const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8, array: 9 } as const;

const ALIGNMENT_BYTES = 32;

const aligned = (size: number) => Math.ceil(size / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;

class HeaderWriter {
  #view = new DataView(new ArrayBuffer(64 * 1024));
  #length = 0;

  /** A view of the next `count` bytes. */
  #next(count: number): DataView<ArrayBuffer> {
    const place = this.#length;
    this.#length += count;
    if (this.#length > this.#view.byteLength) this.#view = new DataView(this.#view.buffer.transfer(2 * this.#length));
    return new DataView(this.#view.buffer, place, count);
  }

  u8(value: number): void {
    this.#next(1).setUint8(0, value);
  }

  u32(value: number): void {
    this.#next(4).setUint32(0, value, true);
  }

  u64(value: number): void {
    this.#next(8).setBigUint64(0, BigInt(value), true);
  }

  f32(value: number): void {
    this.#next(4).setFloat32(0, value, true);
  }

  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.u64(bytes.length);
    const { buffer, byteOffset } = this.#next(bytes.length);
    new Uint8Array(buffer).set(bytes, byteOffset);
  }

  /** The bytes, with zeros up to a multiple of the alignment. */
  aligned(): Uint8Array {
    return new Uint8Array(this.#view.buffer.transfer(aligned(this.#length)));
  }
}

function putEntry(header: HeaderWriter, entry: GgufEntry): void {
  const list = <T>(type: number, items: ArrayLike<T>, put: (item: T) => void) => {
    header.u32(VALUE_TYPES.array);
    header.u32(type);
    header.u64(items.length);
    for (let i = 0; i < items.length; i++) put(at(items, i));
  };
  if ("u32" in entry) header.u32(VALUE_TYPES.u32), header.u32(entry.u32);
  else if ("f32" in entry) header.u32(VALUE_TYPES.f32), header.f32(entry.f32);
  else if ("bool" in entry) header.u32(VALUE_TYPES.bool), header.u8(Number(entry.bool));
  else if ("text" in entry) header.u32(VALUE_TYPES.text), header.text(entry.text);
  else if ("texts" in entry) list(VALUE_TYPES.text, entry.texts, (value) => header.text(value));
  else if ("i32s" in entry) list(VALUE_TYPES.i32, entry.i32s, (value) => header.u32(value >>> 0));
  else list(VALUE_TYPES.f32, entry.f32s, (value) => header.f32(value));
}

/** Metadata and tensor list, padded up to the first tensor.
 * @throws {RangeError} when rows are not whole blocks. */
function headerBytes({ metadata, tensors }: GgufContent): Uint8Array {
  const header = new HeaderWriter();
  for (const letter of "GGUF") header.u8(letter.charCodeAt(0));
  header.u32(3);
  header.u64(tensors.size);
  header.u64(metadata.size);
  for (const [key, entry] of metadata) {
    header.text(key);
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
    header.text(name);
    header.u32(shape.length);
    for (const size of shape.toReversed()) header.u64(size);
    header.u32(TENSOR_TYPES[type]);
    header.u64(offset);
    offset = aligned(offset + storedBytes(type, shape));
  }
  return header.aligned();
}

/** Writes a GGUF file, whole or not at all.
 * @throws {UsageError} when a value does not fit its storage type.
 * @throws {RangeError} when a tensor's values do not fit its shape, or its rows are not whole blocks of its type. */
export function writeGguf(path: string, content: GgufContent): void {
  const header = headerBytes(content);
  writeWhole(path, (append) => {
    append(header);
    for (const [name, { type, shape }] of content.tensors) {
      appendValues(append, { type, shape, values: content.read(name), name });
      const size = storedBytes(type, shape);
      append(new Uint8Array(aligned(size) - size));
    }
  });
}
