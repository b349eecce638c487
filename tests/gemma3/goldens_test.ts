/** Gemma 3 270M (`deno task get:gemma3`) on the native engine against numbers from transformers 5.24 on the same file,
 * dequantised to f32: `tests/golden/gemma3-270m.json`. `MASKPRUNE_GEMMA3` names the .gguf file; `MASKPRUNE_DATA` a folder
 * with `wikitext2-tokens-valid.txt`, which this project does not ship: without it that check is listed as ignored.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { assertEquals } from "@std/assert";
import { join } from "node:path";
import { forward } from "../../models/decoder.ts";
import { logits } from "../../models/vocabulary.ts";
import { readGolden, realModel, type TextGolden } from "../support/real_model.ts";

/** Nats by which a log-probability may differ from transformers'. */
const TOLERANCE_NATS = 5e-4;

const { texts, perplexity: { windows, tokens, ppl, first20Ids } } = readGolden<{
  texts: (TextGolden & { top5: [number, number][] })[];
  perplexity: { windows: number; tokens: number; ppl: number; first20Ids: number[] };
}>("gemma3-270m");

const { tokenizer, decoder, data, test, assertTexts, testPerplexity } = await realModel(
  "MASKPRUNE_GEMMA3",
  "get:gemma3",
);

test("Gemma 3 270M gives transformers' ids and log-probabilities of digits, spaces, other scripts and emoji", async () => {
  await assertTexts(texts, TOLERANCE_NATS);
  assertEquals([tokenizer.addsBos, tokenizer.vocabSize, tokenizer.bosTokenId], [true, 262_144, 2]);
  assertEquals(tokenizer.windowStart, [2]);
});

test("the most probable next tokens of Gemma 3 270M are those of transformers", async () => {
  for (const { ids, top5 } of texts) {
    const best = tf.tidy(() => {
      const { length } = ids;
      const states = forward(decoder, { tokens: Int32Array.from(ids), batch: 1, length });
      return tf.topk(logits(decoder, tf.slice(states, [length - 1, 0], [1, -1])), 5).indices;
    });
    assertEquals(Array.from(await best.data()), top5.map(([id]) => id));
    best.dispose();
  }
});

// Each window begins with BOS.
testPerplexity("Gemma 3 270M on ten windows of WikiText-2", ppl, async (scorer) => {
  const lines = Deno.readTextFileSync(join(data ?? "", "wikitext2-tokens-valid.txt")).split("\n").slice(0, 400);
  const ids = tokenizer.encode(lines.join("\n\n"), { specialTokens: false });
  assertEquals(ids.slice(0, first20Ids.length), first20Ids);
  const own = tokens - 1;
  const rows = Array.from(
    { length: windows },
    (_, i) => ({ ids: [tokenizer.bosTokenId ?? 0, ...ids.slice(i * own, (i + 1) * own)], scored: own }),
  );
  const scores = await scorer.loglikelihood(rows);
  return Math.exp(-scores.reduce((sum, { logLikelihood }) => sum + logLikelihood, 0) / (windows * own));
});
