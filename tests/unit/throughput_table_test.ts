import { assertEquals } from "@std/assert";
import { throughputTable, type TimedCell } from "../../benchmarks/commands/time_cells.ts";
import { summarise } from "../../benchmarks/evaluation/throughput.ts";
import { doneRecord } from "../support/reports_fixture.ts";
import { at } from "../../core/indexing.ts";

Deno.test("throughputTable() puts tokens per second and speed-up of both engines side by side", () => {
  const cell = (method: string | null, ours: number[], theirs: number[]): TimedCell => {
    const record = doneRecord({ method, sparsity: method === null ? 0 : 0.5 });
    record.throughput = [summarise("pp100", 1, 100, ours)];
    return { label: method ?? "dense", record, results: [summarise("pp100", 1, 100, theirs)] };
  };
  // 100 tokens in 1000 ms are 100 tokens/s.
  const cells = [cell(null, [1000, 1000], [500, 500]), cell("flap", [500, 500], [400, 400])];
  const rows = throughputTable(cells).split("\n").map((line) =>
    line.split("|").slice(1, -1).map((part) => part.trim())
  );
  assertEquals(rows[0], ["model", "pp100, ours", "over dense", "pp100, llama.cpp", "over dense"]);
  assertEquals(rows.slice(2), [
    ["dense", "100 ± 0", "1.00 ×", "200 ± 0", "1.00 ×"],
    ["flap", "200 ± 0", "2.00 ×", "250 ± 0", "1.25 ×"],
  ]);
  // A run that timed other lengths has no numbers of ours, and says so.
  at(cells, 1).record.throughput = [];
  assertEquals(throughputTable(cells).split("\n")[3], "| flap | – | – | 250 ± 0 | 1.25 × |");
});
