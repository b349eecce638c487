/** Tensors of Hugging Face checkpoints under the project's names.
 *
 * @module
 */
import { type DecoderConfig, type HostTensor, layerNorms, tensorNames } from "../config.ts";
import type { Family } from "./family.ts";

/** How a family stores a model's tensors. */
interface HfTensors {
  /** Name in the checkpoint. */
  stored(name: string): string;
  /** The project's tensor, from the checkpoint's. */
  read(name: string, tensor: HostTensor): HostTensor;
  /** The checkpoint's values, from the project's. */
  write(name: string, data: Float32Array): Float32Array;
}

/** How `family` stores the tensors of `config`. */
export function hfTensors({ hf: { norms = {}, normOffset = 0 } }: Family, config: DecoderConfig): HfTensors {
  const names = new Map<string, string>();
  const gains = new Set([tensorNames.finalNorm]);
  config.layers.forEach((_, l) => {
    for (const [norm] of layerNorms(config)) {
      const name = tensorNames.norm(l, norm);
      gains.add(name);
      if (norms[norm]) names.set(name, `model.layers.${l}.${norms[norm]}.weight`);
    }
  });
  const shifted = (data: Float32Array, by: number) => data.map((value) => value + by);
  return {
    stored: (name) => names.get(name) ?? name,
    read: (name, { shape, data }) =>
      normOffset === 0 || !gains.has(name) ? { shape, data } : { shape, data: shifted(data, normOffset) },
    write: (name, data) => normOffset === 0 || !gains.has(name) ? data : shifted(data, -normOffset),
  };
}
