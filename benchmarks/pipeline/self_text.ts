/** Text of the dense model itself, for calibration and training where no data are at hand: sampled from the
 * beginning-of-sequence token alone (after Williams et al. 2025, "Self-calibration for Language Model Quantization and
 * Pruning", arXiv:2410.17170).
 *
 * @module
 */
import { createHash } from "node:crypto";
import { UsageError } from "../../core/util/errors.ts";
import { entry } from "../../core/util/indexing.ts";
import { cutWindow, textTokens } from "../../core/formats/tokenizer.ts";
import type { DrawnWindows } from "../../datasets/calibration.ts";
import { SELF_SAMPLING, SELF_SETTINGS, SELF_TEXT } from "../../datasets/self_text.ts";
import { sampleTexts } from "../../models/generate.ts";
import { prefixToken } from "../evaluation/requests.ts";
import type { LoadedModel } from "./load.ts";
import { type StepOptions, withDefaults } from "./step.ts";

/** Tokens of the sequences that are sampled at once. */
const TOKENS_AT_ONCE = 2048;

interface SampledWindows {
  sequences: number;
  tokens: number;
  seed: number;
  stream: string;
}

/** Samples windows. The same model, engine, seed and settings give the same text.
 * @throws {UsageError} when a window is longer than the model's positions. */
export async function selfText(
  { model, tokenizer }: Pick<LoadedModel, "model" | "tokenizer">,
  { sequences, tokens, seed, stream }: SampledWindows,
  step: StepOptions,
): Promise<DrawnWindows> {
  const { remember, report, signal } = withDefaults(step);
  const { maxPositions } = model.config;
  if (tokens > maxPositions) {
    throw new UsageError(`Windows of ${tokens} tokens cannot be sampled: the model has ${maxPositions} positions`);
  }
  const prefix = prefixToken(tokenizer);
  const { windowStart } = tokenizer;
  const key = JSON.stringify(["self text", SELF_SETTINGS, stream, sequences, tokens, windowStart, tokenizer.sha256]);
  const { data } = entry(
    await remember(key, async () => {
      const data = new Float32Array(sequences * tokens);
      const atOnce = Math.max(1, Math.floor(TOKENS_AT_ONCE / tokens));
      for (let first = 0; first < sequences; first += atOnce) {
        report(`text of the model: ${first} of ${sequences} sequences of ${tokens} tokens`);
        const rows = Array.from({ length: Math.min(atOnce, sequences - first) }, (_, i) => first + i);
        const streams = rows.map((row) => `${stream} ${row}`);
        const steps = textTokens(tokenizer, tokens);
        const generated = await sampleTexts(model, { ...SELF_SAMPLING, prefix, streams, seed, steps, signal });
        for (const [i, row] of generated.entries()) {
          data.set(cutWindow(tokenizer, row, 0, tokens), (first + i) * tokens);
        }
      }
      return { ids: { shape: [sequences, tokens], data } };
    }),
    "ids",
  );
  const all = Int32Array.from(data);
  const windows = Array.from({ length: sequences }, (_, i) => all.slice(i * tokens, (i + 1) * tokens));
  const sha256 = createHash("sha256").update(new Uint8Array(all.buffer)).digest("hex");
  const source =
    `sampled from the dense model: ${SELF_SETTINGS}, seed ${seed}, ${sequences} sequences of ${tokens} tokens`;
  return {
    windows,
    dataset: { id: SELF_TEXT, split: stream, source, revision: null, licence: "the model's", sha256 },
  };
}
