/** `deno task bench:load [--engine tensorflow] [--dir FOLDER]`: memory that loading a model takes, on a checkpoint of
 * TinyLlama's shape (1.1 B parameters) in bf16, made on the spot in two files and removed afterwards.
 *
 * The model is loaded in a process of its own, by the code that loads every cell's model. Printed is the growth of the
 * resident set to its largest value during the load as a multiple of the weights as held (f32).
 *
 * Exit codes: 0 at most the limit, 1 above it, 2 wrong use.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { hostMemory } from "../core/device_memory.ts";
import { startEngine } from "../core/engine.ts";
import { createRng } from "../core/rng.ts";
import { writeSafetensors } from "../core/safetensors.ts";
import { ENGINE_NAMES, type EngineName } from "../core/schema.ts";
import { type DecoderConfig, expectedTensors } from "../models/config.ts";
import { totalParameters } from "../models/count.ts";
import { toHfConfig } from "../models/hf_config.ts";
import { uploadModel } from "../models/decoder.ts";
import { openFolderModel } from "../models/load.ts";

/** Largest growth as a multiple of the weights as held. */
const LIMIT = 1.15;
const BYTES_F32 = 4;
const BYTES_BF16 = 2;

/** https://huggingface.co/TinyLlama/TinyLlama_v1.1: `config.json`. */
const TINYLLAMA: DecoderConfig = {
  vocabSize: 32000,
  width: 2048,
  headSize: 64,
  layers: Array.from({ length: 22 }, () => ({ kvGroups: 4, queryHeadsPerGroup: 8, ffnChannels: 5632 })),
  tiedHead: false,
  biases: [],
  ropeBase: 10000,
  normEpsilon: 1e-5,
  maxPositions: 2048,
  bosTokenId: 1,
  eosTokenId: 2,
};

/** Writes a checkpoint of random weights in two files. */
function writeCheckpoint(folder: string, config: DecoderConfig): void {
  const entries = [...expectedTensors(config)];
  const sizeOf = (shape: number[]) => shape.reduce((product, size) => product * size, 1);
  const rng = createRng(0, "weights");
  const pattern = Float32Array.from({ length: 65_521 }, () => (rng.uniform() - 0.5) / 16);
  const weightMap: Record<string, string> = {};
  const half = Math.ceil(entries.length / 2);
  [entries.slice(0, half), entries.slice(half)].forEach((shard, i) => {
    const file = `model-0000${i + 1}-of-00002.safetensors`;
    for (const [name] of shard) weightMap[name] = file;
    const shapes = new Map(shard);
    const read = (name: string) => {
      const values = new Float32Array(sizeOf(shapes.get(name)!));
      for (let at = 0; at < values.length; at += pattern.length) {
        values.set(pattern.subarray(0, Math.min(pattern.length, values.length - at)), at);
      }
      return values;
    };
    writeSafetensors(join(folder, file), { shapes, read, dtype: "BF16" });
  });
  Deno.writeTextFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: weightMap }));
  Deno.writeTextFileSync(join(folder, "config.json"), JSON.stringify(toHfConfig(config)));
}

/** Memory of a load. */
interface Load {
  beforeBytes: number;
  peakBytes: number;
  afterBytes: number;
  seconds: number;
  device: string;
}

async function loadHere(folder: string, engine: EngineName): Promise<Load> {
  const { device } = await startEngine(engine);
  const beforeBytes = hostMemory.usedBytes();
  const start = performance.now();
  const source = openFolderModel(folder);
  await uploadModel(source);
  source.close();
  const seconds = (performance.now() - start) / 1000;
  return { beforeBytes, peakBytes: hostMemory.peak().bytes, afterBytes: hostMemory.usedBytes(), seconds, device };
}

async function loadApart(folder: string, engine: EngineName): Promise<Load> {
  const { code, stdout } = await new Deno.Command("deno", {
    args: [
      ...[
        "run",
        "--quiet",
        "--no-prompt",
        "--cached-only",
        "--allow-read",
        "--allow-env",
        "--allow-sys",
        "--allow-ffi",
      ],
      ...[import.meta.filename!, "--engine", engine, "--load", folder],
    ],
    stderr: "inherit",
  }).output();
  if (code !== 0) throw new Error(`The process that loads ended with exit code ${code}`);
  return JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").pop()!);
}

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;

async function main(): Promise<number> {
  const flags = parseArgs(Deno.args, { string: ["engine", "load", "dir"], default: { engine: "tensorflow" } });
  const engine = ENGINE_NAMES.find((name) => name === flags.engine);
  if (!engine) {
    console.error(`--engine must be one of ${ENGINE_NAMES.join(", ")}: current "${flags.engine}"`);
    return 2;
  }
  if (flags.load) {
    console.log(JSON.stringify(await loadHere(flags.load, engine)));
    return 0;
  }
  const folder = Deno.makeTempDirSync(flags.dir === undefined ? {} : { dir: flags.dir });
  try {
    const parameters = totalParameters(TINYLLAMA);
    const held = BYTES_F32 * parameters;
    writeCheckpoint(folder, TINYLLAMA);
    console.log(
      `${(parameters / 1e9).toFixed(2)} B parameters: ${gigabytes(BYTES_BF16 * parameters)} as bf16 in two files, ` +
        `${gigabytes(held)} held as f32`,
    );
    const { beforeBytes, peakBytes, afterBytes, seconds, device } = await loadApart(folder, engine);
    const ratio = (peakBytes - beforeBytes) / held;
    console.log(
      `${engine}, ${device}: loaded in ${seconds.toFixed(1)} s; resident before ${gigabytes(beforeBytes)}, ` +
        `at most ${gigabytes(peakBytes)}, after ${gigabytes(afterBytes)}`,
    );
    console.log(`The load took at most ${ratio.toFixed(3)} x the weights as held (limit ${LIMIT})`);
    return ratio <= LIMIT ? 0 : 1;
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

if (import.meta.main) Deno.exit(await main());
