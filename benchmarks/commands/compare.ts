/** `bench compare`: runs cell by cell, or the methods of one run.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { type Command, type Flags, textFlag } from "./command.ts";
import { recordsToReport } from "./report.ts";

const HELP =
  `Compares each run with the first, cell by cell. With one run, compares its methods at each level. Only results on the
same data are compared, with paired tests. Prints Markdown.

Usage: deno task bench compare DIR OTHER [MORE ...]
       deno task bench compare DIR [--pair A,B]

Flags:
  --pair A,B       compare only methods A and B, at each level (default: all methods of DIR). A and B are labels in
                   the report, values of --methods (\`obs:error=kfac\`), or ids`;

/** Prints the comparison of runs, or of the methods of one.
 * @throws {UsageError} when a folder holds no run, or a flag cannot be read. */
async function compareFolders(flags: Flags): Promise<number> {
  const [dir, ...others] = flags._;
  if (dir === undefined) throw new UsageError("No run given: bench compare DIR [OTHER ...]");
  const pair = textFlag(flags, "pair");
  if (pair !== undefined && others.length > 0) {
    throw new UsageError(`--pair compares two methods of one run: leave out ${others.join(" ")}`);
  }
  const { sectionsOf } = await import("./reports.ts");
  const { compareMethods, compareRuns } = await import("../../reports/compare.ts");
  const named = (name: string) => ({ name, sections: sectionsOf(recordsToReport(name)) });
  const before = named(dir);
  console.log(others.length === 0 ? compareMethods(before, pair) : compareRuns(before, others.map(named)));
  return 0;
}

/** `bench compare`. */
export const compare: Command = {
  usage: "DIR [OTHER ...]",
  summary: "compare runs cell by cell, or the methods of one run",
  help: () => HELP,
  flags: { string: ["pair"], positional: Infinity },
  run: compareFolders,
};
