/** `bench merge`: several runs of one model as one.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { counted } from "../../core/util/words.ts";
import { mergeRuns } from "../records/merge_runs.ts";
import type { Command } from "./command.ts";

const HELP = `Joins runs of one model, such as parts of a run from several machines, into a new folder.

Usage: deno task bench merge OUT DIR DIR...

Methods, levels, depths and seeds may differ. Runs that differ in anything else that changes results are refused. A cell in
several runs is kept once if its measurements and results are equal; otherwise the merge is refused.

\`bench eval OUT\` runs missing combinations of method, level and seed.

Exit codes: 0 done, 2 the runs cannot be merged`;

/** `bench merge`. */
export const merge: Command = {
  usage: "OUT DIR DIR...",
  summary: "join runs of one model into a new folder",
  help: () => HELP,
  flags: { positional: Infinity },
  run: ({ _: [out, ...dirs] }) => {
    if (out === undefined || dirs.length < 2) throw new UsageError("Two runs are needed: bench merge OUT DIR DIR...");
    const { records, repeated } = mergeRuns(out, dirs);
    const words = repeated === 0 ? "" : `, of which ${counted(repeated, "cell")} had equal results in several runs`;
    console.log(`${counted(records, "record")} in ${out}${words}`);
    return Promise.resolve(0);
  },
};
