/** Safetensors files: tensors read one at a time as f32, single files and sharded folders, and writing.
 *
 * Format: https://github.com/huggingface/safetensors: a 64-bit header length, a JSON header, the data. A file is not
 * trusted: the header is checked against the file's size before anything is allocated for a tensor.
 *
 * @module
 */
import { lookUp } from "../util/indexing.ts";
import { join } from "node:path";
import { readStored } from "./dequantize.ts";
import { FileFormatError, UsageError } from "../util/errors.ts";
import { appendValues, storedBytes } from "./quantize.ts";
import {
  closingOnError,
  listFolder,
  openRanged,
  type RangedFile,
  readJsonObject,
  readJsonRange,
} from "./ranged_file.ts";
import { type Append, writeWhole } from "../util/write_file.ts";

/** Readable and writable storage types. */
export const FLOAT_DTYPES = ["F32", "F16", "BF16"] as const;
/** A readable and writable storage type. */
export type FloatDtype = (typeof FLOAT_DTYPES)[number];

const isFloat = (dtype: string): dtype is FloatDtype => (FLOAT_DTYPES as readonly string[]).includes(dtype);

interface SafetensorsEntry {
  /** Storage type, such as `BF16`. */
  dtype: string;
  /** Row-major, outermost first. */
  shape: number[];
  offset: number;
  sizeBytes: number;
}

/** An open checkpoint: one file, or the shards of a folder. */
interface SafetensorsCheckpoint {
  /** The files, in name order. */
  paths: string[];
  sizeBytes: number;
  tensors: Map<string, SafetensorsEntry>;
  /** Reads one tensor as f32, row-major.
   * @throws {RangeError} when no tensor has that name.
   * @throws {FileFormatError} when its storage type is not one of {@linkcode FLOAT_DTYPES}. */
  read(name: string): { shape: number[]; data: Float32Array };
  close(): void;
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** One entry of the header; `dataStart` is the place of the first data byte in the file. */
function checkEntry(path: string, name: string, value: unknown, dataStart: number): SafetensorsEntry {
  const fail = (problem: string): never => {
    throw new FileFormatError(path, `tensor "${name}" ${problem}`);
  };
  const { dtype, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
  if (typeof dtype !== "string") return fail(`has the dtype ${JSON.stringify(dtype)}: must be a name`);
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    return fail(`has the shape ${JSON.stringify(shape)}: must be a list of whole numbers`);
  }
  const [begin, end] = Array.isArray(offsets) && offsets.length === 2 ? offsets : [];
  if (!isCount(begin) || !isCount(end) || begin > end) {
    return fail(`has the data_offsets ${JSON.stringify(offsets)}: must be [begin, end]`);
  }
  const sizeBytes = end - begin;
  const needed = isFloat(dtype) ? storedBytes(dtype, shape) : sizeBytes;
  if (needed !== sizeBytes) {
    return fail(`has ${sizeBytes} bytes: ${dtype} with shape [${shape.join(", ")}] needs ${needed}`);
  }
  return { dtype, shape, offset: dataStart + begin, sizeBytes };
}

/** Reads and checks the header. Data must follow it without gap or overlap up to the end of the file. */
function readHeader(file: RangedFile): Map<string, SafetensorsEntry> {
  const { path, sizeBytes } = file;
  const prefix = new Uint8Array(8);
  file.readInto(0, prefix);
  const dataStart = 8 + Number(new DataView(prefix.buffer).getBigUint64(0, true));
  const header = readJsonRange(file, { offset: 8, end: dataStart, what: "the safetensors header" });
  const entries = Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]): [string, SafetensorsEntry] => [name, checkEntry(path, name, value, dataStart)])
    .sort(([, a], [, b]) => a.offset - b.offset || a.sizeBytes - b.sizeBytes);
  let next = dataStart;
  for (const [name, entry] of entries) {
    if (entry.offset !== next) {
      throw new FileFormatError(
        path,
        `tensor "${name}" begins at data byte ${entry.offset - dataStart}: must be ${next - dataStart}`,
      );
    }
    next += entry.sizeBytes;
  }
  if (next !== sizeBytes) {
    throw new FileFormatError(
      path,
      `is ${sizeBytes} bytes long, but its tensors end at ${next}: it may not have been copied completely`,
    );
  }
  return new Map(entries);
}

/** Opens one safetensors file.
 * @throws {UsageError} when it cannot be opened.
 * @throws {FileFormatError} when the header is damaged or does not fit the file's size. */
export function openSafetensors(path: string): SafetensorsCheckpoint {
  const file = openRanged(path);
  return closingOnError(file, () => {
    const tensors = readHeader(file);
    return {
      paths: [path],
      sizeBytes: file.sizeBytes,
      tensors,
      read: (name) => {
        const entry = tensors.get(name);
        if (!entry) throw new RangeError(`No tensor named "${name}" in ${path}`);
        const { dtype, shape } = entry;
        if (!isFloat(dtype)) {
          throw new FileFormatError(path, `tensor "${name}" is ${dtype}: must be one of ${FLOAT_DTYPES.join(", ")}`);
        }
        return { shape: [...shape], data: readStored(file, { ...entry, type: dtype }) };
      },
      close: () => file.close(),
    };
  });
}

/** Each tensor's shard, as the index says. Only plain file names are accepted, so that no path leaves the folder. */
function readIndex(path: string): Map<string, string> {
  const { weight_map: weightMap } = readJsonObject(path);
  if (typeof weightMap !== "object" || weightMap === null) {
    throw new FileFormatError(path, `must have an object "weight_map"`);
  }
  for (const [name, file] of Object.entries(weightMap)) {
    if (typeof file === "string" && /^\w[\w.-]*\.safetensors$/.test(file)) continue;
    const found = JSON.stringify(file);
    throw new FileFormatError(path, `tensor "${name}" is in ${found}: must be a .safetensors file in the folder`);
  }
  return new Map(Object.entries(weightMap));
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
  const shardWith = (name: string): SafetensorsCheckpoint => {
    const file = shardOf.get(name);
    if (file === undefined) throw new RangeError(`No tensor named "${name}" in ${folder}`);
    return lookUp(shards, file);
  };
  return closingOnError({ close }, () => {
    for (const file of [...new Set(shardOf.values())].sort()) shards.set(file, openSafetensors(join(folder, file)));
    const tensors = new Map<string, SafetensorsEntry>();
    for (const [name, file] of shardOf) {
      const entry = shardWith(name).tensors.get(name);
      if (!entry) throw new FileFormatError(indexPath, `puts tensor "${name}" into ${file}, which lacks it`);
      tensors.set(name, entry);
    }
    const opened = [...shards.values()];
    return {
      paths: opened.flatMap((shard) => shard.paths),
      sizeBytes: opened.reduce((sum, shard) => sum + shard.sizeBytes, 0),
      tensors,
      read: (name) => shardWith(name).read(name),
      close,
    };
  });
}

interface SafetensorsContent {
  /** Shape of every tensor, in the order of the file. */
  shapes: Map<string, number[]>;
  /** Returns a tensor's values; called once per tensor, in order, so that only one is in memory. */
  read(name: string): Float32Array;
  dtype: FloatDtype;
  /** Text entries; `format: "pt"` is added, which PyTorch readers need. */
  metadata?: Record<string, string>;
}

function appendContent(append: Append, content: SafetensorsContent): void {
  const { shapes, read, dtype, metadata } = content;
  const header: Record<string, unknown> = { __metadata__: { format: "pt", ...metadata } };
  let end = 0;
  for (const [name, shape] of shapes) {
    const begin = end;
    end += storedBytes(dtype, shape);
    header[name] = { dtype, shape, data_offsets: [begin, end] };
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  // Spaces after the JSON align the data to 8 bytes.
  const bytes = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(bytes.length - 8), true);
  bytes.set(json, 8);
  append(bytes);
  for (const [name, shape] of shapes) appendValues(append, { type: dtype, shape, values: read(name), name });
}

/** Writes a safetensors file, whole or not at all.
 * @throws {UsageError} when a value does not fit F16.
 * @throws {RangeError} when a tensor's values do not fit its shape. */
export function writeSafetensors(path: string, content: SafetensorsContent): void {
  writeWhole(path, (append) => appendContent(append, content));
}

/** All tensors of a file.
 * @throws {UsageError} as {@linkcode openSafetensors}. */
export function readTensorFile(path: string): Map<string, { shape: number[]; data: Float32Array }> {
  const file = openSafetensors(path);
  try {
    return new Map([...file.tensors.keys()].map((name) => [name, file.read(name)]));
  } finally {
    file.close();
  }
}

/** Writes tensors as f32, whole or not at all. */
export function writeTensorFile(
  path: string,
  tensors: ReadonlyMap<string, { shape: number[]; data: Float32Array }>,
  metadata?: Record<string, string>,
): void {
  writeSafetensors(path, {
    shapes: new Map([...tensors].map(([name, { shape }]) => [name, shape])),
    read: (name) => lookUp(tensors, name).data,
    dtype: "F32",
    metadata,
  });
}
