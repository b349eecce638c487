/** `bench run --dry-run`: the data, cells, memory and time of a run.
 *
 * @module
 */
import { cellLabels, type NamedCell } from "../../core/schema/cell_names.ts";
import { type Cell, ofTask, type RunConfig } from "../../core/schema/schema.ts";
import { counted } from "../../core/util/words.ts";
import type { Example } from "../../datasets/define.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import { anyTask, getCorpus } from "../../datasets/mod.ts";
import { getMethod } from "../../methods/mod.ts";
import { type CellCost, cellCost, type EvaluationTokens, processBytes } from "../cells/cell_cost.ts";
import { probeEngine } from "../configuration/engine_probe.ts";
import { calibrationUse, type ReadyConfig, trainingUse } from "../configuration/expand.ts";
import { type PreparedRun, prepareRun, wantedOf } from "../configuration/prepare.ts";
import { isMeasured } from "../records/measured.ts";
import { formatSeconds } from "../sweep/progress.ts";
import type { RunManner } from "./run_flags.ts";

/** Characters of English text in a token, about: a model's shape comes without a tokenizer. */
const CHARACTERS_PER_TOKEN = 4;

/** A data set of a run and how much of it is read, in words. */
type ReadData = { use: string; amount: string };

/** What a run will read and take. */
type RunEstimate = Awaited<ReturnType<typeof estimateRun>>;

/** What `config` will read and take, after every check that a run makes before its first cell; a model's shape is
 * enough. Nothing is started or written.
 * @throws {UsageError} as `runSweep`. */
export async function estimateRun(
  config: RunConfig,
  note: (message: string) => void,
  { elsewhere }: { elsewhere: boolean },
): Promise<{
  run: PreparedRun;
  data: ReadData[];
  cells: { named: NamedCell; label: string; isFinished: boolean; cost: CellCost }[];
}> {
  const run = await prepareRun(config, note, { elsewhere, planned: true });
  const { tokens, data } = await evaluationOf(run.config);
  const { config: { out, layerwise }, model, resource } = run;
  const labels = cellLabels(run.cells);
  const cells = run.cells.map((named) => ({
    named,
    label: labels.get(named.id) ?? named.id,
    isFinished: run.fingerprint.weights !== "" && isMeasured(out, named, wantedOf(run)),
    cost: cellCost(named.cell, model, { method: methodOf(named.cell), tokens, layerwise, resource }),
  }));
  return { run, data: [...learnedData(run), ...data], cells };
}

/** What prunes in a cell; null for the dense model and for a foreign checkpoint. */
const methodOf = ({ method, checkpoint }: Cell) => method === null || checkpoint ? null : getMethod(method.id);

const about = (tokens: number) => `about ${Math.round(tokens).toLocaleString("en")} tokens`;

/** Data that is calibrated and trained on, if any cell reads it. */
function learnedData({ fingerprint, cells, config: { calibration } }: PreparedRun): ReadData[] {
  const data: ReadData[] = [];
  const use = calibrationUse({ calibration });
  const { corpus: ownCorpus, sequences, tokens } = calibration;
  if (use in fingerprint.data) data.push({ use, amount: `${sequences} windows of ${tokens} tokens` });
  const training = cells.find(({ cell }) => cell.training)?.cell.training;
  if (training) {
    const { steps, batch, tokens, corpus = ownCorpus } = training;
    data.push({ use: trainingUse(corpus), amount: `${steps} steps of ${batch} × ${tokens} tokens` });
  }
  return data;
}

/** Characters of an example that become inputs: equal contexts are read once, as in a packed row. */
function charactersOf({ prefix = "", choices }: Example): number {
  const contexts = new Set(choices.map(({ context }) => prefix + context));
  return [...contexts, ...choices.map(({ continuation }) => continuation)].join("").length;
}

/** What the measurements read, counted in characters. */
async function evaluationOf(
  { perplexity, tasks, limit, numFewshot, data: folder }: ReadyConfig,
): Promise<{ tokens: EvaluationTokens; data: ReadData[] }> {
  const read: EvaluationTokens = { windows: 0, tasks: 0 };
  const data: ReadData[] = [];
  for (const { corpus, split, protocol, windowTokens, maxWindows = Infinity } of perplexity) {
    const source = getCorpus(corpus);
    const { texts } = await loadCorpus(source, { data: folder, split });
    const scored = protocol === "c" ? source.documents?.(texts).slice(0, maxWindows) ?? [] : texts;
    const all = scored.reduce((sum, text) => sum + text.length, 0) / CHARACTERS_PER_TOKEN;
    const windows = Math.min(maxWindows, source.maxWindows ?? Infinity);
    const tokens = protocol === "c" ? all : Math.min(all, windows * windowTokens);
    read.windows += tokens;
    data.push({ use: `perplexity ${corpus}, protocol ${protocol}`, amount: about(tokens) });
  }
  for (const id of tasks) {
    const own = { limit: ofTask(limit, id), fewshot: ofTask(numFewshot, id) };
    const { examples } = await loadTask(anyTask(id), { data: folder, ...own });
    const tokens = examples.reduce((sum, example) => sum + charactersOf(example), 0) / CHARACTERS_PER_TOKEN;
    read.tasks += tokens;
    data.push({ use: `task ${id}`, amount: `${counted(examples.length, "example")}, ${about(tokens)}` });
  }
  return { tokens: read, data };
}

/** Bytes in words, in powers of ten. */
const bytesWords = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(0)} MB` : `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
const millions = (count: number) => `${(count / 1e6).toFixed(count < 1e9 ? 1 : 0)} M`;

/** Where the cells would run, what one may take there, and the rate of matrix products here. */
async function placeOf({ run, cells }: RunEstimate, { slurm }: RunManner) {
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
    taken: (cost: CellCost) => isHost ? processBytes(cost, engine) : cost.deviceBytes,
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

function estimateText(estimate: RunEstimate, place: Awaited<ReturnType<typeof placeOf>>, manner: RunManner): string {
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
    `Remaining: at least ${formatSeconds(total)}. Time counts only arithmetic, at the measured rate of matrix ` +
    `products, ${(place.flopsPerS / 1e9).toFixed(0)} GFLOP/s.`,
    "Memory counts weights, activations and shared statistics, but not a method's own statistics.",
  ].join("\n");
}

/** Shows what `config` would do. With Slurm, standard output gets the script and standard error the estimate.
 * @throws {UsageError} as the run itself. */
export async function dryRun(config: RunConfig, manner: RunManner): Promise<void> {
  const estimate = await estimateRun(config, console.error, { elsewhere: manner.slurm !== undefined });
  const text = estimateText(estimate, await placeOf(estimate, manner), manner);
  if (manner.slurm === undefined) {
    console.log(text);
    return;
  }
  console.error(text);
  const { arrayOf } = await import("../sweep/slurm_executor.ts");
  const left = estimate.cells.filter(({ isFinished }) => !isFinished).map(({ named }) => named);
  const { run } = estimate;
  if (left.length > 0) console.log(arrayOf(left, { run, timeoutS: manner.timeoutS }, manner.slurm).script);
}
