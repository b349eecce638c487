/** The checkpoints of `weights_fixture.ts` as GGUF files.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { type DecoderConfig, expectedTensors } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { ggufTensorNames } from "../../models/load_gguf.ts";
import { f32Tensor, type StoredTensor, type Typed } from "./weights_fixture.ts";

/** Metadata of {@linkcode smallConfig} with a SentencePiece vocabulary of eleven tokens. */
export function ggufMetadata(config: DecoderConfig): Record<string, Typed> {
  const shape = at(config.layers, 0);
  return {
    "general.architecture": { text: "llama" },
    "llama.block_count": { u32: config.layers.length },
    "llama.context_length": { u32: config.maxPositions },
    "llama.embedding_length": { u32: config.width },
    "llama.feed_forward_length": { u32: shape.ffnChannels },
    "llama.attention.head_count": { u32: queryHeads(shape) },
    "llama.attention.head_count_kv": { u32: shape.kvGroups },
    "llama.attention.key_length": { u32: config.headSize },
    "llama.attention.value_length": { u32: config.headSize },
    "llama.attention.layer_norm_rms_epsilon": { f32: config.normEpsilon },
    "llama.rope.freq_base": { f32: config.ropeBase },
    "tokenizer.ggml.model": { text: "llama" },
    "tokenizer.ggml.tokens": { texts: ["<unk>", "<s>", "</s>", "\u2581", ..."abcdefg"] },
    "tokenizer.ggml.scores": { f32s: [0, 0, 0, -1, -2, -3, -4, -5, -6, -7, -8] },
    "tokenizer.ggml.token_type": { i32s: [2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1] },
    "tokenizer.ggml.bos_token_id": { u32: 1 },
    "tokenizer.ggml.eos_token_id": { u32: 2 },
  };
}

/** Query and key rows in GGUF's order: `convert_hf_to_gguf.py` reshapes [heads, 2, K / 2, in] and swaps the inner axes. */
function toGgufRows(values: Float32Array, rows: number, headSize: number): Float32Array {
  const columns = values.length / rows;
  const half = headSize / 2;
  const out: number[] = [];
  for (let head = 0; head < rows / headSize; head++) {
    for (let pair = 0; pair < half; pair++) {
      for (const part of [0, 1]) {
        const row = head * headSize + part * half + pair;
        out.push(...values.subarray(row * columns, (row + 1) * columns));
      }
    }
  }
  return Float32Array.from(out);
}

/** Tensors of `config` under their GGUF names. */
export function ggufTensors(config: DecoderConfig, tensors: Map<string, Float32Array>): Record<string, StoredTensor> {
  const names = ggufTensorNames(config);
  const stored: Record<string, StoredTensor> = {};
  for (const [name, shape] of expectedTensors(config)) {
    const values = tensors.get(name)!;
    const isRotary = /\.[qk]_proj\./.test(name);
    stored[names.get(name)!] = f32Tensor(shape, isRotary ? toGgufRows(values, at(shape, 0), config.headSize) : values);
  }
  return stored;
}
