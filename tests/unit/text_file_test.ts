import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { FileFormatError, MissingDataError } from "../../core/util/errors.ts";
import { loadCorpus } from "../../datasets/load.ts";
import { getCorpus } from "../../datasets/mod.ts";
import { folderTest } from "../support/weights_fixture.ts";

const PARQUET = join(import.meta.dirname!, "../golden/parquet/wikitext2-test.parquet");

folderTest("file:PATH is the text of a plain file, of JSON Lines or of Parquet", async (folder) => {
  const write = (name: string, text: string) => {
    Deno.writeTextFileSync(join(folder, name), text);
    return `file:${join(folder, name)}`;
  };
  const read = async (name: string) => {
    const corpus = getCorpus(name);
    // Calibration reads the same whole file.
    const { texts, dataset } = await loadCorpus(corpus, { split: "calibration" });
    assertEquals((await loadCorpus(corpus)).texts, texts);
    return { text: texts.join(corpus.joiner), documents: corpus.documents?.(texts), dataset };
  };
  const plain = await read(write("a.txt", "one\n\n two\nthree\n"));
  assertEquals([plain.text, plain.documents], ["one\n\n two\nthree\n", ["one\n\n two\nthree\n"]]);
  assertEquals([plain.dataset.split, plain.dataset.source, plain.dataset.revision], ["calibration", "a.txt", null]);
  const lines = write("b.jsonl", '{"text":"one","body":"1"}\n{"text":"two","body":"2"}\n');
  assertEquals((await read(lines)).documents, ["one", "two"]);
  assertEquals((await read(`${lines}#body`)).text, "1\n\n2");
  assertEquals((await read(write("c.json", '[{"text":"x"},\n{"text":"y"}]'))).text, "x\n\ny");
  const rows = await read(`file:${PARQUET}`);
  assertEquals(rows.documents, (await loadCorpus(getCorpus("wikitext2"), { data: join(PARQUET, "..") })).texts);
  await assertRejects(() => read(`${lines}#title`), FileFormatError, 'line 1, field "title"');
  assertThrows(() => getCorpus(`file:${folder}`), MissingDataError, "does not exist");
  assertThrows(() => getCorpus("file:"), MissingDataError, "does not exist");
});
