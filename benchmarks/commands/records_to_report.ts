/** The records that a report of a folder is made from, and what it leaves out.
 *
 * @module
 */
import { UsageError } from "../../core/errors.ts";
import type { CellRecord } from "../../core/schema.ts";
import { askedRecords, othersNote } from "../records/run_file.ts";

/** Records that the run in `folder` asks for. `note` is told of files that cannot be read and of records that it
 * does not ask for; standard error when absent.
 * @throws {UsageError} when none is left. */
export function recordsToReport(folder: string, note: (message: string) => void = console.error): CellRecord[] {
  const { records, problems, others } = askedRecords(folder);
  for (const { message } of problems) note(message);
  const left = othersNote(folder, others);
  if (left !== undefined) note(left);
  if (records.length === 0) throw new UsageError(`"${folder}" holds no finished cell yet`);
  return records;
}
