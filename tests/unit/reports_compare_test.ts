import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { at } from "../../core/indexing.ts";
import { compareRuns } from "../../reports/compare.ts";
import { doneRecord, smallRecords } from "../support/reports_fixture.ts";

const lineOf = (text: string, ...parts: string[]) =>
  text.split("\n").find((line) => parts.every((part) => line.includes(part)))!;

Deno.test("compareRuns() of a run with itself finds no difference", () => {
  const text = compareRuns(smallRecords(), smallRecords());
  const lines = text.split("\n").filter((line) => line.includes(" on tensorflow"));
  // 4 rows with results, each with pp512, tg128, wikitext2, two tasks and their mean.
  assertEquals(lines.length, 4 * 6);
  assertEquals(lines.filter((line) => line.includes("no clear difference")).length, 4 * 4);
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
  const text = compareRuns([before], [after], { names: ["old", "new"] });
  assertMatch(lineOf(text, "wikitext2"), /-9\.9\d % \\\[-9\.9\d, -9\.9\d\\\] \| p\u00a0&lt;\u00a00\.001 \| better \|/);
  const back = compareRuns([after], [before]);
  assertMatch(lineOf(back, "wikitext2"), /\+11\.0\d % \\\[\+11\.0\d, \+11\.0\d\\\] .* \| worse \|/);
});

Deno.test("compareRuns() compares nothing that was measured on other data, and names rows of one run only", () => {
  const a = [doneRecord({ windows: 40, throughput: false, tasks: [] })];
  const b = [
    doneRecord({ windows: 20, throughput: false, tasks: [] }),
    doneRecord({ method: "flap", sparsity: 0.2, throughput: false, tasks: [] }),
  ];
  const text = compareRuns(a, b);
  assertStringIncludes(text, "no result on the same data in common");
  assertStringIncludes(text, "Only in B: SmolLM2-135M.gguf on tensorflow: flap at 20 %.");
});
