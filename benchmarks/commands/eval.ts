/** `bench eval`: further measurements of the cells of a run, without pruning again.
 *
 * @module
 */
import { UsageError } from "../../core/errors.ts";
import { flagOptions, flagSource } from "../configuration/flags.ts";
import { movePaths } from "../configuration/paths.ts";
import { resolveConfig } from "../configuration/resolve.ts";
import { readRunFile, storedPath } from "../records/run_file.ts";
import { type Command, textFlag } from "./command.ts";
import { columns, flagRows } from "./help.ts";
import { runConfig } from "./run.ts";
import { MANNER_ROWS, RUN_FLAGS, RUN_SWITCHES, runManner } from "./run_flags.ts";
import { tableWidth } from "./table_width.ts";

/** Keys of a configuration that say what is measured, and where things are. */
const KEYS = [
  ...["perplexity", "tasks", "taskFile", "limit", "numFewshot", "generate", "generateTokens"] as const,
  ...["throughput", "logSamples", "keepWeights", "data", "model", "device", "jobs"] as const,
];
/** Those whose values join the run's; others replace them. */
const JOINED = ["perplexity", "tasks", "taskFile", "generate"] as const;

const help = () =>
  `Measures the cells of a finished run further; no cell that has finished is trained again.

Usage: deno task bench eval DIR [FLAGS]

Flags:
${columns([...flagRows(KEYS), ...MANNER_ROWS])}

Tasks, corpora and prompts join those of the run; other values replace the run's. What has been measured is not measured
again; --keep-weights stores the merged weights of cells that changed some. What is no longer asked for stays in the records and
leaves the report. Exit codes: those of \`bench run\``;

/** `bench eval`. */
export const evaluate: Command = {
  usage: "DIR [--tasks LIST] [--perplexity LIST] [FLAGS]",
  summary: "measure the cells of a finished run further, without training again",
  help,
  flags: flagOptions({ keys: KEYS, string: ["width", ...RUN_FLAGS], boolean: RUN_SWITCHES, positional: 1 }),
  run: async (flags) => {
    const [dir] = flags._;
    if (dir === undefined) throw new UsageError("The folder of a run must be given: bench eval DIR --tasks LIST");
    const stored = readRunFile(dir);
    if (!stored) throw new UsageError(`"${dir}" holds no run: there is no run.json in it`);
    const { values, where } = flagSource(flags);
    const kept = movePaths(stored.config, (path) => storedPath(dir, path));
    const joined = JOINED.flatMap((key) => {
      const added = values[key];
      return Array.isArray(added) ? [[key, [...kept[key] as unknown[] ?? [], ...added]] as const] : [];
    });
    const asked = { ...values, ...Object.fromEntries(joined), out: dir };
    const config = resolveConfig([{ values: kept, where: () => "run.json" }, { values: asked, where }]);
    return await runConfig(config, runManner(flags), tableWidth(textFlag(flags, "width")));
  },
};
