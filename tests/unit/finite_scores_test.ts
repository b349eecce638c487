import { assertEquals, assertRejects } from "@std/assert";
import { finiteScores } from "../../benchmarks/cells/finite_scores.ts";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { measurePerplexity } from "../../benchmarks/evaluation/perplexity.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";
import { fileURLToPath } from "node:url";

const data = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url));

/** Perplexity of a model all of whose log-probabilities are `logProb`. */
async function scoresOf(logProb: number | null) {
  const model = fakeModel();
  const scorer = createScorer({
    ...model,
    score: async (...given: Parameters<typeof model.score>) => {
      const scores = await model.score(...given);
      return logProb === null ? scores : { ...scores, logProbs: scores.logProbs.map(() => logProb) };
    },
  }, fakeTokenizer());
  const choice = { corpus: "ptb-test-space", protocol: "a", windowTokens: 8 } as const;
  return { perplexity: [await measurePerplexity(scorer, choice, { data })], tasks: [] };
}

Deno.test("finiteScores() names the method whose model scores NaN, or a loss whose exponential overflows", async () => {
  const scores = await scoresOf(null);
  assertEquals(await finiteScores("flap", () => Promise.resolve(scores)), scores);
  await assertRejects(
    () => finiteScores("flap", () => scoresOf(NaN)),
    NumericError,
    'The model that method "flap" left has scores that are not finite: The model gives NaN',
  );
  await assertRejects(
    () => finiteScores("flap", () => scoresOf(-1000)),
    NumericError,
    'The model that method "flap" left has Infinity as its perplexity of ptb-test-space, which must be finite',
  );
  await assertRejects(() => finiteScores(null, () => scoresOf(-1000)), NumericError, "The dense model has Infinity");
  await assertRejects(
    () => finiteScores("flap", () => Promise.reject(new UsageError("no data"))),
    UsageError,
    "no data",
  );
});
