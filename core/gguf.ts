/** GGUF files, versions 2 and 3: metadata, tensor list, and tensors read one at a time.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing the file says is trusted: every length has
 * a named limit or is compared with the bytes that are left before anything is allocated for it.
 *
 * @module
 */
import { BLOCK_FORMATS, type GgmlType } from "./dequantize.ts";
import { at } from "./indexing.ts";
import { FileFormatError } from "./errors.ts";
import { openRanged, type RangedFile } from "./ranged_file.ts";

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

/** A tensor as the header describes it. */
export interface GgufTensor {
  /** Storage type. */
  type: GgmlType;
  /** Row-major, outermost first: `[out, in]` for a linear map (the file has the reverse order). */
  shape: number[];
  /** First byte in the file. */
  offset: number;
  /** Bytes in the file. */
  sizeBytes: number;
}

/** An open GGUF file. */
export interface GgufFile {
  /** Path as given. */
  path: string;
  /** Bytes of the whole file. */
  sizeBytes: number;
  /** By key, such as `general.architecture`. */
  metadata: Map<string, GgufValue>;
  /** By GGUF name, such as `blk.0.attn_q.weight`. */
  tensors: Map<string, GgufTensor>;
  /** Reads one tensor as f32. `placeRow` gives the place of each stored row in the result (rows are the innermost
   * dimension's vectors); without it rows keep their place.
   * @throws {RangeError} when no tensor has that name. */
  read(name: string, placeRow?: (row: number) => number): { shape: number[]; data: Float32Array };
  /** Reads a tensor's bytes beside what this thread does; see {@linkcode RangedFile.prefetch}. */
  prefetch(name: string): Promise<void>;
  /** Closes the file. */
  close(): void;
}

const TYPE_NAMES: Record<number, string> = {
  0: "F32",
  1: "F16",
  2: "Q4_0",
  3: "Q4_1",
  6: "Q5_0",
  7: "Q5_1",
  8: "Q8_0",
  9: "Q8_1",
  10: "Q2_K",
  11: "Q3_K",
  12: "Q4_K",
  13: "Q5_K",
  14: "Q6_K",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  20: "IQ4_NL",
  21: "IQ3_S",
  22: "IQ2_S",
  23: "IQ4_XS",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  30: "BF16",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
};

const isReadable = (type: string): type is GgmlType => Object.hasOwn(BLOCK_FORMATS, type);

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

/** Reads the header from front to back. */
interface Cursor {
  /** Byte in the file that is read next. */
  position(): number;
  remaining(): number;
  /** A view of the next `count` bytes, valid until the next call. */
  take(count: number, what: string): DataView<ArrayBuffer>;
  fail(problem: string): never;
}

const WINDOW_BYTES = 256 * 1024;

function openCursor(file: RangedFile): Cursor {
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

function readCount(cursor: Cursor, what: string, limit: number): number {
  const count = cursor.take(8, what).getBigUint64(0, true);
  if (count > BigInt(limit)) cursor.fail(`${what} is ${count}: at most ${limit} accepted`);
  return Number(count);
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

function readString(cursor: Cursor, what: string, maxBytes: number = GGUF_LIMITS.stringBytes): string {
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

function readMetadata(cursor: Cursor, count: number): Map<string, GgufValue> {
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

function readTensorInfo(cursor: Cursor, what: string): GgufTensor {
  const rank = cursor.take(4, `rank of ${what}`).getUint32(0, true);
  if (rank < 1 || rank > GGUF_LIMITS.tensorRank) {
    cursor.fail(`${what} has ${rank} dimensions: must be 1 to ${GGUF_LIMITS.tensorRank}`);
  }
  const shape: number[] = [];
  let values = 1;
  for (let i = 0; i < rank; i++) {
    const size = readCount(cursor, `dimension ${i} of ${what}`, Number.MAX_SAFE_INTEGER);
    if (size < 1) cursor.fail(`dimension ${i} of ${what} is 0: must be at least 1`);
    shape.unshift(size);
    values *= size;
  }
  const id = cursor.take(4, `type of ${what}`).getUint32(0, true);
  const type = TYPE_NAMES[id] ?? `number ${id}`;
  if (!isReadable(type)) {
    return cursor.fail(`${what} has the type ${type}: must be one of ${Object.keys(BLOCK_FORMATS).join(", ")}`);
  }
  const { blockValues, blockBytes } = BLOCK_FORMATS[type];
  const rowValues = at(shape, rank - 1);
  if (rowValues % blockValues !== 0) {
    cursor.fail(`rows of ${what} have ${rowValues} values: ${type} needs a multiple of ${blockValues}`);
  }
  const offset = readCount(cursor, `offset of ${what}`, Number.MAX_SAFE_INTEGER);
  return { type, shape, offset, sizeBytes: values / blockValues * blockBytes };
}

function alignmentOf(cursor: Cursor, metadata: Map<string, GgufValue>): number {
  const alignment = metadata.get("general.alignment") ?? 32;
  const isPowerOfTwo = typeof alignment === "number" && alignment >= 1 && Number.isInteger(Math.log2(alignment));
  if (!isPowerOfTwo || alignment > GGUF_LIMITS.alignmentBytes) {
    return cursor.fail(
      `general.alignment is ${String(alignment)}: must be a power of two up to ${GGUF_LIMITS.alignmentBytes}`,
    );
  }
  return alignment;
}

/** Turns the tensors' offsets into offsets in the file and checks that their data are inside it. */
function placeTensors(cursor: Cursor, metadata: Map<string, GgufValue>, tensors: Map<string, GgufTensor>): void {
  const alignment = alignmentOf(cursor, metadata);
  const dataStart = Math.ceil(cursor.position() / alignment) * alignment;
  const dataEnd = cursor.position() + cursor.remaining();
  for (const [name, tensor] of tensors) {
    if (tensor.offset % alignment !== 0) {
      cursor.fail(`tensor "${name}" starts at offset ${tensor.offset}: must be a multiple of ${alignment}`);
    }
    tensor.offset += dataStart;
    if (tensor.offset + tensor.sizeBytes > dataEnd) {
      cursor.fail(
        `tensor "${name}" needs bytes ${tensor.offset} to ${tensor.offset + tensor.sizeBytes}, ` +
          `but the file ends at ${dataEnd}: it may not have been copied completely`,
      );
    }
  }
}

function readHeader(file: RangedFile): { metadata: Map<string, GgufValue>; tensors: Map<string, GgufTensor> } {
  const cursor = openCursor(file);
  const magic = cursor.take(4, "magic number").getUint32(0, false);
  if (magic !== 0x47475546) cursor.fail(`is not a GGUF file: it does not begin with "GGUF"`);
  const version = cursor.take(4, "version").getUint32(0, true);
  if (version !== 2 && version !== 3) {
    const hint = version >= 0x1000000 ? " (a big-endian file?)" : "";
    cursor.fail(`has GGUF version ${version}${hint}: must be 2 or 3`);
  }
  const tensorCount = readCount(cursor, "number of tensors", GGUF_LIMITS.tensors);
  const metadataCount = readCount(cursor, "number of metadata entries", GGUF_LIMITS.metadataEntries);
  const metadata = readMetadata(cursor, metadataCount);
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < tensorCount; i++) {
    const name = readString(cursor, `name of tensor ${i}`, GGUF_LIMITS.nameBytes);
    if (tensors.has(name)) cursor.fail(`tensor "${name}" appears twice`);
    tensors.set(name, readTensorInfo(cursor, `tensor "${name}"`));
  }
  placeTensors(cursor, metadata, tensors);
  return { metadata, tensors };
}

/** Bytes read at once; a tensor's stored form is held as a whole only when it was read ahead. */
const READ_CHUNK_BYTES = 1024 * 1024;

function readTensor(file: RangedFile, tensor: GgufTensor, placeRow?: (row: number) => number): Float32Array {
  const { blockValues, blockBytes, decode } = BLOCK_FORMATS[tensor.type];
  const rowValues = at(tensor.shape, tensor.shape.length - 1);
  const rowBlocks = rowValues / blockValues;
  const rowBytes = rowBlocks * blockBytes;
  const rows = tensor.sizeBytes / rowBytes;
  const data = new Float32Array(rows * rowValues);
  const ahead = file.taken(tensor.offset, tensor.sizeBytes);
  const chunkRows = ahead ? rows : Math.max(1, Math.min(rows, Math.floor(READ_CHUNK_BYTES / rowBytes)));
  const chunk = ahead ?? new Uint8Array(chunkRows * rowBytes);
  for (let first = 0; first < rows; first += chunkRows) {
    const count = Math.min(chunkRows, rows - first);
    if (!ahead) file.readInto(tensor.offset + first * rowBytes, chunk.subarray(0, count * rowBytes));
    if (!placeRow) {
      decode(chunk, 0, count * rowBlocks, data, first * rowValues);
      continue;
    }
    for (let i = 0; i < count; i++) decode(chunk, i * rowBytes, rowBlocks, data, placeRow(first + i) * rowValues);
  }
  return data;
}

/** Opens a GGUF file and reads its header.
 * @throws {UsageError} when it cannot be opened.
 * @throws {FileFormatError} when the header is damaged, exceeds a limit of {@linkcode GGUF_LIMITS}, or describes
 *   tensors of a type that cannot be read or beyond the end of the file. */
export function openGguf(path: string): GgufFile {
  const file = openRanged(path);
  try {
    const { metadata, tensors } = readHeader(file);
    return {
      path,
      sizeBytes: file.sizeBytes,
      metadata,
      tensors,
      read: (name, placeRow) => {
        const tensor = tensors.get(name);
        if (!tensor) throw new RangeError(`No tensor named "${name}" in ${path}`);
        return { shape: [...tensor.shape], data: readTensor(file, tensor, placeRow) };
      },
      prefetch: async (name) => {
        const tensor = tensors.get(name);
        if (tensor) await file.prefetch(tensor.offset, tensor.sizeBytes);
      },
      close: () => file.close(),
    };
  } catch (error) {
    file.close();
    throw error;
  }
}
