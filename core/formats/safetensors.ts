/** Safetensors files: tensors read one at a time as f32, single files and sharded folders, and writing.
 *
 * Format: https://github.com/huggingface/safetensors: a 64-bit header length, a JSON header, the data. Nothing the file
 * says is trusted: the header is checked against the file's size before anything is allocated for a tensor.
 *
 * @module
 */
import { lookUp } from "../util/indexing.ts";
import { join } from "node:path";
import { BLOCK_FORMATS } from "./dequantize.ts";
import { FileFormatError, UsageError } from "../util/errors.ts";
import { encodeValues } from "./quantize.ts";
import { listFolder, openRanged, parseJsonObject, type RangedFile, readJsonObject } from "./ranged_file.ts";
import { type Append, writeWhole } from "../util/write_file.ts";

/** Limits on what a file may claim. */
export const SAFETENSORS_LIMITS = {
  /** The reference implementation's own limit. */
  headerBytes: 100_000_000,
  tensorRank: 8,
  indexBytes: 64 * 1024 * 1024,
  shards: 4096,
} as const;

/** Storage types that can be read and written. */
export const FLOAT_DTYPES = ["F32", "F16", "BF16"] as const;
/** A storage type that can be read and written. */
export type FloatDtype = (typeof FLOAT_DTYPES)[number];

/** Bytes of one value of every storage type a header may name. */
const VALUE_BYTES: Record<string, number> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
};

/** A tensor as the header describes it. */
export interface SafetensorsEntry {
  /** Storage type, such as `BF16`. */
  dtype: string;
  /** Row-major, outermost first. */
  shape: number[];
  /** First byte in the file. */
  offset: number;
  /** Bytes in the file. */
  sizeBytes: number;
}

/** A row-major f32 tensor. */
export interface FloatTensor {
  /** Outermost first. */
  shape: number[];
  /** As many values as the product of `shape`. */
  data: Float32Array;
}

/** An open checkpoint: one file, or the shards of a folder. */
export interface SafetensorsCheckpoint {
  /** The files, in name order. */
  paths: string[];
  /** Bytes of all files. */
  sizeBytes: number;
  /** By name. */
  tensors: Map<string, SafetensorsEntry>;
  /** Reads one tensor as f32.
   * @throws {RangeError} when no tensor has that name.
   * @throws {FileFormatError} when its storage type is not one of {@linkcode FLOAT_DTYPES}. */
  read(name: string): FloatTensor;
  /** Reads a tensor's bytes beside what this thread does; see {@linkcode RangedFile.prefetch}. */
  prefetch(name: string): Promise<void>;
  /** Closes the files. */
  close(): void;
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** One entry of the header. `start` and the result's `offset` count from the first data byte. */
function checkEntry(path: string, name: string, value: unknown): SafetensorsEntry {
  const fail = (problem: string): never => {
    throw new FileFormatError(path, `tensor "${name}" ${problem}`);
  };
  if (typeof value !== "object" || value === null) return fail("must be described by an object");
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
  const valueBytes = typeof dtype === "string" && Object.hasOwn(VALUE_BYTES, dtype) ? VALUE_BYTES[dtype] : undefined;
  if (typeof dtype !== "string" || valueBytes === undefined) {
    return fail(`has the unknown dtype ${JSON.stringify(dtype)}`);
  }
  if (!Array.isArray(shape) || shape.length > SAFETENSORS_LIMITS.tensorRank || !shape.every(isCount)) {
    return fail(
      `has the shape ${JSON.stringify(shape)}: must be at most ${SAFETENSORS_LIMITS.tensorRank} whole numbers`,
    );
  }
  const [begin, end] = Array.isArray(offsets) && offsets.length === 2 ? offsets : [];
  if (!isCount(begin) || !isCount(end) || begin > end) {
    return fail(`has the data_offsets ${JSON.stringify(offsets)}: must be [begin, end]`);
  }
  const needed = shape.reduce((product, size) => product * size, valueBytes);
  if (needed !== end - begin) {
    return fail(`has ${end - begin} bytes: ${dtype} with shape [${shape.join(", ")}] needs ${needed}`);
  }
  return { dtype, shape, offset: begin, sizeBytes: needed };
}

/** Reads and checks the header. Data must follow it without gap or overlap up to the end of the file. */
function readHeader(file: RangedFile): Map<string, SafetensorsEntry> {
  const { path, sizeBytes } = file;
  if (sizeBytes < 8) throw new FileFormatError(path, `has ${sizeBytes} bytes: too short for a safetensors file`);
  const prefix = new Uint8Array(8);
  file.readInto(0, prefix);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  const limit = Math.min(SAFETENSORS_LIMITS.headerBytes, sizeBytes - 8);
  if (length > BigInt(limit)) {
    throw new FileFormatError(path, `claims a header of ${length} bytes: at most ${limit} accepted; not safetensors?`);
  }
  const bytes = new Uint8Array(Number(length));
  file.readInto(8, bytes);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new FileFormatError(path, "the header is not UTF-8 text");
  }
  const header = parseJsonObject(text, path, "the header");
  const entries = Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]): [string, SafetensorsEntry] => [name, checkEntry(path, name, value)])
    .sort(([, a], [, b]) => a.offset - b.offset || a.sizeBytes - b.sizeBytes);
  const dataStart = 8 + Number(length);
  let next = 0;
  for (const [name, entry] of entries) {
    if (entry.offset !== next) {
      throw new FileFormatError(path, `tensor "${name}" begins at data byte ${entry.offset}: must be ${next}`);
    }
    next += entry.sizeBytes;
    entry.offset += dataStart;
  }
  if (dataStart + next !== sizeBytes) {
    throw new FileFormatError(
      path,
      `is ${sizeBytes} bytes long, but its tensors end at ${dataStart + next}: it may not have been copied completely`,
    );
  }
  return new Map(entries);
}

/** Bytes read at once; a tensor's stored form is held as a whole only when it was read ahead. */
const CHUNK_BYTES = 1024 * 1024;

function readTensor(file: RangedFile, name: string, entry: SafetensorsEntry): FloatTensor {
  const { dtype, shape, offset, sizeBytes } = entry;
  if (!(FLOAT_DTYPES as readonly string[]).includes(dtype)) {
    throw new FileFormatError(file.path, `tensor "${name}" is ${dtype}: must be one of ${FLOAT_DTYPES.join(", ")}`);
  }
  const { blockBytes, decode } = BLOCK_FORMATS[dtype as FloatDtype];
  const ahead = file.taken(offset, sizeBytes);
  if (dtype === "F32" && ahead) return { shape: [...shape], data: new Float32Array(ahead.buffer) };
  const data = new Float32Array(sizeBytes / blockBytes);
  if (dtype === "F32") {
    file.readInto(offset, new Uint8Array(data.buffer));
    return { shape: [...shape], data };
  }
  if (ahead) {
    decode(ahead, 0, data.length, data, 0);
    return { shape: [...shape], data };
  }
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, sizeBytes));
  for (let done = 0; done < sizeBytes; done += chunk.length) {
    const bytes = chunk.subarray(0, Math.min(chunk.length, sizeBytes - done));
    file.readInto(offset + done, bytes);
    decode(bytes, 0, bytes.length / blockBytes, data, done / blockBytes);
  }
  return { shape: [...shape], data };
}

/** Opens one safetensors file.
 * @throws {UsageError} when it cannot be opened.
 * @throws {FileFormatError} when the header is damaged, exceeds a limit of {@linkcode SAFETENSORS_LIMITS}, or does not
 *   fit the file's size. */
export function openSafetensors(path: string): SafetensorsCheckpoint {
  const file = openRanged(path);
  try {
    const tensors = readHeader(file);
    return {
      paths: [path],
      sizeBytes: file.sizeBytes,
      tensors,
      read: (name) => {
        const entry = tensors.get(name);
        if (!entry) throw new RangeError(`No tensor named "${name}" in ${path}`);
        return readTensor(file, name, entry);
      },
      prefetch: async (name) => {
        const entry = tensors.get(name);
        if (entry) await file.prefetch(entry.offset, entry.sizeBytes);
      },
      close: () => file.close(),
    };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** The shards an index names, and each tensor's shard. Only plain file names are accepted, so no path leaves the
 * folder. */
function readIndex(path: string): Map<string, string> {
  const { weight_map: weightMap } = readJsonObject(path, SAFETENSORS_LIMITS.indexBytes);
  if (typeof weightMap !== "object" || weightMap === null || Array.isArray(weightMap)) {
    throw new FileFormatError(path, `must have an object "weight_map"`);
  }
  const shardOf = new Map<string, string>();
  for (const [name, file] of Object.entries(weightMap)) {
    if (typeof file !== "string" || !/^[\w][\w.-]*\.safetensors$/.test(file)) {
      throw new FileFormatError(
        path,
        `tensor "${name}" is said to be in ${
          JSON.stringify(file)
        }: must be the name of a .safetensors file in the folder`,
      );
    }
    shardOf.set(name, file);
  }
  const shards = new Set(shardOf.values()).size;
  if (shards < 1 || shards > SAFETENSORS_LIMITS.shards) {
    throw new FileFormatError(path, `names ${shards} files: must be 1 to ${SAFETENSORS_LIMITS.shards}`);
  }
  return shardOf;
}

/** Opens a folder's checkpoint: `model.safetensors`, or the shards `model.safetensors.index.json` names.
 * @throws {UsageError} when the folder has neither, or a shard is missing.
 * @throws {FileFormatError} when the index or a shard is damaged, or a shard lacks a tensor the index puts there. */
export function openSafetensorsFolder(folder: string): SafetensorsCheckpoint {
  const names = listFolder(folder);
  if (names.has("model.safetensors")) return openSafetensors(join(folder, "model.safetensors"));
  const indexPath = join(folder, "model.safetensors.index.json");
  if (!names.has("model.safetensors.index.json")) {
    const hint = [...names].some((name) => /\.(bin|pth|pt)$/.test(name))
      ? "; PyTorch files can be converted with save_pretrained(..., safe_serialization=True)"
      : "";
    throw new UsageError(`${folder}: has no model.safetensors or model.safetensors.index.json${hint}`);
  }
  const shardOf = readIndex(indexPath);
  const shards = new Map<string, SafetensorsCheckpoint>();
  const close = () => shards.forEach((shard) => shard.close());
  try {
    const tensors = new Map<string, SafetensorsEntry>();
    let sizeBytes = 0;
    for (const file of [...new Set(shardOf.values())].sort()) {
      const shard = openSafetensors(join(folder, file));
      shards.set(file, shard);
      sizeBytes += shard.sizeBytes;
    }
    for (const [name, file] of shardOf) {
      const entry = lookUp(shards, file).tensors.get(name);
      if (!entry) throw new FileFormatError(indexPath, `puts tensor "${name}" into ${file}, which lacks it`);
      tensors.set(name, entry);
    }
    return {
      paths: [...shards.values()].flatMap((shard) => shard.paths),
      sizeBytes,
      tensors,
      read: (name) => {
        const file = shardOf.get(name);
        if (file === undefined) throw new RangeError(`No tensor named "${name}" in ${folder}`);
        return lookUp(shards, file).read(name);
      },
      prefetch: async (name) => {
        const file = shardOf.get(name);
        if (file !== undefined) await lookUp(shards, file).prefetch(name);
      },
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

/** What {@linkcode writeSafetensors} writes. */
export interface SafetensorsContent {
  /** Shape of every tensor, in the order of the file. */
  shapes: Map<string, number[]>;
  /** Gives a tensor's values; called once per tensor, in order, so that only one need be in memory. */
  read(name: string): Float32Array;
  /** Storage type of all tensors. */
  dtype: FloatDtype;
  /** Free text entries; `format: "pt"` is added, which PyTorch readers ask for. */
  metadata?: Record<string, string>;
}

function appendContent(append: Append, content: SafetensorsContent): void {
  const { shapes, read, dtype, metadata } = content;
  const header: Record<string, unknown> = { __metadata__: { format: "pt", ...metadata } };
  let end = 0;
  for (const [name, shape] of shapes) {
    const begin = end;
    end += shape.reduce((product, size) => product * size, BLOCK_FORMATS[dtype].blockBytes);
    header[name] = { dtype, shape, data_offsets: [begin, end] };
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  // Spaces after the JSON align the data to 8 bytes.
  const bytes = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(bytes.length - 8), true);
  bytes.set(json, 8);
  append(bytes);
  const chunkValues = CHUNK_BYTES / 4;
  for (const [name, shape] of shapes) {
    const values = read(name);
    const needed = shape.reduce((product, size) => product * size, 1);
    if (values.length !== needed) {
      throw new RangeError(`Tensor "${name}" has ${values.length} values: shape [${shape.join(", ")}] needs ${needed}`);
    }
    for (let i = 0; i < needed; i += chunkValues) {
      append(encodeValues(dtype, values.subarray(i, i + chunkValues), name));
    }
  }
}

/** Writes a safetensors file: under a temporary name first, then renamed, so that no half-written file is ever found
 * under `path`.
 * @throws {UsageError} when a value does not fit F16.
 * @throws {RangeError} when a tensor's values do not fit its shape. */
export function writeSafetensors(path: string, content: SafetensorsContent): void {
  writeWhole(path, (append) => appendContent(append, content));
}
