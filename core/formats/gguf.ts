/** GGUF files, versions 2 and 3: metadata, tensor list, and tensors read one at a time.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing the file says is trusted: see
 * {@linkcode GGUF_LIMITS}.
 *
 * @module
 */
import { BLOCK_FORMATS, type GgmlType } from "./dequantize.ts";
import { at } from "../util/indexing.ts";
import {
  type Cursor,
  GGUF_LIMITS,
  type GgufValue,
  openCursor,
  readCount,
  readMetadata,
  readString,
} from "./gguf_metadata.ts";
import { openRanged, type RangedFile } from "./ranged_file.ts";

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
