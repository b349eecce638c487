/** `bench fetch`: downloads data sets from the Hugging Face Hub into the cache that Python's libraries share. Every
 * other command works without the network.
 *
 * The command starts this file as a process of its own, which may use the network.
 *
 * @module
 */
import { join } from "node:path";
import { unknownName, UsageError } from "../../core/util/errors.ts";
import { entry } from "../../core/util/indexing.ts";
import { type DataSource, splitFile } from "../../datasets/define.ts";
import { FEWSHOT_SPLIT } from "../../datasets/fewshot.ts";
import { hubSettings } from "../../datasets/hub_cache.ts";
import { fileTask, selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { corpora, getCorpus, getTask, tasks } from "../../datasets/mod.ts";
import { parseStrictly } from "../configuration/flags.ts";
import { type Command, explainEnd } from "./command.ts";
import { denoRun } from "../../core/util/deno_run.ts";

const HELP = `Downloads data sets from the Hugging Face Hub into the cache that Python's libraries share.

Usage: deno task bench fetch NAME[/SPLIT]...

NAME is a task or corpus (\`bench ls tasks\`) or a task file (PATH.yaml). Without SPLIT: a task's scored split, or a
corpus's evaluation and calibration splits. NAME/train holds a task's few-shot examples. Files in the cache are not
downloaded again: later runs read the same commit.

Environment: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, as for Python`;

/** A split to fetch. */
export interface WantedSplit {
  source: DataSource;
  split: string;
  /** Names of files that are preferred. */
  exact: readonly string[];
}

/** The splits that a task file reads, few-shot examples included. */
function splitsOfFile(path: string): WantedSplit[] {
  const { definitions, tasks: selected } = selectTasks([path], [], [...tasks.keys()]);
  const builtIn = selected.filter((name) => tasks.get(name)?.hub).flatMap((name) => wantedSplits([name]));
  const ofFiles = definitions.map(fileTask).flatMap((task) => {
    if (!task.hub) throw new UsageError(`"${task.id}" (${path}) reads local files: there is nothing to download`);
    return [...new Set(task.splits)].map((split) => ({ source: task, split, exact: [] }));
  });
  return [...builtIn, ...ofFiles];
}

/** What the arguments ask for.
 * @throws {UsageError} on an unknown name or split, or a data set that is not on the Hub. */
export function wantedSplits(names: readonly string[]): WantedSplit[] {
  if (names.length === 0) throw new UsageError("No task or corpus given: bench fetch NAME[/SPLIT]...");
  return names.flatMap((name): WantedSplit[] => {
    if (/\.ya?ml$/.test(name)) return splitsOfFile(name);
    const [id = "", split] = name.split("/");
    const isTask = tasks.has(id);
    if (!isTask && !corpora.has(id)) throw unknownName("task or corpus", id, [...tasks.keys(), ...corpora.keys()]);
    const source = isTask ? getTask(id) : getCorpus(id);
    if (!source.hub) throw new UsageError(`"${id}" comes with this program: there is nothing to download`);
    if (isTask) {
      const task = getTask(id);
      if (split === FEWSHOT_SPLIT) return [{ source, split, exact: [splitFile(id, split)] }];
      if (split !== undefined && split !== task.split) {
        throw new UsageError(
          `Task "${id}" has no split "${split}" to fetch: use ${task.split}, or ${FEWSHOT_SPLIT} for few-shot examples`,
        );
      }
      return [{ source, split: task.split, exact: task.files }];
    }
    const { splits, evaluationSplit, calibrationSplit } = getCorpus(id);
    if (split !== undefined && !Object.hasOwn(splits, split)) {
      throw new UsageError(`Corpus "${id}" has no split "${split}": use one of ${Object.keys(splits).join(", ")}`);
    }
    const wanted = split === undefined ? new Set([evaluationSplit, calibrationSplit]) : [split];
    return [...wanted].map((one) => ({ source, split: one, exact: entry(splits, one) }));
  });
}

/** `bench fetch`. */
export const fetchCommand: Command = {
  usage: "NAME...",
  summary: "download data sets from the Hugging Face Hub",
  help: () => HELP,
  flags: { positional: Infinity },
  run: async ({ _: names }, args) => {
    wantedSplits(names);
    const [run, ...rest] = denoRun({ script: join(import.meta.dirname!, "fetch.ts"), args, ffi: false });
    const { code } = await new Deno.Command("deno", {
      // The Hub answers from several hosts, and links in the cache need the right to write anywhere.
      args: [run, "--allow-net", "--allow-write", ...rest],
      stdout: "inherit",
      stderr: "inherit",
    }).spawn().status;
    return code;
  },
};

async function fetchAll(args: string[]): Promise<void> {
  const { fetchSplit } = await import("../../datasets/hub_fetch.ts");
  const settings = hubSettings();
  // The Hub's library announces downloads on stdout.
  console.debug = () => {};
  for (const { source, split, exact } of wantedSplits(parseStrictly(args, { positional: Infinity })._)) {
    const { paths, revision } = await fetchSplit(source.hub!, { split, exact, settings, report: console.error });
    console.log(`${source.id}, ${split}: ${paths.join(", ")} (commit ${revision})`);
  }
}

if (import.meta.main) await fetchAll(Deno.args).catch((error) => Deno.exit(explainEnd(error)));
