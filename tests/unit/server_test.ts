import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { tokenPieces } from "../../benchmarks/server/completions.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { parseServeArgs } from "../../benchmarks/commands/serve.ts";
import { createApp, MAX_BODY_BYTES } from "../../benchmarks/server/server.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { fakeModel, fakeNext, fakeTokenizer } from "../support/scoring_fakes.ts";

const MAX_POSITIONS = 12;

function served(tokenizer: Tokenizer = fakeTokenizer({ addsBos: true })) {
  const model = fakeModel({ maxPositions: MAX_POSITIONS });
  return { model, tokenizer, app: createApp({ name: "fake", model, tokenizer }) };
}

type App = ReturnType<typeof createApp>;

async function post(app: App, path: string, body: unknown) {
  const response = await app.request(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  assertStringIncludes(response.headers.get("content-type") ?? "", "application/json");
  // deno-lint-ignore no-explicit-any
  return { status: response.status, json: await response.json() as any };
}

/** What lm-evaluation-harness sends for scoring. */
const scoring = (prompt: unknown) => ({
  model: "fake",
  prompt,
  temperature: 0,
  max_tokens: 1,
  logprobs: 1,
  seed: 1234,
  echo: true,
});

interface Choice {
  index: number;
  logprobs: { token_logprobs: (number | null)[]; top_logprobs: (Record<string, number> | null)[] };
}

/** How lm-evaluation-harness reads a response: the sum of the continuation's log-probabilities without the last entry,
 * and whether each is the highest of its place. */
function readScores(choices: Choice[], contextLengths: number[]): [logLikelihood: number, isGreedy: boolean][] {
  return choices.toSorted((a, b) => a.index - b.index).map(({ logprobs }, i) => {
    const tokens = logprobs.token_logprobs.slice(contextLengths[i], -1) as number[];
    const tops = logprobs.top_logprobs.slice(contextLengths[i], -1) as Record<string, number>[];
    return [
      tokens.reduce((a, b) => a + b, 0),
      tokens.every((value, j) => value === Math.max(...Object.values(at(tops, j)))),
    ];
  });
}

Deno.test("readScores() of this test reads lm-evaluation-harness's own vector", () => {
  const token_logprobs = [null, -1, -2, -0.5, -3];
  const choices = [
    { index: 1, logprobs: { token_logprobs, top_logprobs: [null, { a: -1 }, { b: -2 }, { c: -0.5 }, { d: -3 }] } },
    {
      index: 0,
      logprobs: { token_logprobs, top_logprobs: [null, { a: -1 }, { x: -0.1, b: -2 }, { c: -0.5 }, { d: -3 }] },
    },
  ] as unknown as Choice[];
  assertEquals(readScores(choices, [2, 3]), [[-2.5, false], [-0.5, true]]);
});

Deno.test("/v1/completions scores prompts of different lengths as our own scorer does", async () => {
  const { app, model, tokenizer } = served();
  const requests = [
    { context: "a b c", continuation: " d" },
    { context: "a b c", continuation: " e f g" },
    { context: "x", continuation: " y z" },
    { context: "a b c", continuation: " d d" },
  ];
  const own = await createScorer(model, tokenizer, { bos: "never" }).logLikelihood(requests);
  const contexts = requests.map(({ context }) => tokenizer.encode(context, { specialTokens: false }));
  const prompts = requests.map(({ continuation }, i) => [
    ...at(contexts, i),
    ...tokenizer.encode(continuation, { specialTokens: false }),
  ]);
  const { status, json } = await post(app, "/v1/completions", scoring(prompts));
  assertEquals(status, 200);
  assertEquals([json.object, json.model, json.choices.length], ["text_completion", "fake", 4]);
  json.choices.forEach(({ index, logprobs, finish_reason }: never, i: number) => {
    type Lists = Record<"tokens" | "token_logprobs" | "top_logprobs" | "text_offset", unknown[]>;
    const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs as Lists;
    assertEquals([index, finish_reason], [i, "length"] as never);
    for (const list of [tokens, token_logprobs, top_logprobs, text_offset]) {
      assertEquals(list.length, at(prompts, i).length + 1);
    }
    assertEquals([at(token_logprobs, 0), at(top_logprobs, 0)], [null, null]);
    assert(token_logprobs.slice(1).every(Number.isFinite), "log-probabilities must be finite");
  });
  const scores = readScores(json.choices, contexts.map((ids) => ids.length));
  assertEquals(scores, own.map(({ logLikelihood, isGreedy }) => [logLikelihood, isGreedy]));
  assertEquals(json.usage, { prompt_tokens: 18, completion_tokens: 4, total_tokens: 22 });
});

Deno.test("/v1/completions takes one id more than the model has positions where only the prompt is scored", async () => {
  const { app } = served();
  const prompt = Array.from({ length: MAX_POSITIONS + 1 }, (_, i) => i + 2);
  const { status, json } = await post(app, "/v1/completions", scoring([prompt]));
  assertEquals(status, 200);
  assertEquals(json.choices[0].logprobs.token_logprobs.length, MAX_POSITIONS + 2);
  const over = await post(app, "/v1/completions", scoring([[...prompt, 3]]));
  assertEquals(over.status, 400);
  assertStringIncludes(over.json.error.message, "prompt 0 has 14 tokens: must be at most 13");
  const generating = await post(app, "/v1/completions", { prompt, max_tokens: 1 });
  assertStringIncludes(generating.json.error.message, "must be at most 12");
});

Deno.test("/v1/completions generates after texts and ids, without the prompt unless it is asked for", async () => {
  const { app, tokenizer } = served();
  tokenizer.encode("p q r s t u v w");
  const prompt = tokenizer.encode("p q");
  assertEquals(prompt[0], 0);
  const ids: number[] = [];
  while (ids.length < 3) ids.push(fakeNext([...prompt, ...ids]));
  const expected = tokenizer.decode(ids);
  const request = { prompt: ["p q", "p q"], max_tokens: 3, temperature: 0 };
  const { json } = await post(app, "/v1/completions", request);
  assertEquals(json.choices.map(({ text }: { text: string }) => text), [expected, expected]);
  assertEquals([json.choices[0].logprobs, json.choices[0].finish_reason], [null, "length"]);
  const echoed = await post(app, "/v1/completions", { ...request, prompt: "p q", echo: true, logprobs: 0 });
  assertEquals(echoed.json.choices[0].text, `p q${expected}`);
  assertEquals(echoed.json.choices[0].logprobs.tokens.join(""), `p q${expected}`);
  const byIds = await post(app, "/v1/completions", { ...request, prompt });
  assertEquals(byIds.json.choices[0].text, expected);
  const scoredOnly = await post(app, "/v1/completions", { prompt, max_tokens: 0, echo: true, logprobs: 1 });
  assertEquals(scoredOnly.json.choices[0].logprobs.token_logprobs.length, 3);
});

Deno.test("/v1/completions ends at stop strings and drops their log-probabilities", async () => {
  const { app, tokenizer } = served();
  tokenizer.encode("p q r s t u v w");
  const full = await post(app, "/v1/completions", { prompt: "p q", max_tokens: 4, temperature: 0, logprobs: 2 });
  const [choice] = full.json.choices;
  const [first, second] = choice.logprobs.tokens;
  const request = { prompt: "p q", max_tokens: 4, temperature: 0, logprobs: 2, stop: [second] };
  const stopped = await post(app, "/v1/completions", request);
  assertEquals(stopped.json.choices[0].text, first);
  assertEquals(stopped.json.choices[0].finish_reason, "stop");
  assertEquals(stopped.json.choices[0].logprobs.tokens, [first]);
});

Deno.test("createApp() answers what is wrong with a request with 4xx and a reason", async () => {
  const { app } = served();
  const cases: [path: string, body: unknown, status: number, reason: string][] = [
    ["/v1/completions", "{", 400, "must be JSON"],
    ["/v1/completions", {}, 400, "prompt"],
    ["/v1/completions", { prompt: [] }, 400, "prompt: must be a text"],
    ["/v1/completions", { prompt: { text: "a".repeat(5000) } }, 400, "…"],
    ["/v1/completions", { prompt: [[]] }, 400, "prompt 0 has no tokens"],
    ["/v1/completions", { prompt: [1000], max_tokens: 2 }, 400, "token id 1000: must be below 1000"],
    ["/v1/completions", { prompt: [-1] }, 400, "prompt"],
    ["/v1/completions", { prompt: "a", max_tokens: 50 }, 400, "must be at most 0"],
    ["/v1/completions", { prompt: "a", temperature: -1 }, 400, "temperature must be at least 0"],
    ["/v1/completions", { prompt: "a", logprobs: 21 }, 400, "logprobs must be at most 20"],
    ["/v1/completions", { prompt: "a", stream: true }, 400, "stream"],
    ["/v1/completions", { prompt: "a", n: 2 }, 400, "n must be one of 1"],
    ["/v1/completions", { prompt: "a", repetition_penalty: 1.1 }, 400, "repetition_penalty"],
    ["/v1/completions", { prompt: "a", model: "gpt" }, 404, 'must be "fake"'],
    ["/v1/completions", { prompt: "a".repeat(MAX_BODY_BYTES) }, 413, "bytes"],
    ["/tokenize", { prompt: 3 }, 400, "prompt"],
    ["/detokenize", { tokens: [5000] }, 400, "must be below 1000"],
    ["/v1/chat/completions", { messages: [] }, 404, "is not served"],
    ["/../../etc/passwd", {}, 404, "is not served"],
  ];
  for (const [path, body, status, reason] of cases) {
    const got = await post(app, path, body);
    assertEquals([path, got.status], [path, status]);
    assertStringIncludes(got.json.error.message, reason);
    assertEquals(got.json.error.type, "invalid_request_error");
  }
});

Deno.test("createApp() keeps serving after the model failed", async () => {
  const model = fakeModel();
  const broken = { ...model, scoreTop: () => Promise.reject(new Error("The device is lost")) };
  const app = createApp({ name: "fake", model: broken, tokenizer: fakeTokenizer() });
  const failed = await post(app, "/v1/completions", scoring([[2, 3]]));
  assertEquals([failed.status, failed.json.error.message], [500, "The device is lost"]);
  assertEquals((await post(app, "/v1/completions", { prompt: [2, 3], max_tokens: 2 })).status, 200);
});

Deno.test("createApp() ends what is under way when it stops", async () => {
  const controller = new AbortController();
  const app = createApp({ name: "f", model: fakeModel(), tokenizer: fakeTokenizer(), signal: controller.signal });
  controller.abort();
  const { status, json } = await post(app, "/v1/completions", { ...scoring([[2, 3]]), model: "f" });
  assertEquals([status, json.error.message], [503, "The server is stopping"]);
});

Deno.test("createApp() names the model and offers its tokenizer", async () => {
  const { app, tokenizer } = served();
  const models = await (await app.request("/v1/models")).json();
  assertEquals([models.object, models.data[0].id, models.data[0].max_model_len], ["list", "fake", MAX_POSITIONS]);
  const info = await (await app.request("/tokenizer_info")).json();
  assertEquals(info, { eos_token: "</s>", bos_token: "<s>", pad_token: null, chat_template: null });
  const plain = await post(app, "/tokenize", { prompt: "p q", add_special_tokens: false });
  assertEquals(plain.json.tokens, tokenizer.encode("p q", { specialTokens: false }));
  assertEquals((await post(app, "/tokenize", { prompt: "p q" })).json.tokens, tokenizer.encode("p q"));
  assertEquals((await post(app, "/detokenize", { tokens: plain.json.tokens })).json, { prompt: "p q" });
});

Deno.test("tokenPieces() gives a character to the token that completes it", () => {
  const bytes = [[0x61], [0xc3], [0xa9], [0x20, 0xf0], [0x9f, 0x98], [0x80], [0xe2]];
  const tokenizer: Tokenizer = {
    ...fakeTokenizer(),
    decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => bytes[id]))),
  };
  assertEquals(tokenPieces(tokenizer, [0, 1, 2, 3, 4, 5]), ["a", "", "é", "", "", " 😀"]);
  assertEquals(tokenPieces(tokenizer, [0, 6]), ["a", "\ufffd"]);
});

Deno.test("text_offset counts code points", async () => {
  const { app } = served(fakeTokenizer());
  const request = { prompt: "😀 é b", max_tokens: 0, echo: true, logprobs: 0 };
  const { json } = await post(app, "/v1/completions", request);
  assertEquals(json.choices[0].logprobs.tokens, ["😀", " é", " b"]);
  assertEquals(json.choices[0].logprobs.text_offset, [0, 1, 3]);
});

Deno.test("parseServeArgs() binds to this machine only unless told, and refuses what it does not know", () => {
  assertEquals(parseServeArgs([]).host, "127.0.0.1");
  assertEquals(parseServeArgs([]).model, "tiny");
  assertEquals(parseServeArgs(["--record", "r.json", "--port", "0"]).record, "r.json");
  assertThrows(() => parseServeArgs(["--record", "r", "--model", "m"]), UsageError, "exclude each other");
  assertThrows(() => parseServeArgs(["--port", "70000"]), UsageError, "at most 65535");
  assertThrows(() => parseServeArgs(["--host", "a,b"]), UsageError, "--host");
  assertThrows(() => parseServeArgs(["--engine", "torch"]), UsageError, "must be one of");
  assertThrows(() => parseServeArgs(["--prot", "1"]), UsageError, "--port");
});
