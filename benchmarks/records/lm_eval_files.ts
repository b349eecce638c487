/** Logged examples in files of lm-evaluation-harness 0.4.13, so that scripts written for them read ours: one
 * `samples_<task>_<stamp>.jsonl` per cell and task.
 *
 * @module
 */
import { join } from "node:path";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { cellName, type NamedCell } from "../../core/schema/cell_names.ts";
import type { LmEvalSample } from "./lm_eval_samples.ts";
import { ifThere } from "../../core/util/paths.ts";
import { writeAtomically } from "../../core/util/write_file.ts";

/** `started` as in the names of files: local ISO time with microseconds, `-` for `:`. */
export function lmEvalStamp(started: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${started.getFullYear()}-${two(started.getMonth() + 1)}-${two(started.getDate())}`;
  const time = [started.getHours(), started.getMinutes(), started.getSeconds()].map(two).join("-");
  return `${day}T${time}.${String(started.getMilliseconds()).padStart(3, "0")}000`;
}

/** A model's name as the name of its folder. */
export function sanitizeModelName(name: string): string {
  return name.replace(/["<>:/|\\?*[\]]+/g, "__");
}

/** Samples of a cell by task. */
export type CellSamples = ReadonlyMap<string, readonly LmEvalSample[]>;

/** Folder of a cell's files in `folder`. */
export function samplesFolder(folder: string, named: NamedCell): string {
  return join(folder, sanitizeModelName(cellName(named)));
}

const namesIn = (folder: string): string[] => ifThere(() => [...Deno.readDirSync(folder)], []).map(({ name }) => name);

/** Whether `folder` holds samples of a cell. */
export function hasSamples(folder: string, named: NamedCell): boolean {
  return namesIn(samplesFolder(folder, named)).some((name) => name.startsWith("samples_"));
}

/** The latest samples file of a cell and task; undefined if it has none. */
export function samplesFile(folder: string, named: NamedCell, task: string): string | undefined {
  const own = samplesFolder(folder, named);
  const start = `samples_${sanitizeModelName(task)}_`;
  // A stamp begins with a year: other tasks may have names that begin with this one's.
  const found = namesIn(own).filter((name) =>
    name.startsWith(start) && /^\d{4}-[^_]*\.jsonl$/.test(name.slice(start.length))
  );
  const last = found.sort().at(-1);
  return last && join(own, last);
}

/** Writes a samples file for each task of `samples` into `folder/<name of the cell>`. The names depend on the record
 * alone: writing again replaces them.
 * @returns the files' paths */
export function writeSamples(folder: string, record: DoneRecord, samples: CellSamples): string[] {
  const stamp = lmEvalStamp(new Date(record.startedAt));
  return [...samples].map(([task, lines]) => {
    const path = join(samplesFolder(folder, record), `samples_${sanitizeModelName(task)}_${stamp}.jsonl`);
    writeAtomically(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    return path;
  });
}
