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
       deno task bench compare DIR [--pair METHOD,METHOD]

Flags:
  --pair A,B       compare only methods A and B, at each level (default: all methods of DIR)`;

/** Prints the comparison of runs, or of the methods of one.
 * @throws {UsageError} when a folder holds no run, or a flag cannot be read. */
async function compareFolders([dir, ...others]: readonly string[], flags: Flags): Promise<void> {
  if (dir === undefined) throw new UsageError("No run given: bench compare DIR [OTHER ...]");
  const pair = textFlag(flags, "pair");
  const [first, second, ...more] = pair?.split(",").map((name) => name.trim()) ?? [];
  if (pair !== undefined && (!first || !second || first === second || more.length > 0 || others.length > 0)) {
    throw new UsageError(
      `--pair must be two methods of one run, such as \`bench compare DIR --pair flap,obs\`: current ${pair}`,
    );
  }
  const [{ sectionsOf }, { compareMethods, compareRuns }] = await Promise.all([
    import("./reports.ts"),
    import("../../reports/compare.ts"),
  ]);
  const named = (name: string) => ({ name, sections: sectionsOf(recordsToReport(name)) });
  const before = named(dir);
  console.log(
    others.length === 0
      ? compareMethods(before, first && second ? [first, second] : undefined)
      : compareRuns(before, others.map(named)),
  );
}

/** Most runs that are compared with the first. */
const MOST_RUNS = 20;

/** `bench compare`. */
export const compare: Command = {
  usage: "DIR [OTHER ...]",
  summary: "compare runs cell by cell, or the methods of one",
  help: () => HELP,
  flags: { string: ["pair"], positional: MOST_RUNS + 1 },
  run: async (flags) => {
    await compareFolders(flags._, flags);
    return 0;
  },
};
