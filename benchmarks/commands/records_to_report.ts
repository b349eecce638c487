/** The records that a report of a folder is made from, and what it leaves out.
 *
 * @module
 */
import { UsageError } from "../../core/errors.ts";
import type { CellRecord } from "../../core/schema.ts";
import { askedRecords, othersNote } from "../records/run_file.ts";

/** Records that the run in `folder` asks for. Files that cannot be read and records that it does not ask for are named on
 * standard error.
 * @throws {UsageError} when none is left. */
export function recordsToReport(folder: string): CellRecord[] {
  const { records, problems, others } = askedRecords(folder);
  for (const { message } of problems) console.error(message);
  const left = othersNote(folder, others);
  if (left !== undefined) console.error(left);
  if (records.length === 0) throw new UsageError(`"${folder}" holds no finished cell yet`);
  return records;
}
