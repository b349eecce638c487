/** `bench run`: a sweep from flags, a preset or a file.
 *
 * @module
 */
import { dirname } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import type { RunConfig } from "../../core/schema/schema.ts";
import { type ConfigSource, flagOptions, flagSource, KEYS } from "../configuration/flags.ts";
import { fromFolder, movePaths } from "../configuration/paths.ts";
import { resolveConfig, yamlSource } from "../configuration/resolve.ts";
import { runPaths } from "../records/store.ts";
import { createProgress } from "../sweep/progress.ts";
import { type Command, type Flags, INTERRUPTED, textFlag } from "./command.ts";
import { columns, flagRows } from "./help.ts";
import { presetPath } from "./ls.ts";
import { showReport } from "./report.ts";
import { MANNER_ROWS, RUN_FLAGS, RUN_SWITCHES, type RunManner, runManner } from "./run_flags.ts";

/** Signals within this time count as one. */
const SAME_SIGNAL_MS = 1000;

/** Configuration of `bench run` from its arguments, and how its cells are run. */
export function configSources(flags: Flags): { sources: ConfigSource[] } & RunManner {
  const preset = textFlag(flags, "preset");
  const config = textFlag(flags, "config");
  if (preset !== undefined && config !== undefined) {
    throw new UsageError("--preset and --config exclude each other: give one of them");
  }
  const path = preset !== undefined ? presetPath(preset) : config;
  const base: ConfigSource = path === undefined
    ? { values: { throughput: {} }, where: () => "--throughput" }
    : yamlSource(Deno.readTextFileSync(path), path);
  // Paths in a user's file start at its folder, those of a preset at the user's folder.
  if (config !== undefined) base.values = movePaths(base.values, fromFolder(dirname(config)));
  return { sources: [base, flagSource(flags)], ...runManner(flags) };
}

async function runSources(flags: Flags): Promise<number> {
  const { sources, ...manner } = configSources(flags);
  const config = resolveConfig(sources);
  const { perplexity, tasks, taskFile = [], throughput, keepWeights } = config;
  if ([...perplexity, ...tasks, ...taskFile].length === 0 && !throughput && keepWeights !== true) {
    throw new UsageError("The run would measure nothing: give --perplexity, --tasks or --throughput");
  }
  return await runConfig(config, manner);
}

/** Runs a configuration and writes its report. Returns the exit code. */
export async function runConfig(config: RunConfig, manner: RunManner): Promise<number> {
  const { json, slurm, dryRun, ...options } = manner;
  if (dryRun) {
    await (await import("./dry_run.ts")).dryRun(config, manner);
    return 0;
  }
  const { sweep } = await import("../sweep/sweep.ts");
  const controller = new AbortController();
  let stoppedMs = 0;
  const stop = () => {
    if (!controller.signal.aborted) {
      stoppedMs = performance.now();
      controller.abort();
      return;
    }
    // One Ctrl-C arrives twice: from the terminal and from the task runner.
    if (performance.now() - stoppedMs > SAME_SIGNAL_MS) Deno.exit(INTERRUPTED);
  };
  Deno.addSignalListener("SIGINT", stop);
  Deno.addSignalListener("SIGTERM", stop);
  const onEvent = createProgress(Deno.stderr, { json });
  const executor = slurm && (await import("../sweep/slurm_executor.ts")).slurmExecutor(slurm);
  const result = await sweep(config, { ...options, executor, onEvent, signal: controller.signal }).catch((error) => {
    // Ctrl-C also ends the processes that try the engine before the first cell.
    if (!controller.signal.aborted) throw error;
  });
  if (result === undefined || result.interrupted) return INTERRUPTED;
  const note = (message: string) => onEvent({ event: "note", message });
  // A disk that is full from the start leaves no record.
  if (result.records.length > 0) {
    await showReport(config.out, { title: config.name, to: runPaths(config.out).report, note });
  }
  return result.failed + result.kept > 0 ? 1 : 0;
}

function runHelp(): string {
  return `Runs a sweep: one cell for the dense model, and one for each method, sparsity and seed. Each cell runs in its own process.
Repeat the command to resume: finished cells are skipped, failed cells are retried.

Usage: deno task bench run [--preset NAME | --config FILE] [FLAGS]

Flags:
${
    columns([
      ["--preset NAME", "a bundled configuration, see `bench ls presets`"],
      [
        "--config FILE",
        "YAML file whose keys are these flags in camelCase; paths in it are relative to its folder; flags override it",
      ],
      ...flagRows(KEYS),
      ...MANNER_ROWS,
    ])
  }

Lists are separated by commas. Options of a method follow a colon:
  --methods random,flap:structure=UL-UM,biasCompensation=true
Without --preset or --config, throughput is measured too; --no-throughput turns it off.
--out defaults to results/NAME.`;
}

/** `bench run`. */
export const run: Command = {
  usage: "[FLAGS]",
  summary: "run or resume a sweep and write its report",
  help: runHelp,
  flags: flagOptions({ string: ["preset", "config", ...RUN_FLAGS], boolean: RUN_SWITCHES }),
  run: runSources,
};
