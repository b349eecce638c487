import { join } from "node:path";
import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import {
  fastestTokens,
  firstTrial,
  largestTrial,
  repeatTrials,
  tryBatchSizes,
} from "../../benchmarks/evaluation/batch_trials.ts";
import type { PackedBatch } from "../../benchmarks/evaluation/packing.ts";
import type { ScoredSequence } from "../../benchmarks/evaluation/requests.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { ownResults, recordedBatches } from "../../benchmarks/commands/reproduce.ts";
import { createTrialMemory } from "../../benchmarks/cells/trial_memory.ts";
import { runPaths } from "../../benchmarks/records/store.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { BatchTrial } from "../../core/schema/schema.ts";
import { fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";
import { doneRecord } from "../support/reports_fixture.ts";

/** `count` sequences of `length` inputs that begin differently. */
const work = (count: number, length: number) =>
  Array.from({ length: count }, (_, s): ScoredSequence => ({
    ids: Array.from({ length: length + 1 }, (_, i) => 2 + (s * 31 + i) % 900),
    scored: 1,
  }));

/** A device that takes `msOf` milliseconds for a batch of so many tokens and holds `holds` of them. */
function device(msOf: (tokens: number) => number, holds = Infinity) {
  let clock = 0;
  const seen = new Set<number>();
  return {
    now: () => clock,
    score: ({ batch: { tokens } }: PackedBatch) => {
      if (tokens.length > holds) return Promise.reject(new Error("OOM when allocating tensor"));
      // The first run of a shape is slow, which must not count.
      clock += (seen.has(tokens.length) ? 1 : 100) * msOf(tokens.length);
      seen.add(tokens.length);
      return Promise.resolve(null);
    },
  };
}

/** Trials of all sizes that a measurement allows. Whatever is scored is taken once, and the rest is left. */
async function trialsOn(
  sequences: readonly ScoredSequence[],
  msOf: (tokens: number) => number,
  { most = 2 ** 20, holds = Infinity, from = 512 }: { most?: number; holds?: number; from?: number } = {},
): Promise<BatchTrial[]> {
  const taken: number[] = [];
  const shares: number[] = [];
  const { trials, tried, left, failed } = await tryBatchSizes(sequences, {
    from,
    largest: largestTrial(sequences, most),
    ...device(msOf, holds),
    take: (_scores, _batch, owners) => taken.push(...new Set(owners)),
    onProgress: (share) => shares.push(share),
  });
  assertEquals([...taken, ...left].sort((a, b) => a - b), Array.from(sequences.keys()));
  assertEquals(tried, trials.map(({ tokens }) => tokens));
  assertAlmostEquals(Math.max(...shares), taken.length / sequences.length, 1e-9);
  if (holds < Infinity) assertEquals(failed, 2 * holds);
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
  assertEquals([cpu.map(({ tokens }) => tokens), fastestTokens(cpu)], [[512, 1024, 2048], 512]);
  // Larger batches fall out of the cache.
  const cache = await trialsOn(work(600, 128), (tokens) => tokens * (tokens > 2048 ? 2 : 1 + 512 / tokens));
  assertEquals([cache.map(({ tokens }) => tokens), fastestTokens(cache)], [[512, 1024, 2048, 4096], 2048]);
});

Deno.test("tryBatchSizes() goes on after a size that was slow by chance, unless the next is a large part of the work", async () => {
  const slow = (tokens: number) => (tokens === 1024 ? 3 : 1) * (20 + tokens / 200);
  const long = await trialsOn(work(600, 128), slow);
  assertEquals([long.length, fastestTokens(long)], [5, 8192]);
  assertEquals((await trialsOn(work(600, 128), slow, { most: 2048 })).length, 3);
  assertEquals((await trialsOn(work(500, 128), slow)).length, 2);
});

Deno.test("tryBatchSizes() counts neither padding nor the repeated beginning of a row as work", async () => {
  // 21 tokens each after one prompt of 400: a row of 512 tokens holds 5, one of 4096 holds 176.
  const prompt = Array.from({ length: 400 }, (_, i) => 2 + i);
  const shared = Array.from({ length: 4000 }, (_, s) => ({
    ids: [...prompt, ...Array.from({ length: 22 }, (_, i) => 500 + (s * 7 + i) % 400)],
    scored: 1,
  }));
  const flat = await trialsOn(shared, (tokens) => tokens / 5);
  assertEquals(fastestTokens(flat), 4096);
  // Rows of a batch are of one length, the longest: half of the tokens are padding in every size.
  const padded = Array.from({ length: 3000 }, (_, s): ScoredSequence => ({
    ids: Array.from({ length: s % 2 === 0 ? 101 : 52 }, (_, i) => 2 + (s * 31 + i) % 900),
    scored: 1,
  }));
  for (const { tokens, tokensPerS } of await trialsOn(padded, (tokens) => tokens / 5)) {
    assert(tokensPerS <= 5000, `${tokens}: ${tokensPerS}/s`);
  }
});

Deno.test("tryBatchSizes() keeps to memory, to what is allowed, and to a part of the work", async () => {
  const faster = (tokens: number) => Math.sqrt(tokens);
  const sizes = async (...given: Parameters<typeof trialsOn>) => (await trialsOn(...given)).map(({ tokens }) => tokens);
  assertEquals(await sizes(work(600, 128), faster, { holds: 2048 }), [512, 1024, 2048]);
  assertEquals(await sizes(work(600, 128), faster, { most: 1024 }), [512, 1024]);
  assertEquals(await sizes(work(130, 128), faster), [512, 1024, 2048]);
  assertEquals(await sizes(work(600, 128), faster, { from: 2048 }), [2048, 4096, 8192]);
  // Rows of 1024 tokens fill batches of 512 and of 1024 tokens alike.
  assertEquals(await sizes(work(40, 1024), faster), [512, 2048, 4096]);
  const largest = [work(63, 128), work(64, 128), work(127, 128), work(128, 128)].map((few) => largestTrial(few, 4096));
  assertEquals([...largest, largestTrial(work(128, 128), 1023)], [0, 1024, 1024, 2048, 0]);
});

Deno.test("firstTrial() goes on with the best size of a shorter measurement, if that did not end for itself", () => {
  const trials = (...rates: number[]) => rates.map((tokensPerS, i) => ({ tokens: 512 * 2 ** i, tokensPerS }));
  assertEquals([firstTrial([], 0), firstTrial([], 1024)], [undefined, 512]);
  assertEquals([firstTrial(trials(10, 20), 1024), firstTrial(trials(10, 20), 2048)], [undefined, 1024]);
  assertEquals([firstTrial(trials(10, 9), 4096), firstTrial(trials(10, 9, 9), 4096)], [512, undefined]);
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
  const options = { from: 512, largest: 4096, score, take, now: () => clock++ };
  const { tried, left } = await tryBatchSizes(sequences, options);
  assertEquals(tried, [512, 1024, 2048, 4096]);
  const [before, owners] = [shapes.splice(0), owned.splice(0)];
  assertEquals(await repeatTrials(sequences, tried, { score, take }), { tried, left });
  assertEquals([shapes, owned], [before, owners]);

  const first = await repeatTrials(sequences, [512], { score, take: () => {} });
  const small = (packed: PackedBatch) =>
    packed.batch.tokens.length > 600 ? Promise.reject(new Error("OOM when allocating tensor")) : score(packed);
  assertEquals(await repeatTrials(sequences, tried, { score: small, take: () => {} }), first);
});

Deno.test("createScorer() tries sizes in measurements that are long enough, once, and scores as without", async () => {
  const windows = work(280, 60).map(({ ids }) => Int32Array.from(ids));
  const model = fakeModel();
  let kept: readonly BatchTrial[] = [];
  const trialMemory = { read: () => kept, write: (trials: readonly BatchTrial[]) => kept = trials };
  const shares: number[] = [];
  const scorer = createScorer(model, fakeTokenizer(), { trialMemory, onProgress: (share) => shares.push(share) });
  const few = await scorer.tokenLogProbs(windows.slice(0, 20));
  assertEquals([kept, scorer.batchSizes(), scorer.batchTrials()], [[], { batchTokens: 512 }, []]);
  shares.length = model.batches.length = 0;
  const all = await scorer.tokenLogProbs(windows);
  const sizes = scorer.batchSizes();
  assertEquals([scorer.batchTrials(), kept.map(({ tokens }) => tokens)], [kept, sizes.triedTokens]);
  assertEquals(sizes.triedTokens?.slice(0, 2), [512, 1024]);
  const shapes = model.batches.map(({ batch, length }) => [batch, length]);
  assertEquals(shapes.reduce((sum, [rows = 0]) => sum + rows, 0), windows.length);
  assertEquals(all.slice(0, 20), few);
  assertEquals([shares.length, shares.at(-1), shares.toSorted((a, b) => a - b)], [shapes.length, 1, shares]);

  // Repeated, its batches are the same; of one size, they are others.
  for (const given of [sizes, { batchTokens: 64 }]) {
    const again = fakeModel();
    const fixed = createScorer(again, fakeTokenizer(), given);
    assertEquals([await fixed.tokenLogProbs(windows), fixed.batchSizes()], [all, given]);
    assertEquals(
      given === sizes,
      JSON.stringify(again.batches.map(({ batch, length }) => [batch, length])) === JSON.stringify(shapes),
    );
  }

  // Another scorer takes the size that was found.
  kept = [{ tokens: 512, tokensPerS: 10 }, { tokens: 1024, tokensPerS: 30 }, { tokens: 2048, tokensPerS: 30 }];
  const other = createScorer(fakeModel(), fakeTokenizer(), { trialMemory });
  assertEquals(await other.tokenLogProbs(windows.slice(0, 20)), few);
  assertEquals([other.batchSizes(), other.batchTrials()], [{ batchTokens: 1024 }, kept]);
});

Deno.test("createScorer() keeps trials to the free memory, and does not try again what did not fit", async () => {
  const windows = work(600, 60).map(({ ids }) => Int32Array.from(ids));
  const model = fakeModel();
  const scorer = createScorer({ ...model, bytesPerToken: 1, freeBytes: () => 4 * 1024 }, fakeTokenizer());
  await scorer.tokenLogProbs(windows);
  assertEquals(scorer.batchSizes().triedTokens, [512, 1024]);
  const trialMemory = {
    read: () => [{ tokens: 512, tokensPerS: 1 }, { tokens: 4096, tokensPerS: 2 }],
    write: () => {},
  };
  const short = createScorer({ ...model, bytesPerToken: 1, freeBytes: () => 4 * 1024 }, fakeTokenizer(), {
    trialMemory,
  });
  await short.tokenLogProbs(windows.slice(0, 40));
  assertEquals(short.batchSizes(), { batchTokens: 1024 });

  let failures = 0;
  const small = createScorer({
    ...model,
    score: (batch, targets) => {
      if (batch.tokens.length <= 700) return model.score(batch, targets);
      failures++;
      return Promise.reject(new Error("OOM when allocating tensor"));
    },
  }, fakeTokenizer());
  await small.tokenLogProbs(windows);
  await small.tokenLogProbs(windows);
  assertEquals([failures, small.batchSizes().batchTokens], [1, 512]);
});

Deno.test("createTrialMemory() keeps trials for a model, engine and device in a run's folder", () => {
  const out = Deno.makeTempDirSync();
  try {
    const source = { origin: { sha256: "a" } };
    const engine = { name: "wasm", library: "x", device: "cpu" } as const;
    const trials = [{ tokens: 512, tokensPerS: 1000 }, { tokens: 65536, tokensPerS: 3000.5 }];
    const memory = createTrialMemory(out, { source, engine });
    assertEquals(memory.read(), []);
    memory.write(trials);
    const longer = [...trials, { tokens: 131_072, tokensPerS: 4000 }];
    memory.write(longer);
    assertEquals(createTrialMemory(out, { source, engine }).read(), longer);
    assertEquals(createTrialMemory(out, { source, engine: { ...engine, device: "cuda (Test GPU)" } }).read(), []);
    assertEquals(createTrialMemory(out, { source: { origin: { sha256: "b" } }, engine }).read(), []);
    for (const { name } of Deno.readDirSync(runPaths(out).cache)) {
      Deno.writeTextFileSync(join(runPaths(out).cache, name), "[{");
    }
    assertEquals(memory.read(), []);
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
    perplexity: [{ batchTokens: 512 }, { batchTokens: 2048, triedTokens: [512, 1024] }],
    tasks: [{ batchTokens: 512 }, { batchTokens: 1024 }],
  });

  // The data of the run decide where it says which.
  grown.perplexity.push({ ...old, windowTokens: 7, batchTokens: 64 });
  const data = Object.fromEntries(grown.tasks.map(({ task, dataset }) => [`task ${task}`, dataset.sha256]));
  const batches = (sha256: string) =>
    recordedBatches(ownResults(grown, { ...data, "perplexity wikitext2/validation": sha256 })).perplexity
      .map((sizes) => sizes?.batchTokens);
  assertEquals([batches("0"), batches(first.dataset.sha256), batches("1")], [[64, 512], [512, 2048], [64, 2048]]);
  grown.cell.tasks.push("piqa");
  assertThrows(() => ownResults(grown, data), UsageError, "lacks results that its cell asks for");
});
