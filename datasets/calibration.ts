/** Calibration windows: token sequences from a corpus, the same for every method of a comparison.
 *
 * @module
 */
import { UsageError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import { createRng, type Rng } from "../core/util/rng.ts";
import type { DatasetUse } from "../core/schema/schema.ts";
import { counted } from "../core/util/words.ts";
import { cutWindow, encodeForWindows, textTokens, type Tokenizer } from "../core/formats/tokenizer.ts";
import type { Corpus } from "./define.ts";
import { loadCorpus } from "./load.ts";

/** Windows, i32 [tokens] each, and their data set. */
export interface DrawnWindows {
  windows: Int32Array[];
  dataset: DatasetUse;
}

/** Arguments of {@linkcode drawCalibration}. */
export interface CalibrationOptions {
  /** Corpus whose calibration split is used. */
  corpus: Corpus;
  tokenizer: Tokenizer;
  /** Number of windows. */
  sequences: number;
  /** Length of a window in tokens. */
  tokens: number;
  /** `places` (default): random places, SparseGPT's procedure. `distinct-rows`: one window from each of several records
   * that are long enough, each encoded alone, as in LLM-Pruner's loader (horseee/LLM-Pruner 128a07d). */
  draw?: "places" | "distinct-rows";
  /** Seed of the places. */
  seed: number;
  data?: string;
  /** Random stream, independent of others. It names the purpose of the text, and the corpus if there are several;
   * default `calibration`. */
  stream?: string;
}

/** One window from each of `sequences` records, at a random place; fewer if too few records are long enough. */
function fromDistinctRows(
  texts: readonly string[],
  tokenizer: Tokenizer,
  { sequences, tokens }: { sequences: number; tokens: number },
  rng: Rng,
): Int32Array[] {
  const windows: Int32Array[] = [];
  const own = textTokens(tokenizer, tokens);
  const left = [...texts.keys()];
  while (windows.length < sequences && left.length > 0) {
    const place = rng.integer(left.length);
    const ids = encodeForWindows(tokenizer, at(texts, at(left, place)));
    const last = left.pop() ?? 0;
    if (place < left.length) left[place] = last;
    if (ids.length < own) continue;
    windows.push(cutWindow(tokenizer, ids, rng.integer(ids.length - own + 1), tokens));
  }
  return windows;
}

/** Draws calibration windows, each i32 `[tokens]`, by SparseGPT's procedure: at random places of the joined training
 * text. Without a calibration joiner, each window comes from a random record that is longer than the window.
 * @throws {UsageError} when the text is shorter than a window. */
export async function drawCalibration(
  { corpus, tokenizer, sequences, tokens, draw, seed, data, stream = "calibration" }: CalibrationOptions,
): Promise<DrawnWindows> {
  const { texts, dataset } = await loadCorpus(corpus, { data, split: "calibration" });
  const rng = createRng(seed, stream);
  const own = textTokens(tokenizer, tokens);
  // As in SparseGPT, the last possible start is excluded.
  const slice = (ids: readonly number[]) =>
    cutWindow(tokenizer, ids, rng.integer(Math.max(1, ids.length - own)), tokens);
  const tooShort = () =>
    new UsageError(
      `The ${stream.replace(` ${corpus.id}`, "")} text of "${corpus.id}" (${dataset.source}, ` +
        `${counted(texts.length, "record")}) has no window of ${tokens} tokens: use shorter windows or more text`,
    );
  if (draw === "distinct-rows") {
    const windows = fromDistinctRows(texts, tokenizer, { sequences, tokens }, rng);
    if (windows.length === sequences) return { windows, dataset };
    throw new UsageError(
      `The calibration text of "${corpus.id}" (${dataset.source}) has ${windows.length} records of ${tokens} tokens ` +
        `or more, but distinct-rows needs ${sequences}: use fewer or shorter windows, or more text`,
    );
  }
  if (corpus.calibrationJoiner !== undefined) {
    const ids = encodeForWindows(tokenizer, texts.join(corpus.calibrationJoiner));
    if (ids.length < own) throw tooShort();
    return { windows: Array.from({ length: sequences }, () => slice(ids)), dataset };
  }
  const windows: Int32Array[] = [];
  let candidates = texts.map((text) => ({ text, ids: undefined as number[] | undefined }));
  while (windows.length < sequences) {
    if (candidates.length === 0) throw tooShort();
    const record = rng.pick(candidates);
    record.ids ??= encodeForWindows(tokenizer, record.text);
    if (record.ids.length > own) windows.push(slice(record.ids));
    else candidates = candidates.filter((other) => other !== record);
  }
  return { windows, dataset };
}
