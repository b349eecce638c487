/** `bench eval`: adds measurements to a run without pruning again, or a model that was pruned elsewhere.
 *
 * @module
 */
import { resolve } from "node:path";
import { canonicalJson } from "../../core/util/canonical_json.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { RunConfig } from "../../core/schema/schema.ts";
import { type ConfigSource, flagName, flagOptions, flagSource } from "../configuration/flags.ts";
import { movePaths } from "../configuration/paths.ts";
import { resolveConfig } from "../configuration/resolve.ts";
import { readRunFile, storedPath } from "../records/run_file.ts";
import { type Command, type Flags, textFlag } from "./command.ts";
import { columns, flagRows } from "./help.ts";
import { runConfig } from "./run.ts";
import { MANNER_ROWS, RUN_FLAGS, RUN_SWITCHES, runManner } from "./run_flags.ts";

/** Keys of a configuration that the command takes. */
const KEYS = [
  ...["perplexity", "tasks", "taskFile", "limit", "numFewshot", "generate", "generateTokens"] as const,
  ...["throughput", "logSamples", "keepWeights", "data", "model", "out", "engine", "device", "jobs"] as const,
];
/** Keys whose values are added to the run's; others replace them. */
const JOINED = ["perplexity", "tasks", "taskFile", "generate", "checkpoints"] as const;

const help = () =>
  `Adds measurements to the finished cells of a run without pruning again. With --label, adds a model that was pruned
elsewhere to the run's tables.

Usage: deno task bench eval DIR [FLAGS]
       deno task bench eval --model PATH --dense PATH --label NAME --out DIR [FLAGS]

Flags:
${
    columns([
      ["--label NAME", "name of the model at --model, a pruned version of the dense one"],
      ["--dense PATH", "the dense model (default: that of the run in --out)"],
      ...flagRows(KEYS, { withDefaults: false }),
      ["--remeasure", "allow --limit and --num-fewshot to score the run's tasks again"],
      ...MANNER_ROWS,
    ])
  }

Tasks, corpora and prompts are added to the run's. Other flags override it. Existing results are reused. Results that
are no longer requested are kept in the records but hidden from the report.

Exit codes: those of \`bench run\``;

/** What is measured of a foreign checkpoint in a new folder. */
const EMPTY = { methods: [], sparsity: [0], throughput: {} };

/** The values of the flags; with a label, the model becomes one of the run's `checkpoints`.
 * @throws {UsageError} when something is missing. */
function givenValues(
  { values }: ConfigSource,
  { label, dense, kept }: { label?: string; dense?: string; kept?: Partial<RunConfig> },
): Record<string, unknown> {
  if (label === undefined) {
    if (dense !== undefined) throw new UsageError("--dense needs --label NAME, the name of the model at --model");
    return values;
  }
  const { model, ...others } = values;
  if (typeof model !== "string") throw new UsageError("--label needs --model PATH, the model that it names");
  if (dense === undefined && kept === undefined) {
    throw new UsageError("No dense model given: add --dense PATH, the model that --model was pruned from");
  }
  return {
    ...others,
    ...dense !== undefined && { model: dense },
    checkpoints: [{ label, model }],
  };
}

/** Refuses settings under which the run's own tasks would be scored again, and their results hidden.
 * @throws {UsageError} that names the setting. */
function checkReplaced(given: Record<string, unknown>, { tasks = [], ...kept }: Partial<RunConfig>): void {
  const key = (["limit", "numFewshot"] as const).find((key) => key in given && given[key] !== kept[key]);
  if (key === undefined || tasks.length === 0) return;
  throw new UsageError(
    `--${flagName(key)} differs from the run's, so ${
      tasks.join(", ")
    } would be scored again and replace the results in ` +
      "the report: leave it out, or add --remeasure",
  );
}

/** `config` with each item of the joined lists once. */
function withoutRepeats(config: RunConfig): RunConfig {
  const lists = JOINED.flatMap((key) => {
    const items: unknown[] | undefined = config[key];
    return items ? [[key, [...new Map(items.map((item) => [canonicalJson(item), item])).values()]] as const] : [];
  });
  return { ...config, ...Object.fromEntries(lists) };
}

async function measureFurther(flags: Flags): Promise<number> {
  const [label, dense] = ["label", "dense"].map((name) => textFlag(flags, name));
  const [named, out] = [flags._[0], textFlag(flags, "out")];
  const dir = named ?? out;
  if (dir === undefined) throw new UsageError("No run given: bench eval DIR --tasks LIST");
  if (named !== undefined && out !== undefined && resolve(named) !== resolve(out)) {
    throw new UsageError(`Results go into the run's folder "${named}": leave --out ${out} out`);
  }
  const stored = readRunFile(dir);
  if (!stored && label === undefined) throw new UsageError(`"${dir}" holds no run: it has no run.json`);
  const given = flagSource(flags);
  const kept = stored && movePaths(stored.config, (path) => storedPath(dir, path)) as Partial<RunConfig>;
  if (kept && flags.remeasure !== true) checkReplaced(given.values, kept);
  const values = givenValues(given, { label, dense, kept });
  const joined = JOINED.flatMap((key) => {
    const added = values[key];
    return Array.isArray(added) ? [[key, [...kept?.[key] ?? [], ...added]] as const] : [];
  });
  const asked = { ...values, ...Object.fromEntries(joined), out: dir };
  const config = resolveConfig([
    { values: kept ?? EMPTY, where: () => "run.json" },
    { values: asked, where: ([key]) => key === "checkpoints" ? "--label" : given.where([key ?? ""]) },
  ]);
  return await runConfig(withoutRepeats(config), runManner(flags));
}

/** `bench eval`. */
export const evaluate: Command = {
  usage: "DIR [FLAGS]",
  summary: "add measurements to a finished run, or a model that was pruned elsewhere",
  help,
  flags: flagOptions({
    keys: KEYS,
    string: ["label", "dense", ...RUN_FLAGS],
    boolean: ["remeasure", ...RUN_SWITCHES],
    positional: 1,
  }),
  run: measureFurther,
};
