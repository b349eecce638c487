import { assertAlmostEquals, assertRejects } from "@std/assert";
import { fileURLToPath } from "node:url";
import { measurePerplexity } from "../../benchmarks/evaluation/perplexity.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { NumericError } from "../../core/util/errors.ts";
import { fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";

const data = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url));

/** Perplexity of a model all of whose log-probabilities are `logProb`. */
async function perplexityOf(logProb: number) {
  const model = fakeModel();
  const scorer = createScorer({
    ...model,
    score: async (...given: Parameters<typeof model.score>) => {
      const scores = await model.score(...given);
      return { ...scores, logProbs: scores.logProbs.map(() => logProb) };
    },
  }, fakeTokenizer());
  const choice = { corpus: "ptb-test-space", protocol: "a", windowTokens: 8 } as const;
  return (await measurePerplexity(scorer, choice, { data })).perplexity;
}

Deno.test("measurePerplexity() refuses log-probabilities that are not numbers, and a loss whose exponential overflows", async () => {
  assertAlmostEquals(await perplexityOf(-1), Math.E, 1e-6);
  await assertRejects(() => perplexityOf(NaN), NumericError, "The model gives NaN");
  await assertRejects(() => perplexityOf(-1000), NumericError, "Infinity as its perplexity of ptb-test-space");
});
