/** GGUF files, versions 2 and 3: metadata, tensor list, and tensors read one at a time.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Files are untrusted: every length is compared with
 * the rest of the file before anything is allocated. `@huggingface/gguf` 0.4.6 is not used: it drops byte order marks,
 * which eight tokens of Gemma have, and reads zeros beyond the end of a file.
 *
 * @module
 */
import { FileFormatError } from "../util/errors.ts";
import { at } from "../util/indexing.ts";
import { BLOCK_FORMATS, type GgmlType, readStored } from "./dequantize.ts";
import { closingOnError, openRanged, type RangedFile } from "./ranged_file.ts";

/** A metadata value. Integers of 64 bits are `bigint` if a `number` would round them. Arrays of 64-bit integers and of
 * booleans are f64. */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | string[]
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array;

interface GgufTensor {
  type: GgmlType;
  /** Row-major, outermost first: `[out, in]` for a linear map (the file has the reverse order). */
  shape: number[];
  /** First byte in the file. */
  offset: number;
  sizeBytes: number;
}

/** An open GGUF file. */
export interface GgufFile {
  path: string;
  sizeBytes: number;
  /** By key, such as `general.architecture`. */
  metadata: Map<string, GgufValue>;
  /** By GGUF name, such as `blk.0.attn_q.weight`. */
  tensors: Map<string, GgufTensor>;
  /** Reads one tensor as f32. `placeRow` gives the place of each stored row in the result (rows are the innermost
   * dimension's vectors); without it rows keep their place.
   * @throws {RangeError} when no tensor has that name. */
  read(name: string, placeRow?: (row: number) => number): { shape: number[]; data: Float32Array };
  close(): void;
}

/** Longest header in bytes; a vocabulary of 262,144 tokens needs 10 MB. */
const MAX_HEADER_BYTES = 256 * 1024 * 1024;
/** ggml's own limit. */
const MAX_RANK = 4;
const WINDOW_BYTES = 256 * 1024;

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

class HeaderReader {
  #window = new Uint8Array(0);
  #windowStart = 0;
  position = 0;

  constructor(readonly file: RangedFile) {}

  /** Bytes of the header after the position. */
  get bytesLeft(): number {
    return Math.min(this.file.sizeBytes, MAX_HEADER_BYTES) - this.position;
  }

  fail(problem: string): never {
    throw new FileFormatError(this.file.path, problem);
  }

  /** A view of the next `count` bytes, valid until the next call. */
  take(count: number, what: string): DataView<ArrayBuffer> {
    const left = this.bytesLeft;
    if (count > left) {
      this.fail(`${what} at byte ${this.position} needs ${count} bytes, but the header has only ${left} left`);
    }
    if (this.position + count > this.#windowStart + this.#window.length) {
      this.#window = new Uint8Array(Math.min(Math.max(WINDOW_BYTES, count), this.file.sizeBytes - this.position));
      this.#windowStart = this.position;
      this.file.readInto(this.position, this.#window);
    }
    const view = new DataView(this.#window.buffer, this.position - this.#windowStart, count);
    this.position += count;
    return view;
  }

  u32(what: string): number {
    return this.take(4, what).getUint32(0, true);
  }

  /** A length or offset; more than 2^53 comes rounded, which is beyond the end of any file. */
  u64(what: string): number {
    return Number(this.take(8, what).getBigUint64(0, true));
  }

  /** A number of items of at least `bytesEach` bytes each; they must fit the rest of the header. */
  count(what: string, bytesEach: number): number {
    const count = this.u64(`number of ${what}`);
    const left = this.bytesLeft;
    if (count * bytesEach > left) this.fail(`claims ${count} ${what}, but the header has only ${left} bytes left`);
    return count;
  }

  text(what: string): string {
    const view = this.take(this.u64(`length of ${what}`), what);
    // Vocabularies hold hundreds of thousands of short ASCII strings; the decoder's fixed cost would dominate.
    if (view.byteLength <= 16) {
      const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
      if (bytes.every((byte) => byte < 128)) return String.fromCharCode(...bytes);
    }
    return utf8.decode(view);
  }
}

const exact = (value: bigint) =>
  BigInt(Number(value)) === value && Number.isSafeInteger(Number(value)) ? Number(value) : value;

interface NumberType {
  bytes: number;
  read(view: DataView): number | bigint | boolean;
  Values: Int32ArrayConstructor | Uint32ArrayConstructor | Float32ArrayConstructor | Float64ArrayConstructor;
}

/** Metadata types by their numbers. */
const VALUE_TYPES: readonly (NumberType | "text" | "array")[] = [
  { bytes: 1, read: (view) => view.getUint8(0), Values: Int32Array },
  { bytes: 1, read: (view) => view.getInt8(0), Values: Int32Array },
  { bytes: 2, read: (view) => view.getUint16(0, true), Values: Int32Array },
  { bytes: 2, read: (view) => view.getInt16(0, true), Values: Int32Array },
  { bytes: 4, read: (view) => view.getUint32(0, true), Values: Uint32Array },
  { bytes: 4, read: (view) => view.getInt32(0, true), Values: Int32Array },
  { bytes: 4, read: (view) => view.getFloat32(0, true), Values: Float32Array },
  { bytes: 1, read: (view) => view.getUint8(0) !== 0, Values: Float64Array },
  "text",
  "array",
  { bytes: 8, read: (view) => exact(view.getBigUint64(0, true)), Values: Float64Array },
  { bytes: 8, read: (view) => exact(view.getBigInt64(0, true)), Values: Float64Array },
  { bytes: 8, read: (view) => view.getFloat64(0, true), Values: Float64Array },
];

function readValueType(header: HeaderReader, what: string): NumberType | "text" | "array" {
  const id = header.u32(`type of ${what}`);
  return VALUE_TYPES[id] ?? header.fail(`${what} has the unknown value type ${id}`);
}

function readValue(header: HeaderReader, what: string): GgufValue {
  const type = readValueType(header, what);
  if (type === "text") return header.text(what);
  if (type !== "array") return type.read(header.take(type.bytes, what));
  const element = readValueType(header, `elements of ${what}`);
  // llama.cpp reads no nested arrays either.
  if (element === "array") return header.fail(`${what} is an array of arrays, which is not supported`);
  const length = header.count(`elements of ${what}`, element === "text" ? 8 : element.bytes);
  if (element === "text") return Array.from({ length }, () => header.text(what));
  const values = new element.Values(length);
  for (let i = 0; i < length; i++) values[i] = Number(element.read(header.take(element.bytes, what)));
  return values;
}

/** Tensor types by their numbers, for messages. */
const TENSOR_TYPES = [
  ..."F32 F16 Q4_0 Q4_1 4 5 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S".split(" "),
  ..."IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 31 32 33 TQ1_0 TQ2_0 36 37 38 MXFP4".split(" "),
];

const isReadable = (type: string): type is GgmlType => Object.hasOwn(BLOCK_FORMATS, type);

/** A tensor as the header describes it; its offset counts from the first tensor's data. */
function readTensorInfo(header: HeaderReader, what: string): GgufTensor {
  const rank = header.u32(`rank of ${what}`);
  if (rank < 1 || rank > MAX_RANK) header.fail(`${what} has ${rank} dimensions: must be 1 to ${MAX_RANK}`);
  const shape = Array.from({ length: rank }, () => header.u64(`shape of ${what}`)).reverse();
  if (shape.includes(0)) header.fail(`${what} has the shape [${shape.join(", ")}]: sizes must be at least 1`);
  const id = header.u32(`type of ${what}`);
  const type = TENSOR_TYPES[id] ?? String(id);
  if (!isReadable(type)) {
    return header.fail(`${what} has the type ${type}: must be one of ${Object.keys(BLOCK_FORMATS).join(", ")}`);
  }
  const { blockValues, blockBytes } = BLOCK_FORMATS[type];
  const rowValues = at(shape, rank - 1);
  if (rowValues % blockValues !== 0) {
    header.fail(`rows of ${what} have ${rowValues} values: ${type} needs a multiple of ${blockValues}`);
  }
  const sizeBytes = shape.reduce((product, size) => product * size, blockBytes / blockValues);
  return { type, shape, offset: header.u64(`offset of ${what}`), sizeBytes };
}

/** Turns offsets among the data into offsets in the file, and checks that all data are inside it. */
function placeTensors(header: HeaderReader, alignment: GgufValue, tensors: Map<string, GgufTensor>): void {
  if (typeof alignment !== "number" || !Number.isInteger(Math.log2(alignment)) || alignment < 1) {
    return header.fail(`general.alignment is ${String(alignment)}: must be a power of two`);
  }
  const dataStart = Math.ceil(header.position / alignment) * alignment;
  const dataEnd = header.file.sizeBytes;
  for (const [name, tensor] of tensors) {
    if (tensor.offset % alignment !== 0) {
      header.fail(`tensor "${name}" starts at offset ${tensor.offset}: must be a multiple of ${alignment}`);
    }
    tensor.offset += dataStart;
    if (tensor.offset + tensor.sizeBytes > dataEnd) {
      header.fail(
        `tensor "${name}" needs bytes ${tensor.offset} to ${tensor.offset + tensor.sizeBytes}, ` +
          `but the file ends at ${dataEnd}: it may not have been copied completely`,
      );
    }
  }
}

function readHeader(file: RangedFile): Pick<GgufFile, "metadata" | "tensors"> {
  const header = new HeaderReader(file);
  if (header.take(4, "magic number").getUint32(0, false) !== 0x47475546) {
    header.fail(`is not a GGUF file: it does not begin with "GGUF"`);
  }
  const version = header.u32("version");
  if (version !== 2 && version !== 3) {
    const hint = version >= 0x1000000 ? " (a big-endian file?)" : "";
    header.fail(`has GGUF version ${version}${hint}: must be 2 or 3`);
  }
  const tensorCount = header.count("tensors", 24);
  const metadataCount = header.count("metadata entries", 13);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < metadataCount; i++) {
    const key = header.text(`metadata key ${i}`);
    if (metadata.has(key)) header.fail(`metadata key "${key}" appears twice`);
    metadata.set(key, readValue(header, `metadata "${key}"`));
  }
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < tensorCount; i++) {
    const name = header.text(`name of tensor ${i}`);
    if (tensors.has(name)) header.fail(`tensor "${name}" appears twice`);
    tensors.set(name, readTensorInfo(header, `tensor "${name}"`));
  }
  placeTensors(header, metadata.get("general.alignment") ?? 32, tensors);
  return { metadata, tensors };
}

/** Opens a GGUF file and reads its header.
 * @throws {UsageError} when it cannot be opened.
 * @throws {FileFormatError} when the header is damaged, or describes tensors of a type that cannot be read or beyond
 *   the end of the file. */
export function openGguf(path: string): GgufFile {
  const file = openRanged(path);
  return closingOnError(file, () => {
    const { metadata, tensors } = readHeader(file);
    return {
      path,
      sizeBytes: file.sizeBytes,
      metadata,
      tensors,
      read: (name, placeRow) => {
        const tensor = tensors.get(name);
        if (!tensor) throw new RangeError(`No tensor named "${name}" in ${path}`);
        const rows = placeRow && { values: at(tensor.shape, tensor.shape.length - 1), place: placeRow };
        return { shape: [...tensor.shape], data: readStored(file, tensor, rows) };
      },
      close: () => file.close(),
    };
  });
}
