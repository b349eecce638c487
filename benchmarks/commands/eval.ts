/** `bench eval`: adds measurements to a run without pruning again, or a model that was pruned elsewhere.
 *
 * @module
 */
import { resolve } from "node:path";
import { canonicalJson } from "../../core/util/canonical_json.ts";
import { UsageError } from "../../core/util/errors.ts";
import { ofTask, type RunConfig } from "../../core/schema/schema.ts";
import { selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { tasks as builtIn } from "../../datasets/mod.ts";
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
  ...["perplexity", "tasks", "taskFile", "limit", "numFewshot"] as const,
  ...["throughput", "logSamples", "keepWeights", "data", "model", "out", "engine", "device", "jobs"] as const,
];
/** Keys whose values are added to the run's; others replace them. */
const JOINED = ["perplexity", "tasks", "taskFile", "checkpoints"] as const;

const help = () =>
  `Adds measurements to the finished cells of a run. With --label, adds a model that was pruned elsewhere.

Usage: deno task bench eval DIR [FLAGS]
       deno task bench eval --model PATH --dense PATH --label NAME --out DIR [FLAGS]

Flags:
${
    columns([
      ["--label NAME", "name of the model at --model, a pruned version of the dense one"],
      ["--dense PATH", "the dense model (default: that of the run in --out)"],
      ...flagRows(KEYS, { withDefaults: false }),
      ["--remeasure", "let --limit and --num-fewshot replace existing results of the tasks in --tasks (default: all)"],
      ...MANNER_ROWS,
    ])
  }

Tasks and corpora are added to the run's. --limit and --num-fewshot apply to the added tasks. Other flags
override the run. Existing results are reused. Results that are no longer requested are kept in the records but hidden
from the report.

Exit codes: 0 done, 1 a cell failed, 2 usage error, 130 stopped by Ctrl-C`;

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
  return { ...others, ...dense !== undefined && { model: dense }, checkpoints: [{ label, model }] };
}

/** Limit and few-shot examples of each task: from the flags for added tasks, from the run for the others. With
 * `remeasure`, the flags also apply to the run's tasks that they name (all by default).
 * @throws {UsageError} when the flags would replace results without it. */
function settingsOfTasks(
  given: Record<string, unknown>,
  { tasks: own = [], ...kept }: Partial<RunConfig>,
  { lists, remeasure }: { lists: Partial<RunConfig>; remeasure: boolean },
): Record<string, unknown> {
  const { tasks, groups } = selectTasks(lists.taskFile ?? [], lists.tasks ?? [], [...builtIn.keys()]);
  const names = [...given.tasks as string[] ?? [], ...given.taskFile as string[] ?? []];
  const named = names.concat(groups.flatMap(({ group, tasks }) => names.includes(group) ? tasks : []));
  const targets = own.filter((task) => names.length === 0 || named.includes(task));
  const settings = (["limit", "numFewshot"] as const).filter((key) => key in given).map((key) => {
    const before = (task: string) => ofTask(kept[key], task);
    const replaced = targets.filter((task) => (before(task) ?? 0) !== (given[key] ?? 0));
    if (replaced.length > 0 && !remeasure) {
      throw new UsageError(
        `--${flagName(key)} differs from the run's for ${replaced.join(", ")}, which would be scored again and ` +
          "replaced in the report: leave it out, or add --remeasure",
      );
    }
    const values = tasks.map((task) => own.includes(task) && !targets.includes(task) ? before(task) : given[key]);
    const byTask = tasks.flatMap((task, i) => values[i] === undefined ? [] : [[task, values[i]]]);
    return [key, new Set(values).size > 1 ? Object.fromEntries(byTask) : given[key]];
  });
  return Object.fromEntries(settings);
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
  const values = givenValues(given, { label, dense, kept });
  // A run lists single tasks, so its groups are named again.
  const groups = stored?.taskGroups?.map(({ group }) => group) ?? [];
  const before = kept && { ...kept, tasks: [...kept.tasks ?? [], ...groups] };
  const lists: Partial<RunConfig> = Object.fromEntries(JOINED.flatMap((key) => {
    const items = [before?.[key], values[key]].flatMap((own) => Array.isArray(own) ? own : []);
    return items.length > 0 ? [[key, items]] : [];
  }));
  const byTask = kept && settingsOfTasks(values, kept, { lists, remeasure: flags.remeasure === true });
  const asked = { ...values, ...lists, ...byTask, out: dir };
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
