/** Flags of `bench run` for how cells are executed, not for what is measured.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { FAILURE_KINDS, type FailureKind } from "../../core/schema/schema.ts";
import { parseRetry } from "../../core/schema/failure.ts";
import { checkSlurmOptions, type SlurmOptions } from "../sweep/slurm.ts";
import { countFlag } from "./command.ts";

/** Flags that take a value. */
export const RUN_FLAGS = ["timeout", "retry", "executor", "partition", "gres", "time", "max-parallel", "sbatch"];
/** Switches. */
export const RUN_SWITCHES = ["json", "dry-run"];

/** Their rows in help. */
export const MANNER_ROWS: readonly [left: string, right: string][] = [
  ["--timeout SECONDS", "time limit of a cell; a cell that exceeds it is stopped and recorded as failed"],
  ["--retry CLASSES", `failed cells to retry: ${["oom", ...FAILURE_KINDS].join(", ")}, none (default: all)`],
  ["--executor NAME", "local: processes on this machine; slurm: a job array (default: local)"],
  ["--partition P, --gres R, --time T", "with slurm: resources of a cell"],
  ["--max-parallel N", "with slurm: cells at once"],
  ["--sbatch OPTIONS", 'with slurm: further options of sbatch, such as "mem=64G exclusive"'],
  [
    "--dry-run",
    "show cells, data, memory and time (with slurm, also the script) and start nothing; needs only config.json",
  ],
  ["--json", "print progress as one JSON event per line"],
];

/** How the cells of a run are executed. */
export interface RunManner {
  json: boolean;
  timeoutS?: number;
  retry?: readonly FailureKind[];
  /** Present with `--executor slurm`. */
  slurm?: SlurmOptions;
  dryRun: boolean;
}

/** How the flags ask to execute cells.
 * @throws {UsageError} on a value that does not fit, and on flags of Slurm without it. */
export function runManner(flags: Record<string, unknown>): RunManner {
  const { timeout, retry, executor = "local", ...slurm } = flags as Record<string, string | undefined>;
  if (executor !== "local" && executor !== "slurm") {
    throw new UsageError(`--executor must be local or slurm: current ${JSON.stringify(executor)}`);
  }
  const stray = RUN_FLAGS.slice(3).find((name) => slurm[name] !== undefined);
  if (executor === "local" && stray) throw new UsageError(`--${stray} needs --executor slurm`);
  const timeoutS = Number(timeout);
  if (timeout !== undefined && !(timeoutS > 0 && Number.isFinite(timeoutS))) {
    throw new UsageError(`--timeout must be a number of seconds above 0: current ${JSON.stringify(timeout)}`);
  }
  return {
    json: flags.json === true,
    dryRun: flags["dry-run"] === true,
    ...timeout !== undefined && { timeoutS },
    ...retry !== undefined && { retry: parseRetry(retry) },
    ...executor === "slurm" && { slurm: slurmOptions(slurm) },
  };
}

function slurmOptions(flags: Record<string, string | undefined>): SlurmOptions {
  const { partition, gres, time, sbatch = "" } = flags;
  const options: SlurmOptions = {
    ...{ partition, gres, time, maxParallel: countFlag(flags, "max-parallel") },
    sbatch: sbatch.split(/\s+/).filter((word) => word !== "").map((word) => `--${word.replace(/^--/, "")}`),
  };
  checkSlurmOptions(options);
  return options;
}
