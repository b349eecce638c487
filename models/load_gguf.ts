/** Models in GGUF files: configuration from the metadata, tensor names, and the row order of RoPE.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { FileFormatError, UsageError } from "../core/util/errors.ts";
import { type GgufFile, openGguf } from "../core/formats/gguf.ts";
import { closingOnError, type KnownHash, sha256OfFiles } from "../core/formats/ranged_file.ts";
import { checkTensors } from "./check_tensors.ts";
import {
  type DecoderConfig,
  type HostTensor,
  layerNorms,
  LINEAR_NAMES,
  type LinearName,
  type NormName,
  type RopeScaling,
  tensorNames,
  type WeightSource,
} from "./config.ts";
import type { Family } from "./families/family.ts";
import { checkedMembers, MAX_LAYERS, type Members } from "./families/members.ts";
import { FAMILIES, familyOf, namedFamily } from "./families/mod.ts";
import { frequencyDivisors, yarnMagnitude } from "./rope.ts";

const GGUF_LINEAR: Record<LinearName, string> = {
  query: "attn_q",
  key: "attn_k",
  value: "attn_v",
  output: "attn_output",
  gate: "ffn_gate",
  up: "ffn_up",
  down: "ffn_down",
};

/** Frequency factors of the `llama3` scaling, f32 [K / 2]; not a weight. */
export const ROPE_FACTORS = "rope_freqs.weight";

const GGUF_NORM: Record<NormName, string> = {
  attentionNorm: "attn_norm",
  attentionOutputNorm: "post_attention_norm",
  ffnNorm: "ffn_norm",
  ffnOutputNorm: "post_ffw_norm",
  queryNorm: "attn_q_norm",
  keyNorm: "attn_k_norm",
};

/** GGUF name of every tensor of the model, by the project's name. */
export function ggufTensorNames(config: DecoderConfig): Map<string, string> {
  const names = new Map([
    [tensorNames.embedding, "token_embd.weight"],
    [tensorNames.finalNorm, "output_norm.weight"],
    [tensorNames.head, "output.weight"],
  ]);
  config.layers.forEach((_, layer) => {
    for (const [name] of layerNorms(config)) {
      names.set(tensorNames.norm(layer, name), `blk.${layer}.${GGUF_NORM[name]}.weight`);
    }
    for (const name of LINEAR_NAMES) {
      names.set(tensorNames.weight(layer, name), `blk.${layer}.${GGUF_LINEAR[name]}.weight`);
      names.set(tensorNames.bias(layer, name), `blk.${layer}.${GGUF_LINEAR[name]}.bias`);
    }
  });
  return names;
}

/** Row in a Hugging Face checkpoint of row `row` of a query or key weight in a GGUF file. Within a head, the two rows
 * of rotary pair i are adjacent in GGUF (2 i, 2 i + 1), and half a head apart in Hugging Face (i, i + K / 2):
 * llama.cpp's `convert_hf_to_gguf.py` permutes them. */
export function huggingFaceRow(row: number, headSize: number): number {
  const inHead = row % headSize;
  return row - inHead + (inHead >> 1) + (inHead & 1) * (headSize >> 1);
}

/** The shortest decimal number with the same f32 value: 1e-5 stored as f32 is 1e-5 again. */
function shortest(value: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === value) return candidate;
  }
  return value;
}

/** Typed access to the metadata under the architecture's name. */
function membersOf(file: GgufFile, architecture: string): Members {
  const value = (key: string) => file.metadata.get(`${architecture}.${key}`);
  const fail = (key: string, must: string): never => {
    const found = value(key);
    const current = found === undefined ? "is missing" : ArrayBuffer.isView(found) ? "is an array" : `is ${found}`;
    throw new FileFormatError(file.path, `metadata "${architecture}.${key}" ${current}: must be ${must}`);
  };
  const members = checkedMembers(value, fail);
  return { ...members, number: (key, fallback) => shortest(members.number(key, fallback)) };
}

/** The `llama3` settings of a file's frequency factors. The file has only the factors. Those of Llama 3.1 to 3.3 come
 * from the frequency factors 1 and 4 and 8,192 original positions, so all others are refused. */
function scalingFromFactors(file: GgufFile, headSize: number, ropeBase: number): RopeScaling {
  const { shape, data } = file.read(ROPE_FACTORS);
  const fail = (): never => {
    throw new UsageError(
      `${file.path}: the frequencies in "${ROPE_FACTORS}" are not those of Llama 3.1, the only supported ones`,
    );
  };
  if (shape.length !== 1 || shape[0] !== headSize / 2) return fail();
  const scaling = {
    type: "llama3",
    factor: shortest(data.at(-1) ?? 1),
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalMaxPositions: 8192,
  } as const;
  const expected = frequencyDivisors(headSize, { base: ropeBase, scaling });
  // The converter computed in f32.
  return data.every((value, i) => Math.abs(value - at(expected, i)) <= 1e-3 * at(expected, i)) ? scaling : fail();
}

/** YaRN as in llama.cpp: the file has only the factor and the original positions. */
export function ggufYarn(factor: number, originalMaxPositions: number): RopeScaling {
  const magnitude = yarnMagnitude(factor);
  return { type: "yarn", factor, originalMaxPositions, betaFast: 32, betaSlow: 1, truncate: true, magnitude };
}

function readScaling(
  file: GgufFile,
  members: Members,
  headSize: number,
  ropeBase: number,
): RopeScaling | undefined {
  const type = members.text("rope.scaling.type", "none");
  if (type !== "none" && type !== "linear" && type !== "yarn") {
    throw new UsageError(`${file.path}: RoPE scaling "${type}" is not supported: must be none, linear or yarn`);
  }
  if (file.tensors.has(ROPE_FACTORS)) return scalingFromFactors(file, headSize, ropeBase);
  // Files from before 2024 have "rope.scale_linear".
  const legacy = members.number("rope.scale_linear", 1);
  if (type === "linear") return { type, factor: members.number("rope.scaling.factor", legacy) };
  if (type === "yarn") {
    const originalMaxPositions = members.integer("rope.scaling.original_context_length");
    return ggufYarn(members.number("rope.scaling.factor"), originalMaxPositions);
  }
  return legacy === 1 ? undefined : { type: "linear", factor: legacy };
}

function tokenId(file: GgufFile, key: string, vocabSize: number): number | null {
  const id = file.metadata.get(`tokenizer.ggml.${key}`);
  return typeof id === "number" && id >= 0 && id < vocabSize ? id : null;
}

/** G, R and K. */
function readHeads(
  file: GgufFile,
  members: Members,
  width: number,
): { kvGroups: number; queryHeadsPerGroup: number; headSize: number } {
  const heads = members.integer("attention.head_count");
  const kvGroups = members.integer("attention.head_count_kv", heads);
  if (heads % kvGroups !== 0) {
    throw new FileFormatError(file.path, `has ${heads} query heads: must be a multiple of its ${kvGroups} KV heads`);
  }
  const headSize = members.integer("attention.key_length", width / heads);
  for (const key of ["attention.value_length", "rope.dimension_count"]) {
    const size = members.integer(key, headSize);
    if (size !== headSize) {
      const name = `"${file.metadata.get("general.architecture")}.${key}"`;
      throw new UsageError(`${file.path}: ${name} ${size} differs from the head size ${headSize}: not supported`);
    }
  }
  if (headSize % 2 !== 0) throw new FileFormatError(file.path, `the head size is ${headSize}: must be even for RoPE`);
  return { kvGroups, queryHeadsPerGroup: heads / kvGroups, headSize };
}

function findFamily(file: GgufFile): Family {
  const architecture = file.metadata.get("general.architecture");
  const family = FAMILIES.find(({ gguf }) => gguf.architecture === architecture);
  if (family) return family;
  const name = typeof architecture === "string" ? `"${architecture.slice(0, 80)}"` : "(none)";
  const known = [...new Set(FAMILIES.map(({ gguf }) => gguf.architecture))].join(", ");
  throw new UsageError(`${file.path}: architecture ${name} is not supported: must be one of ${known}`);
}

/** Configuration of the model in a GGUF file.
 * @throws {UsageError} for an unsupported architecture, RoPE scaling, or experts.
 * @throws {FileFormatError} when the metadata are incomplete or too large. */
function ggufConfig(file: GgufFile): DecoderConfig {
  const family = findFamily(file);
  const { architecture } = family.gguf;
  const members = membersOf(file, architecture);
  if (Number(file.metadata.get(`${architecture}.expert_count`) ?? 0) > 0) {
    throw new UsageError(`${file.path}: mixtures of experts are not supported`);
  }
  if (Number(file.metadata.get("split.count") ?? 1) > 1) {
    throw new UsageError(`${file.path}: is one part of a split model: join the parts with llama-gguf-split --merge`);
  }
  const embedding = file.tensors.get("token_embd.weight");
  const [vocabSize, columns, ...others] = embedding?.shape ?? [];
  if (vocabSize === undefined || columns === undefined || others.length > 0) {
    throw new FileFormatError(file.path, `has no matrix "token_embd.weight"`);
  }
  const width = members.integer("embedding_length");
  const { kvGroups, queryHeadsPerGroup, headSize } = readHeads(file, members, width);
  const shape = { kvGroups, queryHeadsPerGroup, ffnChannels: members.integer("feed_forward_length") };
  const layers = members.integer("block_count", undefined, MAX_LAYERS);
  const ropeBase = members.number("rope.freq_base", 10000);
  const ropeScaling = readScaling(file, members, headSize, ropeBase);
  const common: DecoderConfig = {
    ...namedFamily(family),
    vocabSize,
    width,
    headSize,
    layers: Array.from({ length: layers }, () => ({ ...shape })),
    tiedHead: !file.tensors.has("output.weight"),
    biases: LINEAR_NAMES.filter((name) => file.tensors.has(`blk.0.${GGUF_LINEAR[name]}.bias`)),
    ropeBase,
    ...ropeScaling && { ropeScaling },
    normEpsilon: members.number("attention.layer_norm_rms_epsilon"),
    maxPositions: members.integer("context_length"),
    bosTokenId: tokenId(file, "bos_token_id", vocabSize),
    eosTokenId: tokenId(file, "eos_token_id", vocabSize),
  };
  return { ...common, ...family.gguf.read?.(members, common) };
}

/** Reads the tensor stored as `stored`, with query and key rows in Hugging Face's order. */
function readHuggingFaceTensor(file: GgufFile, config: DecoderConfig, name: string, stored?: string): HostTensor {
  if (stored === undefined || !file.tensors.has(stored)) throw new UsageError(`${file.path}: has no tensor "${name}"`);
  const place = (row: number) => huggingFaceRow(row, config.headSize);
  if (!familyOf(config).gguf.pairsRows) return file.read(stored);
  if (/\.attn_[qk]\.weight$/.test(stored)) return file.read(stored, place);
  const tensor = file.read(stored);
  if (!/\.attn_[qk]\.bias$/.test(stored)) return tensor;
  const data = new Float32Array(tensor.data.length);
  tensor.data.forEach((value, row) => data[place(row)] = value);
  return { shape: tensor.shape, data };
}

/** Opens the model in a GGUF file. The caller closes it.
 * @throws {UsageError} when the model is not supported.
 * @throws {FileFormatError} when the file is damaged, or its tensors do not fit its configuration. */
export function openGgufModel(path: string, known?: KnownHash): { source: WeightSource; file: GgufFile } {
  const file = openGguf(path);
  return closingOnError(file, () => {
    const config = ggufConfig(file);
    const names = ggufTensorNames(config);
    checkTensors(config, {
      path,
      tensors: file.tensors,
      storedName: (name) => names.get(name) ?? name,
      isHarmless: (stored) => stored === ROPE_FACTORS,
    });
    let sha256: string | undefined;
    return {
      file,
      source: {
        config,
        origin: {
          path,
          format: "gguf",
          dtypes: [...new Set([...file.tensors.values()].map(({ type }) => type))].sort(),
          sizeBytes: file.sizeBytes,
          get sha256() {
            return sha256 ??= sha256OfFiles([path], known);
          },
        },
        read: (name) => readHuggingFaceTensor(file, config, name, names.get(name)),
        close: () => file.close(),
      },
    };
  });
}
