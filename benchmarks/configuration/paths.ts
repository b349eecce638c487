/** Which values of a configuration are paths.
 *
 * @module
 */
import { isAbsolute, join } from "node:path";
import { isObject } from "../../core/util/canonical_json.ts";
import { filePlace } from "../../datasets/text_file.ts";

type Values = Readonly<Record<string, unknown>>;

/** Moves a path. `tiny` is the bundled model, not a path, and `file:PATH` a corpus. */
type Move = (path: string) => string;

/** Moves a text, each of a list, or that of `key` in an object. */
function moved(value: unknown, move: Move, key: string): unknown {
  if (Array.isArray(value)) return value.map((one) => moved(one, move, key));
  if (isObject(value)) return key in value ? { ...value, [key]: moved(value[key], move, key) } : value;
  return typeof value === "string" ? move(value) : value;
}

/** Unchecked values of a configuration with every path moved. */
export function movePaths(values: Values, move: Move): Record<string, unknown> {
  const model: Move = (path) => path === "tiny" ? path : move(path);
  const corpus: Move = (name) => {
    const { path, field } = filePlace(name) ?? {};
    return path === undefined ? name : `file:${move(path)}${field === undefined ? "" : `#${field}`}`;
  };
  const moves = new Map(Object.entries({
    ...{ model, checkpoints: model, methodFile: move, taskFile: move, data: move, out: move },
    ...{ perplexity: corpus, calibration: corpus, training: corpus },
  }));
  return Object.fromEntries(
    Object.entries(values).map(([key, value]) => {
      const own = moves.get(key);
      return [key, own ? moved(value, own, own === corpus ? "corpus" : "model") : value];
    }),
  );
}

/** Takes relative paths from `folder`. */
export function fromFolder(folder: string): Move {
  return (path) => isAbsolute(path) ? path : join(folder, path);
}
