import { z } from "zod";
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import { getCorpus, getTask } from "../../datasets/mod.ts";
import { readRecords } from "../../datasets/records.ts";
import { withFiles } from "../support/weights_fixture.ts";

const record = z.looseObject({ text: z.string() });

Deno.test("readRecords() reads JSON Lines with any line end, and hashes the bytes", async () => {
  await withFiles({ "a.jsonl": '{"text":"é"}\r\n\n{"text":"b","extra":1}' }, async (folder) => {
    const { records, sha256 } = await readRecords(`${folder}/a.jsonl`, { record });
    assertEquals(records.map(({ line, value }) => [line, value]), [[1, { text: "é" }], [3, { text: "b", extra: 1 }]]);
    const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(`${folder}/a.jsonl`));
    assertEquals(sha256, new Uint8Array(digest).toHex());
  });
});

Deno.test("readRecords() reads gzip and stops after maxRecords, but hashes the whole file", async () => {
  const lines = Array.from({ length: 5 }, (_, i) => `{"text":"${i}"}\n`).join("");
  const packed = new Blob([lines]).stream().pipeThrough(new CompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
  await withFiles({ "a.json.gz": bytes }, async (folder) => {
    const { records, sha256 } = await readRecords(`${folder}/a.json.gz`, { record, maxRecords: 2 });
    assertEquals(records.map(({ value }) => value.text), ["0", "1"]);
    assertEquals(sha256, new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex());
  });
});

Deno.test("readRecords() reads plain text line by line, empty lines included", async () => {
  await withFiles({ "a.txt": " a \n\nb\n" }, async (folder) => {
    const { records } = await readRecords(`${folder}/a.txt`, { record, textField: "text" });
    assertEquals(records.map(({ value }) => value.text), [" a ", "", "b", ""]);
  });
});

Deno.test("readRecords() names file, line and field of what is wrong", async () => {
  const cases: [name: string, content: string | Uint8Array<ArrayBuffer>, says: string[]][] = [
    ["a.jsonl", '{"text":"a"}\n{"text":5}', ["a.jsonl: line 2", 'field "text"', "expected string"]],
    ["a.jsonl", '{"text":"a"}\n{"text":', ["line 2 is not JSON"]],
    ["a.jsonl", "[1]", ["line 1", "expected object"]],
    ["a.jsonl", "", ["holds no records"]],
    ["a.jsonl", new Uint8Array([0x7b, 0xff, 0xfe]), ["is not UTF-8 text"]],
    ["a.json.gz", '{"text":"a"}', ["is not gzip"]],
    ["a.csv", "text\na", ["must be Parquet or JSON Lines"]],
  ];
  for (const [name, content, says] of cases) {
    await withFiles({ [name]: content }, async (folder) => {
      const error = await assertRejects(() => readRecords(`${folder}/${name}`, { record }), FileFormatError);
      for (const words of says) assertStringIncludes(error.message, words);
    });
  }
});

Deno.test("loadTask() keeps the first examples, checks all records and counts them", async () => {
  const good = '{"question":"q","passage":"p","label":1}\n';
  await withFiles({ "boolq.jsonl": good.repeat(3) }, async (data) => {
    const { examples, records, total } = await loadTask(getTask("boolq"), { data, limit: 2 });
    assertEquals([examples.length, records.length, total], [2, 2, 3]);
  });
  await withFiles({ "boolq.jsonl": good + good + '{"question":"q","passage":"p","label":2}' }, async (data) => {
    await assertRejects(() => loadTask(getTask("boolq"), { data, limit: 1 }), FileFormatError, 'line 3, field "label"');
  });
});

Deno.test("loadTask() refuses records whose fields do not fit together", async () => {
  const arc = '{"question":"q","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"E"}';
  await withFiles({ "arc_easy.jsonl": arc }, async (data) => {
    await assertRejects(() => loadTask(getTask("arc_easy"), { data }), FileFormatError, 'line 1: answerKey "E"');
  });
  const blank = '{"sentence":"no blank","option1":"a","option2":"b","answer":"1"}';
  await withFiles({ "winogrande.jsonl": blank }, async (data) => {
    await assertRejects(() => loadTask(getTask("winogrande"), { data }), FileFormatError, "no blank");
  });
});

Deno.test("loadTask() says what file is wanted when there is none", async () => {
  await withFiles({}, async (folder) => {
    const load = (data?: string) => loadTask(getTask("piqa"), { data, cache: folder });
    await assertRejects(load, UsageError, "`bench fetch piqa` downloads it from Hugging Face (baber/piqa)");
    await assertRejects(() => load(folder), UsageError, "looked for piqa-validation.jsonl, piqa-validation.parquet");
  });
});

const article = (
  name: string,
  lines: number,
) => [` = ${name} = `, ...Array.from({ length: lines - 1 }, (_, i) => ` line ${i} .`)];

Deno.test("loadCorpus() cuts a single file at articles into parts that do not overlap", async () => {
  const lines = [...article("A", 70), ...article("B", 13), ...article("C", 9), ...article("D", 8)];
  await withFiles({ "wikitext2.txt": lines.join("\n") }, async (data) => {
    const load = (split?: string) => loadCorpus(getCorpus("wikitext2"), { data, split });
    const parts = await Promise.all(["calibration", "validation", "test"].map(load));
    assertEquals(parts.map(({ texts }) => texts[0]), [" = A = ", " = C = ", " = D = "]);
    assertEquals(parts.flatMap(({ texts }) => texts), lines);
    const found = parts.map(({ dataset }) => dataset.source);
    assertEquals(found, ["wikitext2.txt, lines 1-83", "wikitext2.txt, lines 84-92", "wikitext2.txt, lines 93-100"]);
    assertEquals((await load("all")).texts, lines);
    assertEquals((await load()).dataset.split, "test");
  });
});

Deno.test("loadCorpus() prefers a split's own file and refuses splits that do not exist", async () => {
  const files = { "wikitext2.txt": article("A", 9).join("\n"), "wikitext2-train.txt": article("T", 3).join("\n") };
  await withFiles(files, async (data) => {
    const corpus = getCorpus("wikitext2");
    const { texts, dataset } = await loadCorpus(corpus, { data, split: "calibration" });
    assert(at(texts, 0).includes("T"));
    assertEquals([dataset.split, dataset.source], ["calibration", "wikitext2-train.txt"]);
    await assertRejects(() => loadCorpus(corpus, { data, split: "dev" }), UsageError, "use one of train, validation");
    await assertRejects(() => loadCorpus(corpus, { data, split: "test" }), FileFormatError, "too few articles");
  });
});
