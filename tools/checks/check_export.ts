/** Checks that other engines load exported models and compute the same.
 *
 * Four models are made of one: dense; uniformly pruned, with heads times head size unlike the width; pruned to
 * unequal layers and padded with zeros; dense with biases where FLAP's compensation adds them.
 * - transformers (from PyPI, in a private environment) must load each folder as its family's class, without a missing
 *   or unexpected tensor, with the same token ids and log-probabilities within 1e-3 nats.
 * - llama.cpp (npm's node-llama-cpp) must give the same token ids, the same greedy text and log-probabilities within
 *   1e-3 nats from F32 files. From F16, BF16 and Q8_0, the mean difference is held to what rounding explains.
 *
 * @module
 */
import { join } from "node:path";
import { withTempFolder } from "../../benchmarks/commands/command.ts";
import { at } from "../../core/util/indexing.ts";
import { type Peer, startLlamaCpp } from "../../benchmarks/timing/peer_process.ts";
import { startBestEngine } from "../../core/engine/engine.ts";
import { unknownName } from "../../core/util/errors.ts";
import { mean } from "../../core/util/stats.ts";
import type { StoredType } from "../../core/formats/quantize.ts";
import { createRng } from "../../core/util/rng.ts";
import { ggufTokenizerMetadata } from "../../core/formats/tokenizer_gguf_write.ts";
import { type HostTensor, tensorNames, type WeightSource } from "../../models/config.ts";
import { disposeCache } from "../../models/decode.ts";
import { exportHfFolder } from "../../models/export.ts";
import { exportGguf } from "../../models/export_gguf.ts";
import { paddedSource, prunedSource } from "../../models/export_source.ts";
import { greedyTokens } from "../../models/generate.ts";
import { forward, targetLogProbs } from "../../models/decoder.ts";
import { hfFamilyOf } from "../../models/families/mod.ts";
import { type OpenedModel, openModel } from "../../models/load.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { type ExportCase, familyCases, withTableGelu } from "./export_families.ts";
import { randomPlan } from "./small_families.ts";
import { onDevice } from "../../tests/support/device_models.ts";
import { startTorch } from "../setup/setup_common.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";

const HELP = `Checks that other engines load exported models and give the same results.

Usage: deno task check:export [--model PATH] [--peer NAME]

  --model PATH    model to export: a folder, a .gguf file, or tiny (default: tiny)
  --peer NAME     transformers or llama.cpp (default: both)

transformers and PyTorch are installed into a private Python environment, llama.cpp into Deno's cache, the first time.`;

/** Largest difference in nats per token between two f32 implementations. */
const F32_NATS = 1e-3;
/** Largest mean difference in nats per token with rounded weights; llama.cpp rounds activations too. SmolLM2-135M shows
 * 0.003, 0.02 and 0.1; a file that is read wrongly is off by several nats. */
const ROUNDED_NATS: Partial<Record<StoredType, number>> = { F16: 0.02, BF16: 0.1, Q8_0: 0.3 };
/** Largest difference where llama.cpp takes GELU from a table of 16-bit numbers; against the same table the limit is
 * that of f32. */
const GELU_NATS = 1e-2;
const GREEDY_TOKENS = 32;
const MAX_TOKENS = 160;

const TEXTS = [
  "The capital of France is Paris, and 1234 people're here in 2024.",
  "  def f(x):\n\treturn x**2  # squared\n\n",
  "Grüße aus Köln — naïve café, 東京 🙂 e\u0301",
  "It wasn't the first time; nor, she'd say, the last...",
];

/** Removes one more key/value group of every second layer that has several, and FFN channels of the others. */
const unequal = ({ layers }: PrunePlan): PrunePlan => ({
  layers: layers.map((kept, l) => {
    const { kvGroups, queryHeads, ffnChannels } = kept;
    if (l % 2 === 1 || kvGroups.length === 1) return { ...kept, ffnChannels: ffnChannels.slice(7 * l) };
    const heads = queryHeads.length / kvGroups.length;
    return { ...kept, kvGroups: kvGroups.slice(0, -1), queryHeads: queryHeads.slice(0, -heads) };
  }),
});

/** Adds small biases to the output and down maps. */
function withBiases(source: WeightSource): WeightSource {
  const biases = new Map<string, HostTensor>();
  const rng = createRng(2, "check-export");
  source.config.layers.forEach((_, layer) => {
    for (const linear of ["output", "down"] as const) {
      const data = Float32Array.from({ length: source.config.width }, () => 0.01 * rng.normal());
      biases.set(tensorNames.bias(layer, linear), { shape: [source.config.width], data });
    }
  });
  return {
    ...source,
    config: { ...source.config, biases: ["output", "down"] },
    read: (name) => biases.get(name) ?? source.read(name),
  };
}

function makeCases(source: WeightSource): ExportCase[] {
  const plan = randomPlan(source.config, { sparsity: 1 / 3 });
  return [
    { name: "dense", source },
    { name: "pruned", source: prunedSource(source, plan) },
    { name: "unequal, padded", source: paddedSource(prunedSource(source, unequal(plan))) },
    ...source.config.biases.length === 0 ? [{ name: "dense, biases", source: withBiases(source) }] : [],
  ];
}

/** What this project computes for a case. */
interface Ours {
  logProbs: Float32Array;
  greedy: number[];
}

async function computeOurs(source: WeightSource, tokens: number[], prompt: number[]): Promise<Ours> {
  using model = await onDevice(source);
  const hidden = forward(model, { tokens: Int32Array.from(tokens), batch: 1, length: tokens.length });
  const targets = Int32Array.from([...tokens.slice(1), 0]);
  const { logProbs } = await targetLogProbs(model, hidden, targets);
  hidden.dispose();
  const steps = { batch: 1, steps: GREEDY_TOKENS };
  const { tokens: greedy, cache } = await greedyTokens(model, Int32Array.from(prompt), steps);
  if (cache) disposeCache(cache);
  return { logProbs: logProbs.slice(0, -1), greedy: [...greedy] };
}

/** Checks that failed. */
let failures = 0;

/** Prints a line, and counts a failure. */
function verdict(what: string, isRight: boolean, detail: string): void {
  console.log(`${isRight ? "ok  " : "FAIL"} ${what}: ${detail}`);
  if (!isRight) failures++;
}

/** Largest and mean absolute difference in nats. */
function differences(actual: number[], expected: Float32Array): { max: number; mean: number } {
  const all = Array.from(expected, (value, i) => Math.abs(at(actual, i) - value));
  // NaN is the largest.
  return { max: all.reduce((largest, value) => Math.max(largest, value), 0), mean: mean(all) };
}

const sameLists = (a: number[][], b: number[][]) => JSON.stringify(a) === JSON.stringify(b);

/** Everything the checks of one case share. */
interface Context {
  folder: string;
  opened: OpenedModel;
  tokens: number[];
  prompt: number[];
}

async function checkTransformers(
  peer: Peer,
  { name, source }: ExportCase,
  ours: Ours,
  context: Context,
): Promise<void> {
  const { folder, opened, tokens } = context;
  const to = join(folder, "hf");
  exportHfFolder(source, { to, dtype: "F32", maxShardBytes: 5e7, tokenizer: opened.tokenizerDefinition });
  const asked = { folder: to, texts: TEXTS, tokens };
  const { kind, ids, logProbs } = await peer.ask<{ kind: string; ids: number[][]; logProbs: number[] }>(asked);
  Deno.removeSync(to, { recursive: true });
  const { max } = differences(logProbs, ours.logProbs);
  const sameIds = sameLists(ids, TEXTS.map((text) => opened.tokenizer.encode(text)));
  const expectedKind = hfFamilyOf(source.config).family.hf.architecture;
  const isRight = kind === expectedKind && sameIds && max <= F32_NATS;
  const detail = `${kind}, ${sameIds ? "same" : "OTHER"} token ids, largest difference ${max.toExponential(1)} nats`;
  verdict(`${name}, transformers`, isRight, `${detail} over ${logProbs.length} tokens`);
}

async function checkLlamaCpp(
  peer: Peer,
  { name, source }: ExportCase,
  ours: Ours,
  context: Context,
  type: StoredType,
): Promise<void> {
  const { folder, opened: { tokenizer, tokenizerDefinition }, tokens, prompt } = context;
  const to = join(folder, "model.gguf");
  const metadata = ggufTokenizerMetadata(tokenizerDefinition, tokenizer, source.config.vocabSize);
  exportGguf(source, { to, type, tokenizer: metadata });
  const asked = { file: to, texts: TEXTS, tokens, prompt, count: GREEDY_TOKENS };
  const answer = await peer.ask<{ ids: number[][]; logProbs: number[]; greedy: number[]; text: string }>(asked);
  Deno.removeSync(to);
  const { max, mean } = differences(answer.logProbs, ours.logProbs);
  const what = `${name}, llama.cpp ${type}`;
  if (type !== "F32") {
    const limit = ROUNDED_NATS[type]!;
    verdict(what, mean <= limit, `mean difference ${mean.toExponential(1)} nats, at most ${limit}`);
    return;
  }
  const sameIds = sameLists(answer.ids, TEXTS.map((text) => tokenizer.encode(text, { specialTokens: false })));
  // llama.cpp stops at the end of a text, and does not give the token that ends it.
  const end = ours.greedy.indexOf(tokenizer.eosTokenId ?? -1);
  const greedy = end < 0 ? ours.greedy : ours.greedy.slice(0, end);
  const sameText = answer.text === tokenizer.decode(greedy) && sameLists([answer.greedy], [greedy]);
  const detail = `${sameIds ? "same" : "OTHER"} token ids, largest difference ${max.toExponential(1)} nats, ` +
    `${sameText ? "same" : "OTHER"} greedy text ${JSON.stringify(answer.text.slice(0, 40))}`;
  if (source.config.activation !== "gelu-tanh") {
    verdict(what, sameIds && sameText && max <= F32_NATS, detail);
    return;
  }
  const { max: table } = differences(answer.logProbs, withTableGelu(source, tokens));
  const isRight = sameIds && max <= GELU_NATS && table <= F32_NATS;
  verdict(what, isRight, `${detail}; with its GELU of 16 bits ${table.toExponential(1)} nats`);
}

const PEERS: Record<string, () => Promise<Peer>> = {
  "transformers": () => startTorch("transformers", "transformers_export.py"),
  "llama.cpp": startLlamaCpp,
};

async function checkCase(one: ExportCase, peers: Record<string, Peer>, context: Context): Promise<void> {
  const ours = await computeOurs(one.source, context.tokens, context.prompt);
  for (const [name, peer] of Object.entries(peers)) {
    const types: StoredType[] = one.name === "dense" ? ["F32", "F16", "BF16", "Q8_0"] : ["F32"];
    if (name === "transformers") await checkTransformers(peer, one, ours, context);
    else for (const type of types) await checkLlamaCpp(peer, one, ours, context, type);
  }
}

async function main({ model = "tiny", peer: wanted }: ToolArgs<"model" | "peer", never>): Promise<number> {
  const chosen = Object.entries(PEERS).filter(([name]) => wanted === undefined || wanted === name);
  if (chosen.length === 0) throw unknownName("peer", wanted!, Object.keys(PEERS));
  const opened = await openModel(model);
  const { engine } = await startBestEngine();
  const peers: Record<string, Peer> = {};
  await withTempFolder(async (folder) => {
    try {
      for (const [name, start] of chosen) {
        const peer = await start();
        peers[name] = peer;
        console.log(`${name}: ${peer.versions}`);
      }
      const tokens = opened.tokenizer.encode(TEXTS.join("\n")).slice(0, MAX_TOKENS);
      const prompt = opened.tokenizer.encode("Once upon a time");
      console.log(`ours: ${engine.library}; ${model}, ${tokens.length} tokens`);
      const context = { folder, opened, tokens, prompt };
      for (const one of makeCases(opened.source)) await checkCase(one, peers, context);
      // Small random models of other families, with the tokenizer of the opened one.
      const { "llama.cpp": llamaCpp } = peers;
      for (const one of llamaCpp && model === "tiny" ? familyCases(opened.source.config.vocabSize) : []) {
        await checkCase(one, { "llama.cpp": llamaCpp! }, context);
      }
    } finally {
      for (const peer of Object.values(peers)) await peer.close();
      opened.source.close();
    }
  });
  if (failures > 0) console.error(`${failures} checks failed`);
  return failures > 0 ? 1 : 0;
}

if (import.meta.main) await runTool({ help: HELP, string: ["model", "peer"] }, main);
