/** Text that the user brings, and text of the model itself, in whole runs. */
import { assert, assertAlmostEquals, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readRecords } from "../../benchmarks/records/store.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { bench, finish, sweepTest } from "../support/bench_process.ts";

const TINY = fileURLToPath(new URL("../../datasets/tiny_world/data/", import.meta.url));
const RUN = "run --model tiny --engine wasm --sparsity 0.5 --no-throughput".split(" ");

async function records(out: string, ...args: string[]): Promise<DoneRecord[]> {
  const { code, stderr } = await finish(bench(...RUN, ...args, "--out", out));
  assertEquals(code, 0, stderr);
  return readRecords(out).records.map((record) => {
    assert(record.state === "done");
    return record;
  });
}

sweepTest(
  "--perplexity, --calibration and training take files: the numbers of the same text as a corpus",
  async (root) => {
    const jsonl = join(root, "own.jsonl");
    const texts = Deno.readTextFileSync(join(TINY, "test.jsonl")).trimEnd().split("\n").map((line) =>
      JSON.parse(line).text
    );
    Deno.writeTextFileSync(jsonl, texts.map((body: string) => `${JSON.stringify({ body })}\n`).join(""));
    const txt = join(root, "own.txt");
    Deno.writeTextFileSync(txt, texts.join("\n\n"));
    const calibration = join(TINY, "calibration.jsonl");
    const [dense, pruned] = await records(
      join(root, "out"),
      "--methods",
      "wanda-sp",
      "--recover",
      "lora",
      "--training",
      `steps=2,domains.file:${calibration}=3,domains.tiny-world=1`,
      "--calibration",
      `file:${calibration}:4:64`,
      "--perplexity",
      `tiny-world:a:64:6,file:${jsonl}#body:a:64:6,file:${txt}:b:64:6,file:${txt}:c:64`,
    );
    assert(dense && pruned);
    const [corpus, own, plain, whole] = dense.perplexity;
    assert(corpus && own && plain && whole);
    // The corpus joins its records by an empty line, as a file of records does, and as they stand in the plain text.
    assertEquals([own.windowNll, own.tokens], [corpus.windowNll, corpus.tokens]);
    assertAlmostEquals(plain.perplexity, corpus.perplexity, 1e-6);
    assertEquals([whole.windows, whole.documents?.bytes], [1, new TextEncoder().encode(texts.join("\n\n")).length]);
    const hash = createHash("sha256").update(Deno.readFileSync(jsonl)).digest("hex");
    assertEquals([own.dataset.sha256, own.dataset.source, own.dataset.split], [hash, "own.jsonl", "all"]);
    assertEquals(pruned.calibrationData?.source, "calibration.jsonl");
    assertEquals(pruned.trainingDomains?.map(({ source }) => source), ["calibration.jsonl", "calibration.jsonl"]);
    const csv = Deno.readTextFileSync(join(root, "out/report/comparison.csv"));
    assertStringIncludes(csv, "own.jsonl");
    assert(!csv.includes(root), "reports do not show where files lie");

    const missing = await finish(
      bench(...RUN, "--methods", "random", "--perplexity", `file:${root}/no.txt`, "--out", root),
    );
    assertEquals([missing.code, missing.stderr.trimEnd().split("\n").length], [2, 1], missing.stderr);
    assertStringIncludes(missing.stderr, "no.txt");
  },
);

sweepTest(
  "--calibration self samples one text of the dense model for every method, and trains on others",
  async (root) => {
    const flags = [
      "--calibration",
      "self:6:32",
      "--perplexity",
      "tiny-world:a:64:4",
      "--training",
      "steps=2,tokens=32",
    ];
    const own = ["--methods", "wanda-sp,flap", "--recover", "lora", ...flags];
    const first = await records(join(root, "a"), ...own, "--seeds", "0,1");
    const pruned = first.filter(({ cell }) => cell.method);
    const bySeed = (seed: number) => pruned.filter(({ cell }) => cell.seed === seed);
    for (const seed of [0, 1]) {
      const hashes = bySeed(seed).map((
        { calibrationData, trainingData },
      ) => [calibrationData?.sha256, trainingData?.sha256]);
      assertEquals(hashes.length, 2);
      assertEquals(hashes[0], hashes[1]);
      assertNotEquals(hashes[0]?.[0], hashes[0]?.[1]);
    }
    const [seed0, seed1] = [bySeed(0)[0], bySeed(1)[0]];
    assertNotEquals(seed0?.calibrationData?.sha256, seed1?.calibrationData?.sha256);
    assertEquals(
      seed0?.calibrationData?.source,
      "sampled from the dense model: temperature 1, top-p 0.95, seed 0, 6 sequences of 32 tokens",
    );
    // In a folder without a cache the same text comes again.
    const again = await records(join(root, "b"), "--methods", "wanda-sp", ...flags);
    assertEquals(again.find(({ cell }) => cell.method)?.calibrationData?.sha256, seed0?.calibrationData?.sha256);

    const scored = await finish(bench(...RUN, "--methods", "random", "--perplexity", "self", "--out", root));
    assertEquals(scored.code, 2);
    assertStringIncludes(scored.stderr, 'Unknown corpus "self"');
  },
);
