/** A family of models: how its files describe a {@linkcode DecoderConfig}. The configuration alone decides what its
 * models compute.
 *
 * @module
 */
import type { GgufEntry } from "../../core/formats/gguf_write.ts";
import type { DecoderConfig, LinearName, NormName } from "../config.ts";
import type { HfMembers } from "./hf_members.ts";
import type { Members } from "./members.ts";

/** Linear maps of a block that have biases together, by their key in `config.json`. */
export const BIAS_KEYS = {
  attention_bias: ["query", "key", "value", "output"],
  mlp_bias: ["gate", "up", "down"],
} as const satisfies Record<string, readonly LinearName[]>;

/** Whether an entry of a family's biases is such a key. */
export const isBiasKey = (name: string): name is keyof typeof BIAS_KEYS => Object.hasOwn(BIAS_KEYS, name);

/** A family's additions to the common configuration, or replacements. */
export type FamilyConfig = Partial<DecoderConfig>;

interface HfFormat {
  modelType: string;
  architecture: string;
  /** Maps with a bias: always these, or those whose keys are set. */
  biases: readonly LinearName[] | readonly (keyof typeof BIAS_KEYS)[];
  /** Defaults of transformers for missing keys, if different from Llama's. */
  defaults?: { kvHeads?: number; headSize?: number; maxPositions?: number; tiedHead?: boolean; ropeBase?: number };
  /** Key of the activation, and the required name. */
  activation?: { key: string; name: string };
  /** Names of norms below `model.layers.N`, if different from a plain checkpoint's. */
  norms?: Partial<Record<NormName, string>>;
  /** Difference of the gain and the norm weights in the file; 0 when absent. */
  normOffset?: number;
  /** Reads the family's additions to `common`.
   * @throws {UsageError} for an unsupported feature. */
  read?(members: HfMembers, common: DecoderConfig): FamilyConfig;
  /** Writes the keys of {@linkcode read}. */
  write?(config: DecoderConfig): Record<string, unknown>;
  /** What the family's `config.json` cannot describe, as the end of a sentence. */
  refusal?(config: DecoderConfig): string | undefined;
  /** Whether transformers requires the heads to divide the width, even with an explicit head size. */
  headsDivideWidth?: boolean;
}

interface GgufFormat {
  architecture: string;
  /** Whether the two rows of a rotary pair of query and key are adjacent in the file. */
  pairsRows: boolean;
  /** Maps whose bias llama.cpp reads. */
  biases: readonly LinearName[];
  /** Reads metadata by their names below the architecture's. */
  read?(members: Members, common: DecoderConfig): FamilyConfig;
  /** The family's additional metadata, without the architecture's prefix. */
  write?(config: DecoderConfig): Record<string, GgufEntry>;
  refusal?(config: DecoderConfig): string | undefined;
}

/** A family of models. */
export interface Family {
  /** Value of {@linkcode DecoderConfig.family}. */
  id: string;
  title: string;
  hf: HfFormat;
  gguf: GgufFormat;
  /** The family whose `config.json` describes a model that this one's cannot, with the reason. */
  standIn?(config: DecoderConfig): { family: Family; reason: string } | undefined;
}

/** Every linear map. */
export const ALL_BIASES: readonly LinearName[] = [...BIAS_KEYS.attention_bias, ...BIAS_KEYS.mlp_bias];

/** Whether all layers have the same plain frequencies and no window. */
export const isPlain = ({ attention }: DecoderConfig): boolean => attention === undefined;

/** Whether the heads divide the width, which transformers requires for some families. */
export function headsDivideWidth({ layers: [shape], width }: DecoderConfig): boolean {
  return shape === undefined || width % (shape.kvGroups * shape.queryHeadsPerGroup) === 0;
}
