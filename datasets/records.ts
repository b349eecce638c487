/** Reads the records of data files.
 *
 * @module
 */
import type { z } from "zod";
import { FileFormatError } from "../core/util/errors.ts";
import { sha256OfFiles } from "../core/formats/ranged_file.ts";
import { readParquetRows } from "./parquet.ts";

/** Longest line that is read, in UTF-16 code units. The longest documents of C4 have about 1 M; longer "lines" are
 * files of another format. */
const MAX_LINE_LENGTH = 16 * 1024 * 1024;

interface DataRecord<T> {
  /** Line (or row) in its file, from 1. */
  line: number;
  value: T;
  /** The unchanged record, with its fields in their order. */
  raw: unknown;
}

interface RecordFile<T> {
  /** Records in the order of the files. */
  records: DataRecord<T>[];
  /** SHA-256 of the files' bytes, hex. */
  sha256: string;
}

interface ReadOptions<Schema extends z.ZodType> {
  record: Schema;
  /** Reads a plain text file as one record per line, `{ [textField]: line }`, without its line end. The text after the
   * last line end is a record too, so that joining with line ends gives the file. Without this option text files are
   * refused. */
  textField?: string;
  /** Stops after the first records; the hash is that of the whole files. */
  maxRecords?: number;
}

const JSON_LINES = /\.(jsonl|json)(\.gz)?$/;

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

function parseJson(path: string, line: number, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new FileFormatError(path, `line ${line} is not JSON: ${(error as Error).message}`);
  }
}

/** Unchecked records of a file with their lines. */
async function* rawRecords(
  path: string,
  textField: string | undefined,
  maxRecords: number,
): AsyncGenerator<[line: number, raw: unknown]> {
  if (path.endsWith(".parquet")) {
    const rows = await readParquetRows(path, maxRecords);
    for (const [i, row] of rows.entries()) yield [i + 1, row];
    return;
  }
  const isJson = JSON_LINES.test(path);
  if (!isJson && textField === undefined) {
    throw new FileFormatError(
      path,
      "must be Parquet or JSON Lines, with a name that ends in .parquet, .jsonl, .json, .jsonl.gz or .json.gz",
    );
  }
  let line = 0;
  let list: string[] | undefined;
  for await (const text of readLines(path)) {
    line++;
    if (isJson && line === 1 && text.trimStart().startsWith("[")) list = [];
    if (list) {
      list.push(text);
      continue;
    }
    if (!isJson) yield [line, { [textField!]: text }];
    else if (text.trim() !== "") yield [line, parseJson(path, line, text)];
  }
  // A file that is one list: its items are the records.
  const items = list && parseJson(path, 1, list.join("\n"));
  if (Array.isArray(items)) { for (const [i, item] of items.entries()) yield [i + 1, item]; }
}

/** Reads and checks the records of a Parquet file (`.parquet`), a JSON Lines file (`.jsonl`, `.json`, each also `.gz`)
 * or, with `textField`, of a plain text file; of several files one after the other. Empty lines of JSON Lines are
 * skipped.
 * @throws {FileFormatError} that names file, line and field when a record does not fit. */
export async function readRecords<Schema extends z.ZodType>(
  paths: string | readonly string[],
  { record, textField, maxRecords = Infinity }: ReadOptions<Schema>,
): Promise<RecordFile<z.infer<Schema>>> {
  const files = typeof paths === "string" ? [paths] : paths;
  const records: DataRecord<z.infer<Schema>>[] = [];
  for (const path of files) {
    if (records.length >= maxRecords) break;
    try {
      for await (const [line, raw] of rawRecords(path, textField, maxRecords - records.length)) {
        const { data: value, error } = record.safeParse(raw);
        if (error) {
          const [issue] = error.issues;
          const field = issue?.path.join(".") ?? "";
          throw new FileFormatError(path, `line ${line}${field && `, field "${field}"`}: ${issue?.message}`);
        }
        if (records.push({ line, value: value as z.infer<Schema>, raw }) >= maxRecords) break;
      }
    } catch (error) {
      if (error instanceof FileFormatError) throw error;
      const { message } = error as Error;
      if (path.endsWith(".parquet")) throw new FileFormatError(path, `cannot be read as Parquet: ${message}`);
      if (!(error instanceof TypeError)) throw new FileFormatError(path, message);
      throw new FileFormatError(path, path.endsWith(".gz") ? "is not gzip of UTF-8 text" : "is not UTF-8 text");
    }
  }
  if (records.length === 0) throw new FileFormatError(files.join(", "), "holds no records");
  return { records, sha256: sha256OfFiles(files) };
}
