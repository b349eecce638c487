/** What a family of models is: how its files say what {@linkcode DecoderConfig} says. What its models compute is in the
 * configuration alone.
 *
 * @module
 */
import type { GgufEntry } from "../../core/formats/gguf_write.ts";
import type { DecoderConfig, LinearName, NormName } from "../config.ts";
import type { HfMembers } from "./hf_members.ts";
import type { Members } from "./members.ts";

/** Typed access to a GGUF file's metadata under the architecture's name. */
export interface GgufMembers extends Members {
  /** The whole key, for messages. */
  name(key: string): string;
}

/** Linear maps of a block that have a bias together, by the key of `config.json` that says so. */
export const BIAS_KEYS = {
  attention_bias: ["query", "key", "value", "output"],
  mlp_bias: ["gate", "up", "down"],
} as const satisfies Record<string, readonly LinearName[]>;

/** Configuration beyond what all families have; it replaces what is there. */
export type FamilyConfig = Partial<DecoderConfig>;

/** A family's Hugging Face folders. */
export interface HfFormat {
  modelType: string;
  architecture: string;
  /** Maps with a bias: always these, or those of the keys that are set. */
  biases: readonly LinearName[] | readonly (keyof typeof BIAS_KEYS)[];
  /** What transformers takes for keys that are missing, where that is not Llama's. */
  defaults?: { kvHeads?: number; headSize?: number; maxPositions?: number; tiedHead?: boolean; ropeBase?: number };
  /** Where the activation is said, and the name that stands for the family's. */
  activation?: { key: string; name: string };
  /** Names of norms below `model.layers.N`, where unlike a plain checkpoint's. */
  norms?: Partial<Record<NormName, string>>;
  /** Norm weights in the file are this much less than the gain; 0 when absent. */
  normOffset?: number;
  /** Reads what the family says besides. `common` has what all say.
   * @throws {UsageError} for what is not supported. */
  read?(members: HfMembers, common: DecoderConfig): FamilyConfig;
  /** The keys that {@linkcode read} reads. */
  write?(config: DecoderConfig): Record<string, unknown>;
  /** Why the family's `config.json` cannot say this, as the end of a sentence. */
  refusal?(config: DecoderConfig): string | undefined;
  /** Whether transformers wants the heads to divide the width, although an explicit head size makes that needless. */
  headsDivideWidth?: boolean;
}

/** A family's GGUF files. */
export interface GgufFormat {
  architecture: string;
  /** Whether rows of query and key are stored with those of a rotary pair next to each other. */
  pairsRows: boolean;
  /** Maps that llama.cpp reads a bias of. */
  biases: readonly LinearName[];
  read?(members: GgufMembers, common: DecoderConfig): FamilyConfig;
  /** Metadata besides what all have, without the architecture's prefix. */
  write?(config: DecoderConfig): Record<string, GgufEntry>;
  refusal?(config: DecoderConfig): string | undefined;
}

/** A family of models. */
export interface Family {
  /** In {@linkcode DecoderConfig.family}. */
  id: string;
  /** What messages and documentation call it. */
  title: string;
  hf: HfFormat;
  gguf: GgufFormat;
  /** The family whose `config.json` says what this one's cannot, with the reason. */
  standIn?(config: DecoderConfig): { family: Family; reason: string } | undefined;
}

/** Every linear map. */
export const ALL_BIASES: readonly LinearName[] = [...BIAS_KEYS.attention_bias, ...BIAS_KEYS.mlp_bias];

/** Whether all layers see positions alike, by plain frequencies and without a window. */
export const isPlain = ({ attention }: DecoderConfig): boolean => attention === undefined;

/** Whether transformers accepts so many heads where it wants them to divide the width. */
export function headsDivideWidth({ layers: [shape], width }: DecoderConfig): boolean {
  return shape === undefined || width % (shape.kvGroups * shape.queryHeadsPerGroup) === 0;
}
