/** Compares the tensors of a checkpoint with its configuration.
 *
 * @module
 */
import { FileFormatError } from "../core/util/errors.ts";
import { type DecoderConfig, expectedTensors } from "./config.ts";

/** Tensors of a checkpoint under its own names. */
interface FoundTensors {
  path: string;
  /** Shape by stored name. */
  shapes: Map<string, readonly number[]>;
  /** Stored name of a Hugging Face name. */
  storedName(name: string): string;
  /** Whether an additional tensor may be ignored. */
  isHarmless(storedName: string): boolean;
}

/** Checks that every tensor of `config` is there with its shape, and that there are no others. An additional tensor,
 * such as a bias outside the configuration, means that the model computes something else.
 * @throws {FileFormatError} that names the first missing, misshapen or additional tensor. */
export function checkTensors(config: DecoderConfig, found: FoundTensors): void {
  const { path, shapes, storedName, isHarmless } = found;
  const unexpected = new Set(shapes.keys());
  for (const [name, expected] of expectedTensors(config)) {
    const stored = storedName(name);
    const shape = shapes.get(stored);
    if (shape === undefined) throw new FileFormatError(path, `has no tensor "${stored}"`);
    if (shape.length !== expected.length || shape.some((size, i) => size !== expected[i])) {
      throw new FileFormatError(
        path,
        `tensor "${stored}" has the shape [${shape.join(", ")}]: the configuration needs [${expected.join(", ")}]`,
      );
    }
    unexpected.delete(stored);
  }
  for (const name of unexpected) {
    if (!isHarmless(name)) {
      throw new FileFormatError(path, `has the tensor "${name}", which is not part of its configuration`);
    }
  }
}
