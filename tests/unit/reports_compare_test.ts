import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { type CellRecord, type DoneRecord, trainingSchema } from "../../core/schema/schema.ts";
import { sectionsOf } from "../../benchmarks/commands/reports.ts";
import { compareRuns } from "../../reports/compare.ts";
import { doneRecord, smallRecords } from "../support/reports_fixture.ts";

const compared = (a: CellRecord[], b: CellRecord[], names: [string, string] = ["A", "B"]) =>
  compareRuns(sectionsOf(a), sectionsOf(b), names);

const lineOf = (text: string, ...parts: string[]) =>
  text.split("\n").find((line) => parts.every((part) => line.includes(part)))!;

Deno.test("compareRuns() of a run with itself finds no difference", () => {
  const text = compared(smallRecords(), smallRecords());
  const lines = text.split("\n").filter((line) => line.includes(" on tensorflow"));
  // 4 rows with results, each with pp512, tg128, wikitext2, two tasks and their mean.
  assertEquals(lines.length, 4 * 6);
  assertEquals(lines.filter((line) => line.endsWith("|  | identical |")).length, 4 * 4);
  assert(!/better|worse/.test(lines.join("")));
  assertStringIncludes(lineOf(text, "pp512", "dense"), "1.000 ×");
});

Deno.test("compareRuns() says by how much perplexity and accuracy changed, with sign and interval", () => {
  const before = doneRecord({ method: "flap", sparsity: 0.2, damage: 0.5 });
  const after = structuredClone(before);
  const factor = 0.9;
  at(after.perplexity, 0).perplexity *= factor;
  at(after.perplexity, 0).windowNll = at(after.perplexity, 0).windowNll.map((nll, i) =>
    nll + Math.log(factor) + 0.001 * (i % 2)
  );
  const text = compared([before], [after], ["old", "new"]);
  assertMatch(lineOf(text, "wikitext2"), /-9\.9\d % \\\[-9\.9\d, -9\.9\d\\\] \| p\u00a0&lt;\u00a00\.001 \| better \|/);
  const back = compared([after], [before]);
  assertMatch(lineOf(back, "wikitext2"), /\+11\.0\d % \\\[\+11\.0\d, \+11\.0\d\\\] .* \| worse \|/);
});

Deno.test("compareRuns() tests perplexity by documents by their words, as the column counts them", () => {
  const words = [1000, ...Array.from({ length: 19 }, () => 10)];
  const total = words.reduce((a, b) => a + b);
  /** The long document loses `long` nats a word over another run, the others `short`. */
  const record = (long: number, short: number) => {
    const windowNll = words.map((_, i) => 3 + (i === 0 ? long : short));
    const nll = windowNll.reduce((sum, nats, i) => sum + nats * at(words, i), 0) / total;
    const perplexity = Math.exp(nll);
    const one = doneRecord({ method: "flap", sparsity: 0.2, windows: words.length, throughput: false, tasks: [] });
    const documents = { words: total, bytes: 1, wordPerplexity: perplexity, bytePerplexity: 1, bitsPerByte: 1 };
    one.perplexity = one.perplexity.map((result): typeof result => ({
      ...{ ...result, protocol: "c", perplexity, perplexityStderr: null },
      ...{ windowNll, documentWords: words, documents },
    }));
    return one;
  };
  const [before, after] = [record(0, 0), record(0.1, -0.1)];
  // By words 0.1 (1000 - 190) / 1190 nats more; with every document alike it would be 0.09 less.
  const change = (100 * Math.expm1(0.1 * 810 / 1190)).toFixed(2);
  assertMatch(lineOf(compared([before], [after]), "wikitext2"), new RegExp(`\\+${change} % `));
  // Without the words there is no test.
  at(after.perplexity, 0).documentWords = undefined;
  assertMatch(lineOf(compared([before], [after]), "wikitext2"), /\| – \| *\| *\|$/);
});

Deno.test("compareRuns() compares nothing that was measured on other data, and names rows of one run only", () => {
  const a = [doneRecord({ windows: 40, throughput: false, tasks: [] })];
  const b = [
    doneRecord({ windows: 20, throughput: false, tasks: [] }),
    doneRecord({ method: "flap", sparsity: 0.2, throughput: false, tasks: [] }),
  ];
  const text = compared(a, b);
  assertStringIncludes(text, "no result on the same data in common");
  assertStringIncludes(text, "Only in B: SmolLM2-135M.gguf on tensorflow: flap at 20 %.");
});

Deno.test("compareRuns() names every setting that decides the numbers", () => {
  const cell = { method: "flap", sparsity: 0.2, damage: 0.5 };
  const changes: [Partial<DoneRecord["cell"]>, string][] = [
    [{ calibration: { ...doneRecord(cell).cell.calibration, draw: "distinct-rows" } }, "one window per record"],
    [{ requestEncoding: "llm-pruner" }, "llm-pruner"],
    [{ weights: "stored" }, "stored"],
    [{ training: trainingSchema.parse({ clipNorm: 0.5 }) }, "clip norm 0.5"],
    [{ training: trainingSchema.parse({ microBatch: 3 }) }, "micro batch 3"],
  ];
  for (const [change, words] of changes) {
    const after = doneRecord(cell);
    after.cell = { ...after.cell, ...change };
    assertStringIncludes(compared([doneRecord(cell)], [after]), words);
  }
});
