/** Writes a checkpoint as a Hugging Face folder that transformers loads as a model of its family or a stand-in (see
 * `toHfConfig`).
 *
 * @module
 */
import { join } from "node:path";
import { UsageError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import { storedBytes } from "../core/formats/quantize.ts";
import { type FloatDtype, writeSafetensors } from "../core/formats/safetensors.ts";
import type { TokenizerDefinition } from "../core/formats/tokenizer.ts";
import { writeFolderWhole } from "../core/util/write_file.ts";
import { type DecoderConfig, expectedTensors, isLayerwiseUniform, type WeightSource } from "./config.ts";
import { completedBiases } from "./export_source.ts";
import { headsDivideWidth } from "./families/family.ts";
import { hfTensors } from "./families/hf_tensors.ts";
import { hfFamilyOf } from "./families/mod.ts";
import { toHfConfig } from "./hf_config.ts";
import { queryHeads, UNITS, widthOf } from "./units.ts";
import { UNIT_TYPES } from "../core/schema/schema.ts";

const DEFAULT_SHARD_BYTES = 5e9;

interface HfExportOptions {
  /** Folder, which is replaced. Its parent must exist. */
  to: string;
  dtype: FloatDtype;
  /** Size limit of a weight file in bytes; a larger tensor gets its own file. */
  maxShardBytes?: number;
  tokenizer: TokenizerDefinition;
  /** Content of other files by name, such as `README.md`. By default `generation_config.json` is made of the
   * configuration. */
  files?: Record<string, string | Uint8Array>;
}

const TORCH_NAMES: Record<FloatDtype, string> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

/** Widths that differ between layers, as text: `FFN channels 9 to 20`. Empty for a uniform model. */
export function differingWidths({ layers }: DecoderConfig): string {
  return UNIT_TYPES.toReversed().flatMap((type) => {
    const widths = layers.map((shape) => widthOf(shape, type));
    const [low, high] = [Math.min(...widths), Math.max(...widths)];
    return low === high ? [] : [`${UNITS[type].widthNoun} ${low} to ${high}`];
  }).join(", ");
}

/** Refuses models that no plain checkpoint can describe.
 * @throws {UsageError} when layers have unequal widths, with the widths. */
export function requireUniform(config: DecoderConfig): void {
  if (isLayerwiseUniform(config)) return;
  throw new UsageError(
    `Layers have unequal widths (${differingWidths(config)}), which a plain checkpoint cannot describe: ` +
      "choose a structure with equal widths, or pad to the widest layer",
  );
}

/** Tensors of each file, in order, up to the limit. A larger tensor gets its own file. */
export function planShards(
  shapes: ReadonlyMap<string, number[]>,
  dtype: FloatDtype,
  maxShardBytes: number,
): Map<string, number[]>[] {
  const shards: Map<string, number[]>[] = [];
  let shard = new Map<string, number[]>();
  let room = 0;
  for (const [name, shape] of shapes) {
    const size = storedBytes(dtype, shape);
    if (shards.length === 0 || size > room) {
      shards.push(shard = new Map());
      room = maxShardBytes;
    }
    shard.set(name, shape);
    room -= size;
  }
  return shards;
}

const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;

function writeWeights(folder: string, source: WeightSource, dtype: FloatDtype, maxShardBytes: number): void {
  const tensors = hfTensors(hfFamilyOf(source.config).family, source.config);
  const own = [...expectedTensors(source.config)];
  const nameOf = new Map(own.map(([name]) => [tensors.stored(name), name]));
  const shapes = new Map(own.map(([name, shape]) => [tensors.stored(name), shape]));
  const read = (stored: string) => {
    const name = nameOf.get(stored) ?? stored;
    return tensors.write(name, source.read(name).data);
  };
  const shards = planShards(shapes, dtype, maxShardBytes);
  const number = (n: number) => String(n).padStart(5, "0");
  const names = shards.length === 1
    ? ["model.safetensors"]
    : shards.map((_, i) => `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`);
  shards.forEach((shard, i) => {
    writeSafetensors(join(folder, at(names, i)), { shapes: shard, read, dtype });
  });
  if (shards.length === 1) return;
  const index = {
    metadata: { total_size: [...shapes.values()].reduce((sum, shape) => sum + storedBytes(dtype, shape), 0) },
    weight_map: Object.fromEntries(shards.flatMap((shard, i) => [...shard.keys()].map((name) => [name, at(names, i)]))),
  };
  Deno.writeTextFileSync(join(folder, "model.safetensors.index.json"), json(index));
}

/** Writes `config.json`, safetensors (above a size sharded with an index), the tokenizer's files and
 * `generation_config.json`, whole or not at all. At most one tensor is in memory. If only some maps of a block have a
 * bias, the others get zero biases, since `config.json` has one key for all.
 * @throws {UsageError} when layers have unequal widths, the family's `config.json` cannot describe the model, or a
 *   value does not fit the storage type. */
export function exportHfFolder(source: WeightSource, options: HfExportOptions): void {
  const { to, dtype, maxShardBytes = DEFAULT_SHARD_BYTES, tokenizer, files = {} } = options;
  requireUniform(source.config);
  const { hf, title } = hfFamilyOf(source.config).family;
  if (hf.headsDivideWidth && !headsDivideWidth(source.config)) {
    throw new UsageError(
      `transformers accepts ${title} only if the number of heads divides the width: current ` +
        `${queryHeads(at(source.config.layers, 0))} heads, width ${source.config.width}`,
    );
  }
  const plain = completedBiases(source);
  const { bosTokenId, eosTokenId } = plain.config;
  const contents: Record<string, string | Uint8Array> = {
    "config.json": json({ ...toHfConfig(plain.config), torch_dtype: TORCH_NAMES[dtype] }),
    "tokenizer.json": json(tokenizer.tokenizer),
    "tokenizer_config.json": json(tokenizer.config),
    "generation_config.json": json({ bos_token_id: bosTokenId, eos_token_id: eosTokenId }),
    ...files,
  };
  writeFolderWhole(to, (folder) => {
    for (const [name, content] of Object.entries(contents)) {
      const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
      Deno.writeFileSync(join(folder, name), bytes);
    }
    writeWeights(folder, plain, dtype, maxShardBytes);
  });
}
