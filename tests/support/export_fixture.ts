/** Small models with tokenizers that both export formats know, and records of cells made of them.
 *
 * @module
 */
import { join } from "node:path";
import { type FloatDtype, writeSafetensors } from "../../core/formats/safetensors.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import type { TokenizerDefinition } from "../../core/formats/tokenizer.ts";
import { type DecoderConfig, expectedTensors, type WeightSource } from "../../models/config.ts";
import { modelSize } from "../../models/count.ts";
import { familyOf } from "../../models/families/mod.ts";
import { toHfConfig } from "../../models/hf_config.ts";
import { plannedConfig, type PrunePlan } from "../../models/plan.ts";
import { doneRecord } from "./reports_fixture.ts";
import { toySource } from "./toy.ts";
import { BOS_FIRST } from "./weights_fixture.ts";

/** A byte-level tokenizer: the first tokens of the bundled model's. */
export function byteLevelDefinition(vocabSize = 280): TokenizerDefinition {
  const read = (name: string) =>
    JSON.parse(Deno.readTextFileSync(new URL(`../../models/tiny/${name}`, import.meta.url)));
  const tokenizer = read("tokenizer.json");
  const vocab = Object.entries(tokenizer.model.vocab as Record<string, number>).filter(([, id]) => id < vocabSize);
  const isKept = new Set(vocab.map(([token]) => token));
  tokenizer.model.vocab = Object.fromEntries(vocab.sort(([, a], [, b]) => a - b));
  tokenizer.model.merges = tokenizer.model.merges.filter((pair: string[]) => isKept.has(pair.join("")));
  return { tokenizer, config: { ...read("tokenizer_config.json"), model_max_length: 64 } };
}

/** A SentencePiece tokenizer as Llama 2 has it: bytes, letters, and pieces in the order in which merges make them. */
export function sentencePieceDefinition(): TokenizerDefinition {
  const bytes = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`);
  const pieces = ["th", "▁t", "▁th", "▁the", "at"];
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...pieces, ..."▁theacsm"];
  // "▁th" can be made in two ways, as pieces of real vocabularies can.
  const merges = [["t", "h"], ["▁", "t"], ["▁", "th"], ["▁t", "h"], ["▁th", "e"], ["a", "t"]];
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    tokenizer: {
      version: "1.0",
      added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => ({ id, content, ...flags })),
      normalizer: {
        type: "Sequence",
        normalizers: [{ type: "Prepend", prepend: "▁" }, { type: "Replace", pattern: { String: " " }, content: "▁" }],
      },
      pre_tokenizer: null,
      post_processor: BOS_FIRST,
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "▁" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
      model: {
        type: "BPE",
        unk_token: "<unk>",
        fuse_unk: true,
        byte_fallback: true,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges,
      },
    },
    config: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" },
  };
}

/** A toy that the tokenizers above fit: width 32 with grouped queries, 3 groups of 2 heads of 8, so H K != D. */
export function exportToy(options: Partial<DecoderConfig> = {}): WeightSource {
  const shape = { kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 24 };
  return toySource({
    seed: 4,
    vocabSize: 300,
    layers: [{ ...shape }, { ...shape }],
    tiedHead: false,
    maxPositions: 64,
    ...options,
  });
}

/** Plans for {@linkcode exportToy}: equal widths with other units in every layer, unequal widths, and one that removes a
 * layer and hidden dimensions. */
export const PLANS = {
  uniform: {
    layers: [
      { kvGroups: [0, 2], queryHeads: [1, 4], ffnChannels: [1, 2, 3, 5, 8, 13, 21] },
      { kvGroups: [1, 2], queryHeads: [2, 5], ffnChannels: [0, 4, 9, 10, 11, 22, 23] },
    ],
  },
  unequal: {
    layers: [
      { kvGroups: [0, 2], queryHeads: [0, 1, 4, 5], ffnChannels: [2, 4, 6] },
      { kvGroups: [0, 1, 2], queryHeads: [1, 2, 5], ffnChannels: [1, 3, 5, 7, 20] },
    ],
  },
  shallow: {
    layers: [
      { kvGroups: [], queryHeads: [], ffnChannels: [] },
      { kvGroups: [0, 2], queryHeads: [0, 1, 4, 5], ffnChannels: [0, 4, 9, 10, 11, 22, 23] },
    ],
    hidden: [0, 1, 3, 4, 5, 8, 9, 10, 13, 14, 17, 18, 19, 21, 24, 25, 27, 28, 30, 31],
  },
} satisfies Record<string, PrunePlan>;

/** Writes a model folder without the code under test. */
export function writeModelFolder(
  folder: string,
  source: WeightSource,
  definition: TokenizerDefinition,
  dtype: FloatDtype = "F32",
): void {
  Deno.mkdirSync(folder, { recursive: true });
  const write = (name: string, value: unknown) => Deno.writeTextFileSync(join(folder, name), JSON.stringify(value));
  // A Llama is one whatever its heads: only transformers wants them to divide the width.
  const own = familyOf(source.config).hf;
  write("config.json", { ...toHfConfig(source.config), model_type: own.modelType, architectures: [own.architecture] });
  write("tokenizer.json", definition.tokenizer);
  write("tokenizer_config.json", definition.config);
  writeSafetensors(join(folder, "model.safetensors"), {
    shapes: expectedTensors(source.config),
    read: (name) => source.read(name).data,
    dtype,
  });
}

/** The record of a cell that pruned the model in `opened` by `plan`. */
export function recordOf(
  opened: WeightSource,
  { plan, method, options = {}, sparsity = 0.5 }: {
    plan: PrunePlan;
    method: string | null;
    options?: Record<string, unknown>;
    sparsity?: number;
  },
): DoneRecord {
  const fake = { method, sparsity: method === null ? 0 : sparsity, seed: 3, windows: 30, tasks: ["arc_easy"] };
  const record = doneRecord({ ...fake, model: opened.origin.path, throughput: false });
  const perplexity = method === null ? 11.5 : 23.25;
  return {
    ...record,
    id: method === null ? "00000000deadbeef" : "a1b2c3d4e5f60718",
    cell: {
      ...record.cell,
      engine: "cpu",
      method: method === null ? null : { id: method, options },
      calibration: { corpus: "c", sequences: 4, tokens: 16 },
      perplexity: [{ corpus: "c", protocol: "a", windowTokens: 32 }],
      limit: 8,
    },
    environment: { ...record.environment, engine: "cpu", commit: null },
    weights: { ...opened.origin },
    size: modelSize(plannedConfig(opened.config, plan), opened.config),
    denseSize: modelSize(opened.config),
    plan,
    changedWeights: false,
    calibrationData: null,
    perplexity: record.perplexity.map(({ maxWindows: _, ...result }) => ({
      ...{ ...result, corpus: "c", windowTokens: 32, droppedTokens: 39, perplexity, perplexityStderr: 0.75 },
    })),
    tasks: record.tasks.map((result) => ({
      ...result,
      samples: { original: 20, effective: 8 },
      metrics: { acc: { value: method === null ? 0.75 : 0.5, stderr: 0.125, higherIsBetter: true } },
    })),
  };
}
