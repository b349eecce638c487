import { fileURLToPath } from "node:url";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { lmEvalSamples } from "../../benchmarks/records/lm_eval_samples.ts";
import { FileFormatError } from "../../core/util/errors.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import { getCorpus, getTask } from "../../datasets/mod.ts";
import { readRecords } from "../../datasets/records.ts";
import { folderTest } from "../support/weights_fixture.ts";

const golden = fileURLToPath(new URL("../golden/parquet", import.meta.url));
const fixtures = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url));
const anyRecord = z.looseObject({});

// The Parquet files hold the records of the JSON Lines files, written by pyarrow in four compressions.
for (const name of ["openbookqa", "boolq", "hellaswag", "wikitext2-test"]) {
  Deno.test(`readRecords() reads ${name}.parquet as ${name}.jsonl, fields in their order`, async () => {
    const parquet = await readRecords(`${golden}/${name}.parquet`, { record: anyRecord });
    const jsonl = await readRecords(`${fixtures}/${name}.jsonl`, { record: anyRecord });
    const texts = (records: { raw: unknown }[]) => records.map(({ raw }) => JSON.stringify(raw));
    assertEquals(texts(parquet.records), texts(jsonl.records));
    assertEquals(parquet.records.map(({ line }) => line), jsonl.records.map((_, i) => i + 1));
    const [first] = (await readRecords(`${golden}/${name}.parquet`, { record: anyRecord, maxRecords: 1 })).records;
    assertEquals(first, parquet.records[0]);
  });
}

Deno.test("readRecords() joins several files and hashes them in order", async () => {
  const paths = [`${golden}/boolq.parquet`, `${fixtures}/boolq.jsonl`];
  const { records, sha256 } = await readRecords(paths, { record: anyRecord });
  assertEquals(records.map(({ line }) => line), [1, 2, 3, 1, 2, 3]);
  const bytes = await new Blob(await Promise.all(paths.map((path) => Deno.readFile(path)))).arrayBuffer();
  assertEquals(sha256, new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex());
  const first = await readRecords(paths, { record: anyRecord, maxRecords: 4 });
  assertEquals(first.records.map(({ line }) => line), [1, 2, 3, 1]);
});

Deno.test("loadTask() and loadCorpus() take Parquet files of a data folder", async () => {
  const { examples, records, dataset } = await loadTask(getTask("openbookqa"), { data: golden });
  assertEquals([examples.length, dataset.source, dataset.revision], [3, "openbookqa.parquet", null]);
  const scored = examples.map((example, i) => ({
    example,
    record: records[i],
    scores: example.choices.map(() => ({ logLikelihood: -1, isGreedy: false })),
  }));
  const { doc_hash } = at(lmEvalSamples(getTask("openbookqa"), scored), 0);
  assertEquals(doc_hash, "af421576b2e4953c7e9555f218b826a0bc519096eb0d76521f0f4f041cbeb22d");
  const [parquet, jsonl] = take(
    await Promise.all([golden, fixtures].map((data) => loadCorpus(getCorpus("wikitext2"), { data }))),
    2,
  );
  assertEquals(parquet.texts, jsonl.texts);
});

folderTest("readRecords() refuses damaged Parquet files", async (folder) => {
  const whole = await Deno.readFile(`${golden}/openbookqa.parquet`);
  const path = `${folder}/x.parquet`;
  const read = async (bytes: Uint8Array) => {
    await Deno.writeFile(path, bytes);
    return await readRecords(path, { record: anyRecord });
  };
  for (const size of [0, 3, 100, whole.length - 1]) {
    await assertRejects(() => read(whole.slice(0, size)), FileFormatError, "cannot be read as Parquet");
  }
  // One gives a column -3 children; on the other the library panics, and the next file is read all the same.
  for (const [at, bit] of [[1034, 1], [75, 64]] as const) {
    await assertRejects(() => read(whole.with(at, whole[at]! ^ bit)), FileFormatError, "cannot be read as Parquet");
  }
  assertEquals((await read(whole)).records.length, 3);
  // A Zstandard frame that claims 640 MB: a single segment (descriptor 0xa0) whose size takes the four bytes after it.
  const greedy = await Deno.readFile(`${golden}/boolq.parquet`);
  const frame = greedy.findIndex((_, i) => [0x28, 0xb5, 0x2f, 0xfd].every((byte, j) => greedy[i + j] === byte));
  greedy.set([0xa0, 0, 0, 0, 40], frame + 4);
  const before = Deno.memoryUsage().external;
  await assertRejects(() => read(greedy), FileFormatError, "cannot be read as Parquet");
  assert(Deno.memoryUsage().external - before < 64 * 1024 * 1024);
});
