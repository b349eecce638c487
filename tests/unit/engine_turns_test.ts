import { assertEquals } from "@std/assert";
import { throughputTable } from "../../benchmarks/commands/time_models.ts";
import { closeSides, type Side, type Sides, timeSides, type TurnResult } from "../../benchmarks/timing/engine_turns.ts";
import { at } from "../../core/util/indexing.ts";

/** Sides that write down what they are asked for; every pass "takes" one millisecond more than the one before. */
function standIns() {
  const log: string[] = [];
  const side = (name: string): Side => {
    const pass = (kind: string) => () => Promise.resolve(log.push(`${kind} ${name}`));
    return { prefill: pass("pp"), decode: pass("tg"), close: () => Promise.resolve(void log.push(`close ${name}`)) };
  };
  const sides = (model: string): Sides => ({ ours: side(`${model} ours`), llamaCpp: side(`${model} llama.cpp`) });
  return { log, dense: sides("dense"), pruned: sides("pruned") };
}

const CHOICE = { prefillTokens: 64, decodeTokens: 16, repeats: 3, batch: 1 };

Deno.test("timeSides() alternates engines and models, after one untimed pass of each", async () => {
  const { log, dense, pruned } = standIns();
  const results = await timeSides(pruned, dense, CHOICE);
  const there = ["dense ours", "dense llama.cpp", "pruned llama.cpp", "pruned ours"];
  const rounds = [...there, ...there, ...there.toReversed(), ...there];
  assertEquals(log, ["pp", "tg"].flatMap((kind) => rounds.map((name) => `${kind} ${name}`)));
  // What a pass takes is its place in the log: samples stand by their model and engine, in the order of the rounds.
  const placesOf = (name: string) => log.flatMap((entry, i) => entry === name ? [i + 1] : []).slice(1);
  const samples = (kind: string, model: string) => ({
    oursMs: placesOf(`${kind} ${model} ours`),
    llamaCppMs: placesOf(`${kind} ${model} llama.cpp`),
  });
  assertEquals(results, [
    { name: "pp64", tokens: 64, model: samples("pp", "pruned"), dense: samples("pp", "dense") },
    { name: "tg16", tokens: 16, model: samples("tg", "pruned"), dense: samples("tg", "dense") },
  ]);
  assertEquals(at(results, 0).model.oursMs, [8, 9, 16]);
});

Deno.test("timeSides() of one model alternates the engines alone", async () => {
  const { log, dense } = standIns();
  const results = await timeSides(dense, undefined, CHOICE);
  const rounds = ["ours", "llama.cpp", "ours", "llama.cpp", "llama.cpp", "ours", "ours", "llama.cpp"];
  assertEquals(log.slice(0, 8), rounds.map((engine) => `pp dense ${engine}`));
  assertEquals(at(results, 0), { name: "pp64", tokens: 64, model: { oursMs: [3, 6, 7], llamaCppMs: [4, 5, 8] } });
  log.length = 0;
  await closeSides(dense);
  assertEquals(log, ["close dense ours", "close dense llama.cpp"]);
});

const rowsOf = (table: string) =>
  table.split("\n").map((line) => line.split("|").slice(1, -1).map((part) => part.trim()));

Deno.test("throughputTable() has a line for every model and result, with ratios of repeats of one round", () => {
  // 100 tokens in 1000 ms are 100 tokens/s, 10 tokens in 1000 ms are 10. The machine slows down by two in the last round.
  const dense: TurnResult[] = [
    { name: "pp100", tokens: 100, model: { oursMs: [1000, 1000, 2000], llamaCppMs: [500, 400, 2000] } },
    { name: "tg10", tokens: 10, model: { oursMs: [1000, 1000, 2000], llamaCppMs: [1000, 1000, 2000] } },
  ];
  const pruned: TurnResult[] = [
    {
      name: "pp100",
      tokens: 100,
      model: { oursMs: [500, 500, 1000], llamaCppMs: [400, 400, 800] },
      dense: { oursMs: [1000, 1000, 2000], llamaCppMs: [500, 500, 1000] },
    },
    {
      name: "tg10",
      tokens: 10,
      model: { oursMs: [400, 500, 1000], llamaCppMs: [1000, 1000, 2000] },
      dense: { oursMs: [1000, 1000, 2000], llamaCppMs: [1500, 1200, 2000] },
    },
  ];
  assertEquals(rowsOf(throughputTable([{ label: "dense", results: dense }, { label: "flap", results: pruned }])), [
    "model|result|ours, tokens/s|llama.cpp, tokens/s|ours / llama.cpp|over dense, ours|over dense, llama.cpp".split(
      "|",
    ),
    ["---", "---", "---:", "---:", "---:", "---:", "---:"],
    ["dense", "pp100", "83.3 ± 28.9", "167 ± 104", "0.50 (0.40 to 1.00)", "–", "–"],
    ["dense", "tg10", "8.3 ± 2.9", "8.3 ± 2.9", "1.00 (1.00 to 1.00)", "–", "–"],
    ["flap", "pp100", "167 ± 58", "208 ± 72", "0.80 (0.80 to 0.80)", "2.00 ×", "1.25 ×"],
    ["flap", "tg10", "18.3 ± 7.6", "8.3 ± 2.9", "2.00 (2.00 to 2.50)", "2.00 ×", "1.20 ×"],
  ]);
});
