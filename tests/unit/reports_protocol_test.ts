/** What every format must say besides the numbers: the protocol, the cost, and which speed-ups are in doubt. */
import { assert, assertAlmostEquals, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { type DoneRecord, trainingSchema } from "../../core/schema/schema.ts";
import { summarise } from "../../benchmarks/timing/throughput.ts";
import { renderTable, reportOf, sectionsOf } from "../../benchmarks/commands/reports.ts";
import { toCsv } from "../../reports/csv.ts";
import { glance } from "../../reports/findings.ts";
import { toHtml } from "../../reports/html.ts";
import { toLatex } from "../../reports/latex.ts";
import { toMarkdown } from "../../reports/markdown.ts";
import { besidePaper } from "../../reports/beside_paper.ts";
import { isDoubtful } from "../../reports/estimates.ts";
import { warnings } from "../../reports/warnings.ts";
import { resultTable } from "../../reports/result_tables.ts";
import { renderNextSteps } from "../../reports/next_steps.ts";
import {
  compared,
  doneRecord,
  failedRecord,
  type FakeCell,
  sectionOf,
  smallRecords,
} from "../support/reports_fixture.ts";

const TRAINING = trainingSchema.parse({ steps: 5, batch: 1, tokens: 64, learningRate: 0.002, rank: 4 });

function recovered(fake: FakeCell, seconds = 30): DoneRecord {
  const record = doneRecord(fake);
  record.cell = { ...record.cell, recover: "lora", training: TRAINING };
  record.training = [{ stage: "recovery", steps: 5, tokens: 320, seconds, curve: [] }];
  record.trainingData = { ...at(record.perplexity, 0).dataset, id: "wikitext2", split: "train" };
  return record;
}

const recoveredRun = () => [doneRecord(), recovered({ method: "flap", sparsity: 0.2, damage: 0.4 })];

Deno.test("the protocol says what a method trains otherwise", () => {
  const plain = recovered({ method: "flap", sparsity: 0.2, damage: 0.4 });
  const own = recovered({ method: "mask-prune", sparsity: 0.2, damage: 0.3 });
  const terms = { loss: 1, crossEntropy: 1, distillation: 1, hidden: 0.5 };
  const row = { ...terms, step: 1, gradientNorm: 1, seconds: 1, memoryBytes: 1 };
  own.training = [{ stage: "learning", steps: 10, tokens: 320, seconds: 1, curve: [row] }];
  own.cell.method = { id: "mask-prune", options: { masks: "hard", uniform: true }, changed: ["masks"] };
  const gradual = recovered({ method: "sheared", sparsity: 0.2, damage: 0.3 });
  const falling = { ...row, hidden: 0, budget: 0.9 };
  gradual.training = [{ stage: "learning", steps: 5, tokens: 320, seconds: 1, curve: [falling] }];
  const facts = reportOf([doneRecord(), plain, own, gradual], "Run").sections[0]?.blocks.find(({ kind }) =>
    kind === "facts"
  );
  assert(facts?.kind === "facts");
  const text = (name: string) => facts.facts.find((fact) => fact.name === name)?.text ?? "";
  assertEquals(
    text("training"),
    "5 steps of 1 × 64 tokens of wikitext2 (flap, sheared); 10 steps, 320 tokens of wikitext2 (mask-prune, masks hard)",
  );
  const warned = (records: DoneRecord[]) =>
    warnings(sectionOf(records)).filter((text) => text.includes("was not trained as requested"));
  assertEquals(warned([doneRecord(), plain, gradual]), []);
  assertEquals(warned([doneRecord(), plain, own]), [
    "mask-prune, masks hard at 20 % was not trained as requested: 10 steps, 320 tokens instead of 5 steps, 320 tokens; " +
    "hidden states in the loss. Differences from other methods may come from this.",
  ]);
});

Deno.test("labels that hold commas are set apart, and a method has its level where it read other amounts at others", () => {
  const records = [0.2, 0.4].flatMap((sparsity, i) => {
    const more = recovered({ method: "sheared", sparsity });
    more.training = [{ stage: "learning", steps: 5, tokens: [384, 768][i]!, seconds: 1, curve: [] }];
    return [
      more,
      ...["on", "off"].map((uniform) => recovered({ method: "flap", options: { uniform, x: 1 }, sparsity })),
    ];
  });
  const { blocks } = at(reportOf([doneRecord(), ...records], "Run").sections, 0);
  const [facts] = blocks.filter((block) => block.kind === "facts");
  const training = facts?.facts.find(({ name }) => name === "training")?.text ?? "";
  assertStringIncludes(
    training,
    "(flap, uniform off; flap, uniform on); 5 steps, 384 tokens of wikitext2 (sheared at 20 %); 5 steps, 768 tokens",
  );
});

Deno.test("every format states recovery, training, calibration, units, seeds, arithmetic and engine", async () => {
  const document = reportOf(recoveredRun(), "Run");
  const texts = {
    markdown: toMarkdown(document),
    html: await toHtml(document, new Map()),
    latex: toLatex(document),
    csv: toCsv(document),
    terminal: renderTable(recoveredRun(), { width: 200, colour: false }),
  };
  for (const [format, text] of Object.entries(texts)) {
    const said = [/LoRA/, /5 steps of 1 (×|\$\\times\$) 64 tokens/, /0\.002/, /rank\D{1,9}4/, /f32/, /tensorflow/];
    for (const words of said) assertMatch(text, words, `${format} does not say ${words}`);
  }
  // The block comes before every table.
  const { blocks } = at(document.sections, 0);
  const placeOf = (kind: string) => blocks.findIndex((block) => block.kind === kind);
  assert(placeOf("facts") < placeOf("table") && placeOf("facts") < placeOf("glance"));
  for (const block of blocks) if (block.kind === "table") assertStringIncludes(block.caption, "5 steps of 1 × 64");
});

Deno.test("titles differ where protocols do", () => {
  const title = (records: DoneRecord[]) => {
    const { title, sections } = reportOf(records, "Run");
    return [title, at(sections, 0).title];
  };
  const compensated = recoveredRun().map((record) => ({
    ...record,
    cell: record.cell.method === null ? record.cell : { ...record.cell, compensate: "least-squares" as const },
  }));
  const bare = [doneRecord(), doneRecord({ method: "flap", sparsity: 0.2 })];
  const titles = [recoveredRun(), compensated, bare].map(title);
  for (const which of [0, 1]) assertEquals(new Set(titles.map((own) => own[which])).size, 3);
  assertEquals(at(titles, 0)[0], "Run: with LoRA recovery (5 steps of 1 × 64 tokens)");
  assertEquals(at(titles, 2)[0], "Run: without recovery");
});

Deno.test("resultTable() has pruning, learning and evaluation apart, and sums the hours of all seeds, failed ones too", () => {
  const records = [0, 1].map((seed) => {
    const record = recovered({ method: "flap", sparsity: 0.2, seed }, 30);
    record.timings = { ...record.timings, pruneS: 10, learnS: 30, evaluateS: 20 + seed };
    return { ...record, seconds: 1800 };
  });
  const failed = failedRecord({ method: "flap", sparsity: 0.2, seed: 2 });
  const cell = { ...failed.cell, recover: "lora" as const, training: TRAINING };
  const section = sectionOf([...records, { ...failed, cell, seconds: 900 }]);
  const { columns, rows } = resultTable("cost", section, [])!;
  const values = Object.fromEntries(columns.map(({ id }, i) => [id, at(at(rows, 0).cells, i).sort]));
  assertAlmostEquals(Number(values["prune-seconds"]), 10);
  assertAlmostEquals(Number(values["learn-seconds"]), 30);
  assertAlmostEquals(Number(values["evaluate-seconds"]), 20.5);
  assertAlmostEquals(Number(values["device-hours"]), (1800 + 1800 + 900) / 3600);
  assertStringIncludes(toMarkdown(reportOf(records, "Run")), "Peak memory: resident set of the process.");
});

Deno.test("compareRuns() says first which settings differ, and its intervals and p values agree", () => {
  const before = [doneRecord(), doneRecord({ method: "flap", sparsity: 0.2, damage: 0.5 })];
  const after = [doneRecord(), recovered({ method: "flap", sparsity: 0.2, damage: 0.3 })];
  const text = compared(before, after, ["old", "new"]);
  const lines = text.split("\n");
  const first = lines.findIndex((line) => line.startsWith("### Settings that differ, old → new"));
  assert(first > 0 && first < lines.findIndex((line) => line.startsWith("| cell")));
  assertMatch(text, /- recovery: none → LoRA adapters.* \(flap\)/);
  assertMatch(text, /- training: none → 5 steps of 1 × 64 tokens of wikitext2.* \(flap\)/);
  assertStringIncludes(compared(before, before), "No setting differs");
  const rows = lines.flatMap((line) => {
    const [, low, high, relation, p] = /\[(-?[\d.]+|\+[\d.]+), ([+-]?[\d.]+)\\?\].*p\u00a0(=|&lt;)\u00a0([\d.]+)/
      .exec(line.replaceAll("\\[", "[")) ?? [];
    const small = relation !== "=" || Number(p) < 0.05;
    return low === undefined ? [] : [{ low: Number(low), high: Number(high), small }];
  });
  assert(rows.length >= 4);
  for (const { low, high, small } of rows) assertEquals(low > 0 || high < 0, small);
});

/** Methods of a section whose first speed-up is in doubt. */
const doubts = ({ columns, pruned }: ReturnType<typeof sectionOf>): string[] =>
  pruned.flatMap(({ label, speedUps }) => {
    const up = speedUps.get(columns.find(({ kind }) => kind === "throughput")!.key);
    return up && isDoubtful(up) ? [label] : [];
  });

Deno.test("isDoubtful() marks speed-ups within their error of 1, which are not headlined", () => {
  const timed = (method: string | null, rate: number, sd: number, sparsity = 0.2) => {
    const record = doneRecord({ method, sparsity: method === null ? 0 : sparsity });
    record.throughput = [{ name: "pp512", batch: 1, tokensPerS: { mean: rate, sd }, samplesMs: [1, 1, 1, 1, 1] }];
    return record;
  };
  const marks = (...records: DoneRecord[]) => {
    const section = sectionOf(records);
    const { topics, lines } = glance(section, []);
    return { doubts: doubts(section), shown: at(lines, 0).findings[topics.indexOf("Speed-up over dense")]!.value };
  };
  const dense = timed(null, 100, 1);
  const clear = { doubts: [], shown: "pp512 1.30 to 1.31 ×" };
  assertEquals(marks(dense, timed("flap", 130, 1), timed("random", 131, 1)), clear);
  assertEquals(marks(dense, timed("flap", 103, 4)), { doubts: ["flap"], shown: "pp512: not measured well enough" });
  const markdown = toMarkdown(reportOf([dense, timed("flap", 103, 4)], "Run"));
  assertMatch(markdown, /1\.03 ± 0\.04\u00a0\?/);
  assertStringIncludes(markdown, "? speed-up in doubt: its error interval contains 1, or spans a factor of 4.");
});

Deno.test("repeats that alternate give the speed-up its interval; models that share a measurement count it once", () => {
  // Neighbouring repeats of a machine that slows down threefold: the ratios are 2, 2.1 and 1.9 all the same.
  const denseSamplesMs = [100, 200, 300];
  const samplesMs = [50, 200 / 2.1, 300 / 1.9];
  const result = { ...summarise("pp512", 1, 512, samplesMs), denseSamplesMs, otherCores: 0.75 };
  const [dense, flap, random] = [doneRecord(), doneRecord({ method: "flap", sparsity: 0.2 })].concat(
    doneRecord({ method: "random", sparsity: 0.2 }),
  ) as [DoneRecord, DoneRecord, DoneRecord];
  dense.throughput = [{ ...summarise("pp512", 1, 512, denseSamplesMs), denseSamplesMs }];
  flap.throughput = [result];
  random.throughput = [{ ...result, sharedFrom: flap.id }];
  const second = { ...random, cell: { ...random.cell, seed: 1 }, id: "random-of-another-seed" };
  const section = sectionOf([dense, flap, random, second]);
  const key = at(section.columns, 0).key;
  const logs = [2, 2.1, 1.9].map(Math.log);
  const center = (at(logs, 0) + at(logs, 1) + at(logs, 2)) / 3;
  const sd = Math.sqrt(logs.reduce((sum, log) => sum + (log - center) ** 2, 0) / 2);
  const half = 4.303 * sd / Math.sqrt(3);
  for (const label of ["flap", "random"]) {
    const row = section.rows.find((row) => row.label === label)!;
    const up = row.speedUps.get(key)!;
    assertEquals([up.spreadOf, up.spread, up.n, row.values.get(key)!.n], ["interval", null, 3, 3]);
    assertAlmostEquals(up.value, Math.exp(center), 1e-12);
    const [low, high] = up.interval!;
    assertAlmostEquals(low, Math.exp(center - half), 1e-12);
    assertAlmostEquals(high, Math.exp(center + half), 1e-12);
  }
  assertEquals(doubts(section), []);
  const markdown = toMarkdown(reportOf([dense, flap, random], "Run"));
  assertStringIncludes(markdown, "which alternate with the dense model's");
  assertStringIncludes(markdown, "Other programs kept up to 0.8 processor cores busy while throughput was measured");
  const part = "± standard deviation over timed repeats. […] 95 % interval";
  assertStringIncludes(renderTable([dense, flap, random], { width: 120, colour: false }).replace(/\s+/g, " "), part);
  // An interval that holds 1 is marked, however small its mean's distance from another is.
  flap.throughput = [{ ...result, samplesMs: [60, 100, 500] }];
  assertEquals(doubts(sectionOf([dense, flap])), ["flap"]);
});

Deno.test("speed-ups that cannot be relied upon are marked, or warned of", () => {
  // 4 [1.7, 9.5]: above 1, and of no use.
  assertEquals(doubts(sectionOf(alternated([-0.35, 0, 0.35].map((log) => 4 * Math.exp(log))))), ["flap"]);
  const uneven = alternated([1.5, 1.5, 1.51]);
  uneven[0]!.throughput[0]!.samplesMs = [90, 91, 92];
  const words = "pp512: the dense model's speed-up over itself is 1.10, not 1.";
  assertStringIncludes(warnings(sectionOf(uneven)).join(), words);
  assertEquals(doubts(sectionOf(alternated([1.5, 1.5, 1.51]))), []);
});

/** Dense and a pruned model, timed in turns, with these speed-ups of neighbours. */
function alternated(ratios: number[], method = "flap"): DoneRecord[] {
  const denseSamplesMs = ratios.map(() => 100);
  return ([[null, ratios.map(() => 1)], [method, ratios]] as const).map(([method, own]) => {
    const record = doneRecord({ method, sparsity: method === null ? 0 : 0.2 });
    record.throughput = [{ ...summarise("pp512", 1, 512, own.map((ratio) => 100 / ratio)), denseSamplesMs }];
    return record;
  });
}

Deno.test("every format gives both ends of a speed-up's interval, which are not equally far away; ? where 1 is between them", async () => {
  // Half of [1.13, 2.80] taken from 1.78 is less than 1, which the interval leaves out.
  const records = alternated([-0.183, 0, 0.183].map((log) => 1.78 * Math.exp(log)));
  const document = reportOf(records, "Run");
  assertEquals(doubts(at(document.sections, 0).results), []);
  assertStringIncludes(toMarkdown(document), "| 1.78 \\[1.13, 2.80\\] |");
  assertStringIncludes(await toHtml(document, new Map()), '1.78<span class="spread"> [1.13, 2.80]</span></td>');
  assertStringIncludes(toLatex(document), "1.78\\,{\\scriptsize [1.13, 2.80]} \\\\");
  assertMatch(renderTable(records, { width: 120, colour: false }), /1\.78 \[1\.13, 2\.80\]$/m);
  const [header = "", , line = ""] = toCsv(document).split("\r\n");
  const places = ["low", "high"].map((end) => header.split(",").indexOf(`pp512_b1_speed_up_${end}`));
  // Fields with commas are quoted and stand before these.
  const fields = line.split(",").slice(-header.split(",").length);
  assertEquals(places.map((place) => Number(at(fields, place)).toFixed(2)), ["1.13", "2.80"]);
  // Equally far from 1 in logarithms, an interval holds 1 where its mean alone seems safe.
  assertEquals(doubts(sectionOf(alternated([1.1, 1.9]))), ["flap"]);
});

Deno.test("throughput stands under the machine that timed it, not the one that scored", () => {
  const [here, there] = [doneRecord(), doneRecord({ method: "flap", sparsity: 0.2 })] as [DoneRecord, DoneRecord];
  const { engine, library, device, cpu } = here.environment;
  const result = summarise("pp512", 1, 512, [50, 51]);
  here.throughput = [{ ...result, machine: { engine, library, device, cpu } }];
  there.throughput = [{ ...result, machine: { engine, library, device, cpu: "another processor" } }];
  const protocols = (records: DoneRecord[]) =>
    sectionOf(records).columns.filter(({ kind }) => kind === "throughput").map(({ protocol }) => protocol);
  assertEquals(protocols([here, { ...there, throughput: here.throughput }]).length, 1);
  const [first, second] = protocols([here, there]);
  assertStringIncludes(first!, cpu);
  assertStringIncludes(second!, "another processor");
});

Deno.test("renderTable() explains the signs that it shows; renderNextSteps() what to type", () => {
  const text = renderTable(smallRecords(), { width: 120, colour: false }).replace(/\s+/g, " ");
  const signs = ["± standard deviation over seeds", "(…) standard error", "* clearly better than every other"];
  for (const words of [...signs, "≈ not clearly"]) assertStringIncludes(text, words);
  assert(!/clear/.test(renderTable([doneRecord({ tasks: [] })], { width: 120, colour: false })));
  const places = { run: "results/x", report: "results/x/report" };
  const named = smallRecords().map((record) => ({ ...record, id: "0123456789abcdef" }));
  const next = renderNextSteps(sectionsOf(named), places, 70);
  for (const line of next.split("\n")) assert(line.length <= 70, line);
  assertStringIncludes(next, "results/x/report/report.html");
  assertStringIncludes(next, "deno task bench export 0123456789abcdef --run results/x --format hf");
  const spaced = renderNextSteps(sectionsOf(smallRecords()), { run: "results/It's my own", report: "a b/report" }, 60);
  assertStringIncludes(spaced, ` --run 'results/It'\\''s my own' --format hf`);
  assertStringIncludes(spaced, "'a b/report/report.html'");
  assert(!next.includes("--model PATH"));
  assertStringIncludes(renderNextSteps(sectionsOf([doneRecord({ model: "tiny" })]), places, 60), "--model PATH");
});

/** A model that was pruned elsewhere: 15 % of it are gone. */
function elsewhere(sparsity: number): DoneRecord {
  const record = doneRecord({ method: "theirs", sparsity: 0.2, throughput: false });
  record.cell = { ...record.cell, sparsity, checkpoint: { path: "/home/me/theirs", sha256: "ab".repeat(32) } };
  return record;
}

Deno.test("of a model that was pruned elsewhere reports say that its level was removed, not asked for", () => {
  const [dense, theirs] = [doneRecord(), elsewhere(0.1499)];
  for (const records of [[dense, theirs], [dense, elsewhere(0.2), doneRecord({ method: "flap", sparsity: 0.2 })]]) {
    const document = reportOf(records, "Run");
    const texts = [toMarkdown(document), toLatex(document), renderTable(records, { width: 120, colour: false })];
    for (const text of texts) assert(!/target 14\.99/.test(text));
    assertMatch(at(texts, 0), /^\| theirs \| – \| 15\.0/m);
  }
  assertStringIncludes(renderTable([dense, theirs], { width: 120, colour: false }), "── 14.99 % removed ──");
  const places = { run: "results/x", report: "results/x/report" };
  assert(!renderNextSteps(sectionsOf([dense, theirs]), places, 60).includes("export"));
});

Deno.test("a published perplexity stands beside ours per token in windows of its length, not beside one per word", () => {
  const beside = (changes: Partial<DoneRecord["perplexity"][number]>) => {
    const dense = { ...doneRecord(), paper: "llm-pruner-20" as const };
    dense.perplexity = dense.perplexity.map((result) => ({ ...result, windowTokens: 128, ...changes }));
    const { rows } = besidePaper(sectionOf([dense]))!;
    return at(rows, 0).values.find(({ measure }) => measure === "ppl:wikitext2:128")?.ours?.value;
  };
  const { perplexity } = at(doneRecord().perplexity, 0);
  assertEquals([beside({}), beside({ protocol: "b" })], [perplexity, perplexity]);
  assertEquals([beside({ protocol: "c" }), beside({ windowTokens: 64 })], [undefined, undefined]);
});
