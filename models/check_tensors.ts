/** Compares the tensors of a checkpoint with its configuration.
 *
 * @module
 */
import { FileFormatError } from "../core/util/errors.ts";
import { type DecoderConfig, expectedTensors } from "./config.ts";

/** Checks that every tensor of `config` is in the checkpoint `tensors`, under the name that `storedName` gives, with its
 * shape, and that there are no others but harmless ones. An additional tensor, such as a bias outside the configuration,
 * means that the model computes something else.
 * @throws {FileFormatError} that names the first missing, misshapen or additional tensor. */
export function checkTensors(
  config: DecoderConfig,
  { path, tensors, storedName, isHarmless }: {
    path: string;
    tensors: ReadonlyMap<string, { shape: readonly number[] }>;
    storedName(name: string): string;
    isHarmless(storedName: string): boolean;
  },
): void {
  const unexpected = new Set(tensors.keys());
  for (const [name, expected] of expectedTensors(config)) {
    const stored = storedName(name);
    const shape = tensors.get(stored)?.shape;
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
