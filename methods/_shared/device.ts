/** Reading results back.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../../core/engine/engine.ts";
import { NumericError } from "../../core/util/errors.ts";

/** Reads many tensors with one transfer; each comes back flat, f32. The tensors are freed.
 * @throws {NumericError} when a value is not finite; `what` names the values.
 * @throws {EngineError} when the device reported an error. */
export async function readFlat(tensors: tf.Tensor[], what: string): Promise<Float32Array[]> {
  const joined = tf.tidy(() => tf.concat(tensors.map((tensor) => tf.reshape(tensor, [-1]))));
  const sizes = tensors.map((tensor) => tensor.size);
  tf.dispose(tensors);
  let values: Float32Array;
  try {
    values = await joined.data<"float32">();
  } finally {
    joined.dispose();
  }
  currentEngine().check();
  const bad = values.find((value) => !Number.isFinite(value));
  if (bad !== undefined) throw new NumericError(`The ${what} must be finite numbers: current ${bad}`);
  let start = 0;
  return sizes.map((size) => values.slice(start, start += size));
}
