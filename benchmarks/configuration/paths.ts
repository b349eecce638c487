/** Which values of a configuration are paths.
 *
 * @module
 */
import { isAbsolute, join } from "node:path";
import { isFileName } from "../../datasets/text_file.ts";

type Values = Readonly<Record<string, unknown>>;

/** Moves a path. `tiny` is the bundled model, not a path, and `file:PATH` a corpus. */
type Move = (path: string) => string;

const isValues = (value: unknown): value is Values =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Moves a text, or each text of a list. */
function moveTexts(value: unknown, move: Move): unknown {
  if (Array.isArray(value)) return value.map((one) => moveTexts(one, move));
  return typeof value === "string" ? move(value) : value;
}

/** Unchecked values of a configuration with every path moved. */
export function movePaths(values: Values, move: Move): Record<string, unknown> {
  const file: Move = (name) => {
    const [, path, field = ""] = isFileName(name) ? /^file:(.*?)(#[^#/]+)?$/s.exec(name) ?? [] : [];
    return path === undefined ? name : `file:${move(path)}${field}`;
  };
  const corpus = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(corpus);
    return isValues(value) ? { ...value, ...moved(value, "corpus", file) } : value;
  };
  const { training, model, checkpoints } = values;
  return {
    ...values,
    ...model !== "tiny" && moved(values, "model", move),
    ...["methodFile", "taskFile", "data", "out"].reduce((all, key) => ({ ...all, ...moved(values, key, move) }), {}),
    ...checkpoints !== undefined && {
      checkpoints: [checkpoints].flat().map((one) =>
        isValues(one) && one.model !== "tiny" ? { ...one, ...moved(one, "model", move) } : one
      ),
    },
    ..."perplexity" in values && { perplexity: corpus(values.perplexity) },
    ..."calibration" in values && { calibration: corpus(values.calibration) },
    ...isValues(training) && {
      training: { ...training, ...moved(training, "corpus", file) },
    },
  };
}

function moved(values: Values, key: string, move: Move): Record<string, unknown> {
  return key in values ? { [key]: moveTexts(values[key], move) } : {};
}

/** Takes relative paths from `folder`. */
export function fromFolder(folder: string): Move {
  return (path) => isAbsolute(path) ? path : join(folder, path);
}
