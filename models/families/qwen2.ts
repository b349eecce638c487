/** Qwen2 and Qwen2.5: biases on query, key and value.
 *
 * @module
 */
import type { DecoderConfig } from "../config.ts";
import { type Family, isPlain } from "./family.ts";
import type { HfMembers } from "./hf_members.ts";
import { queryHeads } from "../units.ts";
import { windowed } from "./windows.ts";

/** The window of Qwen's `config.json`, off unless `use_sliding_window` is set: on layers from `max_window_layers` on,
 * or those that `layer_types` names. */
export function readQwenWindow(members: HfMembers, common: DecoderConfig): Partial<DecoderConfig> {
  if (!members.flag("use_sliding_window")) return {};
  const isType = (type: unknown): type is string => type === "sliding_attention" || type === "full_attention";
  const types = members.list("layer_types", common.layers.length, isType, `"full_attention" or "sliding_attention"`);
  const first = members.integer("max_window_layers", 28);
  const window = members.integer("sliding_window", 4096);
  return windowed(common, window, (l) => types ? types[l] === "sliding_attention" : l >= first);
}

/** The keys of {@linkcode readQwenWindow}. */
export function writeQwenWindow({ attention, layers }: DecoderConfig): Record<string, unknown> {
  const window = attention?.find((kind) => kind.window !== null)?.window;
  if (!window) return { use_sliding_window: false };
  return {
    use_sliding_window: true,
    sliding_window: window,
    max_window_layers: layers.length,
    layer_types: attention?.map((kind) => kind.window === null ? "full_attention" : "sliding_attention"),
  };
}

/** Properties of a Qwen model that its GGUF file cannot describe. */
export const withoutWindow = (config: DecoderConfig): string | undefined =>
  isPlain(config) ? undefined : "windows of attention";

/** Properties of a Qwen2 model that its GGUF file cannot describe: llama.cpp computes the head size from the width and
 * reads no other. */
function refusal(config: DecoderConfig): string | undefined {
  const narrower = config.layers.some((shape) => queryHeads(shape) * config.headSize !== config.width);
  return withoutWindow(config) ?? (narrower ? "heads whose sizes do not add up to the width" : undefined);
}

/** See the module. */
export const QWEN2: Family = {
  id: "qwen2",
  title: "Qwen2, Qwen2.5",
  hf: {
    modelType: "qwen2",
    architecture: "Qwen2ForCausalLM",
    biases: ["query", "key", "value"],
    defaults: { kvHeads: 32, maxPositions: 32768 },
    read: readQwenWindow,
    write: writeQwenWindow,
  },
  gguf: { architecture: "qwen2", pairsRows: false, biases: ["query", "key", "value"], refusal },
};
