/** What `bench run` writes besides records: lm-evaluation-harness's files, few-shot scores. */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import { succeed } from "../support/bench_process.ts";
import { known, take } from "../support/values.ts";
import { folderTest } from "../support/weights_fixture.ts";

const FIXTURES = join(import.meta.dirname!, "../../datasets/fixtures");
const DENSE = "run --model tiny --engine wasm --methods random --sparsity 0 --no-throughput".split(" ");

/** The only record in `out`, and the files of its cell for readers of lm-evaluation-harness's format. */
function onlyCell(out: string) {
  const { records } = readRecords(out);
  assertEquals(records.length, 1);
  const record = at(records, 0);
  assert(record.state === "done");
  const folder = join(runPaths(out).lmEval, `dense-${record.id}`);
  const files = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
  return { record, files: files.map((name) => ({ name, text: Deno.readTextFileSync(join(folder, name)) })) };
}

folderTest("bench run --log-samples writes results, samples, few-shot prompts and continuations", async (folder) => {
  const data = join(folder, "data");
  Deno.mkdirSync(data);
  Deno.copyFileSync(join(FIXTURES, "wikitext-test.jsonl"), join(data, "wikitext-test.jsonl"));
  for (const name of ["arc_easy", "arc_easy-train"]) {
    Deno.copyFileSync(join(FIXTURES, "arc_easy.jsonl"), join(data, `${name}.jsonl`));
  }
  const out = join(folder, "out");
  const measured = "--tasks arc_easy --perplexity wikitext:c:64 --num-fewshot 2 --log-samples".split(" ");
  await succeed(...DENSE, ...measured, "--data", data, "--out", out);
  const { record, files } = onlyCell(out);
  assertEquals(files.length, 3);
  const [results, samples, documents] = take(files, 3);

  const lines = samples.text.trimEnd().split("\n").map((line) => JSON.parse(line));
  const task = at(record.tasks, 0);
  assertEquals([task.numFewshot, task.fewshotDataset?.split], [2, "train"]);
  const { fingerprint } = JSON.parse(Deno.readTextFileSync(runPaths(out).run));
  assertEquals(fingerprint.data["few-shot arc_easy"], task.fewshotDataset?.sha256);
  assertEquals(lines.map(({ acc }) => acc).join(""), task.outcomes.acc);
  for (const { arguments: { gen_args_0: { arg_0: prompt } } } of lines) {
    assertEquals(prompt.split("\n\n").length, 3, "two solved examples and the question");
  }
  const written = JSON.parse(results.text);
  assertEquals(written.results.arc_easy["acc,none"], known(task.metrics.acc).value);
  assertEquals([written["n-shot"].arc_easy, written.config.fewshot_seed], [2, 1234]);
  assertEquals(Object.keys(written.task_hashes).sort(), ["arc_easy", "wikitext"]);
  const pages = documents.text.trimEnd().split("\n").map((line) => JSON.parse(line));
  assertEquals(pages.map(({ word_perplexity: [, words] }) => words), [27, 26, 17]);
  const nll = pages.reduce((sum, { word_perplexity: [logLikelihood] }) => sum - logLikelihood, 0);
  assertAlmostEquals(Math.exp(nll / 70), written.results.wikitext["word_perplexity,none"], 1e-9);
});

folderTest("bench run writes no samples unless asked", async (out) => {
  const flags = [...DENSE, "--tasks", "tiny-facts", "--limit", "5", "--out", out];
  await succeed(...flags);
  const { record, files } = onlyCell(out);
  assertEquals(files.length, 1);
  assertEquals(JSON.parse(at(files, 0).text).pruning.id, record.id);
});
