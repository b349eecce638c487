import { assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { complete } from "../../benchmarks/server/completions.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { disposeModel, uploadModel } from "../../models/decoder.ts";
import { scoringModel } from "../../models/scoring.ts";
import { toySource } from "../support/toy.ts";
import { fakeTokenizer } from "../support/scoring_fakes.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";

const source = toySource({ seed: 6, maxPositions: 16 });

testOnEngines("complete() gives the log-likelihoods and decisions of our own scorer", async () => {
  const llama = await uploadModel(source);
  try {
    const model = scoringModel(llama);
    const tokenizer = fakeTokenizer();
    const requests = ["a b c d", "e f", "a b c d", "g h i j k l m n o p q r s"].flatMap((context) =>
      [" a", " b c", " s t u v", " e"].map((continuation) => ({ context, continuation }))
    );
    const own = await createScorer(model, tokenizer).logLikelihood(requests);
    const contexts = requests.map(({ context }) => tokenizer.encode(context));
    const wholes = requests.map(({ context, continuation }) => tokenizer.encode(context + continuation));
    // The harness keeps the last ids; its limit is one more than ours.
    const prompts = wholes.map((ids) => ({ ids: ids.slice(-17) }));
    const request = { prompts, maxTokens: 1, temperature: 0, topP: 1, seed: 0, stop: [], logProbs: 1, echo: true };
    const { choices } = await complete(model, tokenizer, request);
    const scores = choices.map(({ logprobs }, i) => {
      const start = at(contexts, i).length - (at(wholes, i).length - at(prompts, i).ids.length);
      const values = logprobs!.token_logprobs.slice(start, -1) as number[];
      const tops = logprobs!.top_logprobs.slice(start, -1).map((top) => Math.max(...Object.values(top!)));
      return { sum: values.reduce((a, b) => a + b, 0), isGreedy: values.every((value, j) => value === tops[j]) };
    });
    const logLikelihoods = own.map(({ logLikelihood }) => logLikelihood);
    assertClose(scores.map(({ sum }) => sum), logLikelihoods, { atol: 1e-5, rtol: 0 }, "log-likelihoods");
    assertEquals(scores.map(({ isGreedy }) => isGreedy), own.map(({ isGreedy }) => isGreedy));
  } finally {
    disposeModel(llama);
  }
});

testOnEngines("complete() continues echoed prompts with the tokens that it generates without echo", async () => {
  const llama = await uploadModel(source);
  try {
    const model = scoringModel(llama);
    const tokenizer = fakeTokenizer();
    tokenizer.encode(Array.from({ length: 59 }, (_, i) => `w${i}`).join(" "));
    const prompts = ["w0 w1 w2", " w4"].map((text) => ({ text, ids: tokenizer.encode(text) }));
    const options = { prompts, maxTokens: 5, temperature: 0, topP: 1, seed: 0, stop: [], logProbs: 2 };
    const plain = await complete(model, tokenizer, { ...options, echo: false });
    const echoed = await complete(model, tokenizer, { ...options, echo: true });
    plain.choices.forEach(({ text, logprobs }, i) => {
      assertEquals(at(echoed.choices, i).text, at(prompts, i).text + text);
      const { token_logprobs, tokens } = at(echoed.choices, i).logprobs!;
      assertEquals(tokens.slice(at(prompts, i).ids.length), logprobs!.tokens);
      assertEquals(token_logprobs.slice(at(prompts, i).ids.length), logprobs!.token_logprobs);
    });
  } finally {
    disposeModel(llama);
  }
});
