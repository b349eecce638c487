/** `bench compare`: two runs cell by cell.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { type Command, textFlag } from "./command.ts";
import { recordsToReport } from "./records_to_report.ts";

const HELP =
  `Compares two runs cell by cell, as Markdown. Only results on the same data are compared, with paired tests.

Usage: deno task bench compare DIR OTHER [--fail-if EXPR]

Flags:
  --fail-if EXPR   conditions on the change from DIR to OTHER, separated by commas: "perplexity > +2%, acc < -1"

A condition is NAME, one of < > <= >=, and a change. With %, the change is relative to DIR; without, it is in the
result's own unit (points for accuracies). NAME is perplexity, acc (every task), mean (mean accuracy), speed (tokens per
second), or a corpus, task or throughput test. Means are taken over the seeds that both runs have. A cell, result or
seed that DIR has and OTHER lacks counts as a condition that holds.

Exit codes: 0 no condition holds, 1 one holds, 2 a condition is wrong or names nothing that both runs have`;

/** Prints the comparison of two runs. Returns 1 when a condition of `failIf` holds, else 0.
 * @throws {UsageError} when a folder holds no run, or a condition cannot be read. */
async function compareFolders(dir: string, other: string, failIf?: string): Promise<number> {
  const [{ sectionsOf }, { compareRuns }, { closedGates, parseConditions }] = await Promise.all([
    import("./reports.ts"),
    import("../../reports/compare.ts"),
    import("../../reports/gate.ts"),
  ]);
  try {
    const conditions = failIf === undefined ? [] : parseConditions(failIf);
    const [before, after] = [sectionsOf(recordsToReport(dir)), sectionsOf(recordsToReport(other))];
    const closed = conditions.length > 0 ? closedGates(before, after, conditions) : [];
    console.log(compareRuns(before, after, [dir, other]));
    for (const reason of closed) console.error(reason);
    return closed.length > 0 ? 1 : 0;
  } catch (error) {
    throw error instanceof SyntaxError ? new UsageError(error.message) : error;
  }
}

/** `bench compare`. */
export const compare: Command = {
  usage: "DIR OTHER [--fail-if EXPR]",
  summary: "compare two runs cell by cell; exit code 1 when EXPR holds",
  help: () => HELP,
  flags: { string: ["fail-if"], positional: 2 },
  run: async (flags) => {
    const [dir, other] = flags._;
    if (dir === undefined || other === undefined) {
      throw new UsageError("Two runs are needed: bench compare DIR OTHER");
    }
    return await compareFolders(dir, other, textFlag(flags, "fail-if"));
  },
};
