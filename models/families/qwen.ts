/** Qwen2 and Qwen2.5: biases on query, key and value. Qwen3, dense: norms of query and key heads, and its own head
 * size.
 *
 * @module
 */
import type { DecoderConfig } from "../config.ts";
import { queryHeads } from "../units.ts";
import { type Family, isPlain } from "./family.ts";
import { type HfMembers, layerTypes, readWindowed } from "./hf_members.ts";
import { windowed } from "./windows.ts";

/** The window of Qwen's `config.json`, off unless `use_sliding_window` is set: on layers from `max_window_layers` on,
 * or those that `layer_types` names. */
function readWindow(members: HfMembers, common: DecoderConfig): Partial<DecoderConfig> {
  if (!members.flag("use_sliding_window")) return {};
  const isWindowed = readWindowed(members, common.layers.length);
  const first = members.integer("max_window_layers", 28);
  const window = members.integer("sliding_window", 4096);
  return windowed(common, window, (l) => isWindowed?.[l] ?? l >= first);
}

function writeWindow(config: DecoderConfig): Record<string, unknown> {
  const window = config.attention?.find((kind) => kind.window !== null)?.window;
  if (!window) return { use_sliding_window: false };
  return {
    use_sliding_window: true,
    sliding_window: window,
    max_window_layers: config.layers.length,
    layer_types: layerTypes(config),
  };
}

/** Properties of a Qwen model that its GGUF file cannot describe. */
const withoutWindow = (config: DecoderConfig): string | undefined =>
  isPlain(config) ? undefined : "windows of attention";

/** Properties of a Qwen2 model that its GGUF file cannot describe: llama.cpp computes the head size from the width and
 * reads no other. */
function refusal(config: DecoderConfig): string | undefined {
  const narrower = config.layers.some((shape) => queryHeads(shape) * config.headSize !== config.width);
  return withoutWindow(config) ?? (narrower ? "heads whose sizes do not add up to the width" : undefined);
}

/** Qwen2 and Qwen2.5. */
export const QWEN2: Family = {
  id: "qwen2",
  title: "Qwen2, Qwen2.5",
  hf: {
    modelType: "qwen2",
    architecture: "Qwen2ForCausalLM",
    biases: ["query", "key", "value"],
    defaults: { kvHeads: 32, maxPositions: 32768 },
    read: readWindow,
    write: writeWindow,
  },
  gguf: { architecture: "qwen2", pairsRows: false, biases: ["query", "key", "value"], refusal },
};

/** Qwen3. */
export const QWEN3: Family = {
  id: "qwen3",
  title: "Qwen3",
  hf: {
    modelType: "qwen3",
    architecture: "Qwen3ForCausalLM",
    biases: ["attention_bias"],
    defaults: { kvHeads: 32, headSize: 128, maxPositions: 32768 },
    read: (members, common) => ({ headNorms: true, ...readWindow(members, common) }),
    write: writeWindow,
  },
  gguf: {
    architecture: "qwen3",
    pairsRows: false,
    biases: [],
    read: () => ({ headNorms: true }),
    refusal: withoutWindow,
  },
};
