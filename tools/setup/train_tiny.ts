/** `deno task train:tiny`: tells the tiny world, trains the bundled model on it, and writes its card.
 *
 * Everything follows from the seeds below. Threads add numbers in no fixed order, so a second training ends at other
 * weights of the same quality; texts, questions and tokenizer come out the same to the byte.
 *
 * @module
 */
import { lookUp } from "../../core/util/indexing.ts";
import { parseArgs } from "@std/cli/parse-args";
import { fileURLToPath, pathToFileURL } from "node:url";
import { startEngine } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { writeSafetensors } from "../../core/formats/safetensors.ts";
import { loadTokenizer } from "../../core/formats/tokenizer.ts";
import { tellDocuments } from "../../datasets/tiny_world/stories.ts";
import { type DecoderConfig, type HostTensor } from "../../models/config.ts";
import { toHfConfig } from "../../models/hf_config.ts";
import { tokenizerConfigJson, tokenizerJson, trainBpe } from "./tiny/bpe.ts";
import { modelCard } from "./tiny/card.ts";
import { writeData } from "./tiny/data.ts";
import { trainingRows } from "./tiny/rows.ts";
import { scoreTiny } from "./tiny/score.ts";
import { trainFromScratch } from "./tiny/training.ts";
import { runTool } from "../run_tool.ts";

const HELP = `Tells the tiny world, trains the bundled model on it, and writes its card.

Usage: deno task train:tiny [options]

  --data-only     write the texts and questions (datasets/tiny_world/data) and stop
  --card-only     score the model that is there and write its card
  --steps N       training steps (default 3000: about 15 minutes on 2 cores)
  --out DIR       folder of the model (default models/tiny)`;

const SEED = 0;
const SPECIAL = ["<s>", "</s>"] as const;
/** Documents that the tokenizer is trained on. */
const TOKENIZER_DOCUMENTS = 20_000;
const LEARNING_RATE = 4e-3;
const WARMUP_STEPS = 100;
const WEIGHT_DECAY = 0.1;

/** The model: 1.08 M parameters, multi-head attention, the output projection tied to the embedding. */
function tinyConfig(vocabSize: number): DecoderConfig {
  return {
    vocabSize,
    width: 128,
    headSize: 16,
    layers: Array.from({ length: 4 }, () => ({ kvGroups: 8, queryHeadsPerGroup: 1, ffnChannels: 384 })),
    tiedHead: true,
    biases: [],
    ropeBase: 10_000,
    normEpsilon: 1e-5,
    maxPositions: 512,
    bosTokenId: 0,
    eosTokenId: 1,
  };
}

/** 1024 tokens a step; every eighth step has rows as long as the model's positions. */
const layout = (step: number) => step % 8 === 7 ? { rows: 2, length: 512 } : { rows: 8, length: 128 };

const json = (value: unknown) => JSON.stringify(value, null, 2);

async function writeTokenizer(out: URL, maxTokens: number): Promise<void> {
  const documents = tellDocuments({ split: "train", count: TOKENIZER_DOCUMENTS, seed: SEED });
  const bpe = trainBpe(documents, { vocabSize: 1792, special: SPECIAL });
  await Deno.writeTextFile(new URL("tokenizer.json", out), json(tokenizerJson(bpe, SPECIAL)));
  await Deno.writeTextFile(new URL("tokenizer_config.json", out), json(tokenizerConfigJson(SPECIAL, maxTokens)));
}

/** Says how training goes, on stderr, every hundred steps. */
function progress(steps: number): (step: number, loss: number, gradientNorm: number) => void {
  const started = performance.now();
  let [sum, count] = [0, 0];
  return (step, loss, gradientNorm) => {
    sum += loss;
    count++;
    if ((step + 1) % 100 !== 0 && step + 1 !== steps) return;
    const minutes = ((performance.now() - started) / 60_000).toFixed(1);
    console.error(
      `step ${step + 1}/${steps}  loss ${(sum / count).toFixed(4)}  norm ${gradientNorm.toFixed(2)}  ${minutes} min`,
    );
    [sum, count] = [0, 0];
  };
}

async function writeModel(out: URL, config: DecoderConfig, tensors: Map<string, HostTensor>): Promise<void> {
  await Deno.writeTextFile(new URL("config.json", out), json(toHfConfig(config)));
  writeSafetensors(fileURLToPath(new URL("model.safetensors", out)), {
    shapes: new Map([...tensors].map(([name, { shape }]) => [name, shape])),
    read: (name) => lookUp(tensors, name).data,
    dtype: "F16",
  });
}

async function train(out: URL, steps: number): Promise<void> {
  await Deno.mkdir(out, { recursive: true });
  await writeTokenizer(out, tinyConfig(1).maxPositions);
  const tokenizer = loadTokenizer(fileURLToPath(out));
  const config = tinyConfig(tokenizer.vocabSize);
  const tensors = await trainFromScratch({
    config,
    seed: SEED,
    steps,
    learningRate: LEARNING_RATE,
    warmupSteps: WARMUP_STEPS,
    weightDecay: WEIGHT_DECAY,
    batch: trainingRows(tokenizer, SEED, layout),
    report: progress(steps),
  });
  await writeModel(out, config, tensors);
}

async function main(): Promise<void> {
  const flags = parseArgs(Deno.args, {
    string: ["steps", "out"],
    boolean: ["data-only", "card-only", "help"],
    default: { steps: "3000" },
    unknown: (flag) => {
      throw new UsageError(`Unknown argument "${flag}": see deno task train:tiny --help`);
    },
  });
  if (flags.help) return console.log(HELP);
  const steps = Number(flags.steps);
  if (!Number.isInteger(steps) || steps < 1) {
    throw new UsageError(`--steps must be a whole number from 1: current "${flags.steps}"`);
  }
  const root = new URL("../../", import.meta.url);
  const out = flags.out === undefined ? new URL("models/tiny/", root) : pathToFileURL(`${flags.out}/`);
  if (!flags["card-only"]) await writeData(new URL("datasets/tiny_world/data/", root));
  if (flags["data-only"]) return;
  await startEngine("tensorflow");
  if (!flags["card-only"]) await train(out, steps);
  const scores = await scoreTiny(fileURLToPath(out));
  await Deno.writeTextFile(new URL("README.md", out), modelCard(scores));
}

if (import.meta.main) await runTool(main);
