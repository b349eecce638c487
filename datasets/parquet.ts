import { zstdDecompressSync } from "node:zlib";
import type { AsyncBuffer, Compressors, FileMetaData } from "hyparquet";

/** Bytes `start` to `end` of a file of `byteLength`; negative numbers count from its end.
 * @throws {RangeError} when they are not in the file. */
function readRange(file: Deno.FsFile, byteLength: number, start: number, end: number): ArrayBuffer {
  const [from, to] = [start < 0 ? byteLength + start : start, end < 0 ? byteLength + end : end];
  if (!(0 <= from && from <= to && to <= byteLength)) {
    throw new RangeError(`it names the bytes ${from} to ${to} of ${byteLength}`);
  }
  const bytes = new Uint8Array(to - from);
  file.seekSync(from, Deno.SeekMode.Start);
  for (let done = 0; done < bytes.length;) {
    const count = file.readSync(bytes.subarray(done));
    if (count === null) throw new RangeError("it became shorter while it was read");
    done += count;
  }
  return bytes.buffer;
}

/** A file as the library needs it. Reads are synchronous: the library requests several ranges at once, and they share
 * one file position. */
function fileBuffer(file: Deno.FsFile): AsyncBuffer {
  const byteLength = file.statSync().size;
  return {
    byteLength,
    slice: (start, end = byteLength) => {
      const read = Promise.try(readRange, file, byteLength, start, end);
      // The library drops ranges that it no longer needs, and an unhandled rejection would end the process. Throwing
      // here would make it drop columns in progress.
      read.catch(() => {});
      return read;
    },
  };
}

/** Values as JSON: 64-bit integers as numbers, dates as text. */
function toJsonValue(value: unknown): unknown {
  if (typeof value === "bigint") {
    const number = Number(value);
    if (!Number.isSafeInteger(number)) throw new RangeError(`the integer ${value} is above 2^53`);
    return number;
  }
  if (value === undefined) return null;
  if (Array.isArray(value)) return value.map(toJsonValue);
  if (value instanceof Date) return value.toISOString();
  if (ArrayBuffer.isView(value)) return toJsonValue(Array.from(value as Uint8Array));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, toJsonValue(one)]));
  }
  return value;
}

/** Most values that `bytes` may claim: eight per byte (one bit each), and a long run of equal values. */
const mostValues = (bytes: number) => 4 * 1024 * 1024 + 8 * bytes;
/** Most bytes that a page may claim to unpack to: gzip packs at most 1032 to 1. */
const mostUnpackedBytes = (packedBytes: number) => 16 * 1024 * 1024 + 1100 * packedBytes;

/** The library trusts the counts of a file and allocates for them, so they are compared with the bytes they
 * describe. */
function checkClaim(what: string, claimed: number, most: number): void {
  if (!(claimed >= 0 && claimed <= most)) throw new RangeError(`${what} claims ${claimed}: must be 0 to ${most}`);
}

/** Bytes read for a page header: writers keep its statistics below 4 KB each. */
const HEADER_BYTES = 16 * 1024;

/** A structure of a Parquet file by field number (`PageHeader` of https://github.com/apache/parquet-format). */
type ReadStruct = (reader: { view: DataView; offset: number }) => Record<`field_${number}`, unknown>;

/** Checks the row groups that hold the first `rows` rows, their columns and pages.
 * @throws {RangeError} when a count is out of proportion to its bytes. */
function checkClaims(
  metadata: FileMetaData,
  { sizeBytes, rows, read, readStruct }: {
    sizeBytes: number;
    rows: number;
    read(start: number, end: number): ArrayBuffer;
    readStruct: ReadStruct;
  },
): void {
  let before = 0;
  for (const group of metadata.row_groups) {
    if (before >= rows) return;
    checkClaim("the row count of a row group", Number(group.num_rows), mostValues(sizeBytes));
    before += Number(group.num_rows);
    for (const { meta_data: column } of group.columns) {
      if (!column) continue;
      const start = Number(column.dictionary_page_offset || column.data_page_offset);
      const end = Math.min(sizeBytes, start + Number(column.total_compressed_size));
      const values = Number(column.num_values);
      checkClaim("the value count of a column", values, mostValues(sizeBytes));
      for (let at = start, seen = 0; at < end && seen < values;) {
        const reader = { view: new DataView(read(at, Math.min(end, at + HEADER_BYTES))), offset: 0 };
        const header = readStruct(reader);
        // Data page, dictionary page, data page of version 2: the first field of each counts values.
        for (const page of [header.field_5, header.field_7, header.field_8] as ({ field_1?: number } | undefined)[]) {
          const count = page?.field_1 ?? 0;
          checkClaim("the value count of a page", count, mostValues(end - start));
          if (page !== header.field_7) seen += count;
        }
        const packedBytes = Number(header.field_3);
        checkClaim("the size of a page", packedBytes, sizeBytes);
        at += reader.offset + packedBytes;
      }
    }
  }
}

/** Zstandard as Deno brings it: the library's own allocates whatever a frame claims to need. */
const unpackZstandard = (input: Uint8Array, outputLength: number) =>
  zstdDecompressSync(input, { maxOutputLength: Math.max(1, outputLength) });

/** Refuses pages that claim far more than they can hold, before memory is allocated for them. */
function guarded(compressors: Compressors): Compressors {
  return Object.fromEntries(
    Object.entries(compressors).map(([codec, unpack]) => [codec, (input: Uint8Array, outputLength: number) => {
      checkClaim(`the unpacked size of a page of ${input.length} bytes`, outputLength, mostUnpackedBytes(input.length));
      return unpack!(input, outputLength);
    }]),
  );
}

/** Keeps errors of dropped columns from ending the process while `read` runs. The first error is thrown in any case. */
async function withoutDropped<T>(read: () => Promise<T>): Promise<T> {
  const drop = (event: PromiseRejectionEvent) => {
    if (/hyparquet|fzstd/.test((event.reason as Error | undefined)?.stack ?? "")) event.preventDefault();
  };
  globalThis.addEventListener("unhandledrejection", drop);
  try {
    return await read();
  } catch (error) {
    // Dropped columns may fail a little later.
    await new Promise((resolve) => setTimeout(resolve, 0));
    throw error;
  } finally {
    globalThis.removeEventListener("unhandledrejection", drop);
  }
}

/** The first `maxRows` rows of a Parquet file, with the columns in the order of its schema.
 * @throws {Error} when it is damaged or needs an unsupported feature. */
export async function readParquetRows(path: string, maxRows: number = Infinity): Promise<Record<string, unknown>[]> {
  const [{ parquetMetadataAsync, parquetReadObjects }, { compressors }, { deserializeTCompactProtocol: readStruct }] =
    await Promise.all([import("hyparquet"), import("hyparquet-compressors"), import("hyparquet/src/thrift.js")]);
  using file = await Deno.open(path);
  const buffer = fileBuffer(file);
  const { byteLength: sizeBytes } = buffer;
  const read = (start: number, end: number) => readRange(file, sizeBytes, start, end);
  return await withoutDropped(async () => {
    // With `geoparquet` the library never ends if a column claims a negative number of children.
    const metadata = await parquetMetadataAsync(buffer, { geoparquet: false });
    const rowEnd = Math.min(maxRows, Number(metadata.num_rows));
    checkClaims(metadata, { sizeBytes, rows: rowEnd, read, readStruct });
    const rows = await parquetReadObjects({
      file: buffer,
      metadata,
      compressors: guarded({ ...compressors, ZSTD: unpackZstandard }),
      rowEnd,
    });
    return rows.map((row) => toJsonValue(row) as Record<string, unknown>);
  });
}
