/** The records that a report of a folder is made from, and what it leaves out.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import type { CellRecord } from "../../core/schema/schema.ts";
import { askedRecords } from "../records/run_file.ts";

/** Names of cells in a note. */
const SHOWN_NAMES = 5;

/** Records that the run in `folder` asks for. `note` is told of files that cannot be read, of records that it
 * does not ask for, and of cells and results that are not there yet; standard error when absent.
 * @throws {UsageError} when none is left. */
export function recordsToReport(folder: string, note: (message: string) => void = console.error): CellRecord[] {
  const { records, problems, others, missing, incomplete } = askedRecords(folder);
  for (const { message } of problems) note(message);
  const left = othersNote(folder, others);
  if (left !== undefined) note(left);
  const goesOn = "the same `bench run` goes on";
  if (missing.length > 0) note(`Without a record yet: ${firstNames(missing)}; ${goesOn}`);
  if (incomplete.length > 0) {
    note(`Without some of the results that the run asks for: ${firstNames(incomplete)}; ${goesOn}`);
  }
  if (records.length === 0) throw new UsageError(`"${folder}" holds no finished cell yet`);
  return records;
}

/** The first of `labels`, and how many more there are. */
function firstNames(labels: readonly string[]): string {
  const more = labels.length - SHOWN_NAMES;
  return labels.slice(0, SHOWN_NAMES).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Says that `others` records of the folder `out` are in no report of its run; undefined where there are none. */
function othersNote(out: string, others: number): string | undefined {
  if (others === 0) return undefined;
  const [what, them] = others === 1
    ? ["1 record of another cell stays", "it"]
    : [`${others} records of other cells stay`, "them"];
  return `${what} in "${out}" and out of its reports: its run does not ask for ${them}`;
}
