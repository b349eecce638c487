/** The records that a report of a folder is made from, and what it leaves out.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import type { CellRecord } from "../../core/schema/schema.ts";
import { askedRecords } from "../records/run_file.ts";

/** Names of cells in a note. */
const SHOWN_NAMES = 5;

/** Records of the run in `folder`. `note` is told of unreadable files, of records that do not belong to the run, and of
 * missing cells and results; standard error when absent.
 * @throws {UsageError} when there is no record. */
export function recordsToReport(folder: string, note: (message: string) => void = console.error): CellRecord[] {
  const { records, problems, others, missing, incomplete } = askedRecords(folder);
  for (const { message } of problems) note(message);
  if (others > 0) {
    const words = others === 1 ? "1 record belongs to a cell" : `${others} records belong to cells`;
    note(`${words} that the run in "${folder}" does not include: left out of the report`);
  }
  const resume = "`bench run` with the same flags resumes";
  if (missing.length > 0) note(`Not finished: ${firstNames(missing)}; ${resume}`);
  if (incomplete.length > 0) note(`Some results are missing: ${firstNames(incomplete)}; ${resume}`);
  if (records.length === 0) throw new UsageError(`"${folder}" holds no finished cell yet`);
  return records;
}

/** The first of `labels`, and how many more there are. */
function firstNames(labels: readonly string[]): string {
  const more = labels.length - SHOWN_NAMES;
  return labels.slice(0, SHOWN_NAMES).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
