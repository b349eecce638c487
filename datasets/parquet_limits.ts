/** Checks what a Parquet file claims to hold before anything is allocated for it: the library trusts the counts of row
 * groups and page headers.
 *
 * Format: https://github.com/apache/parquet-format (`PageHeader`), in Thrift's compact protocol.
 *
 * @module
 */
import type { FileMetaData } from "hyparquet";

/** Most values that so many bytes may claim: eight in a byte (one bit each), and a long run of equal ones besides. */
const mostValues = (bytes: number) => 4 * 1024 * 1024 + 8 * bytes;
/** Bytes read for a page header at first; statistics may make one longer. */
const HEADER_BYTES = 4096;
/** Deepest structure of a header; a real one has four levels. */
const DEEPEST = 16;

/** Integers, structures and lists of a Thrift structure by field id, elements of a list by their place. */
interface Fields {
  [id: number]: number | Fields;
}

/** Reads a structure of Thrift's compact protocol from the beginning of `bytes`; also how long it is.
 * @throws {RangeError} when it does not end in `bytes`. */
function readStruct(bytes: Uint8Array): { fields: Fields; length: number } {
  let at = 0;
  const byte = () => {
    const next = bytes[at++];
    if (next === undefined) throw new RangeError("a page header or footer does not end");
    return next;
  };
  const varint = () => {
    let value = 0;
    for (let scale = 1;; scale *= 128) {
      const next = byte();
      value += (next & 127) * scale;
      if (next < 128) return value;
      if (scale > 2 ** 63) throw new RangeError("a page header or footer holds no number where one must be");
    }
  };
  const zigzag = () => {
    const value = varint();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  };
  const skip = (count: number) => {
    at += count;
    if (at > bytes.length) throw new RangeError("a page header or footer does not end");
  };
  const value = (type: number, depth: number, isElement = false): number | Fields => {
    if (depth > DEEPEST) throw new RangeError("a page header or footer is nested too deep");
    if (type === 1 || type === 2) return isElement ? byte() : 2 - type;
    if (type === 3) return byte();
    if (type >= 4 && type <= 6) return zigzag();
    if (type === 12) return struct(depth + 1);
    if (type === 7) skip(8);
    else if (type === 8) skip(varint());
    else if (type === 9 || type === 10) {
      const head = byte();
      const count = head >> 4 === 15 ? varint() : head >> 4;
      const list: Fields = {};
      for (let i = 0; i < count; i++) list[i] = value(head & 15, depth + 1, true);
      return list;
    } else throw new RangeError(`a page header or footer holds the unknown type ${type}`);
    return 0;
  };
  const struct = (depth: number): Fields => {
    const fields: Fields = {};
    let id = 0;
    for (let head = byte(); head !== 0; head = byte()) {
      id = head >> 4 === 0 ? zigzag() : id + (head >> 4);
      fields[id] = value(head & 15, depth);
    }
    return fields;
  };
  return { fields: struct(0), length: at };
}

function checkCount(what: string, count: number, bytes: number): void {
  const most = mostValues(bytes);
  if (!(count >= 0 && count <= most)) {
    throw new RangeError(`${what} of ${bytes} bytes claims ${count} values: must be 0 to ${most}`);
  }
}

/** Fields of `PageHeader` that hold a structure whose first field counts values: data page, dictionary, data page 2. */
const COUNTING_FIELDS = [5, 7, 8];

/** Checks the pages of one column in the bytes from `start` to `end`, until they have the column's `values`. */
function checkPages(
  read: (start: number, end: number) => Uint8Array,
  { start, end, values }: { start: number; end: number; values: number },
): void {
  for (let at = start, seen = 0; at < end && seen < values;) {
    let header: ReturnType<typeof readStruct>;
    try {
      header = readStruct(read(at, Math.min(end, at + HEADER_BYTES)));
    } catch (error) {
      if (!(error instanceof RangeError) || end - at <= HEADER_BYTES) throw error;
      header = readStruct(read(at, end));
    }
    for (const field of COUNTING_FIELDS) {
      const inner = header.fields[field];
      if (typeof inner !== "object") continue;
      const count = typeof inner[1] === "number" ? inner[1] : 0;
      checkCount("a page", count, end - start);
      if (field !== 7) seen += count;
    }
    const size = header.fields[3];
    if (typeof size !== "number" || size < 0) throw new RangeError(`a page claims a size of ${size} bytes`);
    at += header.length + size;
  }
}

/** Bytes after the footer's structure: its length, 32 bits, and the file's mark. */
const TAIL_BYTES = 8;

/** Checks that the columns which the footer (`FileMetaData`) lists form a tree: the library does not end on a negative
 * number of children. `read` gives the bytes between two places.
 * @throws {RangeError} when they do not, or when the footer does not end in its bytes. */
export function checkFooter(sizeBytes: number, read: (start: number, end: number) => Uint8Array): void {
  // Shorter files, and lengths that do not fit, are the library's to refuse.
  if (sizeBytes < TAIL_BYTES) return;
  const tail = read(sizeBytes - TAIL_BYTES, sizeBytes);
  const length = new DataView(tail.buffer, tail.byteOffset).getUint32(0, true);
  if (length > sizeBytes - TAIL_BYTES) return;
  const { fields: { 2: schema } } = readStruct(read(sizeBytes - TAIL_BYTES - length, sizeBytes - TAIL_BYTES));
  if (typeof schema !== "object") throw new RangeError("the footer has no list of columns");
  const elements = Object.values(schema);
  let children = 0;
  for (const element of elements) {
    const own = typeof element === "object" ? element[5] ?? 0 : NaN;
    if (!(typeof own === "number" && own >= 0)) throw new RangeError(`a column claims ${own} children`);
    children += own;
  }
  if (children !== elements.length - 1) {
    throw new RangeError(`${elements.length} columns claim ${children} children: must be one fewer than columns`);
  }
}

/** Checks the row groups that hold the first `rows` rows. `read` gives the bytes between two places.
 * @throws {RangeError} when a count is out of proportion to the bytes it is said of. */
export function checkClaims(
  metadata: FileMetaData,
  { sizeBytes, rows, read }: { sizeBytes: number; rows: number; read: (start: number, end: number) => Uint8Array },
): void {
  let before = 0;
  for (const group of metadata.row_groups) {
    if (before >= rows) return;
    checkCount("a row group", Number(group.num_rows), sizeBytes);
    before += Number(group.num_rows);
    for (const { meta_data: column } of group.columns) {
      if (!column) continue;
      const start = Number(column.dictionary_page_offset || column.data_page_offset);
      const end = Math.min(sizeBytes, start + Number(column.total_compressed_size));
      checkCount("a column", Number(column.num_values), sizeBytes);
      checkPages(read, { start, end, values: Number(column.num_values) });
    }
  }
}
