/** `deno task bench:load [--engine tensorflow] [--dir FOLDER]`: memory that loading and scoring a model takes, and how fast
 * it is, with weights in f32 and as they are stored; on a checkpoint of TinyLlama's shape (1.1 B parameters) in bf16, made
 * on the spot in two files and removed afterwards.
 *
 * Each form is loaded in a process of its own, by the code that loads every cell's model, and scores two windows of 512
 * tokens there. Printed is the growth of the resident set to its largest value: during the load as a multiple of the
 * weights in f32, and until the end as a multiple of what f32 takes. One more process holds both and times them in turns,
 * as `bench throughput` does. Engines that hold f32 alone are measured with that.
 *
 * Exit codes: 0 memory within the limits, 1 above one, 2 wrong use.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { measureThroughput } from "../../benchmarks/timing/throughput.ts";
import { denoRun } from "../../core/util/deno_run.ts";
import { hostMemory } from "../../core/engine/device_memory.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { ENGINE_NAMES, type EngineName, type ThroughputResult } from "../../core/schema/schema.ts";
import { median } from "../../core/util/stats.ts";
import { totalParameters } from "../../models/count.ts";
import { type DecoderModel, uploadModel } from "../../models/decoder.ts";
import { usualForm, type WeightForm } from "../../models/device.ts";
import { openFolderModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { llamaConfig, writeCheckpoint } from "../checks/random_checkpoint.ts";
import { runTool } from "../run_tool.ts";

/** Largest growth of a load as a multiple of the weights in f32. */
const LOAD_LIMIT = 1.15;
/** Largest growth of loading and scoring with stored weights as a multiple of that with f32. */
const STORED_LIMIT = 0.55;
const BYTES_F32 = 4;
const BYTES_BF16 = 2;
const WINDOW_TOKENS = 512;
const DECODE_TOKENS = 32;
const REPEATS = 5;

/** https://huggingface.co/TinyLlama/TinyLlama_v1.1: `config.json`. */
const TINYLLAMA = llamaConfig({
  width: 2048,
  headSize: 64,
  layers: 22,
  layer: { kvGroups: 4, queryHeadsPerGroup: 8, ffnChannels: 5632 },
  maxPositions: 2048,
});

/** Resident bytes of one form, and where it ran. */
interface Memory {
  beforeBytes: number;
  loadPeakBytes: number;
  peakBytes: number;
  seconds: number;
  device: string;
  /** The form that this file and engine take by themselves. */
  usual: WeightForm;
}

async function scoreWindows(model: DecoderModel): Promise<void> {
  const rng = createRng(1, "tokens");
  const scoring = scoringModel(model);
  for (let i = 0; i < 2; i++) {
    const tokens = Int32Array.from({ length: WINDOW_TOKENS }, () => rng.integer(model.config.vocabSize));
    const rows = Int32Array.from({ length: WINDOW_TOKENS - 1 }, (_, row) => row);
    await scoring.score({ tokens, batch: 1, length: WINDOW_TOKENS }, { rows, ids: tokens.slice(1) });
  }
}

async function load(folder: string, weights: WeightForm): Promise<DecoderModel> {
  const source = openFolderModel(folder);
  try {
    return await uploadModel(source, weights);
  } finally {
    source.close();
  }
}

async function measureMemory(folder: string, engineName: EngineName, weights: WeightForm): Promise<Memory> {
  const engine = await startEngine(engineName);
  const beforeBytes = hostMemory.usedBytes();
  const start = performance.now();
  const model = await load(folder, weights);
  const seconds = (performance.now() - start) / 1000;
  const loadPeakBytes = hostMemory.peak().bytes;
  await scoreWindows(model);
  const source = openFolderModel(folder);
  const usual = usualForm(source, engine);
  source.close();
  return { beforeBytes, loadPeakBytes, peakBytes: hostMemory.peak().bytes, seconds, device: engine.device, usual };
}

/** Times weights as stored in turns with f32. */
async function measureSpeed(folder: string, engineName: EngineName): Promise<ThroughputResult[]> {
  await startEngine(engineName);
  const dense = await load(folder, "f32");
  const choice = { prefillTokens: WINDOW_TOKENS, decodeTokens: DECODE_TOKENS, batch: 1, repeats: REPEATS };
  return await measureThroughput(await load(folder, "stored"), choice, { dense });
}

/** Does `work` on `folder` in a process of its own. */
async function apart<T>(folder: string, engine: EngineName, work: WeightForm | "speed"): Promise<T> {
  const script = import.meta.filename;
  if (script === undefined) throw new UsageError("bench:load runs from a file");
  const args = ["--engine", engine, "--load", folder, "--work", work];
  const { code, stdout } = await new Deno.Command("deno", {
    args: denoRun({ script, args, ffi: true }),
    stderr: "inherit",
  }).output();
  if (code !== 0) throw new Error(`The process that loads ended with exit code ${code}`);
  return JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").at(-1) ?? "");
}

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;

function memoryLine(form: WeightForm, { beforeBytes, loadPeakBytes, peakBytes, seconds }: Memory): string {
  return `${form}: loaded in ${seconds.toFixed(1)} s; resident before ${gigabytes(beforeBytes)}, at most ` +
    `${gigabytes(loadPeakBytes)} by the end of the load, ${gigabytes(peakBytes)} by the end of scoring`;
}

function speedLine({ name, samplesMs, denseSamplesMs = [] }: ThroughputResult, goal: number): string {
  const ratios = samplesMs.map((ms, i) => at(denseSamplesMs, i) / ms);
  const [low, high] = [Math.min(...ratios), Math.max(...ratios)];
  return `${name}: stored ${median(samplesMs).toFixed(0)} ms, f32 ${
    median(denseSamplesMs).toFixed(0)
  } ms (medians of ` +
    `${samplesMs.length} in turns); stored is ${median(ratios).toFixed(2)} x as fast, ${low.toFixed(2)} to ` +
    `${high.toFixed(2)} (goal ${goal})`;
}

/** Whether memory is within the limits. */
async function compare(folder: string, engine: EngineName): Promise<boolean> {
  const held = BYTES_F32 * totalParameters(TINYLLAMA);
  const plain = await apart<Memory>(folder, engine, "f32");
  const growth = ({ beforeBytes, peakBytes }: Memory) => peakBytes - beforeBytes;
  const loading = (plain.loadPeakBytes - plain.beforeBytes) / held;
  console.log(`${engine}, ${plain.device}`);
  console.log(memoryLine("f32", plain));
  console.log(`The load took at most ${loading.toFixed(3)} x the weights in f32 (limit ${LOAD_LIMIT})`);
  if (plain.usual === "f32") return loading <= LOAD_LIMIT;
  const stored = await apart<Memory>(folder, engine, "stored");
  const ratio = growth(stored) / growth(plain);
  console.log(memoryLine("stored", stored));
  console.log(`Loading and scoring as stored took ${ratio.toFixed(3)} x what f32 takes (limit ${STORED_LIMIT})`);
  const [prefill, decode] = await apart<ThroughputResult[]>(folder, engine, "speed");
  if (prefill) console.log(speedLine(prefill, 0.95));
  if (decode) console.log(speedLine(decode, 1.5));
  return loading <= LOAD_LIMIT && ratio <= STORED_LIMIT;
}

async function main(): Promise<number> {
  const flags = parseArgs(Deno.args, { string: ["engine", "load", "work", "dir"], default: { engine: "tensorflow" } });
  const engine = ENGINE_NAMES.find((name) => name === flags.engine);
  if (!engine) throw new UsageError(`--engine must be one of ${ENGINE_NAMES.join(", ")}: current "${flags.engine}"`);
  if (flags.load) {
    const { load: folder, work } = flags;
    const form = work === "stored" ? work : "f32";
    const result = work === "speed" ? measureSpeed(folder, engine) : measureMemory(folder, engine, form);
    console.log(JSON.stringify(await result));
    return 0;
  }
  const folder = Deno.makeTempDirSync(flags.dir === undefined ? {} : { dir: flags.dir });
  try {
    const parameters = totalParameters(TINYLLAMA);
    writeCheckpoint(folder, TINYLLAMA);
    console.log(
      `${(parameters / 1e9).toFixed(2)} B parameters: ${gigabytes(BYTES_BF16 * parameters)} as bf16 in two files, ` +
        `${gigabytes(BYTES_F32 * parameters)} in f32`,
    );
    return await compare(folder, engine) ? 0 : 1;
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

if (import.meta.main) await runTool(main);
