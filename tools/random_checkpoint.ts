/** A checkpoint of any shape, made on the spot.
 *
 * @module
 */
import { join } from "node:path";
import { createRng } from "../core/rng.ts";
import { writeSafetensors } from "../core/safetensors.ts";
import { type DecoderConfig, expectedTensors } from "../models/config.ts";
import { toHfConfig } from "../models/hf_config.ts";

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
