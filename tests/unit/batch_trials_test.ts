import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import {
  fastestTokens,
  isSettled,
  largestTrial,
  repeatTrials,
  tryBatchSizes,
} from "../../benchmarks/evaluation/batch_trials.ts";
import type { PackedBatch } from "../../benchmarks/evaluation/packing.ts";
import type { ScoredSequence } from "../../benchmarks/evaluation/requests.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { ownResults, recordedBatches } from "../../benchmarks/commands/reproduce.ts";
import { trialMemory } from "../../benchmarks/cells/evaluate.ts";
import { UsageError } from "../../core/errors.ts";
import type { BatchTrial } from "../../core/schema.ts";
import { fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";
import { doneRecord } from "../support/reports_fixture.ts";

/** `count` sequences of `length` inputs that begin differently. */
const work = (count: number, length: number) =>
  Array.from({ length: count }, (_, s): ScoredSequence => ({
    ids: Array.from({ length: length + 1 }, (_, i) => 2 + (s * 31 + i) % 900),
    scored: 1,
  }));

/** Trials on a device that takes `msOf` milliseconds for a batch of so many tokens and holds `holds` of them. Whatever is
 * scored is taken once, and the rest is left. */
async function trialsOn(
  sequences: readonly ScoredSequence[],
  msOf: (tokens: number) => number,
  { most = 2 ** 20, holds = Infinity, known = [] }: { most?: number; holds?: number; known?: BatchTrial[] } = {},
): Promise<BatchTrial[]> {
  let clock = 0;
  const seen = new Set<number>();
  const score = ({ batch: { tokens } }: PackedBatch) => {
    if (tokens.length > holds) return Promise.reject(new Error("OOM when allocating tensor"));
    // The first run of a shape is slow, which must not count.
    clock += (seen.has(tokens.length) ? 1 : 100) * msOf(tokens.length);
    seen.add(tokens.length);
    return Promise.resolve(null);
  };
  const taken: number[] = [];
  const largest = largestTrial(sequences, most);
  const { trials, tried, left } = await tryBatchSizes(sequences, {
    known,
    largest,
    score,
    take: (_scores, _batch, owners) => taken.push(...new Set(owners)),
    now: () => clock,
  });
  assertEquals([...taken, ...left].sort((a, b) => a - b), Array.from(sequences.keys()));
  assertEquals(tried, trials.slice(known.length).map(({ tokens }) => tokens));
  return trials;
}

Deno.test("tryBatchSizes() doubles while tokens/s grows by 3 %, and stops after two sizes that are not faster", async () => {
  // 20 ms a batch and 5 µs a token: 512 tokens take 22.56 ms, 8192 take 60.96 ms.
  const gpu = await trialsOn(work(600, 128), (tokens) => 20 + tokens / 200);
  assertEquals(gpu.map(({ tokens }) => tokens), [512, 1024, 2048, 4096, 8192]);
  for (const { tokens, tokensPerS } of gpu) assertAlmostEquals(tokensPerS, 1000 * tokens / (20 + tokens / 200), 1e-6);
  assertEquals(fastestTokens(gpu), 8192);
  // A device that takes as long for a token in every batch.
  const cpu = await trialsOn(work(600, 128), (tokens) => tokens / 5);
  assertEquals([cpu.map(({ tokens }) => tokens), fastestTokens(cpu), isSettled(cpu)], [[512, 1024, 2048], 512, true]);
  // One that was slow by chance does not end the trials, unless the next is a large part of the work.
  const chance = (windows: number) =>
    trialsOn(work(windows, 128), (tokens) => (tokens === 1024 ? 3 : 1) * (20 + tokens / 200));
  const sizes = [(await chance(600)).length, fastestTokens(await chance(600)), (await chance(500)).length];
  assertEquals(sizes, [5, 8192, 2]);
  // Larger batches fall out of the cache.
  const cache = await trialsOn(work(600, 128), (tokens) => tokens * (tokens > 2048 ? 2 : 1 + 512 / tokens));
  assertEquals([cache.map(({ tokens }) => tokens), fastestTokens(cache)], [[512, 1024, 2048, 4096], 2048]);
});

Deno.test("tryBatchSizes() keeps to memory, to what is allowed, and to a part of the work", async () => {
  const faster = (tokens: number) => Math.sqrt(tokens);
  const sizes = async (...given: Parameters<typeof trialsOn>) => (await trialsOn(...given)).map(({ tokens }) => tokens);
  assertEquals(await sizes(work(600, 128), faster, { holds: 2048 }), [512, 1024, 2048]);
  assertEquals(await sizes(work(600, 128), faster, { most: 1024 }), [512, 1024]);
  assertEquals(await sizes(work(130, 128), faster), [512, 1024, 2048]);
  // Rows of 1024 tokens fill batches of 512 and of 1024 tokens alike.
  assertEquals(await sizes(work(40, 1024), faster), [512, 2048, 4096]);
  // A longer measurement goes on where a shorter one ended.
  const known = await trialsOn(work(130, 128), faster);
  assertEquals(await sizes(work(600, 128), faster, { known }), [512, 1024, 2048, 4096, 8192]);
  const largest = [work(63, 128), work(64, 128), work(127, 128), work(128, 128)].map((few) => largestTrial(few, 4096));
  assertEquals([...largest, largestTrial(work(128, 128), 1023)], [0, 1024, 1024, 2048, 0]);
});

Deno.test("repeatTrials() scores the same batches as the trials did, and stops where they do not fit", async () => {
  const sequences = Array.from({ length: 900 }, (_, s): ScoredSequence => ({
    ids: Array.from({ length: 20 + s % 97 }, (_, i) => 2 + (s * 31 + i) % 900),
    scored: 1,
  }));
  const shapes: number[][] = [];
  const score = ({ batch: { batch, length } }: PackedBatch) => {
    shapes.push([batch, length]);
    return Promise.resolve(null);
  };
  const owned: number[][] = [];
  const take = (_scores: null, _batch: PackedBatch, owners: Int32Array) => owned.push(Array.from(owners));
  let clock = 0;
  const { tried, left } = await tryBatchSizes(sequences, { largest: 4096, score, take, now: () => clock++ });
  assertEquals(tried, [512, 1024, 2048, 4096]);
  const [before, owners] = [shapes.splice(0), owned.splice(0)];
  assertEquals(await repeatTrials(sequences, tried, { score, take }), left);
  assertEquals([shapes, owned], [before, owners]);

  const first = await repeatTrials(sequences, [512], { score, take: () => {} });
  const small = (packed: PackedBatch) =>
    packed.batch.tokens.length > 600 ? Promise.reject(new Error("OOM when allocating tensor")) : score(packed);
  assertEquals(await repeatTrials(sequences, tried, { score: small, take: () => {} }), first);
});

Deno.test("createScorer() tries sizes in measurements that are long enough, once, and scores as without", async () => {
  const windows = work(280, 60).map(({ ids }) => Int32Array.from(ids));
  const trials = [{ tokens: 512, tokensPerS: 10 }, { tokens: 1024, tokensPerS: 30 }, { tokens: 2048, tokensPerS: 30 }];
  const model = fakeModel();
  const computed: number[] = [];
  const scorer = createScorer(model, fakeTokenizer(), {
    rememberTrials: async (largest, compute) => {
      computed.push(largest);
      await compute();
      return trials;
    },
  });
  const few = await scorer.tokenLogProbs(windows.slice(0, 20));
  assertEquals([computed, scorer.batchSizes(), scorer.batchTrials()], [[], { batchTokens: 512 }, []]);
  const all = await scorer.tokenLogProbs(windows);
  assertEquals([computed, scorer.batchSizes().batchTokens, scorer.batchTrials()], [[2048], 1024, trials]);
  assertEquals(scorer.batchSizes().triedTokens?.slice(0, 2), [512, 1024]);
  const { batches } = model;
  assertEquals(batches.length, new Set(batches).size);
  assertEquals(batches.reduce((sum, { batch }) => sum + batch, 0), 20 + windows.length);
  assertEquals(all.slice(0, 20), few);
  assertEquals(await scorer.tokenLogProbs(windows), all);
  assertEquals([computed, scorer.batchSizes()], [[2048], { batchTokens: 1024 }]);
  for (const sizes of [{ batchTokens: 64 }, { batchTokens: 256, triedTokens: [512, 1024] }]) {
    const fixed = createScorer(fakeModel(), fakeTokenizer(), sizes);
    assertEquals([await fixed.tokenLogProbs(windows), fixed.batchSizes()], [all, sizes]);
  }
});

Deno.test("trialMemory() makes trials once for a model, engine, device and size of a run's folder", async () => {
  const out = Deno.makeTempDirSync();
  try {
    const source = { origin: { sha256: "a" } };
    const engine = { name: "wasm", library: "x", device: "cpu" } as const;
    const trials = [{ tokens: 512, tokensPerS: 1000 }, { tokens: 65536, tokensPerS: 3000.5 }];
    const never = () => Promise.reject(new Error("measured twice"));
    assertEquals(await trialMemory(out, { source, engine })(65536, () => Promise.resolve(trials)), trials);
    assertEquals(await trialMemory(out, { source, engine })(65536, never), trials);
    const other = [{ tokens: 512, tokensPerS: 1 }];
    const gpu = { ...engine, device: "cuda (Test GPU)" };
    assertEquals(await trialMemory(out, { source, engine: gpu })(65536, () => Promise.resolve(other)), other);
    assertEquals(await trialMemory(out, { source, engine })(4096, () => Promise.resolve(other)), other);
    assertEquals(await trialMemory(out, { source, engine })(65536, never), trials);
    assertEquals(await trialMemory(out, { source, engine })(1024, () => Promise.resolve([])), []);
    assertEquals(await trialMemory(out, { source, engine })(1024, never), []);
  } finally {
    Deno.removeSync(out, { recursive: true });
  }
});

Deno.test("ownResults() gives a grown record's results in the order of its cell, with their batches", () => {
  const grown = doneRecord({ windows: 40, examples: 20 });
  const [first] = grown.perplexity;
  const other = doneRecord({ windows: 8, examples: 200 });
  assert(first);
  const { corpus, protocol, windowTokens, maxWindows } = first;
  grown.cell.perplexity = [{ corpus, protocol, windowTokens: 7, maxWindows }, {
    corpus,
    protocol,
    windowTokens,
    maxWindows,
  }];
  grown.cell.tasks = ["openbookqa", "arc_easy"];
  const old = { ...first, dataset: { ...first.dataset, sha256: "0" }, batchTokens: 512 };
  grown.perplexity = [old, { ...first, batchTokens: 2048, triedTokens: [512, 1024] }, ...other.perplexity, {
    ...first,
    windowTokens: 7,
  }];
  const tasks = grown.tasks.map((task) => task.task === "arc_easy" ? { ...task, batchTokens: 1024 } : task);
  grown.tasks = [...tasks, ...other.tasks];
  const own = ownResults(grown);
  assertEquals(own.tasks.map(({ task, samples }) => [task, samples.effective]), [["openbookqa", 20], ["arc_easy", 20]]);
  assertEquals(recordedBatches(own), {
    perplexity: [null, { batchTokens: 2048, triedTokens: [512, 1024] }],
    tasks: [null, { batchTokens: 1024 }],
  });

  // The data of the run decide where it says which.
  grown.perplexity.push({ ...old, windowTokens: 7, batchTokens: 64 });
  const data = Object.fromEntries(grown.tasks.map(({ task, dataset }) => [`task ${task}`, dataset.sha256]));
  const batches = (sha256: string) =>
    recordedBatches(ownResults(grown, { ...data, "perplexity wikitext2/validation": sha256 })).perplexity
      .map((sizes) => sizes?.batchTokens);
  assertEquals([batches("0"), batches(first.dataset.sha256), batches("1")], [[64, 512], [undefined, 2048], [64, 2048]]);
  grown.cell.tasks.push("piqa");
  assertThrows(() => ownResults(grown, data), UsageError, "lacks results that its cell asks for");
});
