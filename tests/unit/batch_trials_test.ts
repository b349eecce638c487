import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { fastestTokens, isWorthTrials, tryBatchSizes } from "../../benchmarks/evaluation/batch_trials.ts";
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

/** Trials on a device that takes `msOf` milliseconds for a batch of so many tokens and holds `holds` of them. */
function trialsOn(
  sequences: readonly ScoredSequence[],
  msOf: (tokens: number) => number,
  { most = 2 ** 20, holds = Infinity }: { most?: number; holds?: number } = {},
): Promise<BatchTrial[]> {
  let clock = 0;
  const seen = new Set<number>();
  const score = ({ batch: { tokens } }: PackedBatch) => {
    if (tokens.length > holds) return Promise.reject(new Error("OOM when allocating tensor"));
    // The first run of a shape is slow, which must not count.
    clock += (seen.has(tokens.length) ? 1 : 100) * msOf(tokens.length);
    seen.add(tokens.length);
    return Promise.resolve();
  };
  return tryBatchSizes(sequences, { most, score, now: () => clock });
}

Deno.test("tryBatchSizes() doubles while tokens/s grows by 5 %, and stops after two sizes that are not faster", async () => {
  // 20 ms a batch and 5 µs a token: 512 tokens take 22.56 ms, 8192 take 60.96 ms.
  const gpu = await trialsOn(work(11_000, 128), (tokens) => 20 + tokens / 200);
  assertEquals(gpu.map(({ tokens }) => tokens), [512, 1024, 2048, 4096, 8192]);
  for (const { tokens, tokensPerS } of gpu) assertAlmostEquals(tokensPerS, 1000 * tokens / (20 + tokens / 200), 1e-6);
  assertEquals(fastestTokens(gpu), 8192);
  // Two cores take as long for a token in every batch.
  const cpu = await trialsOn(work(11_000, 128), (tokens) => tokens / 5);
  assertEquals([cpu.map(({ tokens }) => tokens), fastestTokens(cpu)], [[512, 1024, 2048], 512]);
  // One that was slow by chance does not end the trials.
  const spike = await trialsOn(work(11_000, 128), (tokens) => (tokens === 1024 ? 2 : 1) * (20 + tokens / 200));
  assertEquals([spike.length, fastestTokens(spike)], [5, 8192]);
  // Larger batches fall out of the cache.
  const cache = await trialsOn(work(6000, 128), (tokens) => tokens * (tokens > 2048 ? 2 : 1 + 512 / tokens));
  assertEquals([cache.map(({ tokens }) => tokens), fastestTokens(cache)], [[512, 1024, 2048, 4096], 2048]);
});

Deno.test("tryBatchSizes() keeps to memory, to what is allowed, and to a part of the work", async () => {
  const faster = (tokens: number) => Math.sqrt(tokens);
  const sizes = async (...given: Parameters<typeof trialsOn>) => (await trialsOn(...given)).map(({ tokens }) => tokens);
  assertEquals(await sizes(work(5000, 128), faster, { holds: 2048 }), [512, 1024, 2048]);
  assertEquals(await sizes(work(5000, 128), faster, { most: 1024 }), [512, 1024]);
  assertEquals(await sizes(work(2600, 128), faster), [512, 1024, 2048]);
  // Rows of 1024 tokens fill batches of 512 and of 1024 tokens alike.
  assertEquals(await sizes(work(700, 1024), faster), [512, 2048, 4096]);
  assertEquals([isWorthTrials(work(1279, 128)), isWorthTrials(work(1280, 128))], [false, true]);
});

Deno.test("createScorer() tries sizes only in long measurements, and scores as without", async () => {
  const windows = work(2800, 60).map(({ ids }) => Int32Array.from(ids));
  const trials = [{ tokens: 512, tokensPerS: 10 }, { tokens: 1024, tokensPerS: 30 }, { tokens: 2048, tokensPerS: 30 }];
  const model = fakeModel();
  let computed = 0;
  const scorer = createScorer(model, fakeTokenizer(), {
    rememberTrials: async (compute) => {
      computed++;
      await compute();
      return trials;
    },
  });
  const few = await scorer.tokenLogProbs(windows.slice(0, 20));
  assertEquals([computed, scorer.batchTokens(), scorer.batchTrials()], [0, 512, []]);
  const all = await scorer.tokenLogProbs(windows);
  assertEquals([computed, scorer.batchTokens(), scorer.batchTrials()], [1, 1024, trials]);
  assert(Math.max(...model.batches.slice(-20).map(({ tokens }) => tokens.length)) > 512);
  assertEquals(all.slice(0, 20), few);
  await scorer.tokenLogProbs(windows);
  assertEquals(computed, 1);
  const fixed = createScorer(fakeModel(), fakeTokenizer(), { batchTokens: 64 });
  assertEquals([await fixed.tokenLogProbs(windows), fixed.batchTokens()], [all, 64]);
});

Deno.test("trialMemory() makes trials once for a model, engine and device of a run's folder", async () => {
  const out = Deno.makeTempDirSync();
  try {
    const source = { origin: { sha256: "a" } };
    const engine = { name: "wasm", library: "x", device: "cpu" } as const;
    const trials = [{ tokens: 512, tokensPerS: 1000 }, { tokens: 65536, tokensPerS: 3000.5 }];
    const never = () => Promise.reject(new Error("measured twice"));
    assertEquals(await trialMemory(out, { source, engine })(() => Promise.resolve(trials)), trials);
    assertEquals(await trialMemory(out, { source, engine })(never), trials);
    const other = [{ tokens: 512, tokensPerS: 1 }];
    const gpu = { ...engine, device: "cuda (Test GPU)" };
    assertEquals(await trialMemory(out, { source, engine: gpu })(() => Promise.resolve(other)), other);
    assertEquals(await trialMemory(out, { source, engine })(never), trials);
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
  grown.perplexity = [old, { ...first, batchTokens: 2048 }, ...other.perplexity, { ...first, windowTokens: 7 }];
  const tasks = grown.tasks.map((task) => task.task === "arc_easy" ? { ...task, batchTokens: 1024 } : task);
  grown.tasks = [...tasks, ...other.tasks];
  const own = ownResults(grown);
  assertEquals(own.tasks.map(({ task, samples }) => [task, samples.effective]), [["openbookqa", 20], ["arc_easy", 20]]);
  assertEquals(recordedBatches(own), { perplexity: [null, 2048], tasks: [null, 1024] });

  // The data of the run decide where it says which.
  grown.perplexity.push({ ...old, windowTokens: 7, batchTokens: 64 });
  const data = Object.fromEntries(grown.tasks.map(({ task, dataset }) => [`task ${task}`, dataset.sha256]));
  const batches = (sha256: string) =>
    recordedBatches(ownResults(grown, { ...data, "perplexity wikitext2/validation": sha256 })).perplexity;
  assertEquals([batches("0"), batches(first.dataset.sha256), batches("1")], [[64, 512], [null, 2048], [64, 2048]]);
  grown.cell.tasks.push("piqa");
  assertThrows(() => ownResults(grown, data), UsageError, "lacks results that its cell asks for");
});
