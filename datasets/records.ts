/** Reads the records of a file: the only way in for data sets.
 *
 * @module
 */
import { createHash } from "node:crypto";
import type { z } from "zod";
import { FileFormatError } from "../core/errors.ts";

/** Longest line that is read, in UTF-16 code units. The longest documents of C4 have about 1 M; a longer "line" is a
 * file of another format. */
export const MAX_LINE_LENGTH = 16 * 1024 * 1024;

/** One record and where it stands. */
export interface DataRecord<T> {
  /** Line in the file, from 1. */
  line: number;
  /** The record, checked. */
  value: T;
  /** The record as it stands in the file, with its fields in their order. */
  raw: unknown;
}

/** What a file holds. */
export interface RecordFile<T> {
  /** Records in the order of the file. */
  records: DataRecord<T>[];
  /** SHA-256 of the file's bytes, hex. */
  sha256: string;
}

/** How to read a file. */
export interface ReadOptions<Schema extends z.ZodType> {
  /** Format of a record. */
  record: Schema;
  /** Reads a plain text file as one record per line, `{ [textField]: line }`, without its line end; what follows the
   * last line end is a record too, so that joining with line ends gives the file back. Without it a text file is
   * refused. */
  textField?: string;
  /** Stops after the first records; the hash is that of the whole file. */
  maxRecords?: number;
}

const JSON_LINES = /\.(jsonl|json)(\.gz)?$/;

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  using file = await Deno.open(path);
  const buffer = new Uint8Array(1 << 20);
  for (let count = await file.read(buffer); count !== null; count = await file.read(buffer)) {
    hash.update(buffer.subarray(0, count));
  }
  return hash.digest("hex");
}

/** Lines of a UTF-8 file, without their ends (`\n` or `\r\n`); `.gz` is unpacked. As with `split("\n")`, a final line
 * end is followed by one more, empty line. */
async function* readLines(path: string): AsyncGenerator<string> {
  const file = await Deno.open(path);
  const bytes: ReadableStream<BufferSource> = path.endsWith(".gz")
    ? file.readable.pipeThrough(new DecompressionStream("gzip"))
    : file.readable;
  let rest: string | undefined;
  for await (const chunk of bytes.pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))) {
    const lines = ((rest ?? "") + chunk).split("\n");
    rest = lines.pop()!;
    if (rest.length > MAX_LINE_LENGTH) throw new RangeError(`has a line of more than ${MAX_LINE_LENGTH} characters`);
    for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
  }
  if (rest !== undefined) yield rest;
}

function parseRecord<Schema extends z.ZodType>(
  path: string,
  line: number,
  text: string,
  schema: Schema,
): DataRecord<z.infer<Schema>> {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (error) {
    throw new FileFormatError(path, `line ${line} is not JSON: ${(error as Error).message}`);
  }
  const result = schema.safeParse(raw);
  if (result.success) return { line, value: result.data, raw };
  const [issue] = result.error.issues;
  const field = issue.path.join(".");
  throw new FileFormatError(path, `line ${line}${field && `, field "${field}"`}: ${issue.message}`);
}

/** Reads and checks the records of a JSON Lines file (`.jsonl`, `.json`, each also `.gz`) or, with `textField`, of a
 * plain text file. Empty lines of JSON Lines are passed over.
 * @throws {FileFormatError} naming file, line and field when something else stands there. */
export async function readRecords<Schema extends z.ZodType>(
  path: string,
  { record, textField, maxRecords = Infinity }: ReadOptions<Schema>,
): Promise<RecordFile<z.infer<Schema>>> {
  const isJson = JSON_LINES.test(path);
  if (!isJson && textField === undefined) {
    throw new FileFormatError(path, "must be JSON Lines: its name must end in .jsonl, .json, .jsonl.gz or .json.gz");
  }
  const records: DataRecord<z.infer<Schema>>[] = [];
  try {
    let line = 0;
    for await (const text of readLines(path)) {
      line++;
      if (isJson && text.trim() === "") continue;
      const plain = { [textField!]: text };
      const read = isJson ? parseRecord(path, line, text, record) : { line, value: record.parse(plain), raw: plain };
      if (records.push(read) >= maxRecords) break;
    }
  } catch (error) {
    if (error instanceof FileFormatError) throw error;
    if (error instanceof TypeError) {
      throw new FileFormatError(path, path.endsWith(".gz") ? "is not gzip of UTF-8 text" : "is not UTF-8 text");
    }
    throw new FileFormatError(path, (error as Error).message);
  }
  if (records.length === 0) throw new FileFormatError(path, "holds no records");
  return { records, sha256: await hashFile(path) };
}
