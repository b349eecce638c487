/** SmolLM2-135M (`deno task get:smollm2`) on the native engine against goldens from transformers and
 * lm-evaluation-harness. `MASKPRUNE_SMOLLM2` names the .gguf file; `MASKPRUNE_DATA` a folder with `wikitext2-tokens-valid.txt`,
 * `arc_easy.jsonl` and `openbookqa.jsonl`, which this project does not ship: without it those checks are listed as ignored.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { measureTask } from "../../benchmarks/evaluation/tasks.ts";
import { measurePerplexity } from "../../benchmarks/evaluation/perplexity.ts";
import { readGolden, realModel, type TextGolden } from "../support/real_model.ts";

/** Nats by which a log-probability may differ from transformers'. */
const TOLERANCE_NATS = 1e-3;

const { tokenizer, scorer, data, test, assertTexts, testPerplexity } = await realModel(
  "MASKPRUNE_SMOLLM2",
  "get:smollm2",
);

test("token ids and log-probabilities of SmolLM2-135M agree with transformers", async () => {
  await assertTexts(readGolden<{ texts: TextGolden[] }>("smollm2-135m").texts, TOLERANCE_NATS);
  assertEquals([tokenizer.addsBos, tokenizer.vocabSize, tokenizer.eosTokenId], [false, 49152, 2]);
});

testPerplexity("SmolLM2-135M on 20 windows of WikiText-2", 16.756, async (scorer) => {
  const choice = { corpus: "wikitext2", split: "all", protocol: "a", windowTokens: 1024, maxWindows: 20 } as const;
  const { tokens, perplexity } = await measurePerplexity(scorer, choice, { data });
  assertEquals(tokens, 275_027);
  return perplexity;
});

for (const task of ["arc_easy", "openbookqa"]) {
  test(`measureTask() of SmolLM2-135M on ${task} agrees with lm-evaluation-harness example by example`, async () => {
    const { logLikelihoods } = readGolden<{ logLikelihoods: number[][] }>(`lm-eval-${task}`);
    const { scored } = await measureTask(scorer, task, { data, limit: logLikelihoods.length });
    assertEquals(scored.length, logLikelihoods.length);
    scored.forEach(({ scores }, i) => {
      const theirs = at(logLikelihoods, i);
      const worst = Math.max(...scores.map(({ logLikelihood }, j) => Math.abs(logLikelihood - at(theirs, j))));
      assert(worst <= TOLERANCE_NATS, `Example ${i}: a log-likelihood differs by ${worst} nats`);
    });
  }, data === undefined);
}
