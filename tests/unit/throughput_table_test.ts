import { assertEquals } from "@std/assert";
import { throughputTable } from "../../benchmarks/commands/turns_table.ts";
import type { TurnResult } from "../../benchmarks/timing/engine_turns.ts";

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
  const table = throughputTable([{ label: "dense", results: dense }, { label: "flap", results: pruned }]);
  assertEquals(rowsOf(table), [
    ["model", "result", "ours, tokens/s", "llama.cpp, tokens/s", "ours / llama.cpp"].concat(
      ["over dense, ours", "over dense, llama.cpp"],
    ),
    ["---", "---", "---:", "---:", "---:", "---:", "---:"],
    ["dense", "pp100", "83.3 ± 28.9", "167 ± 104", "0.50 (0.40 to 1.00)", "–", "–"],
    ["dense", "tg10", "8.3 ± 2.9", "8.3 ± 2.9", "1.00 (1.00 to 1.00)", "–", "–"],
    ["flap", "pp100", "167 ± 58", "208 ± 72", "0.80 (0.80 to 0.80)", "2.00 ×", "1.25 ×"],
    ["flap", "tg10", "18.3 ± 7.6", "8.3 ± 2.9", "2.00 (2.00 to 2.50)", "2.00 ×", "1.20 ×"],
  ]);
});
