/** Reads Parquet files as the records that a JSON Lines file of the same data would hold.
 *
 * @module
 */
import { zstdDecompressSync } from "node:zlib";
import type { AsyncBuffer, Compressors } from "hyparquet";
import { checkClaims, checkFooter } from "./parquet_limits.ts";

/** Bytes `start` to `end` of a file of `byteLength`; negative places count from its end.
 * @throws {RangeError} when the file does not have them. */
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

/** A file as the library wants it. Reads are synchronous: the library asks for several ranges at once, and they share
 * one file position. */
function fileBuffer(file: Deno.FsFile): AsyncBuffer {
  const byteLength = file.statSync().size;
  return {
    byteLength,
    slice: (start, end = byteLength) => {
      const read = Promise.try(readRange, file, byteLength, start, end);
      // The library drops what it no longer needs; a rejection that nobody waits for would end the process. For the same
      // reason nothing is thrown here: the columns it has begun would be dropped.
      read.catch(() => {});
      return read;
    },
  };
}

/** Values as JSON has them: 64-bit integers as numbers, dates as text. */
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

/** Most bytes that a page may claim to unpack to: gzip packs at most 1032 to 1. */
const mostUnpackedBytes = (packedBytes: number) => 16 * 1024 * 1024 + 1100 * packedBytes;

/** Zstandard as Deno brings it: the library's own takes at once whatever memory a frame claims to need. */
const unpackZstandard = (input: Uint8Array, outputLength: number) =>
  zstdDecompressSync(input, { maxOutputLength: Math.max(1, outputLength) });

/** Refuses pages that claim far more than they can hold, before memory is taken for them. */
function guarded(compressors: Compressors): Compressors {
  return Object.fromEntries(
    Object.entries(compressors).map(([codec, unpack]) => [codec, (input: Uint8Array, outputLength: number) => {
      const most = mostUnpackedBytes(input.length);
      if (outputLength > most) {
        throw new RangeError(
          `a page of ${input.length} bytes claims to hold ${outputLength}: at most ${most} accepted`,
        );
      }
      return unpack!(input, outputLength);
    }]),
  );
}

/** Keeps errors of columns that the library has dropped from ending the process while `read` runs. The first error is
 * thrown in any case. */
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
 * @throws {Error} when it is damaged or uses what is not supported. */
export async function readParquetRows(path: string, maxRows: number = Infinity): Promise<Record<string, unknown>[]> {
  const [{ parquetMetadataAsync, parquetReadObjects }, { compressors }] = await Promise.all([
    import("hyparquet"),
    import("hyparquet-compressors"),
  ]);
  using file = await Deno.open(path);
  const buffer = fileBuffer(file);
  const read = (start: number, end: number) => new Uint8Array(readRange(file, buffer.byteLength, start, end));
  return await withoutDropped(async () => {
    checkFooter(buffer.byteLength, read);
    const metadata = await parquetMetadataAsync(buffer);
    const rowEnd = Math.min(maxRows, Number(metadata.num_rows));
    checkClaims(metadata, {
      sizeBytes: buffer.byteLength,
      rows: rowEnd,
      read,
    });
    const rows = await parquetReadObjects({
      file: buffer,
      metadata,
      compressors: guarded({ ...compressors, ZSTD: unpackZstandard }),
      rowEnd,
    });
    return rows.map((row) => toJsonValue(row) as Record<string, unknown>);
  });
}
