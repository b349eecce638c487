import { assert, assertEquals, assertRejects } from "@std/assert";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { packBatches } from "../../benchmarks/evaluation/packing.ts";
import type { ScoredSequence } from "../../benchmarks/evaluation/requests.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { time } from "../../benchmarks/pipeline/time.ts";
import { currentEngine } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import { referenceForward, referenceLogProbs } from "../support/reference.ts";
import { scoringModel } from "../../models/scoring.ts";
import { toySource, toyTokens } from "../support/toy.ts";
import { fakeTokenizer } from "../support/scoring_fakes.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { onDevice } from "../support/device_models.ts";

const source = toySource({
  seed: 5,
  layers: [
    { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 20 },
    { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 12 },
  ],
});

/** Examples with a context and a few choices each, of very different lengths. */
function examples(): ScoredSequence[] {
  const rng = createRng(2, "examples");
  return [3, 30, 12, 1, 7].flatMap((contextLength) => {
    const context = [...toyTokens({ count: contextLength, seed: contextLength })];
    return [1, 4, 2, 9].map((length) => ({
      ids: [...context, ...Array.from({ length }, () => rng.integer(61))],
      scored: length,
    }));
  });
}

/** Log-probabilities of the scored tokens by the plain-array model, one sequence at a time. */
function expected({ ids, scored }: ScoredSequence): number[] {
  const { logits } = referenceForward(source, ids.slice(0, -1));
  return [...referenceLogProbs(logits, ids.slice(1)).slice(-scored)];
}

testOnEngines("scores do not depend on batching and equal the plain-array model's", async () => {
  using model = await onDevice(source);
  const sequences = examples();
  const reference = sequences.flatMap(expected);
  const scorings: number[][] = [];
  for (const batchTokens of [1, 24, 100, 4096]) {
    const got: number[][] = sequences.map(() => []);
    for (const { batch, targets, owners } of packBatches(sequences, batchTokens)) {
      const { logProbs } = await scoringModel(model).score(batch, targets);
      owners.forEach((owner, i) => at(got, owner).push(at(logProbs, i)));
    }
    scorings.push(got.flat());
  }
  for (const scoring of scorings) {
    assertClose(scoring, at(scorings, 0), { atol: 1e-5, rtol: 0 }, "scores of another batching");
    assertClose(scoring, reference, { atol: 1e-4, rtol: 0 }, "scores");
  }
});

testOnEngines("loglikelihood() says which continuations are greedy", async () => {
  using model = await onDevice(source);
  const tokenizer = fakeTokenizer();
  const context = "a b c";
  const ids = tokenizer.encode(context);
  for (let i = 0; i < 61; i++) tokenizer.encode(` w${i}`);
  const { logits } = referenceForward(source, ids);
  const last = [...at(logits, ids.length - 1)];
  const best = last.indexOf(Math.max(...last));
  const words = Array.from({ length: 61 }, (_, id) => id).filter((id) => tokenizer.tokenText(id).startsWith(" w"));
  const scores = await createScorer(scoringModel(model), tokenizer)
    .loglikelihood(words.map((id) => ({ context, continuation: tokenizer.tokenText(id) })));
  assertEquals(scores.map(({ isGreedy }) => isGreedy), words.map((id) => id === best));
  assert(words.includes(best), "the most probable token must be among the continuations");
});

testOnEngines("time() keeps the raw samples of prefill and decode apart", async () => {
  using model = await onDevice(source);
  const choice = { prefillTokens: 16, decodeTokens: 3, batch: 2, repeats: 2 };
  const [prefill, decode] = take(await time({ model }, { ...choice, dense: { model } }), 2);
  assertEquals([prefill.name, decode.name, prefill.batch], ["pp16", "tg3", 2]);
  for (const [result, tokens] of [[prefill, 16], [decode, 3]] as const) {
    const found = [result.samplesMs.length, result.denseSamplesMs?.length, result.threads];
    assertEquals(found, [2, 2, currentEngine().threads]);
    const rates = result.samplesMs.map((ms) => 1000 * 2 * tokens / ms);
    assertClose([result.tokensPerS.mean], [(at(rates, 0) + at(rates, 1)) / 2], { rtol: 1e-9 });
    assertClose([result.tokensPerS.sd], [Math.abs(at(rates, 0) - at(rates, 1)) / Math.SQRT2], { rtol: 1e-6 });
  }
  await assertRejects(() => time({ model }, { ...choice, prefillTokens: 257 }), UsageError, "256 positions");
});
