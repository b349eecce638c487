import { Buffer } from "node:buffer";
import type * as ParquetWasm from "parquet-wasm/bundler";

/** Values as JSON: 64-bit integers as numbers, dates as text. */
function toJsonValue(value: unknown): unknown {
  if (typeof value === "bigint") {
    const number = Number(value);
    if (!Number.isSafeInteger(number)) throw new RangeError(`the integer ${value} is above 2^53`);
    return number;
  }
  if (value === undefined) return null;
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return Array.from(value as unknown[], toJsonValue);
  if (value !== null && typeof value === "object") {
    const entries = value instanceof Map ? [...value] : Object.entries(value);
    return Object.fromEntries(entries.map(([key, one]) => [key, toJsonValue(one)]));
  }
  return value;
}

/** Most values that `bytes` may hold: eight per byte (one bit each), and a long run of equal values. */
const mostValues = (bytes: number) => 4 * 1024 * 1024 + 8 * bytes;
/** Most pages of 64 KiB that reading `bytes` may take: 64 bytes for one and 128 MiB, up to 4 GiB. A power of two, so
 * that most files share a module. */
const mostPages = (bytes: number) => Math.min(65536, 2 ** Math.ceil(Math.log2(2048 + bytes / 1024)));

/** The WebAssembly `wasm` with a bound on its memory: what a damaged file claims is allocated, up to 4 GiB. */
function withMostPages(wasm: Uint8Array, pages: number): Uint8Array<ArrayBuffer> {
  let at = 8;
  const readNumber = () => {
    for (let value = 0, shift = 0;; shift += 7) {
      const byte = wasm[at++]!;
      value += (byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < wasm.length) {
    const section = at;
    const id = readNumber();
    const length = readNumber();
    if (id === 5) {
      // One memory; 0, or 1 if it has a bound; the fewest pages; the bound.
      const fewest = wasm.subarray(at + 2, at + length);
      const memory = [1, 1, ...fewest, pages & 127 | 128, pages >> 7 & 127 | 128, pages >> 14];
      const bounded = Uint8Array.of(id, memory.length, ...memory);
      return Buffer.concat([wasm.subarray(0, section), bounded, wasm.subarray(at + length)]);
    }
    at += length;
  }
  throw new Error("this WebAssembly has no memory");
}

let compiled: { pages: number; module: WebAssembly.Module } | undefined;

/** What `read` makes of the library. Each file has an instance of its own: a damaged one may leave it unusable, and its
 * memory, of `pages` at most, never shrinks. */
async function withLibrary<T>(pages: number, read: (library: typeof ParquetWasm) => T): Promise<T> {
  const folder = import.meta.resolve("parquet-wasm/bundler");
  const library = await import(new URL("parquet_wasm_bg.js", folder).href);
  if (compiled?.pages !== pages) {
    const wasm = await Deno.readFile(new URL("parquet_wasm_bg.wasm", folder));
    compiled = { pages, module: await WebAssembly.compile(withMostPages(wasm, pages)) };
  }
  const { exports } = new WebAssembly.Instance(compiled.module, { "./parquet_wasm_bg.js": library });
  try {
    library.__wbg_set_wasm(exports);
    (exports.__wbindgen_start as () => void)();
    return read(library);
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    throw new Error(`it is damaged, or reading it takes more than ${pages / 16} MiB of memory`);
  } finally {
    // The library keeps views of the memory, and makes new ones when they are detached, as by any growth.
    (exports.memory as WebAssembly.Memory).grow(0);
    library.__wbg_set_wasm();
  }
}

/** The first `maxRows` rows of a Parquet file, with the columns in the order of its schema.
 * @throws {Error} when it is damaged or needs an unsupported feature. */
export async function readParquetRows(path: string, maxRows: number = Infinity): Promise<Record<string, unknown>[]> {
  const { tableFromIPC } = await import("@uwdata/flechette");
  const file = await Deno.readFile(path);
  const most = mostValues(file.length);
  return await withLibrary(mostPages(file.length), ({ readParquet }) => {
    using table = readParquet(file, { batchSize: 8192, limit: Math.min(maxRows, most + 1, 2 ** 32 - 1) });
    const rows: Record<string, unknown>[] = [];
    for (let i = 0; i < table.numBatches; i++) {
      const arrow = table.recordBatch(i)!.intoIPCStream();
      const batch = tableFromIPC(arrow, { useDate: true, useBigInt: true, useMap: true });
      if ((rows.length + batch.numRows) * batch.numCols > most) throw new RangeError(`it claims over ${most} values`);
      for (const row of batch) rows.push(toJsonValue(row) as Record<string, unknown>);
    }
    return rows;
  });
}
