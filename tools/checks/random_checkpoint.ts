/** A checkpoint of any shape, made on the spot.
 *
 * @module
 */
import { join } from "node:path";
import { createRng } from "../../core/util/rng.ts";
import { writeSafetensors } from "../../core/formats/safetensors.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { type DecoderConfig, expectedTensors } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import { toHfConfig } from "../../models/hf_config.ts";

/** What a checkpoint of LLaMA's kind is like: all layers alike, grouped or multi-head, the head not tied. */
export interface LlamaShape {
  width: number;
  headSize: number;
  layers: number;
  /** Of each layer. */
  layer: LayerShape;
  maxPositions: number;
  /** 1e-5 when absent. */
  normEpsilon?: number;
}

/** The configuration of a shape, with LLaMA's vocabulary of 32000 tokens. */
export function llamaConfig(
  { width, headSize, layers, layer, maxPositions, normEpsilon = 1e-5 }: LlamaShape,
): DecoderConfig {
  return {
    vocabSize: 32000,
    width,
    headSize,
    layers: Array.from({ length: layers }, () => ({ ...layer })),
    tiedHead: false,
    biases: [],
    ropeBase: 10000,
    normEpsilon,
    maxPositions,
    bosTokenId: 1,
    eosTokenId: 2,
  };
}

/** Gives a folder the bundled model's tokenizer, whose ids are fewer: a model may have more than its tokenizer. */
export function addTokenizer(folder: string): void {
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
    Deno.copyFileSync(join(ROOT, "models/tiny", file), join(folder, file));
  }
}

/** Writes a Hugging Face folder of random weights in bf16, in two files and without a tokenizer. */
export function writeCheckpoint(folder: string, config: DecoderConfig): void {
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
