/** Gemma 3 270M (`deno task get:gemma3`) on the native engine against numbers from transformers 5.24 on the same file,
 * dequantised to f32: `tests/golden/gemma3-270m.json`. `MASKPRUNE_GEMMA3` names the .gguf file; `MASKPRUNE_DATA` a folder
 * with `wikitext2-tokens-valid.txt`, which this project does not ship: without it that check is listed as ignored.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { createScorer, type Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { tokenLogProbs } from "../support/token_log_probs.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { uploadModel, usualForm } from "../../models/device.ts";
import { forward } from "../../models/decoder.ts";
import { openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { logits } from "../../models/vocabulary.ts";
import { onDevice } from "../support/device_models.ts";

/** Nats by which a log-probability may differ from transformers'. */
const TOLERANCE_NATS = 5e-4;

const path = Deno.env.get("MASKPRUNE_GEMMA3");
if (!path) throw new Error("Set MASKPRUNE_GEMMA3 to the .gguf file that `deno task get:gemma3` fetches");
const data = Deno.env.get("MASKPRUNE_DATA");

interface Golden {
  texts: { text: string; ids: number[]; tokenLogProbs: number[]; top5: [number, number][] }[];
  perplexity: { windows: number; tokens: number; ppl: number; first20Ids: number[] };
}

const golden: Golden = JSON.parse(
  Deno.readTextFileSync(new URL("../golden/gemma3-270m.json", import.meta.url)),
);

const { whyNotFast } = await startEngine("tensorflow");
const { source, tokenizer } = await openModel(path);
const decoder = await uploadModel(source);
const model = scoringModel(decoder);
const scorer = createScorer(model, tokenizer);
source.close();

const options = { sanitizeOps: false, sanitizeResources: false };

Deno.test({
  name: "openModel() of Gemma 3 270M gives its tokenizer's ids for digits, spaces, newlines, other scripts and emoji",
  ...options,
  fn: () => {
    for (const { text, ids } of golden.texts) {
      assertEquals(tokenizer.encode(text), ids);
      assertEquals(tokenizer.decode(ids), text);
    }
    assertEquals([tokenizer.addsBos, tokenizer.vocabSize, tokenizer.bosTokenId], [true, 262_144, 2]);
    assertEquals(tokenizer.windowStart, [2]);
  },
});

Deno.test({
  name: "log-probabilities of Gemma 3 270M and its most probable next tokens agree with transformers",
  ...options,
  fn: async () => {
    for (const { ids, tokenLogProbs: theirs, top5 } of golden.texts) {
      const ours = await tokenLogProbs(model, ids);
      assertEquals(ours.length, theirs.length);
      const gaps = Array.from(ours, (value, i) => Math.abs(value - (theirs[i] ?? NaN)));
      assert(gaps.every((gap) => gap <= TOLERANCE_NATS), `a log-probability differs by ${Math.max(...gaps)} nats`);
      const best = tf.tidy(() => {
        const { length } = ids;
        const states = forward(decoder, { tokens: Int32Array.from(ids), batch: 1, length });
        return tf.topk(logits(decoder, tf.slice(states, [length - 1, 0], [1, -1])), 5).indices;
      });
      assertEquals(Array.from(await best.data()), top5.map(([id]) => id));
      best.dispose();
    }
  },
});

/** Perplexity of ten windows of WikiText-2, each after BOS. */
async function windowsPerplexity(scorer: Scorer): Promise<number> {
  const { windows, tokens, first20Ids } = golden.perplexity;
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
}

Deno.test({
  name: "perplexity of Gemma 3 270M on ten windows of WikiText-2 agrees with transformers",
  ignore: data === undefined,
  ...options,
  fn: async () => {
    const { ppl } = golden.perplexity;
    const perplexity = await windowsPerplexity(scorer);
    assert(Math.abs(perplexity - ppl) <= 0.01, `Perplexity must be ${ppl}: current ${perplexity}`);
  },
});

Deno.test({
  name: `fast arithmetic gives that perplexity within 0.5 %${whyNotFast === null ? "" : ` (not here: ${whyNotFast})`}`,
  ignore: data === undefined || whyNotFast !== null,
  ...options,
  fn: async () => {
    const engine = await startEngine("tensorflow", { arithmetic: "fast" });
    try {
      const { source } = await openModel(path);
      using rounded = await onDevice(source, usualForm(source, engine));
      source.close();
      const perplexity = await windowsPerplexity(createScorer(scoringModel(rounded), tokenizer));
      const { ppl } = golden.perplexity;
      assert(Math.abs(perplexity / ppl - 1) <= 5e-3, `Perplexity must be near ${ppl}: current ${perplexity}`);
    } finally {
      await startEngine("tensorflow");
    }
  },
});
