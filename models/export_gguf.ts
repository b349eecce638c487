/** Writes a checkpoint as a GGUF file that llama.cpp loads as a model of its family.
 *
 * @module
 */
import { isDeepStrictEqual } from "node:util";
import { UsageError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import { BLOCK_FORMATS } from "../core/formats/dequantize.ts";
import { type GgufEntry, writeGguf } from "../core/formats/gguf_write.ts";
import type { StoredType } from "../core/formats/quantize.ts";
import { type DecoderConfig, expectedTensors, type WeightSource } from "./config.ts";
import { takeRows } from "./host_matrix.ts";
import { queryHeads } from "./units.ts";
import { requireUniform } from "./export.ts";
import { familyOf } from "./families/mod.ts";
import { ggufTensorNames, ggufYarn, huggingFaceRow, ROPE_FACTORS } from "./load_gguf.ts";
import { frequencyDivisors } from "./rope.ts";

interface GgufExportOptions {
  /** File, which is replaced. Its folder must exist. */
  to: string;
  /** Storage type of the matrices; norms and biases are always F32. */
  type: StoredType;
  /** Metadata of the tokenizer, from `ggufTokenizerMetadata`. */
  tokenizer: ReadonlyMap<string, GgufEntry>;
  metadata?: ReadonlyMap<string, GgufEntry>;
}

/** llama.cpp's number for "mostly this type" (`llama_ftype`). */
const FILE_TYPES: Record<StoredType, number> = { F32: 0, F16: 1, Q8_0: 7, BF16: 32 };

/** RoPE scaling as metadata; `llama3` scaling is a tensor.
 * @throws {UsageError} for a scaling that llama.cpp does not have. */
function scalingMetadata({ ropeScaling: scaling }: DecoderConfig): [string, GgufEntry][] {
  if (!scaling || scaling.type === "llama3") return [];
  const { type, factor } = scaling;
  if (type === "linear") return [["rope.scaling.type", { text: type }], ["rope.scaling.factor", { f32: factor }]];
  const { originalMaxPositions } = scaling;
  if (type === "yarn" && isDeepStrictEqual(scaling, ggufYarn(factor, originalMaxPositions))) {
    return [
      ["rope.scaling.type", { text: type }],
      ["rope.scaling.factor", { f32: factor }],
      ["rope.scaling.original_context_length", { u32: originalMaxPositions }],
    ];
  }
  throw new UsageError(`A GGUF file cannot describe this ${type} scaling of RoPE: export to --format hf`);
}

function modelMetadata(config: DecoderConfig, type: StoredType): Map<string, GgufEntry> {
  const shape = at(config.layers, 0);
  const { gguf } = familyOf(config);
  const own: [string, GgufEntry][] = [
    ["vocab_size", { u32: config.vocabSize }],
    ["context_length", { u32: config.maxPositions }],
    ["embedding_length", { u32: config.width }],
    ["block_count", { u32: config.layers.length }],
    ["feed_forward_length", { u32: shape.ffnChannels }],
    ["attention.head_count", { u32: queryHeads(shape) }],
    ["attention.head_count_kv", { u32: shape.kvGroups }],
    // llama.cpp's default is width / heads, which is wrong after pruning.
    ["attention.key_length", { u32: config.headSize }],
    ["attention.value_length", { u32: config.headSize }],
    ["attention.layer_norm_rms_epsilon", { f32: config.normEpsilon }],
    ["rope.dimension_count", { u32: config.headSize }],
    ["rope.freq_base", { f32: config.ropeBase }],
    ...scalingMetadata(config),
    ...Object.entries(gguf.write?.(config) ?? {}),
  ];
  return new Map<string, GgufEntry>([
    ["general.architecture", { text: gguf.architecture }],
    ["general.type", { text: "model" }],
    ["general.file_type", { u32: FILE_TYPES[type] }],
    ["general.quantization_version", { u32: 2 }],
    ...own.map(([key, entry]): [string, GgufEntry] => [`${gguf.architecture}.${key}`, entry]),
  ]);
}

/** Refuses models that a GGUF file of their family cannot describe.
 * @throws {UsageError} with the reason. */
function requireDescribable(config: DecoderConfig): void {
  const { gguf, title } = familyOf(config);
  const extra = config.biases.filter((name) => !gguf.biases.includes(name));
  const refused = gguf.refusal?.(config) ?? (extra.length > 0 ? `biases of ${extra.join(", ")}` : undefined);
  if (refused) throw new UsageError(`A GGUF file of ${title} cannot describe ${refused}: export to --format hf`);
}

/** A matrix without whole blocks in its rows cannot be quantised; like llama.cpp's tools, it is stored as F16. */
function typeOf(shape: readonly number[], type: StoredType): StoredType {
  if (shape.length < 2) return "F32";
  return (shape.at(-1) ?? 0) % BLOCK_FORMATS[type].blockValues === 0 ? type : "F16";
}

/** GGUF names of matrices stored as F16 because their rows are not multiples of Q8_0's 32 values. */
export function f16Fallbacks(config: DecoderConfig, type: StoredType): string[] {
  const stored = ggufTensorNames(config);
  return [...expectedTensors(config)].flatMap(([name, shape]) =>
    shape.length > 1 && typeOf(shape, type) !== type ? [stored.get(name) ?? name] : []
  );
}

/** Writes weights, configuration and tokenizer into one file, whole or not at all. At most one tensor is in memory.
 * @throws {UsageError} when layers have unequal widths, a GGUF file cannot describe the model, or a value does not fit
 *   the storage type. */
export function exportGguf(source: WeightSource, options: GgufExportOptions): void {
  const { config } = source;
  requireUniform(config);
  requireDescribable(config);
  const { to, type, tokenizer, metadata = new Map() } = options;
  const stored = ggufTensorNames(config);
  const tensors = new Map<string, { type: StoredType; shape: number[] }>();
  const sourceNames = new Map<string, string>();
  for (const [name, shape] of expectedTensors(config)) {
    const ggufName = stored.get(name) ?? name;
    tensors.set(ggufName, { type: typeOf(shape, type), shape });
    sourceNames.set(ggufName, name);
  }
  if (config.ropeScaling?.type === "llama3") tensors.set(ROPE_FACTORS, { type: "F32", shape: [config.headSize / 2] });
  const { pairsRows } = familyOf(config).gguf;
  writeGguf(to, {
    metadata: new Map([...modelMetadata(config, type), ...metadata, ...tokenizer]),
    tensors,
    read: (ggufName) => {
      if (ggufName === ROPE_FACTORS) {
        return frequencyDivisors(config.headSize, { base: config.ropeBase, scaling: config.ropeScaling });
      }
      const { shape: [rows = 0, columns = 1], data } = source.read(sourceNames.get(ggufName) ?? ggufName);
      if (!pairsRows || !/\.attn_[qk]\.(weight|bias)$/.test(ggufName)) return data;
      // Rows in GGUF's order: the inverse of reading.
      return takeRows(data, columns, Array.from({ length: rows }, (_, row) => huggingFaceRow(row, config.headSize)));
    },
  });
}
