/** Windows of text for calibration and training, from a corpus or from the dense model itself.
 *
 * @module
 */
import { type DatasetUse, trainingSchema } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { describeIssue } from "../../core/util/issues.ts";
import { drawCalibration, type DrawnWindows } from "../../datasets/calibration.ts";
import { getCorpus } from "../../datasets/mod.ts";
import { SELF_TEXT } from "../../datasets/self_text.ts";
import type { StudentOptions } from "../../models/training/student.ts";
import type { LoadedModel } from "./load.ts";
import { selfText } from "./self_text.ts";
import type { StepOptions } from "./step.ts";

/** The source of text. */
export interface TextOptions extends StepOptions {
  /** A corpus, whose calibration split is read, or `self`; `tiny-world` by default. See `bench ls tasks`. */
  corpus?: string;
  /** Seed of the places. */
  seed?: number;
  /** Folder with data sets. */
  data?: string;
}

/** Which windows to draw. */
export interface CalibrationOptions extends TextOptions {
  /** How many windows. */
  sequences?: number;
  /** Length of a window in tokens. */
  tokens?: number;
  /** `distinct-rows`: one window from each of different records; see `bench run --help`. */
  draw?: "places" | "distinct-rows";
  /** Name of the random stream: windows of different streams differ. */
  stream?: string;
}

/** Windows at seeded places of a corpus, each i32 `[tokens]`: 128 of 128 tokens unless told otherwise.
 * @throws {UsageError} when the corpus is unknown, its data are missing, or the text is too short. */
export async function calibrate(
  loaded: LoadedModel,
  { corpus = "tiny-world", sequences = 128, tokens = 128, draw, seed = 0, data, stream, ...step }: CalibrationOptions =
    {},
): Promise<DrawnWindows> {
  for (const [name, count] of Object.entries({ sequences, tokens })) {
    if (Number.isInteger(count) && count > 0) continue;
    throw new UsageError(`${name} of calibration windows must be a whole number of at least 1: current ${count}`);
  }
  if (corpus !== SELF_TEXT) {
    const { tokenizer } = loaded;
    return await drawCalibration({
      corpus: getCorpus(corpus),
      tokenizer,
      sequences,
      tokens,
      draw,
      seed,
      data,
      stream,
    });
  }
  if (draw === "distinct-rows") {
    throw new UsageError("Text that the model writes has no rows: leave out distinct-rows");
  }
  return await selfText(loaded, { sequences, tokens, seed, stream: stream ?? "calibration" }, step);
}

/** Settings of a training, as in a run's `training` (`steps`, `batch`, `tokens`, `learningRate` and others), and what
 * trains: adapters and scales (`lora`, the default), scales alone, or, with methods that learn, `none`. */
export type TrainingInput = Partial<StudentOptions>;

/** What a training reads. */
export interface TrainingData {
  /** Settings with their defaults. */
  options: StudentOptions;
  /** `steps * batch` windows in order; the same for every method of a comparison. */
  windows: Int32Array[];
  /** What was read. */
  dataset: DatasetUse;
  /** Keeps the dense model's targets, the same for every method; each step's own `remember` when absent. */
  remember?: StepOptions["remember"];
}

/** Windows for a training, drawn apart from the calibration windows.
 * @throws {UsageError} when a setting does not fit, a corpus is unknown, or its data are missing or too short. */
export async function trainingData(
  loaded: LoadedModel,
  training: TrainingInput,
  { corpus = "tiny-world", ...text }: TextOptions = {},
): Promise<TrainingData> {
  const options = parseTraining(training);
  const { steps, batch, tokens } = options;
  const own = { ...text, corpus: options.corpus ?? corpus, sequences: steps * batch, tokens, stream: "training" };
  return { options, remember: text.remember, ...await calibrate(loaded, own) };
}

/** @throws {UsageError} that names the first setting that does not fit. */
function parseTraining({ recover = "lora", ...training }: TrainingInput): StudentOptions {
  const parsed = trainingSchema.safeParse(training);
  if (parsed.success) return { ...parsed.data, recover };
  const issue = at(parsed.error.issues, 0);
  throw new UsageError(`training: ${describeIssue(issue, training, () => Object.keys(trainingSchema.shape))}`);
}
