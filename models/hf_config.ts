/** `config.json` of Hugging Face folders, from and to the project's configuration.
 *
 * @module
 */
import { FileFormatError, UsageError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import type { DecoderConfig, LinearName } from "./config.ts";
import { queryHeads } from "./units.ts";
import { BIAS_KEYS, type Family, isBiasKey } from "./families/family.ts";
import { type HfMembers, hfMembers, readRope, ropeToHf } from "./families/hf_members.ts";
import { MAX_LAYERS } from "./families/members.ts";
import { FAMILIES, hfFamilyOf, namedFamily } from "./families/mod.ts";

/** A token id, the first of a list, or null. */
function readTokenId(members: HfMembers, key: string, vocabSize: number): number | null {
  const found = members.value(key);
  const id: unknown = Array.isArray(found) ? found[0] : found;
  if (id === null || id === undefined || id === -1) return null;
  if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabSize) {
    throw new FileFormatError(
      members.path,
      `"${key}" is ${JSON.stringify(found)}: must be null or in [0, ${vocabSize})`,
    );
  }
  return id;
}

const quoted = (names: readonly string[]) =>
  names.map((name) => `"${name}"`).join(", ").replace(/, ([^,]*)$/, " or $1");

/** The family of a `config.json`; refuses other models and names the difference. */
function findFamily(members: HfMembers): Family {
  const { path } = members;
  const modelType = members.value("model_type");
  const family = FAMILIES.find(({ hf }) => hf.modelType === modelType);
  if (!family) {
    const given = JSON.stringify(modelType) ?? "(none)";
    const known = quoted(FAMILIES.map(({ hf }) => hf.modelType));
    throw new UsageError(`${path}: model_type ${given} is not supported: must be ${known}`);
  }
  const { architecture, activation = { key: "hidden_act", name: "silu" } } = family.hf;
  const architectures = members.value("architectures");
  if (Array.isArray(architectures) && architectures.length > 0 && !architectures.includes(architecture)) {
    throw new UsageError(
      `${path}: architecture ${JSON.stringify(architectures[0])} is not supported: must be "${architecture}"`,
    );
  }
  members.only(activation.key, [activation.name]);
  const quantization = members.value("quantization_config");
  if (typeof quantization === "object") {
    const method = JSON.stringify(members.object("quantization_config").value("quant_method")) ?? "(unnamed)";
    throw new UsageError(
      `${path}: quantized weights (${method}) are not supported: use the f32, f16 or bf16 checkpoint, or a GGUF file`,
    );
  }
  return family;
}

/** Reads the configuration of a checkpoint. Missing values are transformers' defaults for the family.
 *
 * @param json the parsed `config.json`
 * @param path of the file, for messages
 * @throws {UsageError} for another model type, architecture, activation, RoPE type or quantization, by its name.
 * @throws {FileFormatError} when a value is missing, of the wrong type, or too large. */
export function fromHfConfig(json: Record<string, unknown>, path: string): DecoderConfig {
  const members = hfMembers(json, path);
  const family = findFamily(members);
  const { defaults = {} } = family.hf;
  const vocabSize = members.integer("vocab_size");
  const width = members.integer("hidden_size");
  const heads = members.integer("num_attention_heads");
  const kvGroups = members.integer("num_key_value_heads", defaults.kvHeads ?? heads);
  if (heads % kvGroups !== 0) {
    throw new FileFormatError(
      path,
      `"num_attention_heads" is ${heads}: must be a multiple of "num_key_value_heads" ${kvGroups}`,
    );
  }
  const shape = { kvGroups, queryHeadsPerGroup: heads / kvGroups, ffnChannels: members.integer("intermediate_size") };
  const headSize = members.integer("head_dim", defaults.headSize ?? width / heads);
  if (headSize % 2 !== 0) throw new FileFormatError(path, `the head size is ${headSize}: must be even for RoPE`);
  const layers = members.integer("num_hidden_layers", undefined, MAX_LAYERS);
  const maxPositions = members.integer("max_position_embeddings", defaults.maxPositions ?? 2048);
  members.only("partial_rotary_factor", [1]);
  const key = members.value("rope_parameters") === undefined ? "rope_scaling" : "rope_parameters";
  const base = members.number("rope_theta", defaults.ropeBase ?? 10000);
  const rope = readRope(members.object(key), { base, maxPositions });
  const common: DecoderConfig = {
    ...namedFamily(family),
    vocabSize,
    width,
    headSize,
    layers: Array.from({ length: layers }, () => ({ ...shape })),
    tiedHead: members.flag("tie_word_embeddings", defaults.tiedHead),
    biases: biasedMaps(family, (key) => members.flag(key)),
    ropeBase: rope.base,
    ...rope.scaling && { ropeScaling: rope.scaling },
    normEpsilon: members.number("rms_norm_eps", 1e-6),
    maxPositions,
    bosTokenId: readTokenId(members, "bos_token_id", vocabSize),
    eosTokenId: readTokenId(members, "eos_token_id", vocabSize),
  };
  return { ...common, ...family.hf.read?.(members, common) };
}

/** Maps with a bias, if those of a key `isSet` have one. */
const biasedMaps = ({ hf }: Pick<Family, "hf">, isSet: (key: string) => boolean): LinearName[] =>
  hf.biases.flatMap((name) => isBiasKey(name) ? (isSet(name) ? BIAS_KEYS[name] : []) : [name]);

/** The bias keys of `config`.
 * @throws {UsageError} when only some maps of a block have a bias, or maps without one in the family. */
function biasFlags({ hf, title }: Family, { biases }: DecoderConfig): Record<string, boolean> {
  const flags = Object.fromEntries(
    hf.biases.filter(isBiasKey).map((key) => [key, BIAS_KEYS[key].every((name) => biases.includes(name))]),
  );
  const said = biasedMaps({ hf }, (key) => flags[key] === true);
  if (biases.some((name) => !said.includes(name)) || said.some((name) => !biases.includes(name))) {
    throw new UsageError(
      `Only ${biases.join(", ") || "none of the maps"} have a bias, which a ${title} config.json cannot describe: ` +
        "prune without added biases",
    );
  }
  return flags;
}

/** The `config.json` with which transformers loads a checkpoint of equal layers as its family or a stand-in (see
 * `Family.standIn`); the inverse of {@linkcode fromHfConfig}.
 * @throws {UsageError} when it cannot describe the model: biases without a key, or the family's own reasons. */
export function toHfConfig(config: DecoderConfig): Record<string, unknown> {
  const { family } = hfFamilyOf(config);
  const { hf, title } = family;
  const refused = hf.refusal?.(config);
  if (refused) throw new UsageError(`A ${title} config.json cannot describe ${refused}`);
  const shape = at(config.layers, 0);
  const { key, name } = hf.activation ?? { key: "hidden_act", name: "silu" };
  return {
    architectures: [hf.architecture],
    model_type: hf.modelType,
    vocab_size: config.vocabSize,
    hidden_size: config.width,
    intermediate_size: shape.ffnChannels,
    num_hidden_layers: config.layers.length,
    num_attention_heads: queryHeads(shape),
    num_key_value_heads: shape.kvGroups,
    head_dim: config.headSize,
    [key]: name,
    max_position_embeddings: config.maxPositions,
    rms_norm_eps: config.normEpsilon,
    rope_theta: config.ropeBase,
    rope_scaling: ropeToHf(config.ropeScaling),
    tie_word_embeddings: config.tiedHead,
    ...biasFlags(family, config),
    ...hf.write?.(config),
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenId,
  };
}
