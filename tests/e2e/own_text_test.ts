/** Text that the user brings, and text of the model itself, in whole runs. */
import { assert, assertAlmostEquals, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { doneCells, refused, succeed } from "../support/bench_process.ts";
import { known, take } from "../support/values.ts";

const TINY = fileURLToPath(new URL("../../datasets/tiny_world/data/", import.meta.url));
const RUN = "run --model tiny --engine wasm --sparsity 0.5 --no-throughput".split(" ");

async function records(out: string, ...args: string[]): Promise<DoneRecord[]> {
  await succeed(...RUN, ...args, "--out", out);
  return doneCells(out);
}

folderTest("--perplexity, --calibration and training take files, with the numbers of a corpus", async (root) => {
  const jsonl = join(root, "own.jsonl");
  const lines = Deno.readTextFileSync(join(TINY, "test.jsonl")).trimEnd().split("\n");
  const texts = lines.map((line) => JSON.parse(line).text);
  Deno.writeTextFileSync(jsonl, texts.map((body: string) => `${JSON.stringify({ body })}\n`).join(""));
  const txt = join(root, "own.txt");
  Deno.writeTextFileSync(txt, texts.join("\n\n"));
  const calibration = join(TINY, "calibration.jsonl");
  const flags = [
    ...["--methods", "wanda-sp", "--recover", "lora", "--calibration", `file:${calibration}:4:64`],
    ...["--training", `steps=2,corpus=file:${calibration}`, "--perplexity"],
    `tiny-world:a:64:6,file:${jsonl}#body:a:64:6,file:${txt}:b:64:6,file:${txt}:c:64`,
  ];
  const [dense, pruned] = take(await records(join(root, "out"), ...flags), 2);
  const [corpus, own, plain, whole] = take(dense.perplexity, 4);
  // The corpus joins its records by an empty line, as a file of records does, and as they stand in the plain text.
  assertEquals([own.windowNll, own.tokens], [corpus.windowNll, corpus.tokens]);
  assertAlmostEquals(plain.perplexity, corpus.perplexity, 1e-6);
  assertEquals([whole.windows, whole.documents?.bytes], [1, new TextEncoder().encode(texts.join("\n\n")).length]);
  const hash = createHash("sha256").update(Deno.readFileSync(jsonl)).digest("hex");
  assertEquals([own.dataset.sha256, own.dataset.source, own.dataset.split], [hash, "own.jsonl", "all"]);
  assertEquals(pruned.calibrationData?.source, "calibration.jsonl");
  assertEquals(pruned.trainingData?.source, "calibration.jsonl");
  const csv = Deno.readTextFileSync(join(root, "out/report/comparison.csv"));
  assertStringIncludes(csv, "own.jsonl");
  assert(!csv.includes(root), "reports do not show where files lie");

  await refused("no.txt", ...RUN, "--methods", "random", "--perplexity", `file:${root}/no.txt`, "--out", root);
});

folderTest("--calibration self samples one text for every method, and trains on others", async (root) => {
  const flags = "--calibration self:6:32 --perplexity tiny-world:a:64:4 --training steps=2,tokens=32".split(" ");
  const own = ["--methods", "wanda-sp,flap", "--recover", "lora", ...flags];
  const first = await records(join(root, "a"), ...own, "--seeds", "0,1");
  const pruned = first.filter(({ cell }) => cell.method);
  const bySeed = (seed: number) => pruned.filter(({ cell }) => cell.seed === seed);
  const hashes = [0, 1].map((seed) => {
    const both = bySeed(seed).map((record) => [record.calibrationData?.sha256, record.trainingData?.sha256]);
    assertEquals([both.length, both[0]], [2, both[1]]);
    return known(both[0]);
  });
  for (const [calibration, training] of hashes) assertNotEquals(calibration, training);
  assertNotEquals(hashes[0]?.[0], hashes[1]?.[0]);
  const source = "sampled from the dense model: temperature 1, top-p 0.95, seed 0, 6 sequences of 32 tokens";
  assertEquals(bySeed(0)[0]?.calibrationData?.source, source);
  // In a folder without a cache the same text comes again.
  const again = await records(join(root, "b"), "--methods", "wanda-sp", ...flags);
  assertEquals(again.find(({ cell }) => cell.method)?.calibrationData?.sha256, hashes[0]?.[0]);
});

folderTest("a cell goes on from no adapters that were trained with other calibration text", async (root) => {
  const path = join(root, "own.jsonl");
  const flags = "--methods wanda-sp --recover lora --training steps=2,tokens=32,corpus=tiny-world --tasks tiny-facts";
  const rebuilt = async (split: string, out: string) => {
    Deno.copyFileSync(join(TINY, `${split}.jsonl`), path);
    const cells = await records(join(root, out), ...flags.split(" "), "--calibration", `file:${path}:4:32`);
    return known(take(cells, 2)[1].rebuild).sha256;
  };
  await rebuilt("test", "a");
  assertEquals(await rebuilt("calibration", "a"), await rebuilt("calibration", "b"));
});
