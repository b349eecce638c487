import { assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { fileURLToPath } from "node:url";
import { cutWindows, measurePerplexity } from "../../benchmarks/evaluation/perplexity.ts";
import { createScorer, type Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { perplexityResultSchema } from "../../core/schema/schema.ts";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { fakeLogProb, fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";

const data = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url));
const ptb = "the mill <unk> said profit rose N N to $ N million mr. tarn is chairman of oss n.v. the ferry group " +
  "it did n't name a buyer";

const PTB = "ptb-test-space";
const measurePtb = (
  tokenizer: ReturnType<typeof fakeTokenizer>,
  choice: { windowTokens: number; protocol?: "a" | "b"; maxWindows?: number },
) => measurePerplexity(createScorer(fakeModel(), tokenizer), { corpus: PTB, protocol: "a", ...choice }, { data });

Deno.test("cutWindows() cuts without overlap and drops the rest", () => {
  const cut = (windowStart: number[], ids: number[], length: number, most?: number) =>
    cutWindows(fakeTokenizer({ windowStart }), ids, length, most).map((window) => [...window]);
  assertEquals(cut([], [1, 2, 3, 4, 5], 2), [[1, 2], [3, 4]]);
  assertEquals(cut([], [1, 2, 3, 4, 5], 2, 1), [[1, 2]]);
  assertEquals(cut([], [1], 2), []);
  assertEquals(cut([0], [1, 2, 3, 4, 5], 3), [[0, 1, 2], [0, 3, 4]]);
});

Deno.test("measurePerplexity() by protocols a and b is exp of the mean loss of a window's L - 1 predictions", async () => {
  const tokenizer = fakeTokenizer({ addsBos: true });
  const ids = tokenizer.encode(ptb);
  const losses = [0, 1, 2, 3].map((w) => {
    const window = ids.slice(7 * w, 7 * w + 7);
    return [1, 2, 3, 4, 5, 6].map((i) => -fakeLogProb(window.slice(0, i), at(window, i)));
  });
  const mean = losses.flat().reduce((sum, loss) => sum + loss) / 24;
  for (const protocol of ["a", "b"] as const) {
    const result = await measurePtb(tokenizer, { protocol, windowTokens: 7 });
    assertEquals(perplexityResultSchema.parse(result), result);
    assertAlmostEquals(result.nllPerToken, mean, 1e-6);
    assertAlmostEquals(result.perplexity, Math.exp(mean), 1e-4);
    assertEquals([result.tokens, result.windows, result.droppedTokens], [ids.length, 4, ids.length - 28]);
    assertAlmostEquals(at(result.windowNll, 1), at(losses, 1).reduce((sum, loss) => sum + loss) / 6, 1e-6);
    // Delta method: d exp(x) = exp(x) dx.
    const m = result.windowNll.reduce((sum, x) => sum + x) / 4;
    const se = Math.sqrt(result.windowNll.reduce((sum, x) => sum + (x - m) ** 2, 0) / 3 / 4);
    assertAlmostEquals(result.perplexityStderr!, result.perplexity * se, 1e-9);
    assertEquals(result.bosPolicy, "tokenizer default (BOS), at the start of the text only");
  }
});

Deno.test("measurePerplexity() opens each window if the model needs it, and then not the whole text", async () => {
  const tokenizer = fakeTokenizer({ addsBos: true, windowStart: [0] });
  const ids = tokenizer.encode(ptb).slice(1);
  const result = await measurePtb(tokenizer, { windowTokens: 7 });
  const second = [0, ...ids.slice(6, 12)];
  const losses = [1, 2, 3, 4, 5, 6].map((i) => -fakeLogProb(second.slice(0, i), at(second, i)));
  assertAlmostEquals(at(result.windowNll, 1), losses.reduce((sum, loss) => sum + loss) / 6, 1e-6);
  const windows = Math.floor(ids.length / 6);
  assertEquals([result.tokens, result.windows, result.droppedTokens], [ids.length, windows, ids.length - 6 * windows]);
  assertEquals(result.bosPolicy, "at the start of each window, which this model needs");
});

Deno.test("measurePerplexity() stops after maxWindows and gives one window no standard error", async () => {
  const result = await measurePtb(fakeTokenizer(), { windowTokens: 8, maxWindows: 1 });
  assertEquals([result.windows, result.windowNll.length, result.perplexityStderr], [1, 1, null]);
});

// W = 27, 26, 17; B = 106, 86, 62: values of lm-evaluation-harness's own functions for these pages and log-likelihoods.
Deno.test("measurePerplexity() by protocol c counts words and bytes of the raw documents", async () => {
  const seen: string[] = [];
  const scorer: Scorer = {
    ...createScorer(fakeModel(), fakeTokenizer()),
    loglikelihoodRolling: (texts) => {
      seen.push(...texts);
      return Promise.resolve([-40, -50, -30].map((logLikelihood) => ({ logLikelihood, tokens: 20 })));
    },
  };
  const choice = { corpus: "wikitext", protocol: "c", windowTokens: 64 } as const;
  const result = await measurePerplexity(scorer, choice, { data });
  assertEquals(perplexityResultSchema.parse(result), result);
  assertEquals(seen[2], " = Kite =\n\nA kite's tail steadies it: no N° needed!\n");
  const { words, bytes, wordPerplexity, bytePerplexity, bitsPerByte } = result.documents!;
  assertEquals([words, bytes, result.tokens], [70, 254, 60]);
  assertAlmostEquals(wordPerplexity, 5.5527, 5e-5);
  assertAlmostEquals(bytePerplexity, 1.6039, 5e-6);
  assertAlmostEquals(bitsPerByte, 0.681588, 5e-7);
  assertEquals([result.perplexity, result.perplexityStderr, result.nllPerToken], [wordPerplexity, null, 2]);
  assertAlmostEquals(at(result.windowNll, 0), 40 / 27, 1e-12);
  assertEquals(result.documentWords, [27, 26, 17]);
});

Deno.test("measurePerplexity() refuses protocols a corpus does not define, and texts without a window", async () => {
  const scorer = createScorer(fakeModel(), fakeTokenizer());
  const refuse = (corpus: string, protocol: "a" | "c", windowTokens: number, says: string) =>
    assertRejects(() => measurePerplexity(scorer, { corpus, protocol, windowTokens }, { data }), UsageError, says);
  await refuse("wikitext", "a", 8, "Protocol a is not defined");
  await refuse("ptb-test-space", "c", 8, "Protocol c is not defined");
  await refuse("ptb-test-space", "a", 60, "less than one window of 60");
  await refuse("ptb-test-space", "a", 65, "64 positions");
  await refuse("wikitext", "c", 65, "64 positions");
});

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
  const choice = { corpus: PTB, protocol: "a", windowTokens: 8 } as const;
  return (await measurePerplexity(scorer, choice, { data })).perplexity;
}

Deno.test("measurePerplexity() refuses NaN, and a loss whose exponential overflows", async () => {
  assertAlmostEquals(await perplexityOf(-1), Math.E, 1e-6);
  await assertRejects(() => perplexityOf(NaN), NumericError, "The model gives NaN");
  await assertRejects(() => perplexityOf(-1000), NumericError, "Infinity as its perplexity of ptb-test-space");
});
