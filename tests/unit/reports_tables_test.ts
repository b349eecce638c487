import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { renderTable, reportOf } from "../../benchmarks/commands/reports.ts";
import { toCsv, toSeedCsv } from "../../reports/csv.ts";
import { protocol } from "../../reports/protocol.ts";
import { glance } from "../../reports/findings.ts";
import { count, level, listed, mebibytes, operations, percent, pValue, withSpread } from "../../reports/format.ts";
import { escapeLatex, toLatex } from "../../reports/latex.ts";
import { toMarkdown } from "../../reports/markdown.ts";
import { rankings } from "../../reports/significance.ts";
import { warnings } from "../../reports/warnings.ts";
import type { CellRecord, DatasetUse } from "../../core/schema/schema.ts";
import { doneRecord, failedRecord, sectionOf, smallRecords, sweepRecords } from "../support/reports_fixture.ts";
import { known } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";

const report = (records: CellRecord[]) => reportOf(records, "t");

/** RFC 4180, written apart from the writer. */
function parseCsv(text: string): string[][] {
  const rows: string[][] = [[]];
  let end = 0;
  for (const [field, quoted, plain = "", mark] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\r"]*))(,|\r\n)/gy)) {
    rows.at(-1)!.push(quoted?.replaceAll('""', '"') ?? plain);
    if (mark !== ",") rows.push([]);
    end += field.length;
  }
  assertEquals(end, text.length);
  return rows.slice(0, -1);
}

Deno.test("format functions show numbers as papers do", () => {
  assertEquals(withSpread(16.7561, 0.4321, 4, 2), { text: "16.76", spread: "0.43" });
  assertEquals(withSpread(39266.42, null, 4, 2), { text: "39266", spread: null });
  assertEquals(withSpread(2.5e8, 1e7, 4, 2), { text: "2.5e+8", spread: "1.0e+7" });
  assertEquals([percent(0.19849), percent(-0.00001), level(0.2), level(0.125)], ["19.8", "0.0", "20 %", "12.5 %"]);
  assertEquals([count(134515008), count(6738415616), count(512)], ["134.5M", "6.74B", "512"]);
  assertEquals([operations(424021065728), operations(7.93e9), operations(5e6)], ["424G", "7.93G", "5.00M"]);
  const found = [listed(["a", "b"]), listed(["a", "b"], "and"), listed(["a", "b", "c"], "and")];
  assertEquals(found, ["a, b", "a and b", "a, b and c"]);
  const actual = [listed(["a, x", "b"]), listed(["a, x", "b", "c"], "and"), listed(["a, x"], "and")];
  assertEquals(actual, ["a, x; b", "a, x; b; and c", "a, x"]);
  assertEquals([mebibytes(538060032), mebibytes(2 ** 20)], ["513", "1.00"]);
  const p = (p: number, isFloor = false) => pValue({ p, isFloor }).replaceAll("\u00a0", " ");
  assertEquals([p(0.0123), p(0.0042, true), p(0.0002, true)], ["p = 0.012", "p ≤ 0.004", "p < 0.001"]);
});

Deno.test("toCsv() parses back, quotes what needs it and keeps full precision", () => {
  const message = 'line one\nsaid "no", then stopped';
  const records = [...sweepRecords(), failedRecord({ method: "sheared", sparsity: 0.4 }, message)];
  const [header = [], ...lines] = parseCsv(toCsv(report(records)));
  assertEquals(lines.length, 1 + 2 * 6 + 1);
  for (const line of lines) assertEquals(line.length, header.length);
  assertEquals(new Set(header).size, header.length);
  const table = lines.map((line) => Object.fromEntries(line.map((value, i) => [at(header, i), value])));
  const failed = table.find(({ method }) => method === "sheared")!;
  assertEquals([failed.state, failed.failure], ["failed", `out-of-memory: ${message}`]);
  const dense = doneRecord();
  assertEquals(at(table, 0).method, "dense");
  assertEquals(Number(at(table, 0).wikitext2_a1024_n40), at(dense.perplexity, 0).perplexity);
  assertEquals(Number(at(table, 0).arc_easy_acc_norm_n200), known(at(dense.tasks, 0).metrics.acc_norm).value);
  assertEquals(table.find(({ method }) => method === "mask-prune")!.seeds, "0 1 2");
});

Deno.test("toSeedCsv() has a line for every finished cell, with its own numbers", () => {
  const records = sweepRecords().filter((record) => record.state === "done");
  // Two set-ups of one name: columns of their speed-ups end in numbers.
  for (const { throughput } of records) throughput.push(...throughput.map((own) => ({ ...own, threads: 7 })));
  const [header = [], ...lines] = parseCsv(toSeedCsv(report(records)));
  assertEquals(header.filter((name) => name.includes("speed_up")), []);
  const [id, seed, value] = ["cell", "seed", "wikitext2_a1024_n40"].map((name) => header.indexOf(name));
  const found = new Map(lines.map((line) => [line[id!], [Number(line[seed!]), Number(line[value!])]]));
  assertEquals(found, new Map(records.map((own) => [own.id, [own.cell.seed, at(own.perplexity, 0).perplexity]])));
});

Deno.test("toMarkdown() keeps text of records from being read as markup", () => {
  const hostile = "<script>alert(1)</script> | [x](http://a) `b` **c**";
  const records = [doneRecord({ model: "a|b<i>.gguf" }), failedRecord({ model: "a|b<i>.gguf" }, hostile)];
  const text = toMarkdown(reportOf(records, hostile));
  assert(!text.includes("<script") && !text.includes("<i>") && !text.includes("[x]("));
  assertStringIncludes(text, "a\\|b&lt;i&gt;.gguf");
  assertStringIncludes(text, "&lt;script&gt;");
});

Deno.test("toLatex() escapes what LaTeX would read as commands", () => {
  const expected = "a\\_b \\& 5 \\% \\{x\\} \\textbackslash{}input \\textasciitilde{} \\textasciicircum{} \\#1 \\$";
  assertEquals(escapeLatex("a_b & 5 % {x} \\input ~ ^ #1 $"), expected);
  assertEquals(escapeLatex("é ± ≈ \u{1f600}\u0000"), "é $\\pm$ $\\approx$ ??");
  const text = toLatex(report(sweepRecords()));
  const rows = text.split("\n").filter((line) => line.endsWith("\\\\"));
  const specs = [...text.matchAll(/\\begin\{tabular\}\{([lr]+)(p\{[^}]*\})?\}/g)]
    .map(([, spec = "", last]) => spec.length + (last === undefined ? 0 : 1));
  assertEquals(specs.length, 4);
  const cells = (line: string) => {
    const spans = [...line.matchAll(/\\multicolumn\{(\d+)\}/g)].reduce((sum, [, n]) => sum + Number(n) - 1, 0);
    return line.replaceAll("\\&", "").split("&").length + spans;
  };
  assertEquals(new Set(rows.map(cells)), new Set(specs));
});

Deno.test("renderTable() fits 100 columns, names what does not fit, and has no colours when told so", () => {
  const text = renderTable(sweepRecords(), { width: 100, colour: false });
  for (const line of text.split("\n")) assert(line.length <= 100, `${line.length} columns: ${line}`);
  assertStringIncludes(text, "magnitude   failed: out-of-memory: The device ran out of memory at 3.1 GiB");
  // deno-lint-ignore no-control-regex
  assert(!/\u001b/.test(text));
  const two = [doneRecord(), doneRecord({ method: "random", sparsity: 0.2 })];
  const narrow = renderTable(two, { width: 72, colour: false });
  assertMatch(narrow, /^method .*wikitext2.*mean acc\.$/m);
  assertMatch(narrow.replace(/\s+/g, " "), /Not shown at this width: layers × FFN; MACs; weights; pp512; tg128\./);
  assert(!/\n *%/.test(narrow), "a number was parted from its unit");
  const wide = renderTable(sweepRecords(), { width: 240, colour: false });
  const heads = wide.split("\n").filter((line) => line.startsWith("method")).join("\n");
  for (const header of ["MACs", "weights", "pp512", "arc_easy", "openbookqa", "device-hours"]) {
    assertStringIncludes(heads, header);
  }
});

Deno.test("renderTable() marks the best in bold with colours on, and no record can steer the terminal", () => {
  const evil = failedRecord({ method: "flap", sparsity: 0.2 }, "bad\u001b[2Jthing\nnew line");
  const records = [doneRecord(), evil, doneRecord({ method: "random", sparsity: 0.2 })];
  const text = renderTable(records, { width: 100, colour: false });
  // deno-lint-ignore no-control-regex
  assert(!/\u001b/.test(text));
  assertStringIncludes(text, "bad [2Jthing new line");
  assertStringIncludes(renderTable(sweepRecords(), { width: 100, colour: true }), "\u001b[1m");
  assertEquals(renderTable([], { width: 100 }), "No records.\n");
});

Deno.test("glance() names the winner of each level and says whether its lead is clear", () => {
  const section = sectionOf(sweepRecords());
  const { topics, lines } = glance(section, rankings(section));
  assertStringIncludes(at(topics, 0), "Lowest perplexity, wikitext2 (dense 16.");
  assertEquals(lines.map(({ level }) => level), ["target 20 %", "target 40 %"]);
  for (const { findings } of lines) {
    assertEquals(findings[0]!.best, "mask-prune");
    assertMatch(findings[0]!.verdict, /^clearly best; runner-up flap: .* % worse \[.*\], p\u00a0=\u00a00\.001$/);
    assertMatch(findings[1]!.verdict, /^no clear lead over flap/);
    assertMatch(findings[2]!.value, /^pp512 1\.\d\d to 1\.\d\d ×, tg128/);
  }
});

Deno.test("warnings() names text that was scored and calibrated or trained on", () => {
  const record = doneRecord({ method: "flap", sparsity: 0.2 });
  const [scored] = record.perplexity;
  assert(scored);
  const words = (dataset: DatasetUse) =>
    warnings(sectionOf([{ ...record, calibrationData: dataset }])).filter((text) => text.includes("scored here"));
  assertMatch(words(scored.dataset).join(), /text that is scored here: wikitext2\./);
  assertEquals(words({ ...scored.dataset, split: "calibration" }).length, 1);
  assertEquals(words({ ...scored.dataset, sha256: "0".repeat(64) }), []);
  const { source } = scored.dataset;
  scored.dataset.source += ", lines 10-20";
  const found = ["", ", lines 1-10", ", lines 1-9"].map((lines) =>
    words({ ...scored.dataset, source: source + lines })
  );
  assertEquals(found.map(({ length }) => length), [1, 1, 0]);
});

Deno.test("warnings() says what limits the comparison", () => {
  const all = (records: CellRecord[]) => warnings(sectionOf(records)).join("\n");
  assertStringIncludes(all(sweepRecords()), "wikitext2 (L=1024, n=40 of 335), arc_easy (n=200 of 2376)");
  assertStringIncludes(all(sweepRecords()), "1 cell failed: magnitude at 40 %, seed 0.");
  const unsolved = { ...doneRecord({ method: "flap", sparsity: 0.2 }), openResidual: 0.00123 };
  assertStringIncludes(all([unsolved]), "Least squares did not converge; relative residuals: flap at 20 % (0.0012).");
  assertStringIncludes(all([doneRecord({ model: "tiny" })]), "tiny demonstration model");
  assertStringIncludes(all([doneRecord({ method: "flap", sparsity: 0.2 })]), "no finished dense cell");
  const less = doneRecord({ method: "random", sparsity: 0.2 });
  less.size = { ...less.size, sparsityOfPrunable: 0.1 };
  const part = "At target 20 %, methods removed 10.0 to 15.0 %";
  assertStringIncludes(all([doneRecord(), less, doneRecord({ method: "flap", sparsity: 0.2 })]), part);
  const shallow = [20, 22, 30].map((depth, seed) => {
    const record = doneRecord({ method: "flap", sparsity: 0.2, seed });
    const size = { ...record.size, layers: record.size.layers.slice(0, depth) };
    return { ...record, size: { ...size, ...seed > 1 && { hidden: { kept: 512, of: 576 } } } };
  });
  assertStringIncludes(
    all(shallow),
    "At target 20 %, models have 20–30 of 30 layers and a hidden size of 512–576 instead of 576 (flap).",
  );
  const elsewhere = doneRecord({ method: "flap", sparsity: 0.2 });
  elsewhere.environment = { ...elsewhere.environment, engine: "wasm", commit: "other-dirty" };
  const text = all([doneRecord(), elsewhere]);
  assertStringIncludes(text, "Some cells ran on wasm instead of tensorflow");
  assertStringIncludes(text, "2 versions of the harness");
  const full = doneRecord({ windows: 335 });
  full.tasks = [];
  at(full.perplexity, 0).maxWindows = undefined;
  assertEquals(warnings(sectionOf([full])), []);
  const trained = (method: string, tokens: number, sparsity = 0.2) => {
    const record = doneRecord({ method, sparsity, damage: 0.5 });
    if (tokens > 0) record.training = [{ stage: "recovery", steps: 1, tokens, seconds: 1, curve: [] }];
    return record;
  };
  const line =
    "At target 20 % and target 40 %, methods trained on unequal numbers of tokens: 0 (wanda-sp); 5.00k (flap).";
  const both = [0.2, 0.4].flatMap((level) => [trained("wanda-sp", 0, level), trained("flap", 5000, level)]);
  assertStringIncludes(all([doneRecord(), ...both]), line);
  assert(!/unequal numbers/.test(all([doneRecord(), trained("wanda-sp", 5000), trained("flap", 5000)])));
});

Deno.test("reports of nothing but failures, or of the dense model alone, are written all the same", () => {
  const failed = failedRecord({ method: "flap", sparsity: 0.2 });
  for (const records of [[failed], [doneRecord()], smallRecords().slice(1, 2)]) {
    assert(toMarkdown(report(records)).length > 200);
    assert(toLatex(report(records)).includes("\\bottomrule"));
    assertEquals(parseCsv(toCsv(report(records))).length, 2);
    assert(renderTable(records, { width: 80, colour: false }).length > 50);
  }
});

Deno.test("protocol() names the file that a method comes from, and its hash, and calibration text only if it was read", () => {
  const record = doneRecord({ method: "mine", sparsity: 0.2, damage: 0.5 });
  record.cell.methodFile = { path: "/home/me/mine.ts", sha256: "ab".repeat(32), imports: [] };
  const facts = protocol(sectionOf([{ ...record, calibrationData: null }]));
  const textOf = (name: string) => facts.find((fact) => fact.name === name)?.text;
  assertEquals(textOf("method file"), "mine.ts, sha256 abababababab");
  assertEquals(textOf("calibration"), undefined);
});

Deno.test("a budget in time shows what was measured, and marks what is more than 5 % off", () => {
  // Layers take 80 of 100 ms; without 30 % of them 76 ms are left.
  const timed = (method: string, ms: number): CellRecord => {
    const record = doneRecord({ method, sparsity: 0.3 });
    const throughput = record.throughput.map((result) => ({
      ...result,
      ...{ samplesMs: [ms, 1.1 * ms], denseSamplesMs: [100, 110] },
    }));
    const cell = { ...record.cell, budget: "decode-ms" as const };
    return { ...record, cell, throughput, budget: { whole: 80, asked: 56, left: 55, rest: 20 } };
  };
  const text = toMarkdown(report([doneRecord(), timed("random", 76), timed("flap", 78), timed("obs", 81)]));
  assertStringIncludes(
    text,
    "| target<br>of decoding time | met, %<br>of decoding time | speed-up ↑<br>tg128, × dense |",
  );
  for (const row of ["random | 30 % | 30.0 |", "flap | 30 % | 27.5 |", "obs | 30 % | 23.8\u00a0≠ |"]) {
    assertStringIncludes(text, row);
  }
  assertStringIncludes(text, "decoding time of the layers");
});
