import { fileURLToPath } from "node:url";
import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { argmax, measureTask, outcome } from "../../benchmarks/evaluation/tasks.ts";
import { createScorer, type Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { NumericError } from "../../core/util/errors.ts";
import { taskResultSchema } from "../../core/schema/schema.ts";
import { choicesAfter } from "../../datasets/define.ts";
import { fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";
import { known } from "../support/values.ts";

const data = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url));

/** A scorer that gives these log-likelihoods in turn. */
function fixedScorer(values: number[]): Scorer {
  return {
    ...createScorer(fakeModel(), fakeTokenizer()),
    loglikelihood: (requests) =>
      Promise.resolve(requests.map((_, i) => ({ logLikelihood: at(values, i), isGreedy: false }))),
  };
}

Deno.test("argmax() takes the first of equal values and refuses NaN", () => {
  assertEquals(argmax([-3, -1, -1]), 1);
  assertEquals(argmax([-Infinity, -1]), 1);
  assertThrows(() => argmax([-1, NaN]), NumericError, "current NaN");
});

// The vector of lm-evaluation-harness's metrics for the third HellaSwag fixture.
Deno.test("outcome() divides by characters for acc_norm and by bytes for acc_bytes", () => {
  const texts = ["sings an aria.", "drops to sleep.", "aims and releases an arrow.", "reads a naïve map."];
  const scores = [-12, -13, -20, -15].map((logLikelihood) => ({ logLikelihood, isGreedy: false }));
  const answers = (metric: string, values = scores) =>
    [0, 1, 2, 3].find((gold) =>
      outcome(metric, { example: { choices: choicesAfter("", texts), gold }, scores: values }) === 1
    );
  assertEquals([answers("acc"), answers("acc_norm"), answers("acc_bytes")], [0, 2, 2]);
  // 18 characters and 19 bytes: between -0.85 per character and -0.805 per byte another choice may come.
  const close = [-100, -100, -22.4, -15.3].map((logLikelihood) => ({ logLikelihood, isGreedy: false }));
  assertEquals([answers("acc_norm", close), answers("acc_bytes", close)], [2, 3]);
});

Deno.test("measureTask() reports metrics with standard errors, outcomes and chance", async () => {
  // Right, wrong, right by acc; by length the second is right as well.
  const scorer = fixedScorer([-9, -1, -9, -9, -1, -9, -2.2, -1, -9, -9, -9]);
  const { result, scored } = await measureTask(scorer, "arc_easy", { data });
  assertEquals(taskResultSchema.parse(result), result);
  assertEquals([result.task, result.version, result.numFewshot], ["arc_easy", 1, 0]);
  assertEquals(result.samples, { original: 3, effective: 3 });
  assertEquals(Object.keys(result.metrics), ["acc", "acc_norm", "acc_bytes"]);
  assertEquals(result.outcomes.acc, "101");
  assertAlmostEquals(known(result.metrics.acc).value, 2 / 3, 1e-12);
  assertAlmostEquals(known(result.metrics.acc).stderr!, 1 / 3, 1e-12);
  // Four, three and four choices.
  assertAlmostEquals(result.chance, (1 / 4 + 1 / 3 + 1 / 4) / 3, 1e-12);
  assertEquals(at(scored, 1).scores.map(({ logLikelihood }) => logLikelihood), [-1, -9, -2.2]);
  assertEquals((at(scored, 2).record as { id: string }).id, "X_3");
});

Deno.test("measureTask() scores the first examples and gives one example no standard error", async () => {
  const { result } = await measureTask(fixedScorer([-1, -2]), "winogrande", { data, limit: 1 });
  assertEquals(result.samples, { original: 3, effective: 1 });
  assertEquals(result.metrics, { acc: { value: 1, stderr: null, higherIsBetter: true } });
  assertEquals(result.outcomes, { acc: "1" });
  assertEquals(result.dataset.split, "validation");
});
