/** The table of times of a run whose budget is a time: read from the run's folder, or measured in a process of its own
 * before anything else runs. As a program: `latency_table.ts JOB`, JSON; prints what it measured.
 *
 * @module
 */
import { join } from "node:path";
import { NVIDIA_SMI } from "../../core/engine/cuda.ts";
import type { NamedCell } from "../../core/schema/cell_names.ts";
import { EngineError, FileFormatError, UsageError } from "../../core/util/errors.ts";
import { BUSY_CORES, type EngineName, type LatencyTable, latencyTableSchema } from "../../core/schema/schema.ts";
import { denoOutput } from "../../core/util/deno_run.ts";
import { ifThere } from "../../core/util/paths.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import { measureLatency } from "../pipeline/latency.ts";
import { load } from "../pipeline/load.ts";
import { isMeasured } from "../records/measured.ts";
import { lockFolder, runPaths, toJson } from "../records/store.ts";
import type { ThroughputChoice } from "../timing/throughput.ts";

/** What a table is measured of, and on what. */
interface LatencyJob {
  of: LatencyTable["of"] & { engine: EngineName };
  model: string;
  device?: string;
  /** UUID of the GPU that is used, on CUDA. */
  gpu?: string;
  choice: ThroughputChoice;
}

/** Path of the table of `budget` in the run's folder. */
export const latencyPath = (out: string, budget: LatencyTable["of"]["budget"]): string =>
  join(runPaths(out).latency, `${budget}.json`);

/** The table of the run in `out`; undefined if it has none.
 * @throws {FileFormatError} when it is damaged. */
export function readLatency(out: string, budget: LatencyTable["of"]["budget"]): LatencyTable | undefined {
  const path = latencyPath(out, budget);
  const text = ifThere(() => Deno.readTextFileSync(path), undefined);
  if (text === undefined) return undefined;
  try {
    return latencyTableSchema.parse(JSON.parse(text));
  } catch {
    throw new FileFormatError(path, "is not a table of times: remove it, and repeat the run in another --out");
  }
}

/** Refuses a table that was measured elsewhere, unless each of `cells` has its model and its throughput: times of two
 * machines are never mixed.
 * @throws {UsageError} that names what differs. */
export function checkConditions(
  out: string,
  { of }: Pick<LatencyTable, "of">,
  { here, cells }: { here: LatencyTable["of"]; cells: readonly NamedCell[] },
): void {
  const differing = (Object.keys(of) as (keyof typeof of)[]).filter((name) => of[name] !== here[name])
    .map((name) => `${name} ${of[name]}, now ${here[name]}`);
  const isTimed = ({ id, cell }: NamedCell) =>
    isMeasured(out, { id, cell: { ...cell, perplexity: [], tasks: [] } }, { hashes: {} });
  if (differing.length === 0 || cells.every(isTimed)) return;
  throw new UsageError(
    `The times of "${latencyPath(out, of.budget)}" were measured elsewhere (${differing.join("; ")}): ` +
      "resume the run there, or choose another --out",
  );
}

/** The table in the run's folder, or, unless nothing is to run (`planned`), a new one, which is kept there.
 * @throws {UsageError} when another run uses the folder.
 * @throws {EngineError} when measuring fails. */
export async function latencyTable(
  out: string,
  job: LatencyJob,
  { planned, note }: { planned: boolean; note: (message: string) => void },
): Promise<LatencyTable | undefined> {
  const { budget } = job.of;
  const known = readLatency(out, budget);
  if (known) return known;
  if (planned) {
    note("There is no table of times yet: the run measures it first. Sizes below are those of a budget in parameters");
    return undefined;
  }
  using _lock = lockFolder(out);
  note("Measuring the times of layers before the first cell: leave the machine idle");
  const table = await measureInProcess(job);
  const path = latencyPath(out, budget);
  writeAtomically(path, toJson(table));
  const { otherCores } = table;
  if (otherCores !== null && otherCores >= BUSY_CORES) {
    note(`Other programs kept ${otherCores} cores busy meanwhile. To measure again, remove "${path}" and start anew`);
  }
  return table;
}

/** Runs this file as a program with all threads. */
async function measureInProcess(job: LatencyJob): Promise<LatencyTable> {
  const { of: { engine }, gpu } = job;
  const args = [JSON.stringify(job)];
  const { line, errors, success } = await denoOutput({
    ...{ script: import.meta.filename!, args, ffi: engine === "tensorflow" },
    ...gpu !== undefined && { program: NVIDIA_SMI },
  }, {
    TF_NUM_INTRAOP_THREADS: String(navigator.hardwareConcurrency),
    ...gpu !== undefined && { CUDA_VISIBLE_DEVICES: gpu },
  });
  if (!success) throw new EngineError(`Cannot measure the times of layers: ${errors}`);
  const command = `deno run benchmarks/configuration/latency_table.ts '${args}'`;
  return latencyTableSchema.parse({ of: job.of, ...JSON.parse(line), command });
}

if (import.meta.main) {
  const { of, model, device, choice }: LatencyJob = JSON.parse(Deno.args[0] ?? "{}");
  const { engine, arithmetic, form, budget } = of;
  const loaded = await load(model, { engine, device, arithmetic, weights: form });
  console.log(JSON.stringify(await measureLatency(loaded, budget, choice)));
  Deno.exit(0);
}
