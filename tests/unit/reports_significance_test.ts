import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { mcnemarTest, signFlipTest } from "../../core/util/stats.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { reportOf, sectionsOf } from "../../benchmarks/commands/reports.ts";
import { toMarkdown } from "../../reports/markdown.ts";
import type { Section } from "../../reports/sections.ts";
import { clearSign, type Comparison, resampled, seedCount } from "../../reports/paired_tests.ts";
import { isClear, type Ranking, rankings, standings } from "../../reports/significance.ts";
import { doneRecord, sectionOf, sweepRecords } from "../support/reports_fixture.ts";

/** A record whose arc_easy outcomes are given. */
function withOutcomes(method: string | null, outcomes: string): DoneRecord {
  const record = doneRecord({ method, sparsity: 0.2, tasks: ["arc_easy"], examples: outcomes.length });
  const value = [...outcomes].filter((c) => c === "1").length / outcomes.length;
  at(record.tasks, 0).metrics = { acc: { value, stderr: 0.01, higherIsBetter: true } };
  at(record.tasks, 0).outcomes = { acc: outcomes };
  return record;
}

/** A record whose windows lose `nats` over those of `base`. */
function shifted(base: DoneRecord, method: string, nats: (i: number) => number): DoneRecord {
  const record = doneRecord({ method, sparsity: 0.2 });
  const windowNll = at(base.perplexity, 0).windowNll.map((nll, i) => nll + nats(i));
  const mean = windowNll.reduce((a, b) => a + b) / windowNll.length;
  record.perplexity = [{ ...at(base.perplexity, 0), windowNll, nllPerToken: mean, perplexity: Math.exp(mean) }];
  return record;
}

const find = (section: Section, name: string): Ranking => rankings(section).find(({ column }) => column.name === name)!;
const signs = (ranking: Ranking) =>
  [...standings(ranking)].map(([row, { place, sign }]) => `${row.label} ${place} ${sign}`.trim());

Deno.test("rankings() tests one-seed tasks by McNemar, corrected by Holm over the column", () => {
  const best = "1".repeat(60) + "0".repeat(40);
  const near = "1".repeat(58) + "0".repeat(42);
  const far = "1".repeat(30) + "0".repeat(70);
  const section = sectionOf([withOutcomes("flap", best), withOutcomes("random", far), withOutcomes("wanda-sp", near)]);
  const ranking = find(section, "arc_easy");
  assertEquals(ranking.rows.map(({ label }) => label), ["flap", "wanda-sp", "random"]);
  const [toNear, toFar] = take(ranking.rows.slice(1).map((row) => ranking.comparisons.get(row)!), 2);
  assertEquals([toNear.test, toFar.test], ["mcnemar", "mcnemar"]);
  assertAlmostEquals(toFar.p, 2 * mcnemarTest(30, 0, 100).p, 1e-15);
  assertAlmostEquals(toNear.p, Math.max(2 * mcnemarTest(30, 0, 100).p, mcnemarTest(2, 0, 100).p), 1e-15);
  assertAlmostEquals(toFar.lead.value, 0.3, 1e-12);
  assert(toFar.lead.low > 0.2 && toFar.lead.high < 0.4);
  assertEquals([isClear(toNear), isClear(toFar)], [false, true]);
  assertEquals(signs(ranking), ["flap 1", "wanda-sp 2 ≈", "random 0"]);
});

Deno.test("standings() stars the best only when it is clearly better than every other, and shares places on ties", () => {
  const best = "1".repeat(80) + "0".repeat(20);
  const low = "1".repeat(30) + "0".repeat(70);
  const low2 = "0".repeat(70) + "1".repeat(30);
  const clear = sectionsOf([withOutcomes("flap", best), withOutcomes("random", low), withOutcomes("wanda-sp", low2)]);
  assertEquals(signs(find(at(clear, 0), "arc_easy")), ["flap 1 *", "random 2", "wanda-sp 2"]);
  const tie = sectionsOf([withOutcomes("flap", best), withOutcomes("random", best)]);
  assertEquals(signs(find(at(tie, 0), "arc_easy")), ["random 1", "flap 1 ≈"]);
  assertEquals(signs(find(at(sectionsOf([withOutcomes("flap", best)]), 0), "arc_easy")), []);
});

Deno.test("rankings() tests no identical rows, and corrects the others as if they were not there", () => {
  const base = doneRecord({ method: "flap", sparsity: 0.2 });
  const p = (records: DoneRecord[], method: string) => {
    const { rows, comparisons } = find(sectionOf(records), "wikitext2");
    const { test, p } = comparisons.get(rows.find(({ methodId }) => methodId === method)!)!;
    return { test, p };
  };
  const noisy = shifted(base, "random", (i) => i === 0 ? 0.1 : i % 3 === 0 ? -0.05 : 0.05);
  const copies = ["magnitude", "wanda-sp"].map((method) => shifted(base, method, () => 0));
  assertEquals(p([base, noisy, ...copies], "random"), p([base, noisy], "random"));
  // The first of three equal rows is the best.
  assertEquals(p([base, noisy, ...copies], "flap"), { test: "identical", p: 1 });
});

Deno.test("rankings() compares perplexities window by window: a small lead in every window is clear", () => {
  const base = doneRecord({ method: "flap", sparsity: 0.2 });
  const small = find(sectionOf([base, shifted(base, "random", (i) => 0.02 + 0.001 * (i % 3))]), "wikitext2");
  assertEquals(signs(small), ["flap 1 *", "random 2"]);
  const noisy = find(sectionOf([base, shifted(base, "random", (i) => 0.02 + (i % 2 === 0 ? 0.5 : -0.5))]), "wikitext2");
  assertEquals(signs(noisy), ["flap 1", "random 2 ≈"]);
  const lead = small.comparisons.get(at(small.rows, 1))!.lead;
  assert(lead.low > 0.02 && lead.low <= lead.value && lead.value <= lead.high && lead.high < 0.022);
});

Deno.test("rankings() does not rank throughput and does not test rows with other data", () => {
  assert(rankings(sectionOf(sweepRecords())).every(({ column }) => column.kind !== "throughput"));
  const short = doneRecord({ method: "random", sparsity: 0.2, windows: 20 });
  const ranked = rankings(sectionOf([doneRecord({ method: "flap", sparsity: 0.2 }), short]))
    .filter(({ column }) => column.kind === "perplexity");
  assertEquals(ranked.map(({ rows, comparisons }) => [rows.length, comparisons.size]), [[1, 0], [1, 0]]);
});

Deno.test("rankings() calls no lead clear on four windows, however large", () => {
  const four = (method: string, damage: number) => doneRecord({ method, sparsity: 0.2, windows: 4, damage });
  const section = sectionOf([four("flap", 0), four("random", 3)]);
  const ranking = find(section, "wikitext2");
  assert(ranking.comparisons.get(at(ranking.rows, 1))!.p > 0.1);
  assertEquals(signs(ranking), ["flap 1", "random 2 ≈"]);
});

Deno.test("seedCount() counts the shared seeds with which the first row is better", () => {
  const withSeed = (method: string, seed: number, right: number) => {
    const record = withOutcomes(method, "1".repeat(right) + "0".repeat(10 - right));
    return { ...record, id: `${method} ${seed}`, cell: { ...record.cell, seed } };
  };
  const section = sectionOf([
    ...[7, 5, 8].map((right, seed) => withSeed("flap", seed, right)),
    ...[6, 6, 6, 9].map((right, seed) => withSeed("random", seed, right)),
    withSeed("wanda-sp", 0, 5),
  ]);
  const column = find(section, "arc_easy").column;
  const rowOf = (id: string) => section.rows.find(({ methodId }) => methodId === id)!;
  const [flap, random, wanda] = take(["flap", "random", "wanda-sp"].map(rowOf), 3);
  assertEquals(seedCount(column, flap, random), { ahead: 2, behind: 1, of: 3 });
  assertEquals(seedCount({ ...column, higherIsBetter: false }, flap, random), { ahead: 1, behind: 2, of: 3 });
  assertEquals(seedCount(column, flap, wanda), null);
});

Deno.test("clearSign() wants the test and every seed", () => {
  const of = (p: number, value: number, ahead: number, behind: number) =>
    clearSign({ p, lead: { value, low: 0, high: 0 }, seeds: { ahead, behind, of: 3 } } as Comparison);
  assertEquals([of(0.01, 1, 3, 0), of(0.06, 1, 3, 0), of(0.01, 1, 2, 1), of(0.01, 1, 2, 0)], [1, 0, 0, 0]);
  assertEquals([of(0.01, -1, 0, 3), of(0.01, -1, 1, 2)], [-1, 0]);
});

Deno.test("resampled() keeps neighbouring windows together, and takes examples and documents one by one", () => {
  const column = at(sectionOf([doneRecord()]).columns.filter(({ kind }) => kind === "perplexity"), 0);
  const values = Array.from({ length: 30 }, (_, i) => i);
  // Ten blocks of three: 0 + 1 + 2, 3 + 4 + 5, … on the scale of one value.
  assertEquals(resampled(column, values).map((value) => Math.round(value)), values.slice(0, 10).map((i) => 3 * i + 1));
  assertEquals(resampled({ ...column, metric: "word perplexity" }, values), values);
  assertEquals(resampled({ ...column, kind: "task", metric: "acc" }, values), values);
});

Deno.test("tests of windows that depend on their neighbours reject a true zero about as often as they say", () => {
  const column = at(sectionOf([doneRecord()]).columns.filter(({ kind }) => kind === "perplexity"), 0);
  const rng = createRng(1, "windows in a row");
  const [repeats, n] = [400, 64];
  const rejected = { alone: 0, blocks: 0 };
  for (let r = 0; r < repeats; r++) {
    // A correlation of 0.3 between neighbours, as measured between methods on WikiText-2.
    let last = rng.normal();
    const values = Array.from({ length: n }, () => last = 0.3 * last + Math.sqrt(1 - 0.09) * rng.normal());
    const test = (own: number[]) => signFlipTest(own, own.map(() => 0), { seed: r, resamples: 2000 }).p < 0.05;
    if (test(values)) rejected.alone++;
    if (test(resampled(column, values))) rejected.blocks++;
  }
  assert(rejected.alone > 0.1 * repeats, `one by one: ${rejected.alone} of ${repeats}`);
  assert(rejected.blocks < 0.09 * repeats, `in blocks: ${rejected.blocks} of ${repeats}`);
});

Deno.test("a budget in time shows what each method would need for the dense accuracy less a point", () => {
  const timed = (method: string | null, speedUp: number, lost: number): DoneRecord => {
    const record = withOutcomes(method, "1".repeat(60 - lost).padEnd(100, "0"));
    const times = { samplesMs: [100 / speedUp, 110 / speedUp], denseSamplesMs: [100, 110] };
    Object.assign(record.cell, { sparsity: speedUp / 10, ...method && { budget: "decode-ms" } });
    return { ...record, throughput: record.throughput.map((result) => ({ ...result, ...times })) };
  };
  const levels = (
    method: string,
    first: number,
    second: number,
  ) => [timed(method, 1.25, first), timed(method, 1.75, second)];
  const text = toMarkdown(
    reportOf([timed(null, 1, 0), ...levels("random", 10, 10), ...levels("flap", 0, 10), ...levels("obs", 0, 0)], "Run"),
  );
  assertStringIncludes(text, "equal acc. ↑<br>tg128, × dense");
  // Ten of ten discordant examples lost: Clopper and Pearson's share is at most 1 - 0.025 ** (1 / 10) = 0.3085, so at
  // least 3.83 points. The first point of 10 between 1.25 and 1.75 is lost at 1.30, the first of 3.83 at 1.38.
  for (const cell of ["| 1.30 \\[1.30, 1.38\\] |", "| not reached |", "| ≥ 1.75 |"]) {
    assertEquals(text.split(cell).length - 1, 2, cell);
  }
});
