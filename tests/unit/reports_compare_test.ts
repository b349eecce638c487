import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { type DoneRecord, trainingSchema } from "../../core/schema/schema.ts";
import { sectionsOf } from "../../benchmarks/commands/reports.ts";
import { UsageError } from "../../core/util/errors.ts";
import { glance } from "../../reports/findings.ts";
import { rankings } from "../../reports/significance.ts";
import { compareMethods, compareRuns } from "../../reports/compare.ts";
import { compared, doneRecord, smallRecords } from "../support/reports_fixture.ts";
import { take } from "../support/values.ts";

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
  const [factor, after] = [0.9, structuredClone(before)];
  [before, after].forEach(({ plan }, i) => plan.layers = [{ kvGroups: [0], queryHeads: [1], ffnChannels: [0, 3 + i] }]);
  const measured = at(after.perplexity, 0);
  measured.perplexity *= factor;
  measured.windowNll = measured.windowNll.map((nll, i) => nll + Math.log(factor) + 0.001 * (i % 2));
  const text = compared([before], [after], ["old", "new"]);
  assertMatch(lineOf(text, "wikitext2"), /-9\.9\d % \\\[-9\.9\d, -9\.9\d\\\] \| p\u00a0&lt;\u00a00\.001 \| better \|/);
  assertStringIncludes(lineOf(text, "kept units"), "| 25.0 % differ |");
  const back = lineOf(compared([after], [before]), "wikitext2");
  assertMatch(back, /\+11\.0\d % \\\[\+11\.0\d, \+11\.0\d\\\] .* \| worse \|/);
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
  const flap = doneRecord({ method: "flap", sparsity: 0.2, throughput: false, tasks: [] });
  const text = compared(a, [doneRecord({ windows: 20, throughput: false, tasks: [] }), flap]);
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

Deno.test("compareRuns() names the arithmetic, and compareMethods() never pairs cells of both", () => {
  const exact = doneRecord({ method: "flap", sparsity: 0.2, seed: 0 });
  const fast = structuredClone(doneRecord({ method: "flap", sparsity: 0.2, seed: 1 }));
  fast.cell.arithmetic = "fast";
  assertMatch(compared([exact], [fast]), /- arithmetic: f32 → reduced-precision products \(.*bfloat16 on CPUs\)/);
  assertStringIncludes(compared([fast], [exact, fast]), "Only in B: SmolLM2-135M.gguf on tensorflow: flap at 20 %.");
  const sections = sectionsOf([exact, fast]);
  assertEquals(sections.map(({ rows }) => rows.map(({ seeds }) => seeds)), [[[0]], [[1]]]);
  assertStringIncludes(compareMethods({ name: "A", sections }), "No two methods have a result of the same level");
});

Deno.test("compareMethods() puts every pair of a level in a matrix, corrected together", () => {
  const records = ["flap", "random", "wanda-sp"].map((method, i) =>
    doneRecord({ method, sparsity: 0.2, damage: [0.4, 1, 0.5][i]!, tasks: [], throughput: false })
  );
  const run = { name: "A", sections: sectionsOf([doneRecord(), ...records]) };
  const text = compareMethods(run);
  assertStringIncludes(text, "corrects all 3 tests of these tables together");
  const [flap, random, wanda] = take(records.map(({ perplexity }) => at(perplexity, 0).perplexity), 3);
  const change = (of: number) => (100 * (flap / of - 1)).toFixed(2);
  assertMatch(lineOf(text, "| flap, "), new RegExp(`${change(random)} % .*better \\| ${change(wanda)} % .*better \\|`));
  const alone = compareMethods(run, "flap,random");
  assertEquals(alone.includes("Holm"), false);
  assertMatch(lineOf(alone, "| flap"), /\| -4\d\.\d\d % \\\[.*\], p\u00a0&lt;\u00a00\.001, better \|/);
  assertMatch(lineOf(compareMethods(run, "random,flap"), "| random"), /\+\d+(\.\d\d)? % .* worse \|/);
});

Deno.test("compareMethods() finds rows by label or by method, whatever commas these hold", () => {
  const records = [["error"], []].map((changed) => {
    const record = doneRecord({ method: "obs", options: { error: changed[0] ? "kfac" : "diagonal" }, sparsity: 0.2 });
    return { ...record, cell: { ...record.cell, method: { ...record.cell.method!, changed } } };
  });
  const run = { name: "A", sections: sectionsOf([...records, doneRecord({ method: "flap", sparsity: 0.2 })]) };
  for (const kfac of ["obs, error kfac", "obs:error=kfac"]) {
    assertMatch(compareMethods(run, `${kfac},obs`), /against column \| obs, \d.*\n.*\n\| obs, error kfac, \d/);
    assertMatch(compareMethods(run, `flap, ${kfac}`), /against column \| obs, error kfac, \d.*\n.*\n\| flap, \d/);
  }
  assertThrows(() => compareMethods(run, "obs,wanda"), UsageError, 'Known: "flap", "obs", "obs, error kfac"');
});

Deno.test("compareMethods() says that a winner removed less", () => {
  const records = ["flap", "random"].map((method, i) =>
    doneRecord({ method, sparsity: 0.2, damage: [0.4, 1][i]!, tasks: [], throughput: false })
  );
  at(records, 0).size.sparsityOfPrunable = 0.1;
  const sections = sectionsOf(records);
  const words = (pair: string) => compareMethods({ name: "A", sections }, pair);
  assertStringIncludes(words("flap,random"), "better, but removed less");
  assertStringIncludes(words("random,flap"), "worse, but flap removed less");
  const { findings } = at(glance(at(sections, 0), rankings(at(sections, 0))).lines, 0);
  assertStringIncludes(at(findings, 0)!.verdict, "but removed less than random");
});

Deno.test("compareRuns() takes several runs, corrects them together, and says what comes from several versions", () => {
  const [a, b, c] = [0.5, 0.3, 0.31].map((damage) =>
    doneRecord({ method: "flap", sparsity: 0.2, damage, tasks: [], throughput: false })
  ) as [DoneRecord, DoneRecord, DoneRecord];
  c.laterEnvironments = [{ ...c.environment, commit: "abcdef0" }];
  const named = (name: string, record: DoneRecord) => ({ name, sections: sectionsOf([record]) });
  const text = compareRuns(named("A", a), [named("B", b), named("C", c)]);
  assertEquals(text.split("\n").filter((line) => line.includes("| better |")).length, 2);
  assertStringIncludes(text, "all tables here together");
  assertMatch(text, /C: Results come from 2 versions of the harness/);
});
