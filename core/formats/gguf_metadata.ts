/** Reads a GGUF file's header from front to back: counts, strings, and metadata values.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing the file says is trusted: every length has
 * a named limit or is compared with the bytes that are left before anything is allocated for it.
 *
 * @module
 */
import { FileFormatError } from "../util/errors.ts";
import type { RangedFile } from "./ranged_file.ts";

/** Limits on what a file may claim. Real files stay far below: 40 metadata entries, 1,200 tensors, 10 KB strings. */
export const GGUF_LIMITS = {
  metadataEntries: 65_536,
  tensors: 65_536,
  /** Longest key or tensor name in bytes; ggml itself allows tensors 63. */
  nameBytes: 1024,
  /** Longest string in bytes; chat templates are the longest in real files. */
  stringBytes: 4 * 1024 * 1024,
  /** Elements of one metadata array; the largest real ones are merges, about 500,000. */
  arrayElements: 4 * 1024 * 1024,
  /** ggml's own limit. */
  tensorRank: 4,
  alignmentBytes: 65_536,
} as const;

/** A metadata value. Integers of 64 bits are `bigint` where a `number` would round them. */
export type GgufValue = number | bigint | boolean | string | GgufArray;
/** A metadata array; 64-bit integers and booleans come as f64. */
export type GgufArray = string[] | Int32Array | Uint32Array | Float32Array | Float64Array;

/** Metadata value types, in the order of their numbers. */
const VALUE_TYPES = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;
type ValueType = (typeof VALUE_TYPES)[number];

/** Fewest bytes one array element of each type takes in the file. */
const ELEMENT_BYTES: Record<ValueType, number> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 8,
  array: 12,
  u64: 8,
  i64: 8,
  f64: 8,
};

/** Where reading is in a header. */
export interface Cursor {
  /** Byte in the file that is read next. */
  position(): number;
  /** Bytes that are left. */
  remaining(): number;
  /** A view of the next `count` bytes, valid until the next call. */
  take(count: number, what: string): DataView<ArrayBuffer>;
  /** Throws {@linkcode FileFormatError} with the file and the problem. */
  fail(problem: string): never;
}

const WINDOW_BYTES = 256 * 1024;

/** A cursor at the first byte.
 * Its methods throw {@linkcode FileFormatError}. */
export function openCursor(file: RangedFile): Cursor {
  let window = new Uint8Array(0);
  let windowStart = 0;
  let at = 0;
  const fail = (problem: string): never => {
    throw new FileFormatError(file.path, problem);
  };
  return {
    position: () => at,
    remaining: () => file.sizeBytes - at,
    take: (count, what) => {
      if (count > file.sizeBytes - at) {
        fail(`${what} at byte ${at} needs ${count} bytes, but the file has only ${file.sizeBytes - at} left`);
      }
      if (at + count > windowStart + window.length) {
        window = new Uint8Array(Math.min(Math.max(WINDOW_BYTES, count), file.sizeBytes - at));
        windowStart = at;
        file.readInto(at, window);
      }
      const view = new DataView(window.buffer, at - windowStart, count);
      at += count;
      return view;
    },
    fail,
  };
}

/** A count of 64 bits, at most `limit`. */
export function readCount(cursor: Cursor, what: string, limit: number): number {
  const count = cursor.take(8, what).getBigUint64(0, true);
  if (count > BigInt(limit)) cursor.fail(`${what} is ${count}: at most ${limit} accepted`);
  return Number(count);
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A string of at most `maxBytes`. */
export function readString(cursor: Cursor, what: string, maxBytes: number = GGUF_LIMITS.stringBytes): string {
  const length = readCount(cursor, `length of ${what}`, maxBytes);
  const view = cursor.take(length, what);
  // Vocabularies hold hundreds of thousands of short ASCII strings; the decoder's fixed cost would dominate.
  if (length <= 16) {
    let text = "";
    let i = 0;
    for (; i < length; i++) {
      const byte = view.getUint8(i);
      if (byte > 127) break;
      text += String.fromCharCode(byte);
    }
    if (i === length) return text;
  }
  return utf8.decode(view);
}

function readValueType(cursor: Cursor, what: string): ValueType {
  const id = cursor.take(4, `type of ${what}`).getUint32(0, true);
  return VALUE_TYPES[id] ?? cursor.fail(`${what} has the unknown value type ${id}`);
}

const exact = (value: bigint) =>
  value <= Number.MAX_SAFE_INTEGER && value >= Number.MIN_SAFE_INTEGER ? Number(value) : value;

function readScalar(cursor: Cursor, type: Exclude<ValueType, "array">, what: string): GgufValue {
  if (type === "string") return readString(cursor, what);
  const view = cursor.take(ELEMENT_BYTES[type], what);
  switch (type) {
    case "u8":
      return view.getUint8(0);
    case "i8":
      return view.getInt8(0);
    case "u16":
      return view.getUint16(0, true);
    case "i16":
      return view.getInt16(0, true);
    case "u32":
      return view.getUint32(0, true);
    case "i32":
      return view.getInt32(0, true);
    case "f32":
      return view.getFloat32(0, true);
    case "f64":
      return view.getFloat64(0, true);
    case "bool":
      return view.getUint8(0) !== 0;
    case "u64":
      return exact(view.getBigUint64(0, true));
    case "i64":
      return exact(view.getBigInt64(0, true));
  }
}

function emptyArray(type: ValueType, length: number): Exclude<GgufArray, string[]> {
  if (type === "f32") return new Float32Array(length);
  if (type === "u32") return new Uint32Array(length);
  if (type === "i32" || type === "u8" || type === "i8" || type === "u16" || type === "i16") {
    return new Int32Array(length);
  }
  return new Float64Array(length);
}

function readArray(cursor: Cursor, what: string): GgufArray {
  const type = readValueType(cursor, `elements of ${what}`);
  const length = readCount(cursor, `length of ${what}`, GGUF_LIMITS.arrayElements);
  if (length * ELEMENT_BYTES[type] > cursor.remaining()) {
    cursor.fail(`${what} claims ${length} elements, but the file has only ${cursor.remaining()} bytes left`);
  }
  // llama.cpp reads no nested arrays either.
  if (type === "array") cursor.fail(`${what} is an array of arrays, which is not supported`);
  if (type === "string") return Array.from({ length }, () => readString(cursor, what));
  const values = emptyArray(type, length);
  for (let i = 0; i < length; i++) values[i] = Number(readScalar(cursor, type as "f64", what));
  return values;
}

/** `count` keys with their values. */
export function readMetadata(cursor: Cursor, count: number): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = readString(cursor, `metadata key ${i}`, GGUF_LIMITS.nameBytes);
    if (metadata.has(key)) cursor.fail(`metadata key "${key}" appears twice`);
    const type = readValueType(cursor, `metadata "${key}"`);
    const what = `metadata "${key}"`;
    metadata.set(key, type === "array" ? readArray(cursor, what) : readScalar(cursor, type, what));
  }
  return metadata;
}
