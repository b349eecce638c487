/** Slurm's commands and the script of a job array.
 *
 * @module
 */
import { join } from "node:path";
import { NVIDIA_SMI } from "../../core/engine/cuda.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { denoRun } from "../../core/util/deno_run.ts";
import type { Failure } from "../../core/schema/failure.ts";

/** Resources that a run requests from the cluster. */
export interface SlurmOptions {
  partition?: string;
  /** Generic resources of a cell, such as `gpu:1`. */
  gres?: string;
  /** Time limit of a cell in Slurm's notation, such as `02:00:00`. */
  time?: string;
  maxParallel?: number;
  /** Further options of `sbatch`, such as `--mem=16G`. */
  sbatch: readonly string[];
}

/** One option of `sbatch`; anything else, such as a line end, would become a command of the script. */
const OPTION = /^--[a-z][a-z0-9-]*(=[^\s"'`$\\]+)?$/;

/** Checks what goes into `#SBATCH` lines.
 * @throws {UsageError} that names the option. */
export function checkSlurmOptions({ partition, gres, time, sbatch }: SlurmOptions): void {
  const words = Object.entries({ partition, gres, time }).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}=${value}`]
  );
  for (const word of [...words, ...sbatch]) {
    if (!OPTION.test(word)) {
      throw new UsageError(
        `${JSON.stringify(word)} is not an option of sbatch: write NAME or NAME=VALUE without spaces`,
      );
    }
  }
}

/** Text as one word of a shell. */
const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The script of an array: task i runs the cell whose name is line i + 1 of `list`. Each process leaves its events in
 * `folder`, and its exit code if it fails. A task that Slurm starts again ends at once if its cell has a record. */
export function arrayScript(
  array: {
    name: string;
    /** Of digits; names the array in Slurm's queue. */
    comment: string;
    count: number;
    list: string;
    folder: string;
    jobs: string;
    logs: string;
    out: string;
  },
  options: SlurmOptions,
  { ffi, cuda = false, timeoutS }: { ffi: boolean; cuda?: boolean; timeoutS?: number },
): string {
  const { name, comment, count, list, folder, jobs, logs, out } = array;
  const { partition, gres, time, maxParallel, sbatch } = options;
  const lines = [
    `--job-name=${name.replace(/[^\w.-]/g, "_")}`,
    `--comment=${comment}`,
    `--array=0-${count - 1}${maxParallel === undefined ? "" : `%${maxParallel}`}`,
    "--requeue",
    "--open-mode=append",
    ...partition === undefined ? [] : [`--partition=${partition}`],
    ...gres === undefined ? [] : [`--gres=${gres}`],
    ...time === undefined ? [] : [`--time=${time}`],
    ...sbatch,
  ];
  const script = join(import.meta.dirname!, "../cells/run_cell.ts");
  const command = denoRun({ script, args: [], ffi, write: out, ...cuda && { program: NVIDIA_SMI } });
  const own = (ending: string) => `${quoted(folder)}/"\${SLURM_ARRAY_JOB_ID}_\${SLURM_ARRAY_TASK_ID}.${ending}"`;
  const limit = timeoutS === undefined ? "" : `timeout --kill-after=10 ${timeoutS} `;
  return `#!/bin/sh
${lines.map((line) => `#SBATCH ${line}`).join("\n")}
name=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" ${quoted(list)})
export NO_COLOR=1 TF_NUM_INTRAOP_THREADS="\${SLURM_CPUS_PER_TASK:-1}"
${limit}${[Deno.execPath(), ...command].map(quoted).join(" ")} ${quoted(jobs)}/"$name.json" \\
  >${own("events")} 2>${quoted(logs)}/"$name.log"
status=$?
[ $status -eq 0 ] || echo $status >${own("exit")}
exit $status
`;
}

/** Runs one of Slurm's commands.
 * @throws {UsageError} when it is not installed here. */
async function call(command: string, args: string[]): Promise<{ ok: boolean; stdout: string; stderr: string }> {
  try {
    const { success, stdout, stderr } = await new Deno.Command(command, { args, stdout: "piped", stderr: "piped" })
      .output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    return { ok: success, stdout: text(stdout), stderr: text(stderr) };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotCapable) {
      const message = `Cannot run "${command}" (${(error as Error).message}): ` +
        "--executor slurm needs Slurm's commands and `deno task bench:slurm`";
      throw new UsageError(message);
    }
    throw error;
  }
}

/** Submits a script; returns the job's id. Slurm writes its output to `output` (with its own `%` patterns).
 * @throws {UsageError} with Slurm's message when it refuses. */
export async function submit(script: string, output: string): Promise<string> {
  const { ok, stdout, stderr } = await call("sbatch", ["--parsable", `--output=${output}`, script]);
  if (!ok) throw new UsageError(`Slurm refused the job array: ${stderr}`);
  return at(stdout.split(";"), 0);
}

/** Job of the array with a comment; undefined if the queue has none, null if Slurm does not answer. */
export async function jobWithComment(comment: string): Promise<string | undefined | null> {
  const { ok, stdout } = await call("squeue", ["--noheader", "--format=%F %k"]);
  if (!ok) return null;
  return stdout.split("\n").map((line) => line.split(" ")).find(([, own]) => own === comment)?.[0];
}

/** State of every task of `jobs` in Slurm's queue, by `JOB_TASK`; null if Slurm does not answer. */
export async function queuedTasks(jobs: readonly string[]): Promise<Map<string, string> | null> {
  const states = new Map<string, string>();
  for (const job of jobs) {
    const { ok, stdout, stderr } = await call("squeue", ["--noheader", "--array", "--format=%i %T", `--jobs=${job}`]);
    // A job that ended some minutes ago is no longer known.
    if (!ok && !/Invalid job id/i.test(stderr)) return null;
    for (const line of stdout.split("\n")) {
      const [id = "", state] = line.split(" ");
      if (ok && state) states.set(id, state);
    }
  }
  return states;
}

/** Why Slurm ended a task; null if it did not, or no longer knows. */
export async function endedBySlurm(task: string): Promise<Failure | null> {
  const { stdout } = await call("scontrol", ["--oneliner", "show", "job", task]);
  const state = /\bJobState=(\w+)/.exec(stdout)?.[1];
  const failure = (kind: Failure["kind"], message: string): Failure => ({ kind, message, exitCode: null });
  switch (state) {
    case "TIMEOUT":
    case "DEADLINE":
      return failure("timeout", "Slurm stopped the cell at its time limit: give a longer --time");
    case "OUT_OF_MEMORY":
      return failure(
        "out-of-memory",
        "The cell used more memory than Slurm gave it: ask for more, such as --sbatch mem=64G",
      );
    case "CANCELLED":
      return failure("error", "The cell's job was cancelled: run it again with --retry error");
    case "NODE_FAIL":
    case "BOOT_FAIL":
      return failure("crash", `The cell's node failed (${state}): run it again with --retry crash`);
    default:
      return null;
  }
}
