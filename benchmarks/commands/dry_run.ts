/** `bench run --dry-run`: what a run would do and take.
 *
 * @module
 */
import type { RunConfig } from "../../core/schema/schema.ts";
import { counted } from "../../core/util/words.ts";
import { type CellCost, processBytes } from "../cells/cell_cost.ts";
import { probeEngine } from "../configuration/engine_probe.ts";
import { formatSeconds } from "../sweep/progress.ts";
import { estimateRun, type RunEstimate } from "../sweep/run_estimate.ts";
import type { RunManner } from "./run_flags.ts";

/** Where the cells would run. */
interface Place {
  /** For the heading. */
  name: string;
  /** What one cell may take. */
  memoryBytes: number;
  /** What a cell takes there. */
  taken(cost: CellCost): number;
  /** Rate of matrix products, measured here. */
  flopsPerS: number;
}

/** Bytes in words, in powers of ten. */
export const bytesWords = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(0)} MB` : `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
const millions = (count: number) => `${(count / 1e6).toFixed(count < 1e9 ? 1 : 0)} M`;

async function placeOf({ run, cells }: RunEstimate, { slurm }: RunManner): Promise<Place> {
  const { engine, config: { arithmetic, jobs } } = run;
  // The device of a cluster's node is not known here.
  const options = slurm ? { arithmetic } : { arithmetic, device: run.device };
  const { memory, flopsPerS = Infinity, device } = await probeEngine(engine, options, true);
  const isHost = !device.startsWith("cuda");
  const left = cells.filter(({ isFinished }) => !isFinished).length;
  const sharing = isHost && !slurm ? Math.max(1, Math.min(jobs, left)) : 1;
  const memoryBytes = memory.totalBytes / sharing;
  const shared = sharing > 1 ? `, ${bytesWords(memoryBytes)} for each of ${sharing} cells at once` : "";
  return {
    name: `${engine} on ${device}: ${bytesWords(memory.totalBytes)} of ${memory.place}${shared}`,
    memoryBytes,
    taken: (cost) => isHost ? processBytes(cost, engine) : cost.deviceBytes,
    flopsPerS,
  };
}

/** Rows in columns, the first one flush left. */
function table(rows: readonly string[][]): string {
  const widths = (rows[0] ?? []).map((_, c) => Math.max(...rows.map((row) => (row[c] ?? "").length)));
  return rows.map((row) =>
    row.map((text, c) => c === 0 ? text.padEnd(widths[c] ?? 0) : text.padStart(widths[c] ?? 0)).join("  ").trimEnd()
  ).join("\n");
}

/** Cells that work at once: each Slurm task has its own processor, and cells of one machine without GPUs share one. */
function atOnce({ run: { config: { jobs }, gpus = [] }, cells }: RunEstimate, { slurm }: RunManner): [number, string] {
  if (slurm) {
    const most = Math.min(slurm.maxParallel ?? cells.length, cells.length);
    return [most, `slurm, ${most} at once`];
  }
  const words = jobs > 1 ? `local, ${jobs} at once` : "local, one at a time";
  return [gpus.length > 0 ? Math.min(jobs, gpus.length) : 1, words];
}

function estimateText(estimate: RunEstimate, place: Place, manner: RunManner): string {
  const { run, cells, data } = estimate;
  const seconds = ({ flops }: CellCost) => flops / place.flopsPerS;
  const rows = cells.map(({ label, isFinished, cost }) => [
    label,
    millions(cost.parameters),
    bytesWords(place.taken(cost)),
    place.taken(cost) <= place.memoryBytes ? "yes" : "NO",
    isFinished ? "finished" : formatSeconds(seconds(cost)),
  ]);
  const left = cells.filter(({ isFinished }) => !isFinished).map(({ cost }) => seconds(cost));
  const [parallel, executor] = atOnce(estimate, manner);
  const total = Math.max(...left, left.reduce((sum, one) => sum + one, 0) / parallel, 0);
  const shapeOnly = run.fingerprint.weights === "" ? ", shape only" : "";
  return [
    `Dry run, nothing is started: ${counted(cells.length, "cell")} into ${run.config.out}, ` +
    `${cells.length - left.length} finished earlier`,
    `model       ${run.config.model}: ${millions(cells[0]?.cost.parameters ?? 0)} parameters${shapeOnly}`,
    `place       ${place.name}`,
    `executor    ${executor}`,
    ...data.map(({ use, amount }, i) => `${i === 0 ? "data" : "    "}        ${use}: ${amount}`),
    "",
    table([["cell", "parameters", "memory", "fits", "time"], ...rows]),
    "",
    `Remaining: at least ${formatSeconds(total)}. Time is arithmetic alone, at the rate of matrix products measured ` +
    `here, ${(place.flopsPerS / 1e9).toFixed(0)} GFLOP/s.`,
    "Memory is weights, activations and shared statistics. Statistics of a method's own are not counted.",
  ].join("\n");
}

/** Shows what `config` would do. With Slurm, standard output gets the script and
 * standard error the estimate.
 * @throws {UsageError} as the run itself. */
export async function dryRun(config: RunConfig, manner: RunManner): Promise<void> {
  const estimate = await estimateRun(config, console.error, { elsewhere: manner.slurm !== undefined });
  const text = estimateText(estimate, await placeOf(estimate, manner), manner);
  if (manner.slurm === undefined) {
    console.log(text);
    return;
  }
  console.error(text);
  const { slurmScript } = await import("../sweep/slurm_executor.ts");
  const left = estimate.cells.filter(({ isFinished }) => !isFinished).map(({ named }) => named);
  if (left.length > 0) console.log(slurmScript(left, { run: estimate.run, timeoutS: manner.timeoutS }, manner.slurm));
}
