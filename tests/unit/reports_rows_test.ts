import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { reportOf, sectionsOf } from "../../benchmarks/commands/reports.ts";
import { protocol } from "../../reports/protocol.ts";
import type { Row, Section } from "../../reports/sections.ts";
import { doneRecord, failedRecord, sectionOf, sweepRecords } from "../support/reports_fixture.ts";
import { known } from "../support/values.ts";

const rowOf = (section: Section, label: string, asked: number): Row =>
  section.rows.find((row) => row.label === label && row.asked === asked)!;
const columnOf = (section: Section, name: string, metric?: string) =>
  section.columns.find((column) => column.name === name && (metric === undefined || column.metric === metric))!;

Deno.test("sectionsOf() puts dense first, then levels in order, then simple baselines before learned masks", () => {
  const section = sectionOf(sweepRecords().toReversed());
  assertEquals(section.rows.map(({ label, asked }) => `${label} ${asked}`), [
    "dense 0",
    ...["random", "magnitude", "wanda-sp", "llm-pruner", "flap", "mask-prune"].map((label) => `${label} 0.2`),
    ...["random", "magnitude", "wanda-sp", "llm-pruner", "flap", "mask-prune"].map((label) => `${label} 0.4`),
  ]);
});

Deno.test("sectionsOf() gives mean and sample standard deviation over seeds, standard error for one seed", () => {
  const records = [1, 2, 4].map((value, seed) => {
    const record = doneRecord({ method: "flap", sparsity: 0.2, seed });
    return { ...record, perplexity: [{ ...at(record.perplexity, 0), perplexity: value, perplexityStderr: 0.5 }] };
  });
  const several = sectionOf(records);
  const key = columnOf(several, "wikitext2").key;
  const { value, spread, spreadOf, n } = at(several.rows, 0).values.get(key)!;
  assertAlmostEquals(value, 7 / 3);
  assertAlmostEquals(spread!, Math.sqrt((16 + 1 + 25) / 9 / 2));
  assertEquals([spreadOf, n], ["seeds", 3]);

  const one = at(sectionOf(records.slice(0, 1)).rows, 0).values.get(key);
  assertEquals(one, { value: 1, spread: 0.5, spreadOf: "stderr", n: 1 });
});

Deno.test("sectionsOf() pools the timed repeats of all seeds as if they were one sample", () => {
  const samples = [[10, 12], [13, 14, 18]];
  const records = samples.map((rates, seed) => {
    const record = doneRecord({ method: "flap", sparsity: 0.2, seed });
    const mean = rates.reduce((a, b) => a + b) / rates.length;
    const sd = Math.sqrt(rates.reduce((sum, rate) => sum + (rate - mean) ** 2, 0) / (rates.length - 1));
    const result = { name: "pp512", batch: 1, tokensPerS: { mean, sd }, samplesMs: rates.map((rate) => 1e3 / rate) };
    return { ...record, throughput: [result] };
  });
  const section = sectionOf(records);
  const pooled = at(section.rows, 0).values.get(columnOf(section, "pp512").key)!;
  const mean = 67 / 5;
  const all = samples.flat();
  assertAlmostEquals(pooled.value, mean);
  assertAlmostEquals(pooled.spread!, Math.sqrt(all.reduce((sum, rate) => sum + (rate - mean) ** 2, 0) / 4), 1e-12);
  assertEquals([pooled.spreadOf, pooled.n], ["repeats", 5]);
});

Deno.test("sectionsOf() never mixes results of other data, limits or protocols in one column", () => {
  const base = doneRecord({ method: "flap", sparsity: 0.2 });
  const result = at(base.perplexity, 0);
  const otherData = { ...result, dataset: { ...result.dataset, sha256: "9".repeat(64) } };
  const others = [
    doneRecord({ method: "random", sparsity: 0.2, windows: 20 }),
    { ...doneRecord({ method: "wanda-sp", sparsity: 0.2 }), perplexity: [otherData] },
    { ...doneRecord({ method: "magnitude", sparsity: 0.2 }), perplexity: [{ ...result, protocol: "b" as const }] },
  ];
  const section = sectionOf([base, ...others]);
  const columns = section.columns.filter(({ kind }) => kind === "perplexity");
  assertEquals(columns.length, 4);
  assertEquals(columns.filter(({ count }) => count.startsWith("protocol b, L=")).length, 1);
  for (const row of section.rows) assertEquals(columns.filter(({ key }) => row.values.has(key)).length, 1);

  const tasks = sectionOf([base, doneRecord({ method: "random", sparsity: 0.2, examples: 100 })]);
  const means = tasks.columns.filter(({ kind }) => kind === "mean-accuracy");
  assertEquals(means.length, 2);
  assert(means.every(({ limited }) => limited));
});

Deno.test("sectionsOf() separates models by the hash of their weights, and engines", () => {
  const base = doneRecord();
  const other = { ...base, weights: { ...base.weights, sha256: "1".repeat(64) } };
  const engine = doneRecord({ engine: "wasm" });
  const sections = sectionsOf([base, other, engine, failedRecord({ method: "flap", sparsity: 0.2 })]);
  const found = sections.map((section) => [section.engine, section.weightsSha256?.[0], section.rows.length]);
  assertEquals(found, [["tensorflow", "1", 2], ["tensorflow", "e", 1], ["wasm", "e", 1]]);
});

Deno.test("sectionsOf() never puts fast and exact arithmetic into one table, and titles and protocol say which", () => {
  const exact = doneRecord();
  const fast = doneRecord();
  fast.cell.arithmetic = "fast";
  fast.environment = { ...fast.environment, device: "cuda (Test GPU)", arithmetic: "fast" };
  const sections = sectionsOf([fast, exact]);
  assertEquals(sections.map(({ arithmetic, rows }) => [arithmetic, rows.length]), [["exact", 1], ["fast", 1]]);
  const words = (records: DoneRecord[]) =>
    sectionsOf(records).map((section) => protocol(section).find(({ name }) => name === "arithmetic")?.text);
  assertEquals(words([fast, exact]), ["f32", "reduced-precision products (TF32 on CUDA, bfloat16 on CPUs), f32 sums"]);
  const found = reportOf([fast, exact], "Run").sections.map(({ title }) => /in fast arithmetic/.test(title));
  assertEquals(found, [false, true]);
});

Deno.test("sectionsOf() keeps failed cells as rows, and beside finished seeds of the same row", () => {
  const section = sectionOf([
    doneRecord({ method: "flap", sparsity: 0.2, seed: 0 }),
    failedRecord({ method: "flap", sparsity: 0.2, seed: 1 }),
    failedRecord({ method: "random", sparsity: 0.2 }),
  ]);
  assertEquals([rowOf(section, "flap", 0.2).runs.length, rowOf(section, "flap", 0.2).failures.length], [1, 1]);
  assertEquals([rowOf(section, "random", 0.2).runs.length, rowOf(section, "random", 0.2).failures.length], [0, 1]);
});

Deno.test("sectionsOf() names the options that differ where a method occurs with several", () => {
  const section = sectionOf([
    doneRecord({ method: "llm-pruner", options: { score: "vector", range: [4, 30] }, sparsity: 0.2 }),
    doneRecord({ method: "llm-pruner", options: { score: "element-1", range: [4, 30] }, sparsity: 0.2 }),
    doneRecord({ method: "flap", options: { structure: "AL-AM" }, sparsity: 0.2 }),
  ]);
  const actual = section.rows.map(({ label }) => label);
  assertEquals(actual, ["llm-pruner, score element-1", "llm-pruner, score vector", "flap"]);
  const ablations = [{}, { structure: "UL-UM" }, { bias: "none" }].map((changes) => {
    const options = { structure: "AL-AM", bias: "some", ...changes };
    const record = doneRecord({ method: "flap", options, sparsity: 0.2 });
    return { ...record, cell: { ...record.cell, method: { id: "flap", options, changed: Object.keys(changes) } } };
  });
  const got = sectionOf(ablations).rows.map(({ label }) => label).sort();
  assertEquals(got, ["flap", "flap, bias none", "flap, structure UL-UM"]);
  const other = doneRecord({ method: "flap", sparsity: 0.2 });
  other.cell = { ...other.cell, calibration: { ...other.cell.calibration, sequences: 8 } };
  const calibrated = sectionOf([doneRecord({ method: "flap", sparsity: 0.2 }), other]);
  assertEquals(calibrated.rows.map(({ label }) => label), ["flap", "flap, calibration sequences 8"]);
  // A row is found by what it is, in whatever run it stands.
  const alone = at(sectionOf([other]).rows, 0);
  assertEquals([alone.label, alone.key], ["flap", at(calibrated.rows, 1).key]);
});

Deno.test("sectionsOf() names text files and models without their folders", () => {
  const names = (...corpora: string[]) => {
    const record = doneRecord({ throughput: false, tasks: [] });
    const { dataset, ...first } = at(record.perplexity, 0);
    const own = (i: number) => ({ ...dataset, sha256: String(i).repeat(64) });
    record.perplexity = corpora.map((corpus, i) => ({ ...first, corpus, dataset: own(i) }));
    const { columns } = sectionOf([record]);
    for (const { name, slug } of columns) assertEquals(slug, `${name}_a1024_n40`);
    return columns.map(({ name }) => name);
  };
  assertEquals(names("file:mine.ts", "file:/home/me/notes.txt"), ["mine.ts", "notes.txt"]);
  assertEquals(names("file:my/a/t.txt", "file:my\\b\\t.txt"), ["t.txt", "t.txt"]);
  assertEquals(sectionOf([doneRecord({ model: "/secret/place/model.gguf" })]).model, "model.gguf");
});

Deno.test("sectionsOf() says of word perplexities that they are such, and whether all documents were read", () => {
  const base = doneRecord();
  const documents = (maxWindows?: number) => ({
    ...base,
    perplexity: [{ ...at(base.perplexity, 0), protocol: "c" as const, perplexityStderr: null, maxWindows }],
  });
  const all = sectionOf([documents()]);
  const found = [columnOf(all, "wikitext2").metric, columnOf(all, "wikitext2").count];
  assertEquals(found, ["word perplexity", "n=40 documents"]);
  assertEquals(columnOf(all, "wikitext2").limited, false);
  const some = sectionOf([documents(40)]);
  assertEquals(columnOf(some, "wikitext2").count, "n=first 40 documents");
  assertEquals(columnOf(some, "wikitext2").limited, true);
});

Deno.test("sectionsOf() counts the windows of a text whose windows begin with other tokens", () => {
  const record = doneRecord();
  // 511 tokens of the text and one in front: 44 windows, where 512 a window would give 43.
  const counts = { windowTokens: 512, windows: 20, maxWindows: 20, tokens: 44 * 511, droppedTokens: 24 * 511 };
  record.perplexity = record.perplexity.map((result) => ({ ...result, ...counts }));
  const column = sectionOf([record]).columns.find(({ kind }) => kind === "perplexity")!;
  assertEquals(column.count, "L=512, n=20 of 44");
});

Deno.test("sectionsOf() takes the later of two runs with one seed that measured the same thing", () => {
  const early = doneRecord({ method: "flap", sparsity: 0.2 });
  const late = { ...early, startedAt: "2027-01-01T00:00:00.000Z" };
  late.perplexity = [{ ...at(early.perplexity, 0), perplexity: 99 }];
  for (const records of [[early, late], [late, early]]) {
    const section = sectionOf(records);
    const estimate = at(section.rows, 0).values.get(columnOf(section, "wikitext2").key)!;
    assertEquals([estimate.value, estimate.n], [99, 1]);
  }
});

Deno.test("sectionsOf() compares throughput with dense on the same machine only", () => {
  const dense = doneRecord();
  const here = doneRecord({ method: "flap", sparsity: 0.2 });
  const there = doneRecord({ method: "random", sparsity: 0.2 });
  there.environment.cpu = "Another CPU";
  const section = sectionOf([dense, here, there]);
  const pp = section.columns.find(({ name, protocol }) => name === "pp512" && protocol.includes("Example CPU"))!;
  const expected = at(here.throughput, 0).tokensPerS.mean / at(dense.throughput, 0).tokensPerS.mean;
  assertAlmostEquals(rowOf(section, "flap", 0.2).speedUps.get(pp.key)!.value, expected, 1e-12);
  assertEquals(rowOf(section, "random", 0.2).speedUps.size, 0);
  assertEquals(rowOf(section, "random", 0.2).values.has(pp.key), false);
});

Deno.test("sectionsOf() takes the mean accuracy over acc or acc_norm as LLM-Pruner's tables do", () => {
  const record = doneRecord();
  const value = (task: string, metric: string) =>
    known(record.tasks.find((own) => own.task === task)!.metrics[metric]).value;
  const section = sectionOf([record]);
  const primary = section.columns.filter(({ kind, primary }) => kind === "task" && primary);
  assertEquals(primary.map(({ metric }) => metric), ["acc", "acc_norm"]);
  const column = section.columns.find(({ kind }) => kind === "mean-accuracy")!;
  const estimate = at(section.rows, 0).values.get(column.key)!;
  assertAlmostEquals(estimate.value, (value("arc_easy", "acc") + value("openbookqa", "acc_norm")) / 2, 1e-12);
  const errors = [known(at(record.tasks, 0).metrics.acc).stderr!, known(at(record.tasks, 1).metrics.acc_norm).stderr!];
  assertAlmostEquals(estimate.spread!, Math.hypot(...errors) / 2, 1e-12);
  const paired = at(section.rows, 0).paired.get(column.key)!;
  assertAlmostEquals(paired.reduce((a, b) => a + b) / paired.length, estimate.value, 1e-12);
  assertEquals(column.chance, 0.25);
});

Deno.test("acc_norm that a task file gives stands in the main table, beside the acc of the mean accuracy", () => {
  const record = doneRecord();
  record.tasks = record.tasks.map((one) => ({
    ...one,
    task: `own_${one.task}`,
    definition: { path: "a", sha256: "0" },
  }));
  const [table] = at(reportOf([record], "t").sections, 0).blocks.filter((block) => block.kind === "table");
  const heads = known(table).columns.map(({ header, detail }) => `${header} ${detail.split(" ")[0]}`);
  const own = heads.flatMap((head) => head.startsWith("own_") ? head.slice(4) : []);
  assertEquals(own, ["arc_easy acc", "arc_easy acc_norm", "openbookqa acc", "openbookqa acc_norm"]);
  const mean = sectionOf([record]).columns.find(({ kind }) => kind === "mean-accuracy");
  assertEquals(mean?.protocol, "plain mean of own_arc_easy acc and own_openbookqa acc");
});
