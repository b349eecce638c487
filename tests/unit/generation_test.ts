import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { generateTexts, textAfter } from "../../benchmarks/evaluation/generation.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { UsageError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { sampleToken } from "../../models/generate.ts";
import type { ScoringModel } from "../../models/scoring.ts";
import { fakeModel, fakeNext, fakeTokenizer } from "../support/scoring_fakes.ts";

/** A model that generates these ids, whatever the prompt. `prompts` and `rows` keep what it was given and gave. */
function scripted(ids: number[], maxPositions = 64): ScoringModel & { prompts: number[][]; rows: number[][] } {
  const prompts: number[][] = [];
  const rows: number[][] = [];
  return {
    ...fakeModel({ maxPositions }),
    prompts,
    rows,
    generate: (given, { maxTokens, isDone }) => {
      prompts.push(...given.map((prompt) => [...prompt]));
      return Promise.resolve(given.map((_, row) => {
        const own: number[] = [];
        for (const id of ids.slice(0, maxTokens)) {
          own.push(id);
          if (isDone?.(row, own)) break;
        }
        rows.push(own);
        return own;
      }));
    },
  };
}

/** A tokenizer with this text per id, 1 being the end of sequence and 0 the beginning. */
function spelled(pieces: Record<number, string>): Tokenizer {
  return {
    ...fakeTokenizer(),
    decode: (ids) => ids.map((id) => id < 2 ? "" : pieces[id]).join(""),
    tokenText: (id) => id === 1 ? "</s>" : pieces[id] ?? "",
  };
}

Deno.test("generateTexts() ends before the first stop string, which may span tokens", async () => {
  const tokenizer = spelled({ 2: " a", 3: "\n", 4: "Q:", 5: " b" });
  const texts = async (stop: string[], maxTokens = 9) => {
    const model = scripted([2, 5, 3, 4, 2, 5]);
    const [text] = await generateTexts(model, tokenizer, [[2]], { maxTokens, stop });
    return [text, at(model.rows, 0).length];
  };
  assertEquals(await texts([]), [" a b\nQ: a b", 6]);
  assertEquals(await texts(["\nQ"]), [" a b", 4]);
  assertEquals(await texts(["Q:", " b", ""]), [" a", 2]);
  assertEquals(await texts(["Q:"], 2), [" a b", 2]);
});

Deno.test("generateTexts() ends at the end of sequence and at special tokens that are stop strings", async () => {
  const tokenizer = spelled({ 2: " a", 7: "<|end|>" });
  for (const [end, stop] of [[1, []], [7, ["<|end|>"]]] as const) {
    const model = scripted([2, end, 2]);
    assertEquals(await generateTexts(model, tokenizer, [[2]], { maxTokens: 9, stop }), [" a"]);
    assertEquals(model.rows, [[2, end]]);
  }
});

Deno.test("textAfter() keeps the space that a tokenizer drops at the beginning of a text", () => {
  const tokenizer = { ...spelled({}), decode: (ids: readonly number[]) => ids.map((id) => ` w${id}`).join("").trim() };
  assertEquals(textAfter(tokenizer, [4, 5], [6, 7]), " w6 w7");
  assertEquals(textAfter(tokenizer, [], [6, 7]), "w6 w7");
});

Deno.test("generate() keeps the end of a context that is too long, and refuses what cannot fit", async () => {
  const model = scripted([2], 8);
  const tokenizer = fakeTokenizer();
  const scorer = createScorer(model, tokenizer);
  const ids = tokenizer.encode("a b c d e f");
  await scorer.generateUntil(["a b c d e f"], { maxTokens: 4 });
  assertEquals(model.prompts, [ids.slice(2)]);
  await assertRejects(() => scorer.generateUntil(["a"], { maxTokens: 8 }), UsageError, "takes 1 to 7");
  await assertRejects(() => scorer.generateUntil(["a", ""], { maxTokens: 2 }), UsageError, "Context 1");
});

Deno.test("generate() continues every context by its own tokens", async () => {
  const tokenizer = fakeTokenizer();
  const contexts = ["a b", "c d e", "f"];
  const scorer = createScorer(fakeModel(), tokenizer);
  for (const id of [2, 3, 4, 5, 6, 7, 8, 9]) tokenizer.encode(` x${id}`);
  const texts = await scorer.generateUntil(contexts, { maxTokens: 6 });
  texts.forEach((text, i) => {
    const ids = tokenizer.encode(at(contexts, i));
    const length = ids.length;
    while (ids.length < length + 6 && ids.at(-1) !== 1) ids.push(fakeNext(ids));
    assertEquals(text, tokenizer.decode(ids.slice(length)));
  });
});

Deno.test("sampleToken() stays in the nucleus", () => {
  const logits = fc.array(fc.double({ min: -8, max: 8, noNaN: true }), { minLength: 2, maxLength: 40 });
  fc.assert(fc.property(
    logits,
    fc.double({ min: 0.01, max: 1, noNaN: true }),
    fc.double({ min: 0.2, max: 3, noNaN: true }),
    fc.nat(),
    (values, topP, temperature, seed) => {
      const scores = Float32Array.from(values);
      const id = sampleToken(scores, { temperature, topP }, createRng(seed, "test").uniform);
      const weights = Array.from(scores, (value) => Math.exp(value / temperature));
      const total = weights.reduce((a, b) => a + b);
      const before = weights.filter((weight) => weight > at(weights, id)).reduce((a, b) => a + b, 0);
      // All that is strictly more probable must not reach the nucleus's mass by itself.
      assert(before < topP * total * (1 + 1e-9), `token ${id} lies outside a nucleus of ${topP}`);
    },
  ));
});

Deno.test("sampleToken() draws with the probabilities of the tempered softmax", () => {
  const logits = Float32Array.from([Math.log(1), Math.log(2), Math.log(4)]);
  const shares = (temperature: number, topP: number) => {
    const { uniform } = createRng(7, "shares");
    const counts = [0, 0, 0];
    for (let i = 0; i < 20_000; i++) {
      const drawn = sampleToken(logits, { temperature, topP }, uniform);
      counts[drawn] = at(counts, drawn) + 1;
    }
    return counts.map((count) => count / 20_000);
  };
  // Five standard errors of a share are below 0.018.
  const close = (got: number[], wanted: number[]) => got.every((share, i) => Math.abs(share - at(wanted, i)) < 0.018);
  assert(close(shares(1, 1), [1 / 7, 2 / 7, 4 / 7]), "temperature 1");
  assert(close(shares(0.5, 1), [1 / 21, 4 / 21, 16 / 21]), "temperature 0.5");
  assert(close(shares(1, 0.8), [0, 1 / 3, 2 / 3]), "nucleus of 0.8");
  assert(close(shares(1, 0.1), [0, 0, 1]), "nucleus of 0.1");
});
