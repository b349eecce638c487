/** Reads Parquet files as the records that a JSON Lines file of the same data would hold.
 *
 * @module
 */
import type { AsyncBuffer } from "hyparquet";

/** A file as the library wants it. Reads are synchronous: the library asks for several ranges at once, and they share
 * one file position. */
function fileBuffer(file: Deno.FsFile): AsyncBuffer {
  const byteLength = file.statSync().size;
  return {
    byteLength,
    slice: (start, end = byteLength) => {
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

/** The first `maxRows` rows of a Parquet file, with the columns in the order of its schema.
 * @throws {Error} when it is damaged or uses what is not supported. */
export async function readParquetRows(path: string, maxRows: number = Infinity): Promise<Record<string, unknown>[]> {
  const [{ parquetMetadataAsync, parquetReadObjects }, { compressors }] = await Promise.all([
    import("hyparquet"),
    import("hyparquet-compressors"),
  ]);
  using file = await Deno.open(path);
  const buffer = fileBuffer(file);
  const metadata = await parquetMetadataAsync(buffer);
  const rowEnd = Math.min(maxRows, Number(metadata.num_rows));
  const rows = await parquetReadObjects({ file: buffer, metadata, compressors, rowEnd });
  return rows.map((row) => toJsonValue(row) as Record<string, unknown>);
}
