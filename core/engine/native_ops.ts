/** The decoder's operations as single TensorFlow operations: `core/engine/native/`, compiled for the CPU by
 * `deno task setup:tensorflow`. Other engines, and CUDA, compose the same operations from those of TensorFlow.js.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";

let cpuThreads = 0;
let hasBf16 = false;

/** Required result of a library's `maskprune_interface()`. */
const INTERFACE = 6;

/** Loads the compiled operations into this process; they use `threads` threads. `bf16Products`: whether they have
 * products of bfloat16, which need AVX512-BF16.
 * @throws {Error} when the file is missing, does not load, or was compiled from other sources. */
export function loadDecoderOps(path: string, threads: number): { bf16Products: boolean } {
  if (cpuThreads === 0) {
    const answer = { parameters: [], result: "i32" } as const;
    const { symbols } = Deno.dlopen(path, { maskprune_interface: answer, maskprune_bf16: answer });
    const found = symbols.maskprune_interface();
    if (found !== INTERFACE) throw new Error(`${path} has interface ${found}: must be ${INTERFACE}`);
    hasBf16 = symbols.maskprune_bf16() === 1;
  }
  cpuThreads = threads;
  return { bf16Products: hasBf16 };
}

/** Attributes of an operation by name: the dtype of a tensor, an integer, or an f32 number. */
export type OpAttributes = Record<string, { typeOf: tf.Tensor } | { integer: number } | { float: number }>;

interface Outputs {
  1: [tf.Tensor];
  2: [tf.Tensor, tf.Tensor];
  3: [tf.Tensor, tf.Tensor, tf.Tensor];
}

/** Runs a TensorFlow operation that TensorFlow.js does not offer; only on engines with `namedOps`. */
export function nativeOp<N extends keyof Outputs>(
  name: string,
  inputs: tf.Tensor[],
  outputs: N,
  attributes: OpAttributes,
): Outputs[N] {
  const backend = tf.backend() as unknown as {
    binding: Record<string, number>;
    getDTypeInteger(dtype: string): number;
    executeMultipleOutputs(name: string, attributes: unknown[], inputs: tf.Tensor[], count: N): Outputs[N];
  };
  const { binding } = backend;
  const list = Object.entries(attributes).map(([name, value]) => {
    if ("typeOf" in value) {
      return { name, type: binding.TF_ATTR_TYPE, value: backend.getDTypeInteger(value.typeOf.dtype) };
    }
    if ("integer" in value) return { name, type: binding.TF_ATTR_INT, value: value.integer };
    return { name, type: binding.TF_ATTR_FLOAT, value: value.float };
  });
  return backend.executeMultipleOutputs(name, list, inputs, outputs);
}

type Forward = "Attention" | "RmsNorm" | "SwiGlu" | "LowRank";
type DecoderOp = Forward | `${Forward}Gradient` | "DecodeLayer" | "Product" | "CrossEntropy" | "Pack" | "Unpack";

/** Runs an operation of `core/engine/native/`; only on engines with `decoderOps`. */
export function decoderOp<N extends keyof Outputs>(
  name: DecoderOp,
  inputs: tf.Tensor[],
  outputs: N,
  attributes: OpAttributes = {},
): Outputs[N] {
  return nativeOp(`MaskPrune${name}`, inputs, outputs, { ...attributes, threads: { integer: cpuThreads } });
}
