/** Compares the tensors of a checkpoint with those its configuration asks for.
 *
 * @module
 */
import { FileFormatError } from "../core/util/errors.ts";
import { type DecoderConfig, expectedTensors } from "./config.ts";

/** What a checkpoint has, in its own naming. */
export interface FoundTensors {
  /** Named in messages. */
  path: string;
  /** Shape by stored name. */
  shapes: Map<string, readonly number[]>;
  /** Stored name of a Hugging Face name. */
  storedName(name: string): string;
  /** Whether an additional tensor carries nothing the model needs. */
  isHarmless(storedName: string): boolean;
}

/** Checks that every tensor of `config` is there with its shape, and that nothing else is: a tensor without a place
 * (such as a bias the configuration does not mention) means that the model would compute something else.
 * @throws {FileFormatError} that names the first tensor that is missing, misshapen, or without a place. */
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
      throw new FileFormatError(path, `has the tensor "${name}", for which this configuration has no place`);
    }
  }
}
