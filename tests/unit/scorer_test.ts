import fc from "fast-check";
import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { packBatches } from "../../benchmarks/evaluation/packing.ts";
import { requestBos, type ScoredSequence } from "../../benchmarks/evaluation/requests.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { fakeIsGreedy, fakeLogProb, fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";

const FEW = { minLength: 1, maxLength: 5 };
/** Sequences that often begin alike, as choices of examples do. */
const sequences: fc.Arbitrary<ScoredSequence[]> = fc.array(
  fc.record({
    context: fc.array(fc.integer({ min: 2, max: 4 }), { minLength: 1, maxLength: 12 }),
    choices: fc.array(fc.array(fc.integer({ min: 2, max: 4 }), FEW), FEW),
  }),
  { minLength: 1, maxLength: 8 },
).map((examples) =>
  examples.flatMap(({ context, choices }) =>
    choices.map((choice) => ({ ids: [...context, ...choice], scored: choice.length }))
  )
);

Deno.test("packBatches() asks for every scored token once, after exactly what stands before it", async () => {
  await fc.assert(fc.asyncProperty(sequences, fc.integer({ min: 1, max: 200 }), async (list, batchTokens) => {
    const model = fakeModel();
    const got: [number, number][][] = list.map(() => []);
    for (const { batch, targets, owners } of packBatches(list, batchTokens)) {
      assert(batch.batch === 1 || batch.tokens.length <= batchTokens);
      const { logProbs } = await model.score(batch, targets);
      owners.forEach((owner, i) => at(got, owner).push([at(targets.ids, i), at(logProbs, i)]));
    }
    list.forEach(({ ids, scored }, s) => {
      const places = ids.map((_, i) => i).slice(-scored);
      assertEquals(got[s], places.map((i) => [ids[i], fakeLogProb(ids.slice(0, i), at(ids, i))]));
    });
  }));
});

Deno.test("packBatches() encodes the context of an example's choices once", () => {
  const context = [2, 3, 4, 5, 6, 7, 8, 9];
  const choices = [[10, 11], [10, 12, 13], [14], [15, 16]];
  const [only, ...others] = packBatches(
    choices.map((choice) => ({ ids: [...context, ...choice], scored: choice.length })),
    99,
  );
  assert(only);
  assertEquals(others, []);
  // The context, and of each choice all but the last token: 8 + 1 + 2 + 0 + 1.
  assertEquals([only.batch.batch, only.batch.length], [1, 12]);
});

Deno.test("packBatches() shares a context that is longer than a batch, as long as little is added to it", () => {
  const context = Array.from({ length: 40 }, (_, i) => i + 2);
  const choices = Array.from({ length: 8 }, (_, i) => ({ ids: [...context, i, i, i], scored: 3 }));
  // Two ids of each choice are inputs: 42 inputs may grow by a quarter, to 52.
  assertEquals(Array.from(packBatches(choices, 20), ({ batch }) => [batch.batch, batch.length]), [[1, 52], [1, 44]]);
});

Deno.test("packBatches() keeps examples apart that merely begin with the same token", () => {
  const examples = [2, 3, 4].map((id) => [0, ...Array.from({ length: 20 }, (_, i) => id + i)]);
  const [packed] = packBatches(examples.map((ids) => ({ ids, scored: 1 })), 99);
  assertEquals([packed?.batch.batch, packed?.batch.length, packed?.batch.segments], [3, 20, undefined]);
});

Deno.test("loglikelihood() sums log-probabilities in the order of the requests", async () => {
  const tokenizer = fakeTokenizer();
  const requests = ["a b c", "a b", "d e f g h", "a b c"].flatMap((context) =>
    [" x", " y z", " x w v"].map((continuation) => ({ context, continuation }))
  );
  const expected = requests.map(({ context, continuation }) => {
    const before = tokenizer.encode(context);
    const ids = tokenizer.encode(context + continuation);
    const places = ids.map((_, i) => i).slice(before.length);
    return {
      logLikelihood: places.reduce((sum, i) => sum + fakeLogProb(ids.slice(0, i), at(ids, i)), 0),
      isGreedy: places.every((i) => fakeIsGreedy(ids.slice(0, i), at(ids, i))),
    };
  });
  for (const batchTokens of [1, 7, 20, 4096]) {
    assertEquals(await createScorer(fakeModel(), tokenizer, { batchTokens }).loglikelihood(requests), expected);
  }
  assert(new Set(expected.map(({ isGreedy }) => isGreedy)).size === 2, "both answers must occur");
});

Deno.test("loglikelihoodRolling() scores every token of a text, the first after the prefix token", async () => {
  const tokenizer = fakeTokenizer({ addsBos: true });
  const text = "a b c d e";
  const ids = tokenizer.encode(text, { specialTokens: false });
  // Windows of 3: [<s>] abc, then [b c] d e.
  const [a, b, c, d, e] = take(ids, 5);
  const expected = fakeLogProb([0], a) + fakeLogProb([0, a], b) + fakeLogProb([0, a, b], c) +
    fakeLogProb([b, c], d) + fakeLogProb([b, c, d], e);
  const scorer = createScorer(fakeModel(), tokenizer);
  const [score, empty] = take(await scorer.loglikelihoodRolling([text, ""], { bos: "single", maxTokens: 3 }), 2);
  assertAlmostEquals(score.logLikelihood, expected, 1e-9);
  assertEquals([score.tokens, empty], [5, { logLikelihood: 0, tokens: 0 }]);
  const quirk = at(await scorer.loglikelihoodRolling([text], { bos: "lm-eval" }), 0);
  assertEquals(quirk.tokens, 6);
});

Deno.test("loglikelihood() of ids scores the last of each sequence", async () => {
  const sequences = [[5, 6, 7, 8], [9, 8, 7, 6], [5, 6, 9, 9]].map((ids) => ({ ids, scored: 3 }));
  const got = await createScorer(fakeModel(), fakeTokenizer(), { batchTokens: 8 }).loglikelihood(sequences);
  assertEquals(
    got.map(({ logLikelihood }) => logLikelihood),
    sequences.map(({ ids }) => [1, 2, 3].reduce((sum, i) => sum + fakeLogProb(ids.slice(0, i), at(ids, i)), 0)),
  );
});

Deno.test("createScorer() refuses ids outside the vocabulary and sequences that are too long", async () => {
  const scorer = createScorer(fakeModel({ vocabSize: 8, maxPositions: 3 }), fakeTokenizer());
  const score = (ids: number[]) => scorer.loglikelihood([{ ids, scored: 1 }]);
  await assertRejects(() => score([1, 9]), UsageError, "vocabulary of 8");
  for (const ids of [[1, 2, 3, 4, 5], [1]]) await assertRejects(() => score(ids), UsageError, "must be 2 to 4");
});

Deno.test("createScorer() turns NaN into an error, reports progress and stops when aborted", async () => {
  const model = fakeModel();
  const broken = { ...model, score: () => Promise.resolve({ logProbs: Float32Array.from([NaN]), isGreedy: [false] }) };
  const windows = [[5, 6], [7, 6, 8]].map((ids) => ({ ids, scored: 1 }));
  const failing = createScorer(broken, fakeTokenizer());
  await assertRejects(() => failing.loglikelihood(windows.slice(0, 1)), NumericError, "NaN");
  const shares: number[] = [];
  const controller = new AbortController();
  const scorer = createScorer(model, fakeTokenizer(), {
    batchTokens: 1,
    signal: controller.signal,
    onProgress: (share) => {
      shares.push(share);
      controller.abort();
    },
  });
  await assertRejects(() => scorer.loglikelihood(windows), DOMException);
  assertEquals(shares, [0.5]);
});

Deno.test("requestBos() names what was done", () => {
  const policy = (options = {}, addsBos = false) =>
    requestBos(createScorer(fakeModel(), fakeTokenizer({ addsBos }), options));
  assertEquals(policy(), "tokenizer default (no BOS)");
  assertEquals(policy({}, true), "tokenizer default (BOS)");
  assertEquals(policy({ encoding: "llm-pruner" }).startsWith("llm-pruner"), true);
});
