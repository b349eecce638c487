import fc from "fast-check";
import { assertEquals, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import { encodeRequests, type EncodingOptions, rollingWindows } from "../../benchmarks/evaluation/requests.ts";
import { fakeTokenizer } from "../support/scoring_fakes.ts";

const options: EncodingOptions = { encoding: "lm-eval", maxTokens: 8 };

/** Pieces of the context and of the continuation. */
function pieces(
  context: string,
  continuation: string,
  some: Partial<EncodingOptions> = {},
  tokenizer = fakeTokenizer(),
) {
  const { ids, scored } = at(encodeRequests(tokenizer, [{ context, continuation }], { ...options, ...some }), 0);
  const texts = ids.map((id) => tokenizer.tokenText(id));
  return [texts.slice(0, -scored), texts.slice(-scored)];
}

Deno.test("encodeRequests() cuts the encoding of the whole where the context's ends", () => {
  assertEquals(pieces("a bc", " de f"), [["a", " bc"], [" de", " f"]]);
  // The whole is "a", " bc", " d": a piece that spans the border counts as the context's, whose own encoding is kept.
  assertEquals(pieces("a b", "c d"), [["a", " b"], [" d"]]);
});

Deno.test("encodeRequests() moves the context's trailing white space to the continuation", () => {
  assertEquals(pieces("a b ", "c"), [["a", " b"], [" c"]]);
});

Deno.test("encodeRequests() puts the prefix token where the context is empty, and only once", () => {
  assertEquals(pieces("", "a b"), [["<s>"], ["a", " b"]]);
  assertEquals(pieces("", "<s>a"), [["<s>"], ["a"]]);
  assertEquals(pieces("", "a", {}, fakeTokenizer({ hasBos: false })), [["</s>"], ["a"]]);
});

Deno.test("encodeRequests() keeps the last ids when there are too many", () => {
  assertEquals(pieces("a b c d", " e f", { maxTokens: 3 }), [[" c", " d"], [" e", " f"]]);
  assertThrows(() => pieces("a", " b c d e", { maxTokens: 3 }), UsageError, "has 4 tokens: must be 1 to 3");
  assertThrows(() => pieces("a", ""), UsageError, "has 0 tokens");
  assertThrows(() => pieces("  ", "a"), UsageError, "has no tokens");
});

Deno.test("encodeRequests() follows the beginning-of-sequence policy", () => {
  const adding = fakeTokenizer({ addsBos: true });
  assertEquals(pieces("a", " b", {}, adding), [["<s>", "a"], [" b"]]);
  assertEquals(pieces("<s>a", " b", {}, adding), [["<s>", "a"], [" b"]]);
});

Deno.test("encodeRequests() encodes apart and without BOS in LLM-Pruner's mode", () => {
  const adding = fakeTokenizer({ addsBos: true });
  assertEquals(pieces("a b ", "c d", { encoding: "llm-pruner" }, adding), [["a", " b", " "], ["c", " d"]]);
  assertEquals(pieces("", "c", { encoding: "llm-pruner" }, adding), [["</s>"], ["c"]]);
});

const numbers = (length: number) => Array.from({ length }, (_, i) => i);

Deno.test("rollingWindows() gives lm-evaluation-harness's windows", () => {
  const windows = (length: number) =>
    rollingWindows(numbers(length), 100, 4).map(({ ids, scored }) => [ids.slice(0, -scored), ids.slice(-scored)]);
  assertEquals(windows(10), [[[100], [0, 1, 2, 3]], [[3], [4, 5, 6, 7]], [[5, 6, 7], [8, 9]]]);
  assertEquals(windows(9).at(-1), [[4, 5, 6, 7], [8]]);
  assertEquals(windows(3), [[[100], [0, 1, 2]]]);
  assertEquals(windows(0), []);
});

Deno.test("rollingWindows() scores each token once, with as much context as fits", () => {
  fc.assert(fc.property(fc.nat(60), fc.integer({ min: 1, max: 12 }), (length, most) => {
    const windows = rollingWindows(numbers(length), 100, most);
    assertEquals(windows.flatMap(({ ids, scored }) => ids.slice(-scored)), numbers(length));
    windows.forEach(({ ids, scored }, i) => {
      assertEquals(ids.length - 1, i === 0 ? scored : most);
      if (i > 0) assertEquals(ids, numbers(at(ids, ids.length - 1) + 1).slice(-ids.length));
    });
  }));
});
