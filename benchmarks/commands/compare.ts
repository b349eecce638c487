/** `bench compare`: runs cell by cell, or the methods of one run.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { type Command, type Flags, textFlag } from "./command.ts";
import { recordsToReport } from "./records_to_report.ts";

const HELP =
  `Compares runs with the first one, cell by cell. Of a single run, compares the methods at each level. Only results on
the same data are compared, with paired tests. Prints Markdown.

Usage: deno task bench compare DIR OTHER [MORE ...] [--fail-if EXPR]
       deno task bench compare DIR [--pair METHOD,METHOD]

Flags:
  --pair A,B       compare only methods A and B, at each level (default: all methods of DIR)
  --fail-if EXPR   conditions on the change from DIR to OTHER, separated by commas: "perplexity > +2%, acc < -1"

A condition is NAME, one of < > <= >=, and a change. With %, the change is relative to DIR; without, it is in the
result's own unit (points for accuracies). NAME is perplexity, acc (every task), mean (mean accuracy), speed (tokens per
second), or a corpus, task or throughput test. Means are taken over the seeds that both runs have. A cell, result or
seed that only DIR has also counts as a condition that holds.

Exit codes: 0 no condition holds, 1 one holds, 2 a condition is malformed or names nothing that both runs have`;

/** Prints the comparison of runs, or of the methods of one. Returns 1 when a condition of `--fail-if` holds, else 0.
 * @throws {UsageError} when a folder holds no run, or a flag cannot be read. */
async function compareFolders([dir, ...others]: readonly string[], flags: Flags): Promise<number> {
  if (dir === undefined) throw new UsageError("No run given: bench compare DIR [OTHER ...]");
  const [failIf, pair] = ["fail-if", "pair"].map((name) => textFlag(flags, name));
  const [first, second, ...more] = pair?.split(",").map((name) => name.trim()) ?? [];
  if (pair !== undefined && (!first || !second || more.length > 0 || others.length > 0)) {
    throw new UsageError(
      `--pair takes two methods of one run, as in \`bench compare DIR --pair flap,obs\`: current ${pair}`,
    );
  }
  if (failIf !== undefined && others.length === 0) {
    throw new UsageError("--fail-if needs another run: bench compare DIR OTHER");
  }
  const [{ sectionsOf }, { compareMethods, compareRuns }, { closedGates, parseConditions }] = await Promise.all([
    import("./reports.ts"),
    import("../../reports/compare.ts"),
    import("../../reports/gate.ts"),
  ]);
  try {
    const conditions = failIf === undefined ? [] : parseConditions(failIf);
    const named = (name: string) => ({ name, sections: sectionsOf(recordsToReport(name)) });
    const before = named(dir);
    if (others.length === 0) {
      console.log(compareMethods(before, first && second ? [first, second] : undefined));
      return 0;
    }
    const after = others.map(named);
    const closed = after.flatMap(({ sections }) =>
      conditions.length > 0 ? closedGates(before.sections, sections, conditions) : []
    );
    console.log(compareRuns(before, after));
    for (const reason of closed) console.error(reason);
    return closed.length > 0 ? 1 : 0;
  } catch (error) {
    throw error instanceof SyntaxError ? new UsageError(error.message) : error;
  }
}

/** Most runs that are compared with the first. */
const MOST_RUNS = 20;

/** `bench compare`. */
export const compare: Command = {
  usage: "DIR [OTHER ...]",
  summary: "compare runs cell by cell, or the methods of one; exit code 1 when --fail-if holds",
  help: () => HELP,
  flags: { string: ["fail-if", "pair"], positional: MOST_RUNS + 1 },
  run: (flags) => compareFolders(flags._, flags),
};
