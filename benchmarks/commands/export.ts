/** `bench export`: a cell's model as a Hugging Face folder or a GGUF file.
 *
 * @module
 */
import { dirname, join, resolve } from "node:path";
import { cellName } from "../../core/schema/cell_names.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { isFile } from "../../core/util/paths.ts";
import { STORED_TYPES } from "../../core/formats/quantize.ts";
import type { CellRecord, DoneRecord } from "../../core/schema/schema.ts";
import { folderOfRecord, readDone, readRecords, recordPath, runPaths } from "../records/store.ts";
import { EXPORT_FORMATS } from "./model_card.ts";
import { choiceOf, type Command, type Flags, textFlag } from "./command.ts";

const HELP = `Writes the pruned model of a finished cell for other programs.

Usage: deno task bench export CELL --format hf|gguf [FLAGS]

CELL is a record's file (DIR/records/NAME.json.gz). With --run DIR it is the name or id of a cell, or the first
characters of either.

Formats:
  hf      a folder that transformers loads as the original's family: config.json, safetensors, tokenizer, a model card,
          and the record (maskprune.json)
  gguf    a file that llama.cpp loads, tokenizer included

Flags:
  --format NAME   hf or gguf
  --run DIR       folder of the run
  --to PATH       folder or file (default: exports/NAME in the run's folder)
  --dtype TYPE    f32, f16, bf16; q8_0 for gguf (default: the original's 16-bit type, else f32: no rounding)
  --pad           pad layers of unequal width with zeros to the widest: same outputs, larger file
  --model PATH    the dense model (default: the path in the record)

Exit codes: 0 done, 2 the model cannot be exported`;

/** The record that `cell` names, the folder of its run, and the run's other records.
 * @throws {UsageError} when none or several match, or the cell failed. */
function findRecord(cell: string, run?: string): { record: DoneRecord; out: string; others: CellRecord[] } {
  if (run === undefined && isFile(cell)) {
    const out = folderOfRecord(cell);
    const record = readDone(cell);
    // The run's other records only add to the card.
    const isInRun = resolve(runPaths(out).records) === dirname(resolve(cell));
    return { record, out, others: isInRun ? readRecords(out).records : [] };
  }
  if (run === undefined) {
    throw new UsageError(`"${cell}" is not a record's file: give the path of one, or add --run DIR`);
  }
  const { records } = readRecords(run);
  const found = records.filter((record) => cellName(record).startsWith(cell) || record.id.startsWith(cell));
  if (found.length === 1) return { record: readDone(recordPath(run, at(found, 0))), out: run, others: records };
  const names = (found.length === 0 ? records : found).map((record) => `\n  ${cellName(record)}`).join("");
  throw new UsageError(
    found.length === 0 ? `No cell in "${run}" begins with "${cell}":${names}` : `"${cell}" fits several cells:${names}`,
  );
}

/** Writes the model, and prints its path on standard output. */
async function exportNamed(flags: Flags): Promise<number> {
  const { defaultType, exportCell } = await import("./export_cell.ts");
  const [cell] = flags._;
  if (cell === undefined) throw new UsageError("No cell given: bench export CELL --format hf|gguf");
  const wanted = textFlag(flags, "format");
  if (wanted === undefined) throw new UsageError(`No format given: --format ${EXPORT_FORMATS.join(" or ")}`);
  const format = choiceOf("format", wanted, EXPORT_FORMATS);
  const dtype = textFlag(flags, "dtype");
  const { record, out, others } = findRecord(cell, textFlag(flags, "run"));
  const type = dtype === undefined ? defaultType(record, format) : choiceOf("dtype", dtype, STORED_TYPES);
  const name = format === "hf" ? cellName(record) : `${cellName(record)}.${type.toLowerCase()}.gguf`;
  const to = resolve(textFlag(flags, "to") ?? join(out, "exports", name));
  const isCounterpart = (other: CellRecord): other is DoneRecord =>
    other.state === "done" && other.cell.method === null && other.id !== record.id &&
    other.weights.sha256 === record.weights.sha256;
  const remarks = await exportCell({
    record,
    out,
    dense: others.find(isCounterpart),
    format,
    to,
    type,
    pad: flags.pad === true,
    model: textFlag(flags, "model"),
  });
  for (const remark of remarks) console.error(remark);
  console.log(to);
  return 0;
}

/** `bench export`. */
export const exportCommand: Command = {
  usage: "CELL --format hf|gguf",
  summary: "write a cell's model for transformers or llama.cpp",
  help: () => HELP,
  flags: { string: ["format", "run", "to", "dtype", "model"], boolean: ["pad"], positional: 1 },
  run: exportNamed,
};
