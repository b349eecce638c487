/** The table of times of a run whose budget is a time: read from the run's folder, or measured in a process of its own
 * before anything else runs. As a program: `latency_table.ts JOB`, JSON; prints the table.
 *
 * @module
 */
import os from "node:os";
import { join } from "node:path";
import { NVIDIA_SMI } from "../../core/engine/cuda.ts";
import { currentEngine } from "../../core/engine/engine.ts";
import { EngineError, FileFormatError, UsageError } from "../../core/util/errors.ts";
import { type EngineName, type LatencyTable, latencyTableSchema } from "../../core/schema/schema.ts";
import { denoRun } from "../../core/util/deno_run.ts";
import { ifThere } from "../../core/util/paths.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import { measureLatency } from "../pipeline/latency.ts";
import { load } from "../pipeline/load.ts";
import { lockFolder, runPaths, toJson } from "../records/store.ts";
import type { ThroughputChoice } from "../timing/throughput.ts";
import type { ProbedEngine } from "./engine_probe.ts";

/** What a table is measured of. */
interface LatencyJob extends Pick<LatencyTable, "budget" | "weights" | "form" | "arithmetic"> {
  model: string;
  engine: EngineName;
  device?: string;
  choice: ThroughputChoice;
}

/** What must be equal for a table to hold, by name. */
function conditions(
  { budget, weights, form, arithmetic, machine, tokens, batch }: Omit<LatencyTable, "dense" | "points">,
): Record<string, string | number> {
  return { budget, weights, form, arithmetic, ...machine, tokens, batch };
}

/** The head of a table that would be measured here. */
function headOf(
  { budget, weights, form, arithmetic, choice }: LatencyJob,
  { name: engine, library, device }: Pick<ProbedEngine, "name" | "library" | "device">,
) {
  const cpu = os.cpus()[0]?.model.trim() || "unknown";
  return {
    ...{ budget, weights, form, arithmetic, batch: choice.batch },
    machine: { engine, library, device, cpu },
    tokens: budget === "decode-ms" ? choice.decodeTokens : choice.prefillTokens,
  };
}

/** Path of the table of `budget` in the run's folder. */
export const latencyPath = (out: string, budget: LatencyTable["budget"]): string =>
  join(runPaths(out).latency, `${budget}.json`);

/** The table of the run in `out`; undefined if it has none.
 * @throws {FileFormatError} when it is damaged. */
export function readLatency(out: string, budget: LatencyTable["budget"]): LatencyTable | undefined {
  const path = latencyPath(out, budget);
  const text = ifThere(() => Deno.readTextFileSync(path), undefined);
  if (text === undefined) return undefined;
  try {
    return latencyTableSchema.parse(JSON.parse(text));
  } catch {
    throw new FileFormatError(path, "is no table of times: remove it, and repeat the run in another --out");
  }
}

/** Refuses a table that was measured elsewhere: times of two machines are never mixed.
 * @throws {UsageError} that names what differs. */
export function checkConditions(out: string, table: LatencyTable, here: Parameters<typeof conditions>[0]): void {
  const now = conditions(here);
  const differing = Object.entries(conditions(table)).filter(([name, value]) => value !== now[name])
    .map(([name, value]) => `${name} ${value}, now ${now[name]}`);
  if (differing.length === 0) return;
  throw new UsageError(
    `The times of "${latencyPath(out, table.budget)}" were measured elsewhere (${differing.join("; ")}): ` +
      "continue the run there, or choose another --out",
  );
}

/** The table in the run's folder, or, unless nothing is to run (`planned`), a new one, which is kept there.
 * @throws {UsageError} when the table there was measured under other conditions, or another run uses the folder.
 * @throws {EngineError} when measuring fails. */
export async function latencyTable(
  out: string,
  job: LatencyJob,
  { engine, planned, note }: { engine: ProbedEngine; planned: boolean; note: (message: string) => void },
): Promise<LatencyTable | undefined> {
  const known = readLatency(out, job.budget);
  if (known) {
    checkConditions(out, known, { ...known, ...headOf(job, engine) });
    return known;
  }
  if (planned) {
    note(
      `There is no table of times yet: the run measures it before its first cell. Until then, sizes are those of ` +
        `${job.budget === "decode-ms" ? "decoding" : "prefill"} times taken as proportional to parameters`,
    );
    return undefined;
  }
  using _lock = lockFolder(out);
  note("Measuring the times of layers before the first cell: leave the machine idle");
  const table = await measureInProcess(job, engine.gpus?.[0]);
  Deno.mkdirSync(runPaths(out).latency, { recursive: true });
  writeAtomically(latencyPath(out, job.budget), toJson(table));
  return table;
}

/** Runs this file as a program with all threads. */
async function measureInProcess(job: LatencyJob, gpu: string | undefined): Promise<LatencyTable> {
  const args = denoRun({
    script: join(import.meta.dirname!, "latency_table.ts"),
    args: [JSON.stringify(job)],
    ffi: job.engine === "tensorflow",
    ...gpu !== undefined && { program: NVIDIA_SMI },
  });
  const { stdout, stderr, success } = await new Deno.Command("deno", {
    args,
    env: {
      TF_NUM_INTRAOP_THREADS: String(navigator.hardwareConcurrency),
      ...gpu !== undefined && { CUDA_VISIBLE_DEVICES: gpu },
    },
    stdout: "piped",
    stderr: "piped",
  }).output();
  const decoder = new TextDecoder();
  if (!success) {
    throw new EngineError(`Cannot measure the times of layers: ${decoder.decode(stderr).trim().slice(-1000)}`);
  }
  return latencyTableSchema.parse(JSON.parse(decoder.decode(stdout).trim().split("\n").at(-1)!));
}

if (import.meta.main) {
  const [text = "{}"] = Deno.args;
  const job: LatencyJob = JSON.parse(text);
  const { model, engine, device, arithmetic, form, choice, budget } = job;
  const loaded = await load(model, { engine, device, arithmetic, weights: form });
  const { name, library, device: on } = currentEngine();
  const measured = await measureLatency(loaded, { budget, choice });
  const head = headOf(job, { name, library, device: on });
  const command = `deno run benchmarks/configuration/latency_table.ts '${text}'`;
  console.log(JSON.stringify({ ...head, ...measured, command } satisfies LatencyTable));
  Deno.exit(0);
}
