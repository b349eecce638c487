/** `bench run --dry-run`: what a run would do and take.
 *
 * @module
 */
import type { RunConfig } from "../../core/schema/schema.ts";
import { counted } from "../../core/util/words.ts";
import { type CellPlan, leastSeconds, processBytes } from "../cells/cell_plan.ts";
import { type DeviceSheet, deviceSheet } from "../configuration/devices.ts";
import { probeEngine } from "../configuration/engine_probe.ts";
import { formatSeconds } from "../sweep/progress.ts";
import { planRun, type RunPlan } from "../sweep/plan_run.ts";
import type { RunManner } from "./run_flags.ts";

/** Where a plan's cells would run. */
interface Place {
  /** For the heading. */
  name: string;
  /** What one cell may take. */
  memoryBytes: number;
  /** Bytes that a cell takes there. */
  taken(plan: CellPlan): number;
  flopsPerS: number;
  /** Of the memory; unknown when absent. */
  bytesPerS?: number;
  /** What the seconds are. */
  secondsAre: string;
}

/** Bytes as people say them, in powers of ten. */
export const bytesWords = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(0)} MB` : `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
const millions = (count: number) => `${(count / 1e6).toFixed(count < 1e9 ? 1 : 0)} M`;
const teraflops = (flops: number) => (flops / 1e12).toFixed(flops < 1e12 ? 4 : flops < 1e14 ? 1 : 0);

function devicePlace(sheet: DeviceSheet, arithmetic: RunConfig["arithmetic"]): Place {
  const isFast = arithmetic === "fast" && sheet.tf32FlopsPerS !== undefined;
  return {
    name: `${sheet.name}: ${bytesWords(sheet.memoryBytes)}, ${
      (sheet.bytesPerS / 1e12).toFixed(2)
    } TB/s (${sheet.source})`,
    memoryBytes: sheet.memoryBytes,
    taken: ({ deviceBytes }) => deviceBytes,
    flopsPerS: isFast ? sheet.tf32FlopsPerS ?? sheet.f32FlopsPerS : sheet.f32FlopsPerS,
    bytesPerS: sheet.bytesPerS,
    secondsAre: `the least that its peak rate in ${isFast ? "TF32" : "f32"} and its memory allow`,
  };
}

async function thisPlace({ run, cells }: RunPlan, { slurm }: RunManner): Promise<Place> {
  const { engine, config: { arithmetic, jobs } } = run;
  // Which device a node of a cluster has is known there.
  const options = slurm ? { arithmetic } : { arithmetic, device: run.device };
  const { memory, flopsPerS = Infinity, device } = await probeEngine(engine, options, true);
  const isHost = !device.startsWith("cuda");
  const sharing = isHost && !slurm
    ? Math.max(1, Math.min(jobs, cells.filter(({ isFinished }) => !isFinished).length))
    : 1;
  const memoryBytes = memory.totalBytes / sharing;
  return {
    name: `${engine} on ${device}: ${bytesWords(memory.totalBytes)} of ${memory.place}, ${
      sharing > 1 ? `${bytesWords(memoryBytes)} for each of ${sharing} cells at once, ` : ""
    }${(flopsPerS / 1e9).toFixed(0)} GFLOP/s in a product of matrices`,
    memoryBytes,
    taken: (plan) => isHost ? processBytes(plan, engine) : plan.deviceBytes,
    flopsPerS,
    secondsAre: "arithmetic at the rate of a product of matrices here; reading files and small operations come on top",
  };
}

/** Rows in columns, the first one flush left. */
function table(rows: readonly string[][]): string {
  const widths = (rows[0] ?? []).map((_, c) => Math.max(...rows.map((row) => (row[c] ?? "").length)));
  return rows.map((row) =>
    row.map((text, c) => c === 0 ? text.padEnd(widths[c] ?? 0) : text.padStart(widths[c] ?? 0)).join("  ").trimEnd()
  ).join("\n");
}

/** Cells that work at once, by executor. */
function atOnce({ run: { config: { jobs }, gpus = [] }, cells }: RunPlan, { slurm }: RunManner): [number, string] {
  if (slurm) {
    const most = Math.min(slurm.maxParallel ?? cells.length, cells.length);
    return [most, `slurm, ${most} at once`];
  }
  // Cells of one machine without GPUs share its processor.
  return [
    gpus.length > 0 ? Math.min(jobs, gpus.length) : 1,
    jobs > 1 ? `local, ${jobs} at once` : "local, one at a time",
  ];
}

/** The plan in words. */
export function planText(plan: RunPlan, place: Place, manner: RunManner): string {
  const { run, cells, data } = plan;
  const seconds = (one: CellPlan) => leastSeconds(one.phases, place);
  const flops = (one: CellPlan) => one.phases.reduce((sum, phase) => sum + phase.flops, 0);
  const rows = cells.map(({ label, isFinished, plan: one }) => [
    label,
    millions(one.parameters),
    bytesWords(one.weightBytes),
    bytesWords(one.activationBytes),
    bytesWords(one.statisticsBytes),
    bytesWords(place.taken(one)),
    place.taken(one) <= place.memoryBytes ? "yes" : "NO",
    teraflops(flops(one)),
    isFinished ? "finished" : formatSeconds(seconds(one)),
  ]);
  const head = ["cell", "parameters", "weights", "activations", "statistics", "memory", "fits", "TFLOP", "time"];
  const finished = cells.filter(({ isFinished }) => isFinished).length;
  const left = cells.filter(({ isFinished }) => !isFinished).map(({ plan }) => seconds(plan));
  const [parallel, executor] = atOnce(plan, manner);
  const total = Math.max(...left, left.reduce((sum, one) => sum + one, 0) / parallel, 0);
  return [
    `Planned, nothing is started: ${
      counted(cells.length, "cell")
    } into ${run.config.out}, ${finished} finished already`,
    `model       ${run.config.model}: ${millions(cells[0]?.plan.parameters ?? 0)} parameters` +
    (run.fingerprint.weights === "" ? ", known by its shape alone" : ""),
    `place       ${place.name}`,
    `executor    ${executor}`,
    ...data.map(({ use, amount }, i) => `${i === 0 ? "data" : "    "}        ${use}: ${amount}`),
    "",
    table([head, ...rows]),
    "",
    `All that is left: about ${formatSeconds(total)}. Time is ${place.secondsAre}.`,
    "Memory: weights of all models that a cell holds at once, 1.15 × activations, and shared statistics; what a method " +
    "keeps of its own is not counted, and pruned shapes are the uniform ones of the budget.",
  ].join("\n");
}

/** Shows what `config` would do, on the device that `on` names or here; with Slurm the script on standard output and the
 * plan on standard error.
 * @throws {UsageError} as the run itself. */
export async function dryRun(config: RunConfig, manner: RunManner): Promise<void> {
  const note = (message: string) => console.error(message);
  const elsewhere = manner.slurm !== undefined || manner.on !== undefined;
  const sheet = manner.on === undefined ? undefined : deviceSheet(manner.on);
  const plan = await planRun(config, note, { elsewhere });
  const place = sheet ? devicePlace(sheet, config.arithmetic) : await thisPlace(plan, manner);
  const text = planText(plan, place, manner);
  if (manner.slurm === undefined) {
    console.log(text);
    return;
  }
  console.error(text);
  const { slurmScript } = await import("../sweep/slurm_executor.ts");
  const left = plan.cells.filter(({ isFinished }) => !isFinished).map(({ named }) => named);
  if (left.length > 0) console.log(slurmScript(left, { run: plan.run, timeoutS: manner.timeoutS }, manner.slurm));
}
